//! The overlay between nodes: one identity, one UDP socket, one path per peer, QUIC on top.
//!
//! A [`Tunnel`] knows its peers by their [`PeerId`]. It finds a path to each that is needed (on the LAN, at a
//! public address, punched through NATs, or through a relay's forwarder), keeps it, and moves to a better one
//! beneath the running QUIC connections, which never see the change. What comes in from peers leaves by
//! [`Incoming`].

mod alpn;
mod config;
mod error;
pub mod frames;
pub mod identity;
pub mod join;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use alpn::Alpn;
pub use config::{Config, Congestion, PORT, Peer, RelayPeer};
pub use error::{DatagramError, Error, OpenError};
pub use identity::Verified;
pub use libp2p::PeerId;
pub use status::{DirectKind, Path, PeerStatus, Ping};

/// One bidirectional QUIC stream to or from a peer.
#[derive(Debug)]
pub struct Stream {
    /// The half towards the peer.
    pub send: quinn::SendStream,
    /// The half from the peer.
    pub recv: quinn::RecvStream,
}

/// What a peer sent us.
#[derive(Debug)]
pub enum Accepted {
    /// A stream of a peer whose credential was verified.
    Stream {
        /// Who opened it.
        from: Arc<Verified>,
        /// For what.
        alpn: Alpn,
        /// The stream.
        stream: Stream,
    },
    /// A datagram on a `mesh/1` connection.
    Datagram {
        /// Who sent it.
        from: Arc<Verified>,
        /// What was sent.
        bytes: Bytes,
    },
    /// A `join/1` stream: nothing is known about who opened it but its identity.
    Join {
        /// Who opened it.
        from: Box<identity::Joiner>,
        /// Where it came from.
        remote: SocketAddr,
        /// The stream.
        stream: Stream,
    },
}

/// What comes in from peers, in a bounded queue: a tunnel whose [`Incoming`] is not read stops taking more.
#[derive(Debug)]
pub struct Incoming {
    queue: tokio::sync::mpsc::Receiver<Accepted>,
}

impl Incoming {
    /// The next stream or datagram; `None` once the tunnel has shut down.
    pub async fn accept(&mut self) -> Option<Accepted> {
        self.queue.recv().await
    }
}

/// Handle to the overlay; clones share it.
#[derive(Clone, Debug)]
pub struct Tunnel {
    own: PeerId,
}

impl Tunnel {
    /// Own peer id.
    pub fn peer_id(&self) -> PeerId {
        self.own
    }

    /// Opens a stream to `peer`, connecting first where no connection is open: by a relay at once, directly as
    /// soon as a direct path is found.
    pub async fn open(&self, peer: PeerId, _alpn: Alpn) -> Result<Stream, OpenError> {
        Err(OpenError::UnknownPeer(peer))
    }

    /// Sends a datagram on the open `mesh/1` connection to `peer`; it may be lost.
    pub fn send_datagram(&self, _peer: PeerId, _bytes: Bytes) -> Result<(), DatagramError> {
        Err(DatagramError::NotConnected)
    }

    /// Largest datagram, in bytes, that the connection to `peer` carries now.
    pub fn max_datagram_size(&self, _peer: PeerId) -> Option<usize> {
        None
    }

    /// Replaces the membership. Connections are made only by [`Tunnel::open`].
    pub fn set_peers(&self, _peers: Vec<Peer>) {}

    /// Replaces the relays to register with.
    pub fn set_relays(&self, _relays: Vec<RelayPeer>) {}

    /// Every known peer and how it is reached.
    pub fn peers(&self) -> Vec<PeerStatus> {
        Vec::new()
    }

    /// Sends a probe to `peer` over the path in use and waits for the answer.
    pub async fn ping(&self, peer: PeerId) -> Result<Ping, OpenError> {
        Err(OpenError::UnknownPeer(peer))
    }

    /// Stops taking streams, gives the open ones `drain` to end, closes.
    pub async fn shutdown(&self, _drain: Duration) {}
}
