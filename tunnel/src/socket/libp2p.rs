//! The shared socket as libp2p's endpoint sees it: real addresses, packets from a queue that the raw endpoint's
//! driver fills.

use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::mux::Mux;
use super::raw::Writable;

/// The second endpoint's view.
#[derive(Debug)]
pub(crate) struct Libp2pSocket(pub(crate) Arc<Mux>);

impl AsyncUdpSocket for Libp2pSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable::new(self.0.clone()))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.send_plain(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.0.libp2p.register(cx);
        self.0.libp2p.take(bufs, meta).map_or(Poll::Pending, |count| Poll::Ready(Ok(count)))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.0.local_address().port())))
    }

    fn may_fragment(&self) -> bool {
        self.0.may_fragment()
    }
}
