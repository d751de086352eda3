//! Reading: a few read-only connections, lists of the present and of a past version, and the history.
//!
//! A list of version V is exact as long as V is not compacted: an object as it was at V is the state
//! before its first change after V, or the present one if there was none.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rusqlite::{Connection, Params, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::options::{List, ListOptions, VersionMatch};
use super::sqlite;
use super::txn::{self, Event};
use crate::error::{Error, FieldError, Reason, Result};
use crate::kinds::KindDef;

/// Connections that read at once: more only contend for two cores.
const READERS: usize = 4;

/// Read-only connections, made when needed and kept.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::default(), permits: Semaphore::new(READERS) }
    }

    /// Runs `read` on a thread for blocking work, on a snapshot that does not change meanwhile.
    pub(super) async fn run<T, F>(self: &Arc<Self>, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let closed = |_| Error::new(Reason::ServiceUnavailable, "the store is shut down");
        let _permit = self.permits.acquire().await.map_err(closed)?;
        let this = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let idle = this.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = idle.map_or_else(|| sqlite::open_reader(&this.path), Ok)?;
            connection.execute_batch("BEGIN")?;
            let result = read(&connection);
            connection.execute_batch("COMMIT")?;
            this.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            result
        });
        task.await.map_err(|error| Error::internal(format_args!("a read was aborted: {error}")))?
    }
}

/// Where a list goes on: the version of its first page and the last key returned.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Continue {
    v: u64,
    ns: String,
    name: String,
}

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(|| {
            Error::bad_request("invalid continue token: it must be the one that the last page returned")
        })
    }
}

const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. \
     You can start a new list without the continue parameter.";

/// Lists objects of a kind, in the kind's version.
pub(super) fn list(connection: &Connection, kind: &KindDef, options: &ListOptions) -> Result<List> {
    let newest = sqlite::newest(connection)?;
    let from = options.continue_token.as_deref().map(Continue::decode).transpose()?;
    let exact = match (&from, options.version_match) {
        (Some(from), _) => Some(from.v),
        (None, Some(VersionMatch::Exact)) => Some(parse_version(options.resource_version.as_deref())?),
        (None, _) => {
            let asked = parse_version(options.resource_version.as_deref())?;
            if asked > newest {
                return Err(too_large(asked, newest));
            }
            None
        }
    };
    let at = exact.filter(|at| *at != newest);
    if let Some(at) = at {
        check_version(connection, at, newest, from.is_some())?;
    }
    let mut page = Page { kind, options, items: Vec::new(), more: 0, last: (String::new(), String::new()) };
    let after = from.map(|from| (from.ns, from.name)).unwrap_or_default();
    scan(connection, kind, options.namespace.as_deref(), &after, at, &mut |body| page.take(body))?;
    let resource_version = exact.unwrap_or(newest);
    let (namespace, name) = page.last;
    let token = Continue { v: resource_version, ns: namespace, name }.encode();
    let counted = options.labels.is_everything() && options.fields.is_everything();
    Ok(List {
        resource_version,
        continue_token: (page.more > 0).then_some(token),
        remaining: (page.more > 0 && counted).then_some(page.more),
        items: page.items,
    })
}

fn check_version(connection: &Connection, at: u64, newest: u64, continued: bool) -> Result<()> {
    if at > newest {
        return Err(too_large(at, newest));
    }
    let compacted = sqlite::meta(connection, "compacted")?;
    if at < compacted {
        let message = if continued {
            CONTINUE_EXPIRED.to_owned()
        } else {
            format!("The resourceVersion for the provided list is too old: {at} ({compacted})")
        };
        return Err(Error::expired(message));
    }
    Ok(())
}

fn too_large(asked: u64, newest: u64) -> Error {
    let message = format!("Timeout: Too large resource version: {asked}, current: {newest}");
    let cause = FieldError {
        reason: "ResourceVersionTooLarge",
        field: String::new(),
        message: "Too large resource version".to_owned(),
    };
    Error::new(Reason::Timeout, message).retry_after(1).with_causes(vec![cause])
}

/// A version that a client sent: absent, empty and 0 mean any.
pub(crate) fn parse_version(text: Option<&str>) -> Result<u64> {
    match text {
        None | Some("") => Ok(0),
        Some(text) => text.parse().map_err(|_| {
            Error::bad_request(format!(
                "invalid resource version {text:?}: it must be one the server returned"
            ))
        }),
    }
}

struct Page<'a> {
    kind: &'a KindDef,
    options: &'a ListOptions,
    items: Vec<Arc<Value>>,
    more: usize,
    last: (String, String),
}

impl Page<'_> {
    /// Takes one stored object; whether it wants more.
    fn take(&mut self, body: &str) -> Result<bool> {
        let full = self.options.limit > 0 && self.items.len() == self.options.limit;
        let unfiltered = self.options.labels.is_everything() && self.options.fields.is_everything();
        if full && unfiltered {
            self.more += 1;
            return Ok(true);
        }
        let object = self.kind.present(serde_json::from_str(body)?);
        let wanted = self.options.labels.matches(&object["metadata"]["labels"])
            && self.options.fields.matches(&object);
        if wanted && full {
            self.more = 1;
            return Ok(false);
        }
        if wanted {
            let (namespace, name) = txn::key_of(&object);
            self.last = (namespace.to_owned(), name.to_owned());
            self.items.push(Arc::new(object));
        }
        Ok(true)
    }
}

/// Passes every stored object of a kind after a key to `take`, in order of keys, until it returns false.
/// `at` is a past version, or none for the present.
fn scan(
    connection: &Connection,
    kind: &KindDef,
    namespace: Option<&str>,
    after: &(String, String),
    at: Option<u64>,
    take: &mut dyn FnMut(&str) -> Result<bool>,
) -> Result<()> {
    let mut each = |sql: &str, bound: &dyn Fn(&mut rusqlite::Statement<'_>) -> Result<()>| {
        let mut statement = connection.prepare_cached(sql)?;
        bound(&mut statement)?;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            if !take(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?)? {
                break;
            }
        }
        Result::Ok(())
    };
    match at {
        None => each(NOW, &|statement| bind(statement, params![kind.storage, namespace, after.0, after.1])),
        Some(at) => each(THEN, &|statement| {
            bind(statement, params![kind.storage, namespace, after.0, after.1, at.cast_signed()])
        }),
    }
}

fn bind(statement: &mut rusqlite::Statement<'_>, values: &[&dyn rusqlite::ToSql]) -> Result<()> {
    for (index, value) in values.iter().enumerate() {
        statement.raw_bind_parameter(index + 1, value)?;
    }
    Ok(())
}

const NOW: &str = "SELECT body FROM objects \
     WHERE kind = ?1 AND (?2 IS NULL OR namespace = ?2) AND (namespace, name) > (?3, ?4) \
     ORDER BY namespace, name";
const THEN: &str = "SELECT body FROM ( \
       SELECT namespace, name, body FROM objects WHERE kind = ?1 AND version <= ?5 \
       UNION ALL \
       SELECT namespace, name, previous FROM history AS first \
       WHERE kind = ?1 AND version > ?5 AND previous IS NOT NULL AND version = ( \
         SELECT min(version) FROM history WHERE kind = ?1 AND namespace = first.namespace \
         AND name = first.name AND version > ?5)) \
     WHERE (?2 IS NULL OR namespace = ?2) AND (namespace, name) > (?3, ?4) \
     ORDER BY namespace, name";

/// Up to `max` changes of a kind after a version, from the history, and the version read up to.
pub(super) fn changes(
    connection: &Connection,
    storage: &str,
    after: u64,
    max: usize,
) -> Result<(Vec<Arc<Event>>, u64)> {
    let compacted = sqlite::meta(connection, "compacted")?;
    if after < compacted {
        return Err(Error::expired(format!("too old resource version: {after} ({compacted})")));
    }
    let newest = sqlite::newest(connection)?;
    let mut statement = connection.prepare_cached(
        "SELECT version, namespace, deleted, body, previous FROM history \
         WHERE version > ?1 AND kind = ?2 ORDER BY version LIMIT ?3",
    )?;
    let kind: Arc<str> = Arc::from(storage);
    let mut rows = statement.query(params![after.cast_signed(), storage, max as i64])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let previous: Option<String> = row.get(4)?;
        events.push(Arc::new(Event {
            version: row.get::<_, i64>(0)?.unsigned_abs(),
            kind: kind.clone(),
            namespace: row.get(1)?,
            deleted: row.get(2)?,
            object: Arc::new(serde_json::from_str(&row.get::<_, String>(3)?)?),
            previous: previous.map(|text| serde_json::from_str(&text).map(Arc::new)).transpose()?,
        }));
    }
    let upto = if events.len() == max { events.last().map_or(newest, |last| last.version) } else { newest };
    Ok((events, upto.max(after)))
}

/// One number of a query.
pub(super) fn number<P: Params>(connection: &Connection, sql: &str, values: P) -> Result<i64> {
    Ok(connection.prepare_cached(sql)?.query_row(values, |row| row.get(0))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_bad_ones_are_refused() {
        let token = Continue { v: 7, ns: "a".into(), name: "b".into() };
        assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        assert_eq!(Continue::decode("%%").unwrap_err().reason(), Reason::BadRequest);
    }
}
