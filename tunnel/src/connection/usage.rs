//! How many streams are in use on a connection.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;

/// The streams of one connection whose users hold them.
#[derive(Debug)]
pub(crate) struct Usage {
    opened: AtomicU32,
    accepted: AtomicU32,
    /// All streams of the protocol.
    gauge: IntGauge,
    connection: quinn::Connection,
    /// What is taken of all streams to be sent, in bytes.
    sending: AtomicU64,
    writing: Mutex<()>,
}

/// A stream's place on its connection, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    usage: Arc<Usage>,
    by: By,
}

/// The right to write to a stream of a connection, alone.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    usage: &'a Usage,
    _guard: MutexGuard<'a, ()>,
}

#[derive(Clone, Copy, Debug)]
enum By {
    Us,
    Peer,
}

impl Usage {
    /// Of a connection that takes so much to be sent.
    pub(super) fn new(connection: quinn::Connection, sending: u64, gauge: IntGauge) -> Arc<Self> {
        let (opened, accepted) = (AtomicU32::new(0), AtomicU32::new(0));
        let sending = AtomicU64::new(sending);
        Arc::new(Self { opened, accepted, gauge, connection, sending, writing: Mutex::default() })
    }

    /// Has so much taken to be sent, where that is news.
    pub(super) fn take(&self, sending: u64) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.sending.load(Ordering::Relaxed);
        if sending.abs_diff(before) >= before / 4 {
            self.sending.store(sending, Ordering::Relaxed);
            self.connection.set_send_window(sending);
        }
    }

    /// Streams that this end opened.
    pub(super) fn opened(&self) -> u32 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Streams that the peer opened.
    pub(super) fn accepted(&self) -> u32 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Counts a stream that this end opened.
    pub(super) fn open(self: &Arc<Self>) -> Place {
        self.place(By::Us)
    }

    /// Counts a stream that the peer opened.
    pub(super) fn accept(self: &Arc<Self>) -> Place {
        self.place(By::Peer)
    }

    fn place(self: &Arc<Self>, by: By) -> Place {
        self.count(by).fetch_add(1, Ordering::Relaxed);
        self.gauge.inc();
        Place { usage: self.clone(), by }
    }

    fn count(&self, by: By) -> &AtomicU32 {
        match by {
            By::Us => &self.opened,
            By::Peer => &self.accepted,
        }
    }
}

impl Place {
    /// Waits until no other stream of the connection is being written to, which is but a moment.
    pub(crate) fn turn(&self) -> Turn<'_> {
        let guard = self.usage.writing.lock().unwrap_or_else(PoisonError::into_inner);
        Turn { usage: &self.usage, _guard: guard }
    }
}

impl Turn<'_> {
    /// Does `write` with no bound on what is taken to be sent. The others see nothing of that.
    pub(crate) fn beyond_bound<T>(&self, write: impl FnOnce() -> T) -> T {
        let Usage { connection, sending, .. } = self.usage;
        connection.set_send_window(u64::MAX);
        let written = write();
        connection.set_send_window(sending.load(Ordering::Relaxed));
        written
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.usage.count(self.by).fetch_sub(1, Ordering::Relaxed);
        self.usage.gauge.dec();
    }
}
