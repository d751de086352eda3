//! A CustomResourceDefinition goes when its objects are gone: they are removed with it, and those that
//! finalizers hold keep it.

use serde_json::{Value, json};

use super::DEFINITIONS;
use crate::db::{Txn, key_of};
use crate::error::Result;
use crate::kinds::{self, KindDef};

/// Holds a definition until its objects are gone.
pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Removes the objects of a definition that is going, then the definition itself if none is left.
pub(super) fn definition(txn: &mut Txn<'_>, crd: &Value) -> Result<()> {
    let held = crd["metadata"]["finalizers"].as_array();
    if !held.is_some_and(|list| list.iter().any(|one| one == FINALIZER)) {
        return Ok(());
    }
    let stored = kinds::from_crd(crd).into_iter().find(|one| one.conversion.is_none());
    if let Some(custom) = stored {
        for object in txn.all(&custom.storage)? {
            remove_or_mark(txn, &custom, object, crd)?;
        }
        if txn.any(&custom.storage, None)? {
            return Ok(());
        }
    }
    let mut last = crd.clone();
    if let Some(finalizers) = last["metadata"]["finalizers"].as_array_mut() {
        finalizers.retain(|one| one != FINALIZER);
    }
    let free = last["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    if free {
        txn.remove(DEFINITIONS, last)?;
    } else {
        txn.put(DEFINITIONS, last, Some(crd.clone()))?;
    }
    txn.kinds_changed = true;
    Ok(())
}

fn remove_or_mark(txn: &mut Txn<'_>, custom: &KindDef, object: Value, crd: &Value) -> Result<()> {
    if object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
        txn.remove(&custom.storage, object)?;
    } else if !object["metadata"]["deletionTimestamp"].is_string() {
        let mut marked = object.clone();
        marked["metadata"]["deletionTimestamp"] = crd["metadata"]["deletionTimestamp"].clone();
        marked["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        txn.put(&custom.storage, marked, Some(object))?;
    }
    Ok(())
}

/// Called when a custom object is gone: lets its definition go if that waited for it.
pub(super) fn last_object(txn: &mut Txn<'_>, storage: &str) -> Result<()> {
    let Some(crd) = txn.get_stored(DEFINITIONS, "", storage)? else { return Ok(()) };
    if !crd["metadata"]["deletionTimestamp"].is_string() || txn.any(storage, None)? {
        return Ok(());
    }
    debug_assert_eq!(key_of(&crd).1, storage, "a definition is named after its resource");
    definition(txn, &crd)
}
