//! A work queue of keys: one entry a key, due at a time, tried again with back-off.
//!
//! [`Schedule`] is the logic, pure; [`Queue`] lends it a lock, a clock and a way to wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Wait after the first failure of a key; doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Longest wait after a failure.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Which keys are due when. A key that is asked for twice stands once, at the earlier time.
#[derive(Debug)]
struct Schedule<K> {
    due: HashMap<K, Instant>,
    order: BTreeMap<Instant, BTreeSet<K>>,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Ord + Hash> Schedule<K> {
    fn new() -> Self {
        Self { due: HashMap::new(), order: BTreeMap::new(), failures: HashMap::new() }
    }

    fn add(&mut self, key: K, at: Instant) {
        match self.due.get(&key) {
            Some(earlier) if *earlier <= at => return,
            Some(_) => self.remove(&key),
            None => {}
        }
        self.order.entry(at).or_default().insert(key.clone());
        self.due.insert(key, at);
    }

    fn remove(&mut self, key: &K) {
        let Some(at) = self.due.remove(key) else { return };
        if let Some(keys) = self.order.get_mut(&at) {
            keys.remove(key);
            if keys.is_empty() {
                self.order.remove(&at);
            }
        }
    }

    /// The first key that is due, or when the next one will be.
    fn pop(&mut self, now: Instant) -> Result<K, Option<Instant>> {
        let Some((at, keys)) = self.order.first_key_value() else { return Err(None) };
        if *at > now {
            return Err(Some(*at));
        }
        let key = keys.first().cloned().expect("an empty set is removed at once");
        self.remove(&key);
        Ok(key)
    }

    fn failed(&mut self, key: K, now: Instant) {
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = FIRST_RETRY.saturating_mul(1 << (*failures).min(16)).min(LAST_RETRY);
        *failures += 1;
        self.add(key, now + wait);
    }

    fn succeeded(&mut self, key: &K) {
        self.failures.remove(key);
    }
}

/// Keys to work on. Memory is bounded by the number of keys, since none stands twice.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    schedule: Mutex<Schedule<K>>,
    added: Notify,
}

impl<K: Clone + Ord + Hash> Queue<K> {
    pub(crate) fn new() -> Self {
        Self { schedule: Mutex::new(Schedule::new()), added: Notify::new() }
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule<K>> {
        self.schedule.lock().expect("no holder of this lock panics")
    }

    /// Works on `key` as soon as possible.
    pub(crate) fn add(&self, key: K) {
        self.add_after(key, Duration::ZERO);
    }

    /// Works on `key` once `wait` is over, unless it comes up sooner.
    pub(crate) fn add_after(&self, key: K, wait: Duration) {
        self.schedule().add(key, Instant::now() + wait);
        self.added.notify_one();
    }

    /// The next key that is due.
    pub(crate) async fn next(&self) -> K {
        loop {
            let waiting = match self.schedule().pop(Instant::now()) {
                Ok(key) => return key,
                Err(next) => next,
            };
            match waiting {
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = self.added.notified() => {}
                },
                None => self.added.notified().await,
            }
        }
    }

    /// Tries `key` again, later each time.
    pub(crate) fn failed(&self, key: K) {
        self.schedule().failed(key, Instant::now());
        self.added.notify_one();
    }

    /// Forgets the failures of `key`.
    pub(crate) fn succeeded(&self, key: &K) {
        self.schedule().succeeded(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_stands_once_at_the_earlier_time() {
        let queue = Queue::new();
        queue.add_after("later", Duration::from_secs(5));
        queue.add_after("soon", Duration::from_secs(9));
        queue.add("soon");
        let start = Instant::now();
        assert_eq!(queue.next().await, "soon");
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(queue.next().await, "later");
        assert_eq!(start.elapsed().as_secs(), 5);
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_a_success_ends_that() {
        let queue = Queue::new();
        let mut waits = Vec::new();
        for _ in 0..12 {
            let start = Instant::now();
            queue.failed("key");
            queue.next().await;
            waits.push(start.elapsed());
        }
        assert!(waits[0] >= FIRST_RETRY && waits[1] >= 2 * FIRST_RETRY, "{waits:?}");
        assert!(waits[11] >= LAST_RETRY && waits[11] < 2 * LAST_RETRY, "{waits:?}");
        queue.succeeded(&"key");
        let start = Instant::now();
        queue.failed("key");
        queue.next().await;
        assert!(start.elapsed() < 2 * FIRST_RETRY);
    }
}
