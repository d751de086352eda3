//! What the proxy needs of the tunnel, so that tests can put a plain QUIC connection in its place.

use std::time::Duration;

use bytes::Bytes;
use edgeloom_tunnel::{Alpn, DatagramError, OpenError, PeerId, Stream, Tunnel};
use futures::FutureExt;
use futures::future::BoxFuture;

/// Streams and datagrams of `mesh/1`.
pub trait Carrier: Send + Sync + 'static {
    /// Opens a stream to a peer, connecting where no connection is open.
    fn open(&self, peer: PeerId) -> BoxFuture<'_, Result<Stream, OpenError>>;

    /// Sends a datagram on the open connection to a peer; it may be lost.
    fn send_datagram(&self, peer: PeerId, bytes: Bytes) -> Result<(), DatagramError>;

    /// Largest datagram, in bytes, that the connection to a peer carries now.
    fn max_datagram_size(&self, peer: PeerId) -> Option<usize>;

    /// Round trip time of the path to a peer; none while no path is known to work.
    fn rtt(&self, peer: PeerId) -> Option<Duration>;
}

impl Carrier for Tunnel {
    fn open(&self, peer: PeerId) -> BoxFuture<'_, Result<Stream, OpenError>> {
        Tunnel::open(self, peer, Alpn::Mesh).boxed()
    }

    fn send_datagram(&self, peer: PeerId, bytes: Bytes) -> Result<(), DatagramError> {
        Tunnel::send_datagram(self, peer, bytes)
    }

    fn max_datagram_size(&self, peer: PeerId) -> Option<usize> {
        Tunnel::max_datagram_size(self, peer)
    }

    fn rtt(&self, peer: PeerId) -> Option<Duration> {
        Tunnel::rtt(self, peer)
    }
}
