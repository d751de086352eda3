//! The TCP connection beneath a flow's TLS, held by both halves and by whoever may end it.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// When the kernel asks after a peer that is silent, how often then, and how often in vain: one that is gone is
/// noticed after 9 s. What is sent and not acknowledged is noticed sooner, by [`UNHEARD`].
const ASK_AFTER: Duration = Duration::from_secs(6);
const ASK_EVERY: Duration = Duration::from_secs(1);
const ASK_TIMES: u32 = 3;
/// Bytes were sent and the other host acknowledged nothing for so long: it, or the LAN, is gone.
pub(super) const UNHEARD: Duration = Duration::from_secs(4);
/// Bytes that are read of a connection at once: four records of TLS.
const AHEAD: usize = 64 << 10;
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A TCP connection; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Socket(Arc<TcpStream>);

impl Socket {
    /// Sets a connection up for a flow, whatever it was set up for before.
    ///
    /// Not by `TCP_USER_TIMEOUT`: the kernel counts with it how long the other end's window is shut as well, and a
    /// reader that rests is no reason to break a flow.
    pub(super) fn tune(&self) {
        let socket = SockRef::from(&*self.0);
        let keepalive =
            TcpKeepalive::new().with_time(ASK_AFTER).with_interval(ASK_EVERY).with_retries(ASK_TIMES);
        // Each costs speed or patience where the system refuses it, nothing else.
        let _ = self.0.set_nodelay(true);
        let _ = socket.set_tcp_user_timeout(None);
        let _ = socket.set_tcp_notsent_lowat(0);
        let _ = socket.set_tcp_keepalive(&keepalive);
    }

    /// Whether nothing has come that was not asked for: data, an end, or an error.
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = SockRef::from(&*self.0).peek(&mut byte);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether the other host has acknowledged all that was sent.
    pub(super) fn is_heard(&self) -> bool {
        info(&self.0).is_some_and(|info| info.tcpi_unacked == 0)
    }

    /// Makes the close to come a reset.
    pub(super) fn reset_on_close(&self) {
        // It fails only where the connection is no more.
        let _ = SockRef::from(&*self.0).set_linger(Some(Duration::ZERO));
    }

    /// What ends the connection from elsewhere, without keeping it open.
    pub(super) fn cutter(&self) -> Cutter {
        Cutter(Arc::downgrade(&self.0))
    }

    /// Returns when the connection is broken, with the reason, though nobody reads or writes.
    pub(super) async fn broken(self) -> io::Error {
        let mut silent = Duration::ZERO;
        loop {
            tokio::select! {
                ready = self.0.ready(Interest::ERROR) => {
                    let error = ready.err().or_else(|| self.0.take_error().ok().flatten());
                    return error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
                }
                () = tokio::time::sleep(LOOK) => {
                    silent = longer(silent, unheard(&self.0));
                    if silent >= UNHEARD {
                        return io::ErrorKind::TimedOut.into();
                    }
                }
            }
        }
    }
}

/// Ends a connection that others hold.
#[derive(Debug)]
pub(super) struct Cutter(Weak<TcpStream>);

impl Cutter {
    /// Ends it in both directions, without the TLS end that would make it look orderly.
    pub(super) fn cut(&self) {
        if let Some(tcp) = self.0.upgrade() {
            let _ = SockRef::from(&*tcp).shutdown(Shutdown::Both);
        }
    }
}

/// For how long something was seen to wait that no acknowledgement came for, after another look. What was sent just
/// now waits too, and the last acknowledgement before it may be old: one look says nothing.
fn longer(silent: Duration, unheard: Option<Duration>) -> Duration {
    if unheard.is_some_and(|unheard| unheard >= LOOK) { silent + LOOK } else { Duration::ZERO }
}

/// How long the other host has acknowledged nothing, where something waits for it.
fn unheard(tcp: &TcpStream) -> Option<Duration> {
    let info = info(tcp)?;
    // What a shut window holds back was never sent, and probes of the window are answered.
    (info.tcpi_unacked > 0).then(|| Duration::from_millis(info.tcpi_last_ack_recv.into()))
}

#[expect(unsafe_code, reason = "no library here reads TCP_INFO")]
fn info(tcp: &TcpStream) -> Option<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which has as many.
    let result = unsafe {
        let into = info.as_mut_ptr().cast();
        libc::getsockopt(tcp.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut length)
    };
    // SAFETY: all of its fields are integers, and zero where an older kernel wrote less.
    (result == 0).then(|| unsafe { info.assume_init() })
}

/// What TLS reads and writes by. It asks for 4 KiB at a time; the system is asked for what is there.
#[derive(Debug)]
pub(crate) struct Buffered {
    socket: Socket,
    /// Read from the socket, not yet taken.
    ahead: BytesMut,
}

impl Buffered {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { socket: Socket(Arc::new(tcp)), ahead: BytesMut::new() }
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether nothing was read that was not taken.
    pub(super) fn is_empty(&self) -> bool {
        self.ahead.is_empty()
    }

    /// Reads what is there; nothing is held while nothing is.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let tcp = &self.socket.0;
        loop {
            if tcp.poll_read_ready(cx)?.is_pending() {
                self.ahead = BytesMut::new();
                return Poll::Pending;
            }
            self.ahead.reserve(AHEAD);
            match tcp.try_read_buf(&mut self.ahead) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }
}

impl AsyncRead for Buffered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() && ready!(this.poll_fill(cx))? == 0 {
            return Poll::Ready(Ok(()));
        }
        let count = buf.remaining().min(this.ahead.len());
        buf.put_slice(&this.ahead[..count]);
        this.ahead.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tcp = &self.socket.0;
        loop {
            ready!(tcp.poll_write_ready(cx))?;
            match tcp.try_write_vectored(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match SockRef::from(&*self.socket.0).shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_after_a_pause_is_no_sign_of_a_dead_host() {
        let pause = Some(Duration::from_secs(60));
        let looks = |looks: &[Option<Duration>]| looks.iter().copied().fold(Duration::ZERO, longer);
        assert!(looks(&[None, None, pause]) < UNHEARD, "the first byte after a minute");
        assert!(looks(&[pause, None, pause, None, pause, None]) < UNHEARD, "each was acknowledged");
        assert!(looks(&[Some(Duration::from_millis(40)); 60]) < UNHEARD, "bulk");
        let dead: Vec<_> = (1..=4).map(|seconds| Some(Duration::from_secs(seconds))).collect();
        assert!(looks(&dead) >= UNHEARD && looks(&dead[..3]) < UNHEARD);
    }
}
