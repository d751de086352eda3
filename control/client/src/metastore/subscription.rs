//! Following the metastore: coalesced per object, so that a slow reader costs no more memory than there are
//! objects, and sees the last state of each.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edgeloom_api::kind::Kind;
use serde_json::Value;
use tokio::sync::Notify;

use super::index::{Index, ObjectKey};

/// What a follower is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The object as it is now. Versions in between may have been passed over.
    Put(Arc<Value>),
    /// The object is gone. One that was made anew under the same name is told as [`Change::Delete`] and then
    /// [`Change::Put`].
    Delete {
        /// Its kind.
        kind: &'static Kind,
        /// Its namespace, empty for kinds that have none.
        namespace: String,
        /// Its name.
        name: String,
        /// As the follower was last told of it.
        last: Arc<Value>,
    },
    /// All that was there at the beginning has been told. Told once.
    Synced,
}

/// Keys whose state a follower has not seen.
#[derive(Debug)]
pub(super) struct Queue {
    kinds: Vec<&'static Kind>,
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    order: VecDeque<ObjectKey>,
    waiting: HashSet<ObjectKey>,
    /// How many of `order` were there at the beginning.
    initial: usize,
}

impl Queue {
    pub(super) fn new(kinds: &[&'static Kind], present: VecDeque<ObjectKey>) -> Self {
        let waiting = present.iter().cloned().collect();
        let state = State { initial: present.len(), waiting, order: present };
        Self { kinds: kinds.to_vec(), state: Mutex::new(state), notify: Notify::new() }
    }

    pub(super) fn mark(&self, key: &ObjectKey) {
        if !self.kinds.contains(&key.kind) {
            return;
        }
        let mut state = self.state();
        if state.waiting.insert(key.clone()) {
            state.order.push_back(key.clone());
        }
    }

    pub(super) fn wake(&self) {
        self.notify.notify_one();
    }

    fn pop(&self) -> Option<ObjectKey> {
        let mut state = self.state();
        let key = state.order.pop_front()?;
        state.waiting.remove(&key);
        state.initial = state.initial.saturating_sub(1);
        Some(key)
    }

    fn push_front(&self, key: ObjectKey) {
        let mut state = self.state();
        if state.waiting.insert(key.clone()) {
            state.order.push_front(key);
        }
    }

    fn initial_left(&self) -> bool {
        self.state().initial > 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One follower's place. See [`Metastore::subscribe`](super::Metastore::subscribe).
#[derive(Debug)]
pub struct Subscription {
    index: Arc<Index>,
    queue: Arc<Queue>,
    told: HashMap<ObjectKey, Arc<Value>>,
    synced: bool,
}

impl Subscription {
    pub(super) fn new(index: Arc<Index>, queue: Arc<Queue>) -> Self {
        Self { index, queue, told: HashMap::new(), synced: false }
    }

    /// The next change, as soon as there is one. Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.try_next() {
                return change;
            }
            self.queue.notify.notified().await;
        }
    }

    /// The next change, if there is one now.
    pub fn try_next(&mut self) -> Option<Change> {
        loop {
            if !self.synced && !self.queue.initial_left() {
                self.synced = true;
                return Some(Change::Synced);
            }
            let key = self.queue.pop()?;
            if let Some(change) = self.change_of(key) {
                return Some(change);
            }
        }
    }

    /// What to tell of `key`, if the follower does not know it yet.
    fn change_of(&mut self, key: ObjectKey) -> Option<Change> {
        let now = self.index.get(&key);
        match (self.told.get(&key), now) {
            (None, None) => None,
            (Some(last), Some(now)) if Arc::ptr_eq(last, &now) => None,
            (Some(last), Some(now)) if uid(last) != uid(&now) => {
                self.queue.push_front(key.clone());
                self.deleted(key)
            }
            (_, Some(now)) => {
                self.told.insert(key, Arc::clone(&now));
                Some(Change::Put(now))
            }
            (Some(_), None) => self.deleted(key),
        }
    }

    fn deleted(&mut self, key: ObjectKey) -> Option<Change> {
        let last = self.told.remove(&key)?;
        let (namespace, name) = (key.namespace.into(), key.name.into());
        Some(Change::Delete { kind: key.kind, namespace, name, last })
    }
}

fn uid(object: &Value) -> Option<&str> {
    object["metadata"]["uid"].as_str()
}
