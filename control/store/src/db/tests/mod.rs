//! The store as its callers use it, on a database in a temporary directory.

mod objects;
mod services;
mod watches;

use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Store, StoreConfig, WriteOptions};
use crate::kinds::KindDef;

/// A store with the namespace `default` and its service account.
struct Fixture {
    store: Store,
    dir: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        Self::with_history(1000).await
    }

    async fn with_history(history: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { history, ..StoreConfig::new(dir.path().join("objects.db")) };
        let fixture = Self { store: Store::open(&config).unwrap(), dir };
        fixture.create("namespaces", "", json!({"metadata": {"name": "default"}})).await;
        fixture.create("serviceaccounts", "default", json!({"metadata": {"name": "default"}})).await;
        fixture
    }

    /// Shuts the store down and opens it again.
    async fn reopen(self) -> Self {
        self.store.shutdown().await;
        let store = Store::open(&StoreConfig::new(self.dir.path().join("objects.db"))).unwrap();
        Self { store, dir: self.dir }
    }

    fn kind(&self, plural: &str) -> Arc<KindDef> {
        let all = self.store.registry().all();
        all.into_iter().find(|kind| kind.plural == plural).unwrap()
    }

    async fn create(&self, plural: &str, namespace: &str, object: Value) -> Value {
        self.try_create(plural, namespace, object).await.unwrap()
    }

    async fn try_create(&self, plural: &str, namespace: &str, object: Value) -> crate::Result<Value> {
        self.store.create(&self.kind(plural), namespace, object, &WriteOptions::default()).await
    }
}

fn config_map(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"value": value}}, "data": {"value": value}})
}
