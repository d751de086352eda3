//! The newest changes in memory, and who waits for more: what watches read.
//!
//! A watch has a position and no queue: a slow one costs nothing, falls back to the history table when
//! the ring has moved on, and gets 410 when that has too.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::txn::Event;

/// Changes kept in memory: more than one burst, less than what would be felt (at some 20 KB each).
const RING: usize = 512;

/// Shared by the writer and all watches.
#[derive(Clone)]
pub(crate) struct Feed(Arc<Shared>);

struct Shared {
    ring: Mutex<Ring>,
    /// Newest version committed, whatever the kind.
    newest: watch::Sender<u64>,
    /// By storage key: the version of the newest change of the kind.
    kinds: Mutex<HashMap<Arc<str>, watch::Sender<u64>>>,
}

struct Ring {
    events: VecDeque<Arc<Event>>,
    /// Every change after this version is in `events`.
    complete_after: u64,
}

impl Feed {
    pub(super) fn new(newest: u64) -> Self {
        Self(Arc::new(Shared {
            ring: Mutex::new(Ring { events: VecDeque::new(), complete_after: newest }),
            newest: watch::Sender::new(newest),
            kinds: Mutex::default(),
        }))
    }

    /// Adds committed changes and wakes the watches of their kinds.
    pub(super) fn publish(&self, newest: u64, events: Vec<Event>) {
        let mut changed: HashMap<Arc<str>, u64> = HashMap::new();
        {
            let mut ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
            for event in events {
                changed.insert(event.kind.clone(), event.version);
                ring.events.push_back(Arc::new(event));
            }
            while ring.events.len() > RING {
                if let Some(old) = ring.events.pop_front() {
                    ring.complete_after = old.version;
                }
            }
        }
        self.0.newest.send_replace(newest);
        let kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        for (kind, version) in changed {
            if let Some(sender) = kinds.get(&kind) {
                sender.send_replace(version);
            }
        }
    }

    /// Newest version committed.
    pub(crate) fn newest(&self) -> u64 {
        *self.0.newest.borrow()
    }

    /// Tells of changes of any kind.
    pub(crate) fn any(&self) -> watch::Receiver<u64> {
        self.0.newest.subscribe()
    }

    /// Tells of changes of one kind.
    pub(crate) fn subscribe(&self, kind: &str) -> watch::Receiver<u64> {
        let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        // Kinds of deleted definitions, and kinds nobody watches any more.
        kinds.retain(|_, sender| sender.receiver_count() > 0);
        kinds.entry(Arc::from(kind)).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Up to `max` changes of a kind after `version`, with the version read up to; `None` if the ring no
    /// longer reaches back so far.
    pub(crate) fn after(&self, kind: &str, version: u64, max: usize) -> Option<(Vec<Arc<Event>>, u64)> {
        let ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if version < ring.complete_after {
            return None;
        }
        let start = ring.events.partition_point(|event| event.version <= version);
        let mut upto = ring.events.back().map_or(version, |event| event.version.max(version));
        let mut found = Vec::new();
        for event in ring.events.range(start..).filter(|event| &*event.kind == kind) {
            if found.len() == max {
                upto = found.last().map_or(version, |last: &Arc<Event>| last.version);
                break;
            }
            found.push(event.clone());
        }
        Some((found, upto))
    }
}
