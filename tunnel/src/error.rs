//! Why something with a peer failed.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use edgeloom_model::NodeName;
use libp2p::PeerId;

use crate::alpn::Alpn;

/// Why a tunnel did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be bound.
    #[error("cannot listen on UDP {address}: {source}; check that no other program has the port")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The port for carriers could not be bound.
    #[error(
        "cannot listen on TCP {address}: {source}; check that no other program has the port, or switch it off under \
         overlay.carriers"
    )]
    ListenTcp {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The identity cannot be used.
    #[error("the node's identity cannot be used: {0}")]
    Identity(String),
    /// A metric of the same name is registered already.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The endpoint could not be set up.
    #[error("QUIC endpoint: {0}")]
    Endpoint(String),
}

/// A peer as people know it: by the name of its node, once that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its peer id.
    pub peer: PeerId,
    /// Name of its Node.
    pub node: Option<NodeName>,
}

impl From<PeerId> for Named {
    fn from(peer: PeerId) -> Self {
        Self { peer, node: None }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "node {node} (peer {})", self.peer),
            None => write!(f, "peer {}", self.peer),
        }
    }
}

/// Why no stream to a peer could be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The peer is no member as far as this node knows.
    #[error("{0} is not known here: it has not joined, was revoked, or the hub has not told of it yet")]
    UnknownPeer(Named),
    /// Nothing answered at any address, and no relay knows the peer.
    #[error("no path to {peer} found within {waited:?}: {tried}")]
    NoPath {
        /// The peer.
        peer: Named,
        /// How long was looked.
        waited: Duration,
        /// What was tried.
        tried: String,
    },
    /// The peer refused, or is not who it should be.
    #[error("{peer} refused {alpn}: {reason}")]
    Refused {
        /// The peer.
        peer: Named,
        /// The protocol asked for.
        alpn: Alpn,
        /// What was said.
        reason: String,
    },
    /// The peer was found but did not finish the handshake in time.
    #[error("{peer} did not answer {alpn} within {waited:?}")]
    TimedOut {
        /// The peer.
        peer: Named,
        /// The protocol asked for.
        alpn: Alpn,
        /// How long was waited.
        waited: Duration,
    },
    /// As many streams are in use as the peer allows.
    #[error(
        "no stream of {alpn} to {peer} became free within {waited:?}: as many are open as it allows, on every \
         connection; end some, or raise overlay.limits.streams there"
    )]
    NoRoom {
        /// The peer.
        peer: Named,
        /// The protocol asked for.
        alpn: Alpn,
        /// How long was waited.
        waited: Duration,
    },
    /// The other connections hold what all may hold.
    #[error(
        "no memory is left for another connection, to {peer}: the others hold {held} MiB of {bound}; raise \
         overlay.limits.buffersMib"
    )]
    NoMemory {
        /// The peer.
        peer: Named,
        /// MiB that are held.
        held: u64,
        /// MiB that may be.
        bound: u64,
    },
    /// The connection ended while the stream was being opened; the next attempt makes a new one.
    #[error("connection to {0} was lost: {1}")]
    Lost(Named, String),
    /// This tunnel is shutting down.
    #[error("the tunnel is shutting down")]
    ShuttingDown,
}

impl OpenError {
    /// The peer that it is about.
    pub(crate) fn peer_mut(&mut self) -> Option<&mut Named> {
        match self {
            Self::UnknownPeer(peer)
            | Self::NoPath { peer, .. }
            | Self::Refused { peer, .. }
            | Self::TimedOut { peer, .. }
            | Self::NoRoom { peer, .. }
            | Self::NoMemory { peer, .. }
            | Self::Lost(peer, _) => Some(peer),
            Self::ShuttingDown => None,
        }
    }
}

/// Why a datagram was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// No `mesh/1` connection is open: open a stream first.
    #[error("no connection to the peer is open")]
    NotConnected,
    /// Larger than [`Tunnel::max_datagram_size`](crate::Tunnel::max_datagram_size).
    #[error("larger than the path's {max} bytes")]
    TooLarge {
        /// What the path carries.
        max: usize,
    },
    /// The peer takes no datagrams.
    #[error("the peer takes no datagrams")]
    Unsupported,
}
