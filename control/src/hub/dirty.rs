//! The keys that one session has yet to send, each at most once: what bounds the memory that a slow node costs.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use edgeloom_api::hub::Key;
use tokio::sync::Notify;

/// What is to be sent next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// The object's present state.
    Key(Key),
    /// That all there was at the beginning has been sent.
    Synced,
}

/// Keys in the order in which they were first marked.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    order: VecDeque<Item>,
    waiting: HashSet<Key>,
}

impl Dirty {
    /// The object has to be sent; nothing if it waits already.
    pub(super) fn mark(&self, key: Key) {
        let mut state = self.state();
        if state.waiting.insert(key.clone()) {
            state.order.push_back(Item::Key(key));
            drop(state);
            self.notify.notify_one();
        }
    }

    /// The node is to be told that all which waits now was the beginning.
    pub(super) fn mark_synced(&self) {
        self.state().order.push_back(Item::Synced);
        self.notify.notify_one();
    }

    pub(super) fn try_next(&self) -> Option<Item> {
        let mut state = self.state();
        let item = state.order.pop_front()?;
        if let Item::Key(key) = &item {
            state.waiting.remove(key);
        }
        Some(item)
    }

    /// The next item, as soon as there is one. Cancelling the future loses nothing.
    pub(super) async fn next(&self) -> Item {
        loop {
            if let Some(item) = self.try_next() {
                return item;
            }
            self.notify.notified().await;
        }
    }

    // A poisoned lock guards plain data that every holder leaves whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_waits_once_and_in_its_place() {
        let key = |name: &str| Key { kind: "pods".into(), namespace: "a".into(), name: name.into() };
        let dirty = Dirty::default();
        for name in ["a", "b", "a", "c", "b"] {
            dirty.mark(key(name));
        }
        dirty.mark_synced();
        dirty.mark(key("a"));
        dirty.mark(key("d"));
        let expected = [
            Item::Key(key("a")),
            Item::Key(key("b")),
            Item::Key(key("c")),
            Item::Synced,
            Item::Key(key("d")),
        ];
        for item in expected {
            assert_eq!(dirty.next().await, item);
        }
        dirty.mark(key("a"));
        assert_eq!(dirty.next().await, Item::Key(key("a")));
        assert_eq!(dirty.try_next(), None);
    }
}
