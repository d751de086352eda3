//! The tables, and how connections to them are set up.
//!
//! WAL keeps readers and the writer apart. `synchronous=FULL`: a write that was acknowledged survives
//! not only the death of the process but that of the machine, which at an edge is a common one; commits
//! are batched, so many writes share one sync.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};

use crate::error::Result;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS objects (
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    version INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
    version INTEGER PRIMARY KEY,
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    deleted INTEGER NOT NULL, body TEXT NOT NULL, previous TEXT
);
CREATE INDEX IF NOT EXISTS history_by_object ON history (kind, namespace, name, version);
CREATE TABLE IF NOT EXISTS allocations (
    space TEXT NOT NULL, item TEXT NOT NULL, owner TEXT NOT NULL,
    PRIMARY KEY (space, item)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS allocations_by_owner ON allocations (owner);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
";

/// Layout of the tables; another number in a file means another release wrote it.
const LAYOUT: i64 = 1;

/// Opens the one connection that writes, and creates what is missing.
pub(super) fn open_writer(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "busy_timeout", 10_000)?;
    let layout: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if layout != 0 && layout != LAYOUT {
        return Err(crate::Error::internal(format_args!(
            "{} has layout {layout}, this release reads {LAYOUT}: use the release that wrote it, or move the file away",
            path.display()
        )));
    }
    connection.execute_batch(SCHEMA)?;
    connection.pragma_update(None, "user_version", LAYOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Opens a connection that only reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "busy_timeout", 10_000)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// A number in `meta`, 0 if it was never set.
pub(super) fn meta(connection: &Connection, key: &str) -> Result<u64> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    let mut rows = statement.query(params![key])?;
    let value: i64 = rows.next()?.map_or(Ok(0), |row| row.get(0))?;
    Ok(value.unsigned_abs())
}

/// Sets a number in `meta`.
pub(super) fn set_meta(connection: &Connection, key: &str, value: u64) -> Result<()> {
    let mut statement = connection.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?;
    statement.execute(params![key, value.cast_signed()])?;
    Ok(())
}

/// The version of the newest change that this connection sees.
pub(super) fn newest(connection: &Connection) -> Result<u64> {
    let mut statement = connection.prepare_cached("SELECT max(version) FROM history")?;
    let newest: Option<i64> = statement.query_row([], |row| row.get(0))?;
    // Versions start at 1: to clients, 0 means any.
    Ok(newest.map_or(0, i64::unsigned_abs).max(meta(connection, "compacted")?).max(1))
}
