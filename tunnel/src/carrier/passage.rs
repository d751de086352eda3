//! A carrier for one QUIC endpoint and nothing else: how a host joins from where UDP is blocked.

use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::address;
use super::link::{self, Deliver, Io, Meter};
use super::queue::Queue;
use crate::socket::Left;

/// The endpoint's socket. What is sent to any address goes by the carrier.
#[derive(Debug)]
pub(crate) struct Passage {
    /// The one address that packets come from.
    pub(crate) far: SocketAddr,
    queue: Queue,
    received: Left,
}

impl Passage {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { far: address::next(), queue: Queue::default(), received: Left::default() })
    }

    /// Carries until the stream ends.
    pub(crate) async fn run(self: Arc<Self>, stream: Io) {
        let meter = Meter::uncounted();
        if let Err(error) = link::run(stream, &self.queue, &mut Inlet(&self), &meter).await {
            tracing::debug!(%error, "the carrier for joining ended");
        }
    }
}

struct Inlet<'a>(&'a Passage);

impl Deliver for Inlet<'_> {
    fn most(&self) -> usize {
        1
    }

    fn deliver(&mut self, batch: &mut [u8], stride: usize) -> bool {
        // What finds no room is lost, as on a wire.
        let _ = self.0.received.push(self.0.far, None, batch, stride);
        self.0.received.wake();
        !self.0.received.is_crowded()
    }
}

impl AsyncUdpSocket for Passage {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Always)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let stride = transmit.segment_size.unwrap_or(transmit.contents.len());
        self.queue.push(Instant::now(), transmit.contents, stride, false);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.received.register(cx);
        self.received.take(bufs, meta).map_or(Poll::Pending, |count| Poll::Ready(Ok(count)))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// A queue that drops is always writable.
#[derive(Debug)]
struct Always;

impl UdpPoller for Always {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
