//! One write transaction: reads and writes of stored objects, each write with its version and event.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::sqlite;
use crate::error::Result;
use crate::kinds::KindDef;

/// A change that was committed.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) version: u64,
    /// Storage key of the kind.
    pub(crate) kind: Arc<str>,
    pub(crate) namespace: String,
    pub(crate) deleted: bool,
    /// The object after the change, or its last state if it was deleted; in the stored version.
    pub(crate) object: Arc<Value>,
    pub(crate) previous: Option<Arc<Value>>,
}

/// Events whose newest time is before another.
const EXPIRED_EVENTS: &str = "SELECT body FROM objects WHERE kind = 'events' AND max( \
       coalesce(json_extract(body, '$.metadata.creationTimestamp'), ''), \
       coalesce(json_extract(body, '$.lastTimestamp'), ''), \
       coalesce(json_extract(body, '$.series.lastObservedTime'), '')) < ?1 LIMIT 512";

/// What a transaction sees and does.
pub(crate) struct Txn<'c> {
    connection: &'c Connection,
    version: u64,
    events: Vec<Event>,
    /// Whether the set of kinds changed.
    pub(crate) kinds_changed: bool,
}

/// A point to go back to.
pub(super) struct Mark {
    version: u64,
    events: usize,
    kinds_changed: bool,
}

impl<'c> Txn<'c> {
    pub(super) fn new(connection: &'c Connection, version: u64) -> Self {
        Self { connection, version, events: Vec::new(), kinds_changed: false }
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { version: self.version, events: self.events.len(), kinds_changed: self.kinds_changed }
    }

    pub(super) fn back_to(&mut self, mark: &Mark) {
        self.version = mark.version;
        self.events.truncate(mark.events);
        self.kinds_changed = mark.kinds_changed;
    }

    pub(super) fn finish(self) -> (u64, Vec<Event>) {
        (self.version, self.events)
    }

    /// The connection, for tables of other modules such as the allocators'.
    pub(crate) fn connection(&self) -> &Connection {
        self.connection
    }

    /// The stored object.
    pub(crate) fn get(&self, kind: &KindDef, namespace: &str, name: &str) -> Result<Option<Value>> {
        get(self.connection, &kind.storage, namespace, name)
    }

    /// The object under a storage key such as `pods` or `deployments.apps`.
    pub(crate) fn get_stored(&self, storage: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        get(self.connection, storage, namespace, name)
    }

    /// Whether any object is stored under the key, in the namespace if one is given.
    pub(crate) fn any(&self, storage: &str, namespace: Option<&str>) -> Result<bool> {
        let mut statement = self.connection.prepare_cached(
            "SELECT 1 FROM objects WHERE kind = ?1 AND (?2 IS NULL OR namespace = ?2) LIMIT 1",
        )?;
        Ok(statement.exists(params![storage, namespace])?)
    }

    /// All objects under a storage key.
    pub(crate) fn all(&self, storage: &str) -> Result<Vec<Value>> {
        all(self.connection, storage)
    }

    /// Stores an object under a new version, which is set in it, and records the change.
    pub(crate) fn put(&mut self, storage: &str, mut object: Value, previous: Option<Value>) -> Result<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = Value::String(self.version.to_string());
        let (namespace, name) = key_of(&object);
        let mut statement =
            self.connection.prepare_cached("INSERT OR REPLACE INTO objects VALUES (?1, ?2, ?3, ?4, ?5)")?;
        let body = object.to_string();
        statement.execute(params![storage, namespace, name, self.version.cast_signed(), body])?;
        self.record(storage, &object, &body, previous, false)?;
        Ok(object)
    }

    /// Removes an object and records its end, with the last state and the version of the removal.
    pub(crate) fn remove(&mut self, storage: &str, last: Value) -> Result<Value> {
        self.version += 1;
        let (namespace, name) = key_of(&last);
        let mut statement = self
            .connection
            .prepare_cached("DELETE FROM objects WHERE kind = ?1 AND namespace = ?2 AND name = ?3")?;
        statement.execute(params![storage, namespace, name])?;
        let previous = last.clone();
        let mut object = last;
        object["metadata"]["resourceVersion"] = Value::String(self.version.to_string());
        let body = object.to_string();
        self.record(storage, &object, &body, Some(previous), true)?;
        Ok(object)
    }

    fn record(
        &mut self,
        storage: &str,
        object: &Value,
        body: &str,
        previous: Option<Value>,
        deleted: bool,
    ) -> Result<()> {
        let (namespace, name) = key_of(object);
        let mut statement =
            self.connection.prepare_cached("INSERT INTO history VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
        let before = previous.as_ref().map(Value::to_string);
        statement.execute(params![
            self.version.cast_signed(),
            storage,
            namespace,
            name,
            deleted,
            body,
            before
        ])?;
        self.events.push(Event {
            version: self.version,
            kind: Arc::from(storage),
            namespace: namespace.to_owned(),
            deleted,
            object: Arc::new(object.clone()),
            previous: previous.map(Arc::new),
        });
        Ok(())
    }

    /// Removes Events that were last seen before a time (RFC 3339), a bounded number at once.
    pub(super) fn expire_events(&mut self, before: &str) -> Result<()> {
        let mut statement = self.connection.prepare_cached(EXPIRED_EVENTS)?;
        let rows = statement.query_map(params![before], |row| row.get::<_, String>(0))?;
        let bodies = rows.collect::<std::result::Result<Vec<_>, _>>()?;
        for body in bodies {
            self.remove("events", serde_json::from_str(&body)?)?;
        }
        Ok(())
    }

    /// Drops changes beyond the newest `keep`.
    pub(super) fn compact(&mut self, keep: u64) -> Result<()> {
        let upto = self.version.saturating_sub(keep);
        if upto > sqlite::meta(self.connection, "compacted")? {
            self.connection
                .execute("DELETE FROM history WHERE version <= ?1", params![upto.cast_signed()])?;
            sqlite::set_meta(self.connection, "compacted", upto)?;
        }
        Ok(())
    }
}

/// Namespace (empty for kinds that have none) and name of an object.
pub(crate) fn key_of(object: &Value) -> (&str, &str) {
    let metadata = &object["metadata"];
    (metadata["namespace"].as_str().unwrap_or(""), metadata["name"].as_str().unwrap_or(""))
}

pub(super) fn get(
    connection: &Connection,
    storage: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<Value>> {
    let mut statement = connection
        .prepare_cached("SELECT body FROM objects WHERE kind = ?1 AND namespace = ?2 AND name = ?3")?;
    let body: Option<String> =
        statement.query_row(params![storage, namespace, name], |row| row.get(0)).optional()?;
    Ok(body.map(|text| serde_json::from_str(&text)).transpose()?)
}

pub(super) fn all(connection: &Connection, storage: &str) -> Result<Vec<Value>> {
    let mut statement = connection.prepare_cached("SELECT body FROM objects WHERE kind = ?1")?;
    let rows = statement.query_map(params![storage], |row| row.get::<_, String>(0))?;
    rows.map(|body| Ok(serde_json::from_str(&body?)?)).collect()
}
