//! CustomResourceDefinitions: names derived from the kind, and the status, which is set at once because
//! a definition is served from the moment it is stored.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{object, set};
use crate::admission::FINALIZER;
use crate::db::timestamp;

/// Defaults of a definition.
pub(crate) fn crd(crd: &mut Value) {
    let kind = crd["spec"]["names"]["kind"].as_str().unwrap_or("").to_owned();
    let names = object(&mut crd["spec"], "names");
    if !kind.is_empty() {
        set(names, "singular", kind.to_lowercase());
        set(names, "listKind", format!("{kind}List"));
    }
    set(object(crd, "spec"), "conversion", json!({"strategy": "None"}));
}

/// The finalizer that holds it until its objects are gone; accepted names and conditions.
pub(crate) fn prepare_crd(new: &mut Value, old: Option<&Value>) {
    let deleting = new["metadata"]["deletionTimestamp"].is_string();
    let metadata = object(new, "metadata");
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut()
        && !deleting
        && !list.iter().any(|one| one == FINALIZER)
    {
        list.push(json!(FINALIZER));
    }
    let before = old.map_or(Value::Null, |old| old["status"].clone());
    new["status"] = status(&new["spec"], &before);
}

fn status(spec: &Value, before: &Value) -> Value {
    let versions = spec["versions"].as_array();
    let storage = versions.into_iter().flatten().find(|version| version["storage"] == true);
    let mut stored: Vec<Value> = before["storedVersions"].as_array().cloned().unwrap_or_default();
    if let Some(name) = storage.map(|version| version["name"].clone())
        && !stored.contains(&name)
    {
        stored.push(name);
    }
    let now = timestamp(OffsetDateTime::now_utc());
    let conditions = match before["conditions"].as_array() {
        Some(conditions) if !conditions.is_empty() => json!(conditions),
        _ => json!([
            {"type": "NamesAccepted", "status": "True", "lastTransitionTime": now, "reason": "NoConflicts",
                "message": "no conflicts found"},
            {"type": "Established", "status": "True", "lastTransitionTime": now, "reason": "InitialNamesAccepted",
                "message": "the initial names have been accepted"},
        ]),
    };
    json!({"conditions": conditions, "acceptedNames": spec["names"], "storedVersions": stored})
}
