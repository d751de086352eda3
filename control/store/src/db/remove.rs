//! Deleting: preconditions, finalizers, grace periods, and what an object leaves when it goes.

use std::sync::Arc;

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::options::{DeleteOptions, Deleted, ListOptions, Propagation};
use super::prepare::timestamp;
use super::{Store, Txn, key_of};
use crate::admission;
use crate::error::{Error, Result};
use crate::kinds::KindDef;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

impl Store {
    /// Deletes an object, or marks it deleted if finalizers or a grace period hold it.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if a precondition does not hold; `Forbidden` for namespaces that must stay.
    pub async fn delete(
        &self,
        kind: &Arc<KindDef>,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted> {
        let dry_run = options.dry_run;
        let (stored_kind, at) = (kind.clone(), (namespace.to_owned(), name.to_owned()));
        let options = options.clone();
        let now = OffsetDateTime::now_utc();
        let work = move |txn: &mut Txn<'_>| delete(txn, &stored_kind, &at.0, &at.1, &options, now);
        let deleted = self.write(dry_run, work).await?;
        Ok(Deleted { object: kind.present(deleted.object), gone: deleted.gone })
    }

    /// Deletes every object that a list returns, each on its own; those that went meanwhile count.
    pub async fn delete_collection(
        &self,
        kind: &Arc<KindDef>,
        list: ListOptions,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<Value>>> {
        let items = self.list(kind, list).await?.items;
        for item in &items {
            let (namespace, name) = key_of(item);
            match self.delete(kind, namespace, name, options).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(items)
    }
}

fn delete(
    txn: &mut Txn<'_>,
    kind: &KindDef,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
    now: OffsetDateTime,
) -> Result<Deleted> {
    let stored = txn.get(kind, namespace, name)?.ok_or_else(|| Error::not_found(kind, name))?;
    check_preconditions(kind, name, &stored, options)?;
    admission::on_delete(kind, &stored)?;
    let mut marked = stored.clone();
    set_finalizers(&mut marked, options.propagation);
    let grace = grace_period(kind, &stored, options);
    mark(&mut marked, grace, now);
    if is_done(&marked) {
        // Who deletes it at once sees it as it was; who ends its grace, that none is left.
        let object = finish(txn, kind, if is_deleting(&stored) { marked } else { stored })?;
        return Ok(Deleted { object, gone: true });
    }
    admission::on_marked(kind, &mut marked);
    if marked == stored {
        return Ok(Deleted { object: stored, gone: false });
    }
    let object = txn.put(&kind.storage, marked, Some(stored))?;
    admission::stored(txn, kind, &object)?;
    // A definition whose objects were all removed at once is gone by now.
    let gone = txn.get(kind, namespace, name)?.is_none();
    Ok(Deleted { object, gone })
}

fn check_preconditions(kind: &KindDef, name: &str, stored: &Value, options: &DeleteOptions) -> Result<()> {
    let checks =
        [("UID", "uid", &options.uid), ("ResourceVersion", "resourceVersion", &options.resource_version)];
    for (title, field, wanted) in checks {
        let actual = stored["metadata"][field].as_str().unwrap_or("");
        if let Some(wanted) = wanted
            && wanted != actual
        {
            return Err(Error::precondition(kind, name, title, wanted, actual));
        }
    }
    Ok(())
}

/// `foregroundDeletion` and `orphan` as the propagation policy asks.
fn set_finalizers(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let mut finalizers: Vec<Value> = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    finalizers.retain(|one| one != FOREGROUND && one != ORPHAN);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(json!(FOREGROUND)),
        Propagation::Orphan => finalizers.push(json!(ORPHAN)),
    }
    if finalizers.is_empty() {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.shift_remove("finalizers");
        }
    } else {
        object["metadata"]["finalizers"] = Value::Array(finalizers);
    }
}

/// Seconds until the object may go: only pods have any, and only once they are on a node and running.
fn grace_period(kind: &KindDef, stored: &Value, options: &DeleteOptions) -> i64 {
    if kind.storage != "pods" {
        return 0;
    }
    let own = stored["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    let asked = options.grace_period_seconds.unwrap_or(own).max(0);
    let bound = stored["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let over = matches!(stored["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    let grace = if bound && !over { asked } else { 0 };
    match (is_deleting(stored), stored["metadata"]["deletionGracePeriodSeconds"].as_i64()) {
        // A grace period can be shortened, never be made longer.
        (true, Some(left)) => grace.min(left),
        _ => grace,
    }
}

fn mark(object: &mut Value, grace: i64, now: OffsetDateTime) {
    let already = is_deleting(object);
    if already && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == grace {
        return;
    }
    object["metadata"]["deletionTimestamp"] = json!(timestamp(now + Duration::seconds(grace)));
    // A Namespace goes when it is finalized, not after a time.
    if object["kind"] != "Namespace" {
        object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    }
    if !already && let Some(generation) = object["metadata"]["generation"].as_i64() {
        object["metadata"]["generation"] = json!(generation + 1);
    }
}

/// Whether an object is marked deleted.
pub(super) fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Whether nothing holds an object that is marked deleted.
pub(super) fn is_done(object: &Value) -> bool {
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let namespace_held = object["kind"] == "Namespace" && !empty(&object["spec"]["finalizers"]);
    is_deleting(object)
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && empty(&object["metadata"]["finalizers"])
        && !namespace_held
}

/// Removes an object for good, with what it held.
pub(super) fn finish(txn: &mut Txn<'_>, kind: &KindDef, last: Value) -> Result<Value> {
    let removed = txn.remove(&kind.storage, last)?;
    admission::removed(txn, kind, &removed)?;
    Ok(removed)
}
