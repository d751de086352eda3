//! Create, update and modify.

use std::sync::Arc;

use serde_json::Value;
use time::OffsetDateTime;

use super::options::{Part, WriteOptions};
use super::{Store, key_of, prepare, remove};
use crate::admission;
use crate::db::txn::Txn;
use crate::error::{Error, FieldError, Reason, Result};
use crate::kinds::KindDef;

/// How often a write that lost a race starts again from a fresh read. The real server does not give up
/// for patches before 5; a busy object here has many writers behind one control.
const ATTEMPTS: usize = 32;
/// How often another name is generated for one that is taken.
const NAMES: usize = 8;

impl Store {
    /// Stores a new object and returns it as stored.
    ///
    /// # Errors
    /// `Invalid`, `AlreadyExists`, `NotFound` (its namespace), `Forbidden` (admission), `BadRequest`.
    pub async fn create(
        &self,
        kind: &Arc<KindDef>,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Value> {
        let named = object["metadata"]["name"].as_str().is_some_and(|name| !name.is_empty());
        let mut left = NAMES;
        loop {
            let result = self.create_once(kind, namespace, object.clone(), options).await;
            left -= 1;
            match result {
                Err(error) if !named && left > 0 && error.reason() == Reason::AlreadyExists => {}
                result => return result,
            }
        }
    }

    async fn create_once(
        &self,
        kind: &Arc<KindDef>,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Value> {
        if kind.namespaced && !kind.is_virtual {
            self.check_namespace(kind, namespace, &object).await?;
        }
        let prepared = prepare::create(kind, namespace, object, options, OffsetDateTime::now_utc())?;
        let (stored_kind, cidrs) = (kind.clone(), self.0.service_cidrs.clone());
        let work = move |txn: &mut Txn<'_>| insert(txn, &stored_kind, prepared, &cidrs);
        let stored = self.write(options.dry_run, work).await?;
        Ok(kind.present(stored))
    }

    /// The namespace is looked at before the object, as the real server does; the transaction looks again.
    async fn check_namespace(&self, kind: &KindDef, namespace: &str, object: &Value) -> Result<()> {
        let (at, storage) = (namespace.to_owned(), "namespaces");
        let found =
            self.0.readers.run(move |connection| super::txn::get(connection, storage, "", &at)).await?;
        admission::check_namespace(found.as_ref(), kind, namespace, object)
    }

    /// Replaces an object (PUT). Its `metadata.resourceVersion`, if it has one, must be the stored one.
    /// Where the kind allows it, an object that is not there is created.
    pub async fn update(
        &self,
        kind: &Arc<KindDef>,
        namespace: &str,
        name: &str,
        object: Value,
        part: Part,
        options: &WriteOptions,
    ) -> Result<Value> {
        let result = self.modify(kind, namespace, name, part, options, |_| Ok(object.clone())).await;
        match result {
            Err(error) if error.is_not_found() && kind.create_on_update && part == Part::Main => {
                let mut object = object;
                if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
                    object["metadata"]["name"] = Value::String(name.to_owned());
                }
                if object["metadata"]["resourceVersion"].as_str().is_some_and(|version| !version.is_empty()) {
                    return Err(error);
                }
                self.create(kind, namespace, object, options).await
            }
            result => result,
        }
    }

    /// Reads an object, has `change` make a new one of it, and stores that; starts again with a fresh
    /// read if another write came between. What `change` returns may keep the `resourceVersion` that it
    /// was given (or have none); one that differs is a precondition, and a [`Reason::Conflict`] if it is
    /// not met.
    pub async fn modify<F>(
        &self,
        kind: &Arc<KindDef>,
        namespace: &str,
        name: &str,
        part: Part,
        options: &WriteOptions,
        mut change: F,
    ) -> Result<Value>
    where
        F: FnMut(&Value) -> Result<Value> + Send,
    {
        for _ in 0..ATTEMPTS {
            let old = self.get(kind, namespace, name).await?;
            let new = prepare::update(kind, &old, change(&old)?, part, options)?;
            if prepare::same(&old, &new) {
                return Ok(old);
            }
            let (stored_kind, cidrs) = (kind.clone(), self.0.service_cidrs.clone());
            let version = old["metadata"]["resourceVersion"].clone();
            let work = move |txn: &mut Txn<'_>| replace(txn, &stored_kind, &old, new, &cidrs);
            match self.write(options.dry_run, work).await? {
                Some(mut stored) => {
                    if options.dry_run {
                        // Nothing was written: the object is still of the version that it had.
                        stored["metadata"]["resourceVersion"] = version;
                    }
                    return Ok(kind.present(stored));
                }
                None => tokio::task::yield_now().await,
            }
        }
        Err(Error::stale(kind, name))
    }

    /// Runs a piece of work on the writer thread.
    pub(super) async fn write<T, F>(&self, dry_run: bool, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Txn<'_>) -> Result<T> + Send + 'static,
    {
        let writer = self.0.writer.read().await;
        let closed = || Error::new(Reason::ServiceUnavailable, "the store is shut down");
        writer.as_ref().ok_or_else(closed)?.call(dry_run, work).await
    }
}

fn insert(txn: &mut Txn<'_>, kind: &KindDef, object: Value, cidrs: &[ipnet::IpNet]) -> Result<Value> {
    let mut object = kind.stored(object);
    let (namespace, name) = (key_of(&object).0.to_owned(), key_of(&object).1.to_owned());
    if kind.namespaced {
        let found = txn.get_stored("namespaces", "", &namespace)?;
        admission::check_namespace(found.as_ref(), kind, &namespace, &object)?;
    }
    admission::on_create(txn, kind, &mut object, cidrs)?;
    if txn.get(kind, &namespace, &name)?.is_some() {
        return Err(Error::already_exists(kind, &name));
    }
    let stored = txn.put(&kind.storage, object, None)?;
    admission::stored(txn, kind, &stored)?;
    Ok(stored)
}

/// Puts `new` in place of `old`, both in the kind's version; `None` if `old` is no longer what is stored.
fn replace(
    txn: &mut Txn<'_>,
    kind: &KindDef,
    old: &Value,
    new: Value,
    cidrs: &[ipnet::IpNet],
) -> Result<Option<Value>> {
    let (namespace, name) = key_of(old);
    let Some(stored) = txn.get(kind, namespace, name)? else {
        return Err(Error::not_found(kind, name));
    };
    if stored["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
        return Ok(None);
    }
    let mut new = kind.stored(new);
    admission::on_update(txn, kind, &stored, &mut new, cidrs)?;
    if remove::is_done(&new) {
        // The last finalizer went, or the grace period was given up.
        return remove::finish(txn, kind, new).map(Some);
    }
    if remove::is_deleting(&stored) {
        forbid_new_finalizers(kind, &stored, &new)?;
    }
    let written = txn.put(&kind.storage, new, Some(stored))?;
    admission::stored(txn, kind, &written)?;
    Ok(Some(written))
}

fn forbid_new_finalizers(kind: &KindDef, old: &Value, new: &Value) -> Result<()> {
    let list = |object: &Value| -> Vec<Value> {
        object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default()
    };
    let before = list(old);
    let added: Vec<Value> = list(new).into_iter().filter(|one| !before.contains(one)).collect();
    if added.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = added.iter().map(ToString::to_string).collect();
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        names.join(", ")
    );
    let cause = FieldError::forbidden("metadata.finalizers", &detail);
    Err(Error::invalid(kind, key_of(new).1, vec![cause]))
}
