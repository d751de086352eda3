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
