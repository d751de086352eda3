//! The node's copy of the objects that concern it: a SQLite file, and an index in memory that answers.
//!
//! The session writes with [`Metastore::apply`], which returns after the commit. Everybody else reads the index
//! ([`Metastore::get`], [`Metastore::list`]) or follows it ([`Metastore::subscribe`]) and never waits for the
//! disk. A damaged file is moved aside: on opening the cloud fills a new one, later the index does.

mod index;
mod subscription;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeloom_api::hub::{Key, Version};
use edgeloom_api::kind::Kind;
use rusqlite::{Connection, params};
use serde_json::Value;

use crate::db::{self, Done, StoreError, Writer};
use index::{Index, ObjectKey};
pub use subscription::{Change, Subscription};

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS objects (
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (kind, namespace, name)) WITHOUT ROWID";

/// Handle to the store; clones share it.
#[derive(Clone, Debug)]
pub struct Metastore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    writer: Writer<Job>,
    index: Arc<Index>,
    moved_aside: Option<PathBuf>,
}

/// A change to be stored.
#[derive(Clone, Debug)]
pub enum Update {
    /// The object as it is now.
    Put(Value),
    /// The object is gone.
    Delete(Key),
}

#[derive(Debug)]
struct Job {
    updates: Vec<Checked>,
    done: Done<()>,
}

/// An update whose key was found.
#[derive(Debug)]
struct Checked {
    key: ObjectKey,
    object: Option<Arc<Value>>,
}

impl Metastore {
    /// Opens the store at `path`, making it where there is none. Reads the whole file once.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let (connection, moved_aside) = db::open(&path, SCHEMA)?;
        if let Some(aside) = &moved_aside {
            tracing::error!(store = %path.display(), moved = %aside.display(), "the metastore was damaged; the cloud fills a new one");
        }
        let index = Arc::new(Index::default());
        load(&connection, &index).map_err(|error| StoreError::sqlite(&path, &error))?;
        let mut disk = Disk { connection, path: path.clone(), index: Arc::clone(&index) };
        let writer = Writer::spawn("metastore", move |batch| disk.work(batch))
            .map_err(|error| StoreError::Open { path, reason: error.to_string() })?;
        Ok(Self(Arc::new(Inner { writer, index, moved_aside })))
    }

    /// The object, if the node holds it. `namespace` is empty for kinds that have none.
    pub fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.0.index.get(&ObjectKey::new(kind, namespace, name))
    }

    /// All objects of the kind, by namespace and name.
    pub fn list(&self, kind: &'static Kind) -> Vec<Arc<Value>> {
        self.0.index.list(kind)
    }

    /// Everything of `kinds` that the node holds, then [`Change::Synced`], then changes as they are committed.
    pub fn subscribe(&self, kinds: &[&'static Kind]) -> Subscription {
        self.0.index.subscribe(kinds)
    }

    /// Stores `updates` in one transaction; they are on disk and in the index when it returns. All or none.
    pub async fn apply(&self, updates: Vec<Update>) -> Result<(), StoreError> {
        let updates = updates.into_iter().map(Checked::try_from).collect::<Result<Vec<_>, _>>()?;
        self.0.writer.run(|done| Job { updates, done }).await
    }

    /// What the node holds, in the order of keys: what the hub compares.
    pub fn inventory(&self) -> Vec<(Key, Version)> {
        self.0.index.inventory()
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.0.index.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where a damaged file was moved when this one was opened.
    pub fn moved_aside(&self) -> Option<&Path> {
        self.0.moved_aside.as_deref()
    }
}

impl TryFrom<Update> for Checked {
    type Error = StoreError;

    fn try_from(update: Update) -> Result<Self, StoreError> {
        match update {
            Update::Put(object) => {
                let Some((kind, key, _)) = Key::of(&object) else {
                    let what = format!("{} {}", object["apiVersion"], object["kind"]);
                    return Err(StoreError::Object(what));
                };
                let key = ObjectKey::new(kind, &key.namespace, &key.name);
                Ok(Self { key, object: Some(Arc::new(object)) })
            }
            Update::Delete(key) => {
                let kind = index::kind_of(&key.kind).ok_or_else(|| StoreError::Object(key.kind.clone()))?;
                Ok(Self { key: ObjectKey::new(kind, &key.namespace, &key.name), object: None })
            }
        }
    }
}

fn load(connection: &Connection, index: &Index) -> rusqlite::Result<()> {
    let mut select = connection.prepare("SELECT body FROM objects")?;
    let mut rows = select.query([])?;
    let mut updates = Vec::new();
    while let Some(row) = rows.next()? {
        let body = row.get_ref(0)?.as_str()?;
        // A kind that an older release does not know, or a damaged row: the digest differs, the cloud mends it.
        let object = serde_json::from_str::<Value>(body).ok().map(Update::Put);
        updates.extend(object.and_then(|update| Checked::try_from(update).ok()));
    }
    index.commit(updates.into_iter().map(|update| (update.key, update.object)));
    Ok(())
}

/// The writer thread's side.
struct Disk {
    connection: Connection,
    path: PathBuf,
    index: Arc<Index>,
}

impl Disk {
    fn work(&mut self, batch: Vec<Job>) {
        let mut result = self.write(&batch);
        if let Err(error) = &result
            && db::is_damage(error)
        {
            tracing::error!(store = %self.path.display(), %error, "the metastore is damaged; writing a new one");
            result = self.rebuild().and_then(|()| self.write(&batch));
        }
        let result = result.map_err(|error| StoreError::sqlite(&self.path, &error));
        let mut answers = Vec::with_capacity(batch.len());
        for job in batch {
            if result.is_ok() {
                self.index.commit(job.updates.into_iter().map(|update| (update.key, update.object)));
            }
            answers.push(job.done);
        }
        for done in answers {
            // Whoever asked may have gone.
            let _ = done.send(result.clone());
        }
    }

    fn write(&mut self, batch: &[Job]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        for update in batch.iter().flat_map(|job| &job.updates) {
            write_one(&transaction, &update.key, update.object.as_deref())?;
        }
        transaction.commit()
    }

    /// A new file with all that the index holds.
    fn rebuild(&mut self) -> rusqlite::Result<()> {
        let failed = |error: &dyn std::fmt::Display| {
            rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
                Some(error.to_string()),
            )
        };
        self.connection = Connection::open_in_memory()?;
        db::move_aside(&self.path).map_err(|error| failed(&error))?;
        (self.connection, _) = db::open(&self.path, SCHEMA).map_err(|error| failed(&error))?;
        let transaction = self.connection.transaction()?;
        for (key, object) in self.index.all() {
            write_one(&transaction, &key, Some(&object))?;
        }
        transaction.commit()
    }
}

fn write_one(connection: &Connection, key: &ObjectKey, object: Option<&Value>) -> rusqlite::Result<()> {
    let kind = key.kind.to_string();
    if let Some(object) = object {
        connection
            .prepare_cached("INSERT OR REPLACE INTO objects VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![kind, key.namespace, key.name, object.to_string()])?;
    } else {
        connection
            .prepare_cached("DELETE FROM objects WHERE kind = ?1 AND namespace = ?2 AND name = ?3")?
            .execute(params![kind, key.namespace, key.name])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
