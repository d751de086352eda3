//! The overlay between nodes: one identity, one UDP socket, one path per peer, QUIC on top.
//!
//! Where UDP is blocked, a TCP connection to a relay takes the socket's place.
//!
//! A [`Tunnel`] knows its peers by their [`PeerId`]. It finds a path to each that is needed (on the LAN, at a
//! public address, punched through NATs, or through a relay's forwarder), keeps it, and moves to a better one
//! beneath the running QUIC connections, which never see the change. What comes in from peers leaves by
//! [`Incoming`].

mod alpn;
pub mod carrier;
mod config;
mod connection;
mod engine;
mod error;
mod forwarder;
pub mod frames;
pub mod identity;
mod interfaces;
pub mod join;
pub mod lan;
mod limits;
mod metrics;
mod path;
pub mod share;
mod socket;
mod status;
mod store;
mod stream;
mod swarm;
mod tunnel;
pub mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

pub use alpn::Alpn;
pub use config::{Bounds, Carriers, Config, Congestion, PORT, Peer, Proxy, ProxyError, RelayPeer};
pub use error::{DatagramError, Error, Named, OpenError};
pub use identity::Verified;
pub use lan::{LanError, LanPeer, LanRecv, LanSend, LanStream};
pub use libp2p::PeerId;
pub use limits::Limits;
pub use status::{Attempt, DirectKind, Nat, Path, PeerStatus, Ping, Standing, Trace};
pub use stream::{RecvStream, SendStream, Stream};
pub use swarm::RENEW as VISITS;
pub use tunnel::Tunnel;

/// What a peer sent us.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "joins are few and the queue is short")]
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
    /// A connection over TCP of a peer on the LAN, for one flow.
    Lan {
        /// Who made it.
        from: Arc<Verified>,
        /// The connection.
        stream: LanStream,
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
        from: identity::Joiner,
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
