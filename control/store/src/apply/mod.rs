//! Server-side apply, and the ownership of fields by every other write (KEP-555).
//!
//! Pure: the stored object and a configuration in, the merged object with its `managedFields` or a
//! conflict out. [`tracker`] does for plain writes what [`Apply::merged`] does for applied ones: fields
//! that a write changes become its manager's, and nobody else's.

mod managed;
mod set;
mod typed;
mod zero;

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use time::OffsetDateTime;

use self::managed::{Manager, Managers, Operation, Owned};
use self::set::Set;
use self::typed::Comparison;
use crate::db::Tracker;
use crate::error::{Error, FieldError, Reason, Result};
use crate::kinds::KindDef;
use crate::schema::Node;

/// Manager of what an object had before anybody applied to it.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Where `kubectl apply` without `--server-side` keeps what it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What nobody owns: identity, and what the server writes.
fn unowned() -> Set {
    Set::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "resourceVersion"],
        &["metadata", "generation"],
        &["metadata", "creationTimestamp"],
        &["metadata", "managedFields"],
    ])
}

/// What a write to this part of an object cannot change, and so cannot own.
fn out_of_reach(kind: &KindDef, subresource: &str) -> Set {
    match subresource {
        "" if kind.has_status() => Set::of_fields(&[&["status"]]),
        "status" => Set::of_fields(&[&["spec"]]),
        _ => Set::default(),
    }
}

fn without_fields(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.shift_remove("managedFields");
    }
    object
}

/// Keeps `managedFields` for a create, update or patch by `manager`.
pub fn tracker(manager: String, subresource: String, now: OffsetDateTime) -> Tracker {
    Arc::new(move |kind, old, new| {
        let before = Managers::of_write(old, new);
        if old.is_some() && before.is_empty() {
            // Nobody has owned anything so far: tracking starts with a create or an apply.
            before.encode(new);
            return;
        }
        let id = Manager::new(Operation::Update, &manager, &kind.api_version(), &subresource);
        update(kind, old, new, before, id, now).encode(new);
    })
}

/// The managers after `id` made `new` of `old`.
fn update(
    kind: &KindDef,
    old: Option<&Value>,
    new: &Value,
    before: Managers,
    id: Manager,
    now: OffsetDateTime,
) -> Managers {
    let node = Some(kind.schema.root());
    let old = old.map_or_else(|| zero::object(kind), without_fields);
    let change = typed::compare(&old, &without_fields(new), node);
    let mut after = before.clone();
    disown(&mut after, &change, &id);
    let reachable =
        |set: &Set| set.difference(&unowned()).difference_beneath(&out_of_reach(kind, &id.subresource));
    let taken = reachable(&change.added.union(&change.modified));
    let owned = after.0.entry(id.clone()).or_insert_with(|| Owned {
        set: Set::default(),
        api_version: kind.api_version(),
        time: None,
    });
    let set = owned.set.difference(&change.removed).union(&taken);
    owned.set = reachable(&set);
    after.settle((!taken.is_empty()).then_some(&id), now);
    after
}

/// Takes from every other manager what has changed, and from all what is gone.
fn disown(managers: &mut Managers, change: &Comparison, by: &Manager) {
    let taken = change.added.union(&change.modified);
    for (manager, owned) in &mut managers.0 {
        if manager != by {
            owned.set = owned.set.difference(&taken);
        }
        owned.set = owned.set.difference(&change.removed);
    }
}

/// One application of a configuration.
pub struct Apply {
    pub manager: String,
    /// `status`, or empty.
    pub subresource: String,
    /// Take what others own.
    pub force: bool,
    pub now: OffsetDateTime,
}

/// Carries the `managedFields` of an applied object past the store, which would keep the stored ones.
pub struct Owners(Arc<Mutex<Value>>);

impl Owners {
    /// Remembers the fields of the merged object, and passes it on.
    pub fn remember(&self, merged: Value) -> Value {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = merged["metadata"]["managedFields"].clone();
        merged
    }

    /// Puts them into what is stored.
    pub fn tracker(&self) -> Tracker {
        let fields = self.0.clone();
        Arc::new(move |_, _, new| {
            let fields = fields.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if !fields.is_null() {
                new["metadata"]["managedFields"] = fields;
            }
        })
    }
}

impl Apply {
    /// A carrier for one application.
    pub fn owners(&self) -> Owners {
        Owners(Arc::default())
    }

    /// The object that results from applying `config` to `live` (none: it is created).
    ///
    /// # Errors
    /// `Conflict` with a cause for each field that another manager owns with another value, unless forced.
    pub fn merged(&self, kind: &KindDef, live: Option<&Value>, config: &Value) -> Result<Value> {
        let node = Some(kind.schema.root());
        typed::check_lists(config, node, "").map_err(|why| {
            Error::internal_plain(format!(
                "failed to create typed patch object ({}/{}; {}, Kind={}): {why}",
                config["metadata"]["namespace"].as_str().unwrap_or(""),
                config["metadata"]["name"].as_str().unwrap_or(""),
                if kind.group.is_empty() { "/v1".to_owned() } else { kind.api_version() },
                kind.kind
            ))
        })?;
        match self.attempt(kind, node, live, config, self.force) {
            Err(conflicts) => {
                let left = self.without_last_applied(live, node, conflicts);
                if !left.is_empty() {
                    return Err(conflict(&left));
                }
                Ok(self.attempt(kind, node, live, config, true).unwrap_or_else(|_| config.clone()))
            }
            Ok(merged) => Ok(merged),
        }
    }

    fn attempt(
        &self,
        kind: &KindDef,
        node: Option<&Node>,
        live: Option<&Value>,
        config: &Value,
        force: bool,
    ) -> Result<Value, Vec<(Manager, Set)>> {
        let id = Manager::new(Operation::Apply, &self.manager, "", &self.subresource);
        let blank = json!({"apiVersion": config["apiVersion"], "kind": config["kind"]});
        let before = self.managers(kind, live);
        let live = live.map_or(blank, without_fields);
        let said = typed::field_set(config, node);
        let set = said.difference(&unowned()).difference_beneath(&out_of_reach(kind, &self.subresource));
        let former = before.0.get(&id).cloned();
        let mut after = before.clone();
        let time = former.as_ref().and_then(|former| former.time.clone());
        after.0.insert(id.clone(), Owned { set, api_version: kind.api_version(), time });
        let merged = typed::merge(&live, config, node);
        let owned = after.0.values().fold(said, |owned, one| owned.union(&one.set));
        let mut merged = pruned(&merged, node, &owned, former.as_ref());
        let change = typed::compare(&live, &merged, node);
        let taken = change.added.union(&change.modified);
        let conflicts: Vec<(Manager, Set)> = after
            .0
            .iter()
            .filter(|(manager, _)| **manager != id)
            .map(|(manager, owned)| (manager.clone(), owned.set.intersection(&taken)))
            .filter(|(_, set)| !set.is_empty())
            .collect();
        if !force && !conflicts.is_empty() {
            return Err(conflicts);
        }
        if !change.is_same() {
            disown(&mut after, &change, &id);
        }
        after.settle((merged != live).then_some(&id), self.now);
        if self.manager == "kubectl" {
            update_last_applied(&mut merged, config);
        }
        after.encode(&mut merged);
        Ok(merged)
    }

    /// The managers before; for an object that has none, what it holds is nobody's in particular.
    fn managers(&self, kind: &KindDef, live: Option<&Value>) -> Managers {
        let Some(live) = live else { return Managers::default() };
        let managers = Managers::decode(live).unwrap_or_default();
        if !managers.is_empty() {
            return managers;
        }
        let id = Manager::new(Operation::Update, BEFORE_FIRST_APPLY, &kind.api_version(), "");
        update(kind, None, live, managers, id, self.now)
    }

    /// `kubectl apply --server-side` may take over what `kubectl apply` has applied before.
    fn without_last_applied(
        &self,
        live: Option<&Value>,
        node: Option<&Node>,
        conflicts: Vec<(Manager, Set)>,
    ) -> Vec<(Manager, Set)> {
        let last = live
            .filter(|_| self.manager == "kubectl")
            .and_then(|live| live["metadata"]["annotations"][LAST_APPLIED].as_str())
            .and_then(|text| serde_json::from_str::<Value>(text).ok());
        let Some(last) = last else { return conflicts };
        let allowed = typed::field_set(&last, node);
        let left = conflicts.into_iter().map(|(manager, set)| (manager, set.difference(&allowed)));
        left.filter(|(_, set)| !set.is_empty()).collect()
    }
}

/// The merged object without what the manager applied before, does not apply now, and nobody else owns.
/// `owned` is what is applied now, identity included, and what others own.
fn pruned(merged: &Value, node: Option<&Node>, owned: &Set, former: Option<&Owned>) -> Value {
    let Some(former) = former.filter(|former| !former.set.is_empty()) else { return merged.clone() };
    let named = |set: &Set| set.with_named_fields(node);
    let before = named(&former.set);
    let all = named(&typed::field_set(merged, node));
    let without = typed::remove(merged, node, &before);
    let keep = named(&typed::field_set(&without, node)).union(&named(owned));
    let with_owned = typed::remove(merged, node, &all.difference(&keep));
    let kept = named(&typed::field_set(&with_owned, node));
    typed::remove(merged, node, &all.difference(&kept).intersection(&before))
}

/// Keeps the annotation of client-side apply true, so that users can go back to it.
fn update_last_applied(merged: &mut Value, config: &Value) {
    let annotation = merged.pointer_mut("/metadata/annotations").and_then(|all| all.get_mut(LAST_APPLIED));
    let Some(annotation) = annotation else { return };
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.shift_remove(LAST_APPLIED);
    }
    *annotation = json!(config.to_string() + "\n");
}

/// The refusal: every field in conflict is a cause.
fn conflict(conflicts: &[(Manager, Set)]) -> Error {
    let mut conflicts: Vec<(String, Vec<String>)> =
        conflicts.iter().map(|(manager, set)| (manager.shown(), set.paths())).collect();
    conflicts.sort();
    let causes: Vec<FieldError> = conflicts
        .iter()
        .flat_map(|(manager, paths)| paths.iter().map(move |path| (manager, path)))
        .map(|(manager, path)| FieldError {
            reason: "FieldManagerConflict",
            field: path.clone(),
            message: format!("conflict with {manager}"),
        })
        .collect();
    let message = if let [one] = causes.as_slice() {
        format!("Apply failed with 1 conflict: {}: {}", one.message, one.field)
    } else {
        let shown: Vec<String> = conflicts
            .iter()
            .map(|(manager, paths)| format!("conflicts with {manager}:\n- {}", paths.join("\n- ")))
            .collect();
        format!("Apply failed with {} conflicts: {}", causes.len(), shown.join("\n"))
    };
    Error::new(Reason::Conflict, message).with_causes(causes)
}

#[cfg(test)]
mod tests;
