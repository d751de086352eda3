//! The end of a flow on this side, made so that whatever ends it early shows as a reset, as the other end does
//! ([`crate::stream`]): a task that is dropped must never look like an orderly end of the data.

use std::io;
use std::net::Shutdown;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// When the kernel first asks after a silent TCP peer, and how often then. Both ends of a flow are on this
/// host or its site: a peer that vanished is noticed in about two minutes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// A TCP connection that is reset when dropped, unless its data was said to be complete.
pub(super) struct Socket {
    tcp: TcpStream,
    complete: bool,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream) -> Self {
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
        // Neither matters enough to refuse a connection for.
        let _ = (tcp.set_nodelay(true), SockRef::from(&tcp).set_tcp_keepalive(&keepalive));
        Self { tcp, complete: false }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Sends a FIN: no more data goes to this side.
    pub(super) fn finish(&self) -> io::Result<()> {
        match SockRef::from(&self.tcp).shutdown(Shutdown::Write) {
            // It has gone in both directions already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    pub(super) fn tcp_mut(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    /// Both directions came to their orderly end.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.complete {
            // With no linger a close is a reset.
            let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        }
    }
}
