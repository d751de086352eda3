//! Flows between nodes of one LAN over TCP with TLS, a connection for each, where that carries more than QUIC.
//!
//! ```text
//! Tunnel::lan ─ the path in use is the LAN's ─> Tunnel::dial_lan ─ TCP, TLS ─> carrier::listen ─> Accepted::Lan
//! ```
//!
//! The peer listens at the TCP port of the same number as the UDP port that the path leads to, and both ends show and
//! check credentials in the handshake, as on every connection. What is lost is what the virtual addresses beneath QUIC
//! give: such a connection does not move to another path, and ends with the LAN that it was made on. So its user
//! decides per flow, and the node whether it is done at all ([`Config::lan_tcp`](crate::Config::lan_tcp)).
//!
//! An end is orderly only with TLS's own end in front of the FIN, each direction by itself; all else is a reset, and
//! what is dropped before both directions have ended is one to the other side.

mod handshake;
mod register;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use prometheus::IntCounter;
use tokio::io::AsyncWrite as _;
use tokio_rustls::TlsStream;
use tokio_util::io::poll_read_buf;

pub use handshake::{LanError, accept, dial};
pub(crate) use handshake::{Origin, admit};
pub(crate) use register::Register;
pub(crate) use socket::Buffered;
use socket::Socket;

use crate::socket::{Budget, PeerSlot};

/// Protocol of these connections.
pub const LAN_ALPN: &[u8] = b"mesh-lan/1";

/// Directions that came to their orderly end.
const SENT: u8 = 1;
const RECEIVED: u8 = 2;

/// A peer on the LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanPeer {
    /// Where the path in use leads; its TCP port is of the same number.
    pub address: SocketAddr,
    /// Bytes sent to and received from the peer since this node started, by whatever path.
    pub bytes: u64,
}

/// A connection with a peer on the LAN, for one flow. Dropped as it is, it is reset.
#[derive(Debug)]
pub struct LanStream {
    link: Arc<Link>,
}

/// The half towards the peer.
#[derive(Debug)]
pub struct LanSend {
    link: Arc<Link>,
}

/// The half from the peer.
#[derive(Debug)]
pub struct LanRecv {
    link: Arc<Link>,
}

/// What both halves hold.
#[derive(Debug)]
struct Link {
    tls: Mutex<TlsStream<Buffered>>,
    socket: Socket,
    /// [`SENT`] and [`RECEIVED`].
    ended: AtomicU8,
    account: Option<Account>,
    _place: Option<register::Place>,
}

/// Where the bytes of a connection are counted, and what they are taken from.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) budget: Budget,
    pub(crate) sent: IntCounter,
    pub(crate) received: IntCounter,
    pub(crate) slot: Option<Arc<PeerSlot>>,
}

impl LanStream {
    fn new(tls: TlsStream<Buffered>, account: Option<Account>, place: Option<register::Place>) -> Self {
        let socket = tls.get_ref().0.socket().clone();
        socket.tune();
        let (tls, ended) = (Mutex::new(tls), AtomicU8::new(0));
        Self { link: Arc::new(Link { tls, socket, ended, account, _place: place }) }
    }

    /// Whether it can still be used, of a connection on which nothing was said yet: false if the other end closed it.
    /// One whose peer vanished without a word looks alive until something is sent.
    pub fn is_alive(&self) -> bool {
        self.link.lock().get_ref().0.is_empty() && self.link.socket.is_quiet()
    }

    /// Both halves.
    pub fn split(self) -> (LanSend, LanRecv) {
        (LanSend { link: self.link.clone() }, LanRecv { link: self.link })
    }
}

impl LanSend {
    /// Sends some of `bytes`; how many.
    ///
    /// # Errors
    /// If the connection is broken; then nothing is known of what was sent before.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = self.link.allowed(bytes.len()).await;
        let written = std::future::poll_fn(|cx| self.link.poll_write(cx, &bytes[..most])).await?;
        self.link.account_sent(most, written);
        Ok(written)
    }

    /// Sends `bytes`, all of them.
    ///
    /// # Errors
    /// As [`LanSend::write`].
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = self.write(rest).await?;
            rest = &rest[written..];
        }
        // What is encrypted and found no room would wait for the next write.
        std::future::poll_fn(|cx| self.link.poll(cx, |tls, cx| tls.poll_flush(cx))).await
    }

    /// Ends the data in order.
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn finish(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.link.poll(cx, |tls, cx| tls.poll_shutdown(cx))).await?;
        self.link.ended.fetch_or(SENT, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the other host has acknowledged all that was sent: it and the LAN are there, whatever its agent makes
    /// of it.
    pub fn is_heard(&self) -> bool {
        self.link.socket.is_heard()
    }

    /// Returns when the connection is broken, though nobody reads or writes: reset by the peer, or the peer
    /// acknowledges nothing any more.
    pub fn broken(&self) -> impl Future<Output = io::Error> + Send + use<> {
        self.link.socket.clone().broken()
    }
}

impl LanRecv {
    /// Reads what is there, at most `most` bytes, and waits where nothing is; no bytes at the orderly end.
    ///
    /// # Errors
    /// If the connection is broken or was ended out of order.
    pub async fn read(&mut self, most: usize) -> io::Result<Bytes> {
        let read = std::future::poll_fn(|cx| self.link.poll_read(cx, most)).await?;
        if read.is_empty() {
            self.link.ended.fetch_or(RECEIVED, Ordering::Relaxed);
        } else {
            self.link.account_received(read.len());
        }
        Ok(read)
    }
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, TlsStream<Buffered>> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        f: impl FnOnce(Pin<&mut TlsStream<Buffered>>, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        f(Pin::new(&mut *self.lock()), cx)
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(cx, |tls, cx| tls.poll_write(cx, bytes))
    }

    /// TLS hands over a record at a time: what is there of them is taken at once, for one write further on. Nothing is
    /// held for a connection on which nothing comes.
    fn poll_read(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<Bytes>> {
        let mut tls = self.lock();
        let mut buffer = BytesMut::with_capacity(most);
        while buffer.len() < most {
            let room = most - buffer.len();
            match poll_read_buf(Pin::new(&mut *tls), cx, &mut (&mut buffer).limit(room)) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                // An end or an error comes again.
                _ if !buffer.is_empty() => break,
                Poll::Ready(Ok(_)) => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(buffer.freeze()))
    }

    /// Waits until the node may send some of so many bytes; how many.
    async fn allowed(&self, bytes: usize) -> usize {
        match &self.account {
            Some(account) => account.budget.take(bytes).await,
            None => bytes,
        }
    }

    /// So many of the bytes that were allowed have gone.
    fn account_sent(&self, allowed: usize, bytes: usize) {
        let Some(account) = &self.account else { return };
        if bytes < allowed {
            account.budget.give_back(allowed - bytes);
        }
        account.sent.inc_by(bytes as u64);
        if let Some(slot) = &account.slot {
            slot.traffic.add_sent(bytes);
        }
    }

    fn account_received(&self, bytes: usize) {
        let Some(account) = &self.account else { return };
        account.received.inc_by(bytes as u64);
        if let Some(slot) = &account.slot {
            slot.traffic.add_received(bytes);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.ended.load(Ordering::Relaxed) != SENT | RECEIVED {
            self.socket.reset_on_close();
        }
    }
}

#[cfg(test)]
mod tests;
