//! What the proxy needs of the tunnel, so that tests can put a plain QUIC connection in its place.

use std::time::Duration;

use bytes::Bytes;
use edgeloom_tunnel::{Alpn, DatagramError, LanError, LanPeer, LanStream, OpenError, PeerId, Stream, Tunnel};
use futures::FutureExt;
use futures::future::BoxFuture;

/// Streams and datagrams of `mesh/1`, and TCP connections on the LAN.
pub trait Carrier: Send + Sync + 'static {
    /// Opens a stream to a peer, connecting where no connection is open.
    fn open(&self, peer: PeerId) -> BoxFuture<'_, Result<Stream, OpenError>>;

    /// Sends a datagram on the open connection to a peer; it may be lost.
    fn send_datagram(&self, peer: PeerId, bytes: Bytes) -> Result<(), DatagramError>;

    /// Largest datagram, in bytes, that the connection to a peer carries now.
    fn max_datagram_size(&self, peer: PeerId) -> Option<usize>;

    /// Round trip time of the path to a peer; none while no path is known to work.
    fn rtt(&self, peer: PeerId) -> Option<Duration>;

    /// Whether flows may go over TCP on the LAN at all.
    fn uses_lan_tcp(&self) -> bool;

    /// The peer on the LAN, if flows to it may go over TCP.
    fn lan(&self, peer: PeerId) -> Option<LanPeer>;

    /// Makes a TCP connection to a peer on the LAN.
    fn dial_lan(&self, peer: PeerId) -> BoxFuture<'_, Result<LanStream, LanError>>;
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
    fn uses_lan_tcp(&self) -> bool {
        Tunnel::uses_lan_tcp(self)
    }

    fn lan(&self, peer: PeerId) -> Option<LanPeer> {
        Tunnel::lan(self, peer)
    }

    fn dial_lan(&self, peer: PeerId) -> BoxFuture<'_, Result<LanStream, LanError>> {
        Tunnel::dial_lan(self, peer).boxed()
    }
}
