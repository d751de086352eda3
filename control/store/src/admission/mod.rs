//! What the server adds to, or refuses of, an object by looking at others: run inside the transaction
//! that stores it, so that nothing can change in between.

mod account;
mod cleanup;
pub(crate) mod tolerations;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::alloc;
use crate::db::{Txn, key_of};
use crate::error::{Error, FieldError, Result};
use crate::kinds::KindDef;

pub(crate) use self::cleanup::FINALIZER;

pub(crate) const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// Namespaces that every cluster has.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The namespace of a new object is there and is not going away.
pub(crate) fn check_namespace(
    found: Option<&Value>,
    kind: &KindDef,
    namespace: &str,
    object: &Value,
) -> Result<()> {
    let name = key_of(object).1;
    match found {
        None => {
            let message = format!("namespaces {namespace:?} not found");
            Err(Error::new(crate::Reason::NotFound, message).about_other("namespaces", namespace))
        }
        Some(found) if found["metadata"]["deletionTimestamp"].is_string() => {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let cause = FieldError {
                reason: "NamespaceTerminating",
                field: "metadata.namespace".into(),
                message: format!("namespace {namespace} is being terminated"),
            };
            Err(Error::forbidden(kind, name, &why).with_causes(vec![cause]))
        }
        Some(_) => Ok(()),
    }
}

/// Completes a new object: service account, priority and tolerations of pods, addresses of Services.
pub(crate) fn on_create(txn: &Txn<'_>, kind: &KindDef, object: &mut Value, cidrs: &[IpNet]) -> Result<()> {
    match kind.storage.as_str() {
        "pods" => {
            account::admit(txn, kind, object)?;
            set_priority(kind, object)?;
            tolerations::admit(object);
        }
        "nodes" => taint_new_node(object),
        "services" => alloc::admit(txn, kind, object, None, cidrs)?,
        _ => {}
    }
    Ok(())
}

/// Completes a changed object.
pub(crate) fn on_update(
    txn: &Txn<'_>,
    kind: &KindDef,
    old: &Value,
    new: &mut Value,
    cidrs: &[IpNet],
) -> Result<()> {
    if kind.storage == "services" {
        alloc::admit(txn, kind, new, Some(old), cidrs)?;
    }
    Ok(())
}

/// Refuses deletes that would break the cluster.
pub(crate) fn on_delete(kind: &KindDef, stored: &Value) -> Result<()> {
    let name = key_of(stored).1;
    if kind.storage == "namespaces" && IMMORTAL.contains(&name) {
        return Err(Error::forbidden(kind, name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// Completes an object that was marked deleted and is not gone.
pub(crate) fn on_marked(kind: &KindDef, object: &mut Value) {
    if kind.storage == "namespaces" {
        object["status"]["phase"] = json!("Terminating");
    }
}

/// What follows from an object that was stored.
pub(crate) fn stored(txn: &mut Txn<'_>, kind: &KindDef, object: &Value) -> Result<()> {
    if kind.storage == DEFINITIONS {
        txn.kinds_changed = true;
        if object["metadata"]["deletionTimestamp"].is_string() {
            cleanup::definition(txn, object)?;
        }
    }
    Ok(())
}

/// What follows from an object that is gone.
pub(crate) fn removed(txn: &mut Txn<'_>, kind: &KindDef, object: &Value) -> Result<()> {
    match kind.storage.as_str() {
        DEFINITIONS => txn.kinds_changed = true,
        "services" => alloc::release(txn, object)?,
        _ => {}
    }
    if kind.is_custom() {
        cleanup::last_object(txn, &kind.storage)?;
    }
    Ok(())
}

/// Priorities of the classes that every cluster has.
const PRIORITIES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

fn set_priority(kind: &KindDef, pod: &mut Value) -> Result<()> {
    let class = pod["spec"]["priorityClassName"].as_str().unwrap_or("");
    let priority = match PRIORITIES.iter().find(|(name, _)| *name == class) {
        Some((_, priority)) => *priority,
        None if class.is_empty() => 0,
        None => {
            let why = format!("no PriorityClass with name {class} was found");
            return Err(Error::forbidden(kind, key_of(pod).1, &why));
        }
    };
    pod["spec"]["priority"] = json!(priority);
    if !pod["spec"]["preemptionPolicy"].is_string() {
        pod["spec"]["preemptionPolicy"] = json!("PreemptLowerPriority");
    }
    Ok(())
}

/// A Node that registers takes no pods until it was seen ready.
fn taint_new_node(node: &mut Value) {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let spec = &mut node["spec"];
    let mut taints = spec["taints"].as_array().cloned().unwrap_or_default();
    let same = |one: &Value| one["key"] == taint["key"] && one["effect"] == taint["effect"];
    if !taints.iter().any(same) {
        taints.push(taint);
        spec["taints"] = Value::Array(taints);
    }
}
