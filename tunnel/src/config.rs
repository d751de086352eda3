//! What a tunnel is told when it starts.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use edgeloom_model::{NodeName, Site};
use libp2p::PeerId;

pub use crate::carrier::proxy::{Proxy, ProxyError};
use crate::limits::Limits;

/// UDP and TCP port of the overlay.
pub const PORT: u16 = edgeloom_api::names::OVERLAY_PORT;

/// Congestion control of the connections that a node makes and accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// BBR on WAN paths, cubic on the LAN: follows the path.
    #[default]
    Auto,
    /// BBR whatever the path.
    Bbr,
    /// CUBIC (RFC 9438) whatever the path.
    Cubic,
}

/// How a tunnel listens, finds its peers, and bounds itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// UDP address of the one socket. An unspecified IPv6 address is dual-stack, and falls back to IPv4 on
    /// a host without IPv6.
    pub listen: SocketAddr,
    /// Serve other nodes as a relay: forward packets between peers that find no direct path.
    pub relay: bool,
    /// Answer `join/1`, from peers without a credential. The control does.
    pub serve_join: bool,
    /// Relays to register with.
    pub relays: Vec<RelayPeer>,
    /// Directory of what must be found again after a restart: peers and their last addresses.
    /// Nothing is kept if it is `None`.
    pub state_dir: Option<PathBuf>,
    /// Interfaces whose addresses are no candidates, over and above those known to belong to containers and
    /// other overlays. A trailing `*` matches any ending.
    pub exclude_interfaces: Vec<String>,
    /// Look for direct paths. Where it is off, peers are reached by relays only.
    pub direct: bool,
    /// Run libp2p's protocols on the socket: mDNS to find peers on the LAN, identify and AutoNAT with relays.
    pub libp2p: bool,
    /// What is done where UDP is blocked.
    pub carriers: Carriers,
    /// Take flows of nodes on the LAN over TCP with TLS, and make such connections: see [`Tunnel::dial_lan`](
    /// crate::Tunnel::dial_lan). With a `rate` there are none: the processors are not the
    /// limit then.
    pub lan_tcp: bool,
    /// What others may take of this node.
    pub limits: Limits,
    /// Bytes a second that this node sends to others, all in all; as many as go if it is `None`.
    pub rate: Option<u64>,
    /// What the node's site allows, until [`Tunnel::set_bounds`](crate::Tunnel::set_bounds) says otherwise.
    pub site: Bounds,
    /// Congestion control.
    pub congestion: Congestion,
    /// A connection that carried no packet for this long is closed.
    pub idle_timeout: Duration,
    /// A connection to a peer that has no path for this long is closed.
    pub unreachable_timeout: Duration,
    /// How long [`Tunnel::open`](crate::Tunnel::open) looks for a path and shakes hands.
    pub connect_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)),
            relay: false,
            serve_join: false,
            relays: Vec::new(),
            state_dir: None,
            exclude_interfaces: Vec::new(),
            direct: true,
            libp2p: true,
            carriers: Carriers::default(),
            lan_tcp: false,
            limits: Limits::default(),
            rate: None,
            site: Bounds::default(),
            congestion: Congestion::default(),
            // What RFC 5382 (REQ-5) asks of a NAT for an established TCP connection.
            idle_timeout: Duration::from_secs(2 * 3600 + 240),
            unreachable_timeout: Duration::from_secs(120),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// Whether flows may go over TCP on the LAN where the site allows it: not where a path there is not looked for, or a
    /// rate must be kept.
    pub(crate) fn may_use_lan_tcp(&self) -> bool {
        self.lan_tcp && self.direct && self.rate.is_none()
    }

    /// The same, and the site allows it now.
    pub(crate) fn uses_lan_tcp(&self) -> bool {
        self.lan_tcp && self.allows_direct() && self.lowest_rate().is_none()
    }

    /// Whether direct paths are looked for: node and site both allow it.
    pub(crate) fn allows_direct(&self) -> bool {
        self.direct && self.site.direct
    }

    /// The lower of the rates of node and site.
    pub(crate) fn lowest_rate(&self) -> Option<u64> {
        self.rate.into_iter().chain(self.site.rate).min()
    }
}

/// What a node's site allows it. Where the node's own configuration is stricter, that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Whether direct paths may be looked for.
    pub direct: bool,
    /// Bytes a second that the node may send to others, all in all; as many as go if it is `None`.
    pub rate: Option<u64>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { direct: true, rate: None }
    }
}

/// Connections over TCP that take the place of UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carriers {
    /// Dial relays over TCP where their UDP addresses do not answer: TLS at the same port, then a WebSocket over TLS.
    pub dial: bool,
    /// As a relay, or where nodes join, take TLS on the TCP port of the same number as the UDP port.
    pub listen: bool,
    /// As a relay, or where nodes join, take WebSockets over TLS at this address.
    pub websocket_listen: Option<SocketAddr>,
    /// TCP port at which relays are dialled for a WebSocket.
    pub websocket_port: u16,
    /// HTTP proxy on the way to WebSockets.
    pub proxy: Option<Proxy>,
}

impl Default for Carriers {
    fn default() -> Self {
        Self {
            dial: true,
            listen: true,
            websocket_listen: None,
            websocket_port: edgeloom_api::names::WEBSOCKET_PORT,
            proxy: None,
        }
    }
}

/// A relay, and where it can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayPeer {
    /// Its peer id.
    pub peer: PeerId,
    /// Its public addresses.
    pub addresses: Vec<SocketAddr>,
}

/// A member of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its peer id.
    pub peer: PeerId,
    /// Name of its Node.
    pub node: NodeName,
    /// Its site.
    pub site: Site,
    /// Public addresses, of nodes that have some (relays and the control).
    pub addresses: Vec<SocketAddr>,
}
