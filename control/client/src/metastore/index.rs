//! What the metastore holds, in memory, and who follows it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};

use edgeloom_api::hub::{Key, Version};
use edgeloom_api::kind::{self, Kind};
use serde_json::Value;

use super::subscription::{Queue, Subscription};

/// What names an object here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ObjectKey {
    pub(super) kind: &'static Kind,
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
}

impl ObjectKey {
    pub(super) fn new(kind: &'static Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

/// The kind that is written so in a [`Key`].
pub(super) fn kind_of(text: &str) -> Option<&'static Kind> {
    kind::ALL.iter().copied().find(|kind| kind.to_string() == text)
}

type Objects = BTreeMap<ObjectKey, Arc<Value>>;

#[derive(Debug, Default)]
pub(super) struct Index {
    objects: RwLock<Objects>,
    followers: Mutex<Vec<Weak<Queue>>>,
}

impl Index {
    pub(super) fn get(&self, key: &ObjectKey) -> Option<Arc<Value>> {
        self.read().get(key).cloned()
    }

    pub(super) fn list(&self, kind: &'static Kind) -> Vec<Arc<Value>> {
        let first = ObjectKey::new(kind, "", "");
        let objects = self.read();
        objects
            .range(first..)
            .take_while(|(key, _)| key.kind == kind)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    pub(super) fn all(&self) -> Vec<(ObjectKey, Arc<Value>)> {
        self.read().iter().map(|(key, object)| (key.clone(), Arc::clone(object))).collect()
    }

    pub(super) fn inventory(&self) -> Vec<(Key, Version)> {
        let objects = self.read();
        let mut entries: Vec<_> = objects
            .values()
            .filter_map(|object| Key::of(object).map(|(_, key, version)| (key, version)))
            .collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries
    }

    pub(super) fn len(&self) -> usize {
        self.read().len()
    }

    /// Takes over what was committed (`None`: deleted) and tells those who follow.
    pub(super) fn commit(&self, changes: impl Iterator<Item = (ObjectKey, Option<Arc<Value>>)>) {
        let mut followers = self.followers();
        followers.retain(|follower| follower.strong_count() > 0);
        for (key, object) in changes {
            let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
            match object {
                Some(object) => objects.insert(key.clone(), object),
                None => objects.remove(&key),
            };
            drop(objects);
            // Only now: a follower that is told before would find the old state and think it done.
            for follower in followers.iter().filter_map(Weak::upgrade) {
                follower.mark(&key);
            }
        }
        drop(followers);
        self.wake();
    }

    pub(super) fn subscribe(self: &Arc<Self>, kinds: &[&'static Kind]) -> Subscription {
        // Held over both, so that no commit falls between what is there and what follows.
        let mut followers = self.followers();
        let present = self.read().keys().filter(|key| kinds.contains(&key.kind)).cloned().collect();
        let queue = Arc::new(Queue::new(kinds, present));
        followers.push(Arc::downgrade(&queue));
        drop(followers);
        Subscription::new(Arc::clone(self), queue)
    }

    /// Wakes who follows only after the objects are there to be read.
    fn wake(&self) {
        for follower in self.followers().iter().filter_map(Weak::upgrade) {
            follower.wake();
        }
    }

    // A poisoned lock guards plain data that every holder leaves whole.
    fn read(&self) -> RwLockReadGuard<'_, Objects> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn followers(&self) -> MutexGuard<'_, Vec<Weak<Queue>>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
