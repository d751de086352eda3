//! The shared socket as the raw endpoint sees it.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::mux::Mux;

/// Batches without a packet for the endpoint after which the driver lets others run.
const BATCHES: usize = 16;

/// Sends to virtual addresses over the peer's path in use, and receives for both endpoints and the engine.
#[derive(Debug)]
pub(crate) struct RawSocket(pub(crate) Arc<Mux>);

impl AsyncUdpSocket for RawSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable::new(self.0.clone()))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.send_quic(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.0.left.register(cx);
        if let Some(count) = self.0.left.take(bufs, meta) {
            return Poll::Ready(Ok(count));
        }
        for _ in 0..BATCHES {
            let count = ready!(self.0.poll_batch(cx, bufs, meta))?;
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            if let Some(count) = self.0.left.take(bufs, meta) {
                return Poll::Ready(Ok(count));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        // Peers have IPv6 addresses here, even on a host that has none.
        let local = self.0.local_address();
        Ok(SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), local.port()))
    }

    fn max_transmit_segments(&self) -> usize {
        self.0.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.0.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.0.may_fragment()
    }
}

type WritableFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Waits until the socket takes packets again.
pub(super) struct Writable {
    mux: Arc<Mux>,
    waiting: Option<WritableFuture>,
}

impl Writable {
    pub(super) fn new(mux: Arc<Mux>) -> Self {
        Self { mux, waiting: None }
    }
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mux = self.mux.clone();
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { mux.writable().await }));
        let result = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(result)
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}
