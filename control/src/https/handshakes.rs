//! Connections whose handshake is not done: who takes its time over one makes room for whoever comes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// How long one that was ended may take to give its place back before another is ended.
const GOING: Duration = Duration::from_millis(100);

/// The handshakes under way; clones share them.
#[derive(Clone, Default)]
pub(super) struct Handshakes(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    next: u64,
    /// The oldest first.
    ends: BTreeMap<u64, CancellationToken>,
}

/// One of them, until this is dropped.
pub(super) struct Handshake {
    all: Handshakes,
    number: u64,
    end: CancellationToken,
}

impl Handshakes {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // Every change is a single call of a map's.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One begins.
    pub(super) fn begin(&self) -> Handshake {
        let (mut open, end) = (self.lock(), CancellationToken::new());
        let number = open.next;
        open.next += 1;
        open.ends.insert(number, end.clone());
        Handshake { all: self.clone(), number, end }
    }

    /// A place of `room` for who has come. Where there is none the oldest handshake is ended: an honest one takes some
    /// round trips, and nobody can tell before whose it is.
    pub(super) async fn place(&self, room: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        loop {
            if let Ok(place) = room.clone().try_acquire_owned() {
                return place;
            }
            let oldest = self.lock().ends.pop_first();
            if let Some((_, end)) = oldest {
                end.cancel();
            }
            if let Ok(place) = tokio::time::timeout(GOING, room.clone().acquire_owned()).await {
                return place.expect("the semaphore is never closed");
            }
        }
    }
}

impl Handshake {
    /// Shakes hands; none where it was ended for another's sake.
    pub(super) async fn run<T>(self, shaking: impl Future<Output = Option<T>>) -> Option<T> {
        self.end.run_until_cancelled(shaking).await.flatten()
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.lock().ends.remove(&self.number);
    }
}
