//! A wire in memory between node and hub that can be cut after any byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Poll};

use edgeloom_client::{Overlay, Pipe};
use edgeloom_control::hub::Hub;
use edgeloom_tunnel::identity::{SignedCredential, Trust, Verified};
use edgeloom_tunnel::{Bounds, Peer, RelayPeer};
use futures::future::BoxFuture;
use std::sync::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Bytes that a wire buffers.
const BUFFER: usize = 16 << 10;
/// What a wire may carry that is not to be cut.
const UNCUT: i64 = i64::MAX / 2;

/// One half; when the allowance of bytes is used up, it and its twin are dead.
struct Cut<S> {
    stream: S,
    left: Arc<AtomicI64>,
}

impl<S> Cut<S> {
    fn alive(&self) -> io::Result<()> {
        if self.left.load(Ordering::Relaxed) < 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cut<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.alive()?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = i64::try_from(buffer.filled().len() - before).unwrap();
        let left = self.left.fetch_sub(read, Ordering::Relaxed) - read;
        if left < 0 {
            // What lies behind the cut never came.
            let keep = usize::try_from((read + left).max(0)).unwrap();
            buffer.set_filled(before + keep);
            if keep == 0 {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cut<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.alive()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The overlay of one node in memory.
pub struct Wires {
    hub: Mutex<Hub>,
    node: Arc<Verified>,
    /// Bytes that the next wires carry before they are cut; none cut when empty.
    cuts: Mutex<Vec<i64>>,
    /// What the wire that was made last may still carry.
    current: Mutex<Arc<AtomicI64>>,
    down: AtomicBool,
    pub peers: Mutex<Vec<Peer>>,
    pub bounds: Mutex<Bounds>,
}

impl Wires {
    pub fn new(hub: Hub, node: Verified) -> Self {
        Self {
            hub: Mutex::new(hub),
            node: Arc::new(node),
            cuts: Mutex::default(),
            current: Mutex::default(),
            down: AtomicBool::new(false),
            peers: Mutex::default(),
            bounds: Mutex::default(),
        }
    }

    /// Cuts the wire that stands, and the next ones after so many bytes each.
    pub fn cut_after(&self, bytes: Vec<i64>) {
        *self.cuts.lock().unwrap() = bytes;
        self.current.lock().unwrap().store(0, Ordering::Relaxed);
    }

    pub fn cuts_left(&self) -> usize {
        self.cuts.lock().unwrap().len()
    }

    /// Bytes that the wire that was made last, and is not to be cut, carried, both ways together.
    pub fn carried(&self) -> i64 {
        UNCUT - self.current.lock().unwrap().load(Ordering::Relaxed)
    }

    /// Another control answers from now on.
    pub fn replace_hub(&self, hub: Hub) {
        *self.hub.lock().unwrap() = hub;
    }

    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    fn connect(&self) -> io::Result<Pipe> {
        if self.down.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let left = Arc::new(AtomicI64::new(self.cuts.lock().unwrap().pop().unwrap_or(UNCUT)));
        *self.current.lock().unwrap() = Arc::clone(&left);
        let (near, far) = tokio::io::duplex(BUFFER);
        let (near_read, near_write) = split(near, &left);
        let (far_read, far_write) = split(far, &left);
        self.hub.lock().unwrap().accept(Arc::clone(&self.node), far_read, far_write);
        Ok(Pipe { read: Box::new(near_read), write: Box::new(near_write) })
    }
}

type Halves = (Cut<tokio::io::ReadHalf<DuplexStream>>, Cut<tokio::io::WriteHalf<DuplexStream>>);

fn split(stream: DuplexStream, left: &Arc<AtomicI64>) -> Halves {
    let (read, write) = tokio::io::split(stream);
    (Cut { stream: read, left: Arc::clone(left) }, Cut { stream: write, left: Arc::clone(left) })
}

impl Overlay for Wires {
    fn open_hub(&self) -> BoxFuture<'_, io::Result<Pipe>> {
        Box::pin(async { self.connect() })
    }

    fn set_peers(&self, peers: Vec<Peer>) {
        *self.peers.lock().unwrap() = peers;
    }

    fn set_relays(&self, _relays: Vec<RelayPeer>) {}

    fn set_trust(&self, _trust: Trust) {}

    fn set_bounds(&self, bounds: Bounds) {
        *self.bounds.lock().unwrap() = bounds;
    }

    fn set_credential(&self, _credential: SignedCredential) {}
}
