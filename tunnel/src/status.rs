//! What the tunnel tells about its peers.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use edgeloom_model::{NodeName, Site};
use libp2p::PeerId;

/// How two nodes reach each other directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DirectKind {
    /// By an address of the peer's own network, at the same site.
    Lan,
    /// By an address that anybody can reach.
    Public,
    /// Through holes that both ends keep open in their NATs.
    Punched,
    /// Over TLS on TCP, where UDP is blocked: to a relay, or from one to a node.
    Tcp,
    /// Over a WebSocket, where nothing else passes.
    Wss,
}

impl DirectKind {
    /// Name in metrics and on screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            DirectKind::Lan => "lan",
            DirectKind::Public => "public",
            DirectKind::Punched => "punched",
            DirectKind::Tcp => "tcp",
            DirectKind::Wss => "wss",
        }
    }

    /// Whether packets go over TCP.
    pub const fn is_carrier(self) -> bool {
        matches!(self, DirectKind::Tcp | DirectKind::Wss)
    }
}

/// The path in use to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Packets go straight to the peer.
    Direct {
        /// Address of the peer as seen from here.
        addr: SocketAddr,
        /// What kind of path it is.
        kind: DirectKind,
    },
    /// Packets go through a relay.
    Relayed {
        /// The relay.
        relay: PeerId,
    },
    /// No path is known to work.
    None,
}

impl Path {
    /// Name of the kind in metrics and on screen.
    pub const fn kind(&self) -> &'static str {
        match self {
            Path::Direct { kind, .. } => kind.as_str(),
            Path::Relayed { .. } => "relayed",
            Path::None => "none",
        }
    }

    /// Whether packets go straight to the peer.
    pub const fn is_direct(&self) -> bool {
        matches!(self, Path::Direct { .. })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Direct { addr, kind } => write!(f, "{} {addr}", kind.as_str()),
            Path::Relayed { relay } => write!(f, "relayed by {relay}"),
            Path::None => f.write_str("none"),
        }
    }
}

/// A peer and how it is reached.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Its peer id.
    pub peer: PeerId,
    /// Name of its Node, once known.
    pub node: Option<NodeName>,
    /// Its site, once known.
    pub site: Option<Site>,
    /// The path in use.
    pub path: Path,
    /// Where the path is over TCP, or relayed and this node's way to the relay is: how.
    pub carrier: Option<DirectKind>,
    /// Smoothed round trip time of the path in use.
    pub rtt: Option<Duration>,
    /// Share of the recent probes on the path in use that went unanswered, 0 to 1.
    pub loss: f64,
    /// The same of a path that would be used, did it not lose so much more than the one in use.
    pub passed_over_loss: Option<f64>,
    /// Bytes sent to the peer over any path, QUIC packets included.
    pub sent_bytes: u64,
    /// Bytes received from the peer over any path.
    pub received_bytes: u64,
    /// Whether a connection is open.
    pub connected: bool,
}

/// Answer of a peer to one ping.
#[derive(Clone, Copy, Debug)]
pub struct Ping {
    /// Round trip time.
    pub rtt: Duration,
    /// Path it went by.
    pub path: Path,
}

/// What the NATs between this node and those that see it do, by RFC 4787, section 4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// Nobody has said yet where it sees this node.
    Unknown,
    /// None: this node is seen at an address of its own.
    None,
    /// All see the same address and port: endpoint-independent mapping.
    EndpointIndependent {
        /// Where this node is seen.
        seen_at: SocketAddr,
    },
    /// Each sees another port: mapping by destination, which no probe from elsewhere passes.
    ByDestination,
    /// There is a NAT, and one observer only, which cannot tell how it maps.
    Undetermined {
        /// Where this node is seen.
        seen_at: SocketAddr,
    },
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Nat::Unknown => f.write_str("not known: nobody has answered a probe yet"),
            Nat::None => f.write_str("none: seen at an address of its own"),
            Nat::EndpointIndependent { seen_at } => {
                write!(f, "endpoint-independent mapping, seen at {seen_at}")
            }
            Nat::ByDestination => f.write_str("mapping by destination (symmetric)"),
            Nat::Undetermined { seen_at } => write!(f, "a NAT, seen at {seen_at} by one node alone"),
        }
    }
}

/// How a way to a peer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Traffic uses it.
    InUse,
    /// It answers, and another is preferred.
    Answers,
    /// It answered once and does not now.
    Lost,
    /// It never answered.
    Silent,
}

impl Standing {
    /// In words, as on screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Standing::InUse => "in use",
            Standing::Answers => "answers",
            Standing::Lost => "no answer now",
            Standing::Silent => "never answered",
        }
    }
}

/// A way to a peer that was tried.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The way.
    pub path: Path,
    /// How this node learnt of it, in words.
    pub learnt: &'static str,
    /// How it stands.
    pub standing: Standing,
    /// Smoothed round trip time.
    pub rtt: Option<Duration>,
    /// Share of its recent probes that went unanswered, 0 to 1.
    pub loss: f64,
    /// Answers that came by it.
    pub answers: u32,
    /// Largest packet that went there and came back just now, in bytes of UDP payload, over a relay without the
    /// forwarder's header; none where nothing came back, as from a release that answers no such packets.
    pub datagram: Option<u16>,
}

/// Every way to a peer, probed just now, and why the one in use is.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The path in use.
    pub path: Path,
    /// All that were tried, in the order in which they are preferred.
    pub attempts: Vec<Attempt>,
    /// Why the path is what it is, for an operator.
    pub why: String,
    /// What this node's NATs do.
    pub nat: Nat,
    /// Where others see this node.
    pub seen_at: Vec<(PeerId, SocketAddr)>,
    /// Largest UDP payload that the open connection found to pass, in bytes.
    pub datagram: Option<u16>,
}
