//! Kubernetes objects in SQLite: the [`Store`].
//!
//! ```text
//!  create/update/modify/delete ─> prepare (defaults, validation: the caller's task)
//!                                   └─> writer thread: admission, allocation, write, in one transaction
//!                                         └─ commit ─> feed (memory) ─> watches
//!  get/list ─> a few read-only connections (WAL: never behind the writer)
//! ```
//!
//! One counter gives every change its resourceVersion. The history table holds the newest changes with
//! the state before each, from which watches resume and lists of a past version are answered.

mod feed;
mod metrics;
mod options;
mod prepare;
mod read;
mod remove;
mod sqlite;
mod txn;
mod watch;
mod write;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use ipnet::IpNet;
use rusqlite::Connection;
use serde_json::Value;

pub use self::options::{
    DeleteOptions, Deleted, List, ListOptions, Part, Propagation, StoreConfig, Tracker, VersionMatch,
    WatchOptions, WriteOptions,
};
pub(crate) use self::prepare::timestamp;
pub(crate) use self::txn::{Txn, key_of};
pub use self::watch::{Watch, WatchEvent};
use self::writer::Setup;
use crate::error::{Error, Reason, Result};
use crate::kinds::{KindDef, Registry};

/// Handle to the objects: cheap to clone, usable from any task.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    registry: Registry,
    service_cidrs: Arc<[IpNet]>,
    readers: Arc<read::Readers>,
    feed: feed::Feed,
    /// Taken at shutdown: the writer thread ends when nobody can send to it.
    writer: tokio::sync::RwLock<Option<writer::Writer>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens or creates the database, starts its writer thread, and learns the custom kinds in it.
    /// Blocks for as long as SQLite takes to recover its log.
    pub fn open(config: &StoreConfig) -> Result<Self> {
        let registry = Registry::built_in();
        let connection = sqlite::open_writer(&config.path)?;
        load_custom_kinds(&connection, &registry)?;
        let feed = feed::Feed::new(sqlite::newest(&connection)?);
        let for_kinds = registry.clone();
        let setup = Setup {
            connection,
            feed: feed.clone(),
            history: config.history,
            metrics: metrics::Metrics::new(config.metrics.as_ref())?,
            kinds_changed: Box::new(move |connection| load_custom_kinds(connection, &for_kinds)),
        };
        let (writer, thread) = writer::Writer::start(setup)?;
        Ok(Self(Arc::new(Inner {
            registry,
            service_cidrs: config.service_cidrs.clone().into(),
            readers: Arc::new(read::Readers::new(config.path.clone())),
            feed,
            writer: tokio::sync::RwLock::new(Some(writer)),
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// The kinds served now.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Ranges from which Services get their addresses.
    pub fn service_cidrs(&self) -> &[IpNet] {
        &self.0.service_cidrs
    }

    /// The version of the newest committed change.
    pub fn resource_version(&self) -> u64 {
        self.0.feed.newest()
    }

    /// Tells the newest committed version, of whatever kind, as it moves on.
    pub fn versions(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.feed.any()
    }

    /// One object, in the kind's version. `namespace` is empty for kinds that have none.
    pub async fn get(&self, kind: &KindDef, namespace: &str, name: &str) -> Result<Value> {
        let (storage, at, wanted) = (kind.storage.clone(), namespace.to_owned(), name.to_owned());
        let found =
            self.0.readers.run(move |connection| txn::get(connection, &storage, &at, &wanted)).await?;
        found.map(|object| kind.present(object)).ok_or_else(|| Error::not_found(kind, name))
    }

    /// Objects of a kind, in order of namespace and name, and the version they are of.
    pub async fn list(&self, kind: &Arc<KindDef>, options: ListOptions) -> Result<List> {
        let kind = kind.clone();
        self.0.readers.run(move |connection| read::list(connection, &kind, &options)).await
    }

    /// How many objects of a kind there are.
    pub async fn count(&self, kind: &KindDef) -> Result<usize> {
        let storage = kind.storage.clone();
        let sql = "SELECT count(*) FROM objects WHERE kind = ?1";
        let counted = self.0.readers.run(move |connection| read::number(connection, sql, [storage])).await?;
        Ok(usize::try_from(counted).unwrap_or(0))
    }

    /// Size of the database in bytes.
    pub async fn size(&self) -> Result<u64> {
        let sql = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
        let size = self.0.readers.run(move |connection| read::number(connection, sql, [])).await?;
        Ok(size.unsigned_abs())
    }

    /// Whether the database can be read, and is written.
    pub async fn check(&self) -> Result<()> {
        if !self.0.writer.read().await.as_ref().is_some_and(writer::Writer::is_running) {
            return Err(Error::new(
                Reason::ServiceUnavailable,
                "the object database is not written any more",
            ));
        }
        self.0.readers.run(|connection| sqlite::newest(connection).map(drop)).await
    }

    /// Changes of a kind as they are committed; see [`WatchOptions`].
    pub async fn watch(&self, kind: &Arc<KindDef>, options: WatchOptions) -> Result<Watch> {
        Watch::start(self.clone(), kind.clone(), options).await
    }

    /// Ends the writer thread after what is queued; later writes are refused.
    pub async fn shutdown(&self) {
        drop(self.0.writer.write().await.take());
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let joined = match thread {
            Some(thread) => tokio::task::spawn_blocking(move || thread.join().is_ok()).await.unwrap_or(false),
            None => true,
        };
        if !joined {
            tracing::error!("the thread that writes the object database panicked");
        }
    }
}

/// Makes the registry hold exactly the custom kinds that are stored.
fn load_custom_kinds(connection: &Connection, registry: &Registry) -> Result<()> {
    let definitions = txn::all(connection, "customresourcedefinitions.apiextensions.k8s.io")?;
    let mut gone: Vec<(String, String)> = registry
        .all()
        .iter()
        .filter(|kind| kind.is_custom())
        .map(|kind| (kind.group.clone(), kind.plural.clone()))
        .collect();
    for definition in &definitions {
        let text = |path: &str| definition.pointer(path).and_then(Value::as_str).unwrap_or("").to_owned();
        let key = (text("/spec/group"), text("/spec/names/plural"));
        registry.replace_custom(&key.0, &key.1, crate::kinds::from_crd(definition));
        gone.retain(|one| *one != key);
    }
    for (group, plural) in gone {
        registry.replace_custom(&group, &plural, Vec::new());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
