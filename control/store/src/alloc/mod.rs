//! Addresses and ports of Services, allocated in the transaction that stores the Service: after a crash
//! there is neither an address without a Service nor the other way round.

mod address;
mod port;

use ipnet::IpNet;
use rusqlite::params;
use serde_json::Value;

use crate::db::{Txn, key_of};
use crate::error::{Error, Result};
use crate::kinds::KindDef;

/// Gives a Service what its type asks for, keeps what it has, and releases what it no longer needs.
pub(crate) fn admit(
    txn: &Txn<'_>,
    kind: &KindDef,
    service: &mut Value,
    old: Option<&Value>,
    cidrs: &[IpNet],
) -> Result<()> {
    let book = Book { txn, owner: owner(service) };
    let mut errors = Vec::new();
    address::admit(&book, service, old, cidrs, &mut errors)?;
    port::admit(&book, service, &mut errors)?;
    if !errors.is_empty() {
        return Err(Error::invalid(kind, key_of(service).1, errors));
    }
    book.release_all_but(&address::held(service), address::SPACE)?;
    book.release_all_but(&port::held(service), port::SPACE)
}

/// Frees all that a Service held.
pub(crate) fn release(txn: &Txn<'_>, service: &Value) -> Result<()> {
    let book = Book { txn, owner: owner(service) };
    book.release_all_but(&[], address::SPACE)?;
    book.release_all_but(&[], port::SPACE)
}

fn owner(service: &Value) -> String {
    let (namespace, name) = key_of(service);
    format!("{namespace}/{name}")
}

/// The table of allocations, as one owner sees it.
struct Book<'t, 'c> {
    txn: &'t Txn<'c>,
    owner: String,
}

impl Book<'_, '_> {
    /// Takes an item; false if somebody else has it.
    fn take(&self, space: &str, item: &str) -> Result<bool> {
        let connection = self.txn.connection();
        let mut statement =
            connection.prepare_cached("INSERT OR IGNORE INTO allocations VALUES (?1, ?2, ?3)")?;
        if statement.execute(params![space, item, self.owner])? == 1 {
            return Ok(true);
        }
        let sql = "SELECT owner = ?3 FROM allocations WHERE space = ?1 AND item = ?2";
        let mut statement = connection.prepare_cached(sql)?;
        Ok(statement.query_row(params![space, item, self.owner], |row| row.get(0))?)
    }

    fn release_all_but(&self, held: &[String], space: &str) -> Result<()> {
        let connection = self.txn.connection();
        let mut statement =
            connection.prepare_cached("SELECT item FROM allocations WHERE owner = ?1 AND space = ?2")?;
        let rows = statement.query_map(params![self.owner, space], |row| row.get::<_, String>(0))?;
        let items = rows.collect::<Result<Vec<_>, _>>()?;
        for item in items.iter().filter(|item| !held.contains(item)) {
            let sql = "DELETE FROM allocations WHERE space = ?1 AND item = ?2 AND owner = ?3";
            connection.prepare_cached(sql)?.execute(params![space, item, self.owner])?;
        }
        Ok(())
    }
}
