//! A map that is read on every packet and written seldom.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;

/// Shards of a map: a write copies one of them.
const SHARDS: usize = 64;

/// A concurrent map whose readers take no lock: each write copies the shard that it changes.
#[derive(Debug)]
pub(crate) struct Shards<K, V> {
    hasher: RandomState,
    shards: Vec<ArcSwap<HashMap<K, V>>>,
    writer: Mutex<()>,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| ArcSwap::from_pointee(HashMap::new())).collect(),
            writer: Mutex::new(()),
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    fn shard(&self, key: &K) -> &ArcSwap<HashMap<K, V>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.shard(key).load().get(key).cloned()
    }

    pub(crate) fn insert(&self, key: K, value: V) {
        self.write(&key.clone(), |map| {
            map.insert(key, value);
        });
    }

    pub(crate) fn remove(&self, key: &K) {
        self.write(key, |map| {
            map.remove(key);
        });
    }

    fn write(&self, key: &K, change: impl FnOnce(&mut HashMap<K, V>)) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let shard = self.shard(key);
        let mut map = HashMap::clone(&shard.load());
        change(&mut map);
        shard.store(map.into());
    }
}
