//! How many streams are in use on a connection, and what it holds for them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;

use super::ledger::Lease;

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
    /// A write has found room since that became less.
    fits: AtomicBool,
    writing: Mutex<()>,
    /// Bytes that the streams have read.
    read: AtomicU64,
    /// What the connection holds: as long as a stream of it is held, which keeps what came for it.
    pub(super) lease: Lease,
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
    /// Of a connection that holds what `lease` says.
    pub(super) fn new(connection: quinn::Connection, lease: Lease, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self {
            opened: AtomicU32::new(0),
            accepted: AtomicU32::new(0),
            gauge,
            connection,
            sending: AtomicU64::new(lease.first().sending),
            fits: AtomicBool::new(true),
            writing: Mutex::default(),
            read: AtomicU64::new(0),
            lease,
        })
    }

    /// Has so much taken to be sent.
    pub(super) fn take(&self, sending: u64) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.sending.swap(sending, Ordering::Relaxed);
        if sending < before {
            self.fits.store(false, Ordering::Relaxed);
        }
        self.connection.set_send_window(sending);
    }

    /// Whether a write has found room since what is taken to be sent became less.
    pub(super) fn fits(&self) -> bool {
        self.fits.load(Ordering::Relaxed)
    }

    /// Bytes that the streams have read since the connection began.
    pub(super) fn has_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
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

    /// Counts bytes that a stream has read.
    pub(crate) fn read(&self, bytes: usize) {
        self.usage.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Turn<'_> {
    /// Tells of a write that found room within the bound of what is taken to be sent.
    pub(crate) fn fits(&self) {
        if !self.usage.fits() {
            self.usage.fits.store(true, Ordering::Relaxed);
        }
    }

    /// Does `write` with more taken to be sent, by what the connection began with. The others see nothing of that.
    pub(crate) fn beyond_bound<T>(&self, write: impl FnOnce() -> T) -> T {
        let Usage { connection, sending, lease, .. } = self.usage;
        let sending = sending.load(Ordering::Relaxed);
        connection.set_send_window(sending + lease.first().sending);
        let written = write();
        connection.set_send_window(sending);
        written
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.usage.count(self.by).fetch_sub(1, Ordering::Relaxed);
        self.usage.gauge.dec();
    }
}
