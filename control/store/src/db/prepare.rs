//! What happens to an object before it is stored, without any I/O: metadata that the server owns,
//! defaults, the isolation of the status, generations, validation.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use super::options::{Part, WriteOptions};
use crate::crd;
use crate::error::{Error, FieldError, Result};
use crate::kinds::KindDef;
use crate::validate;

/// RFC 3339 in UTC to the second, as `metav1.Time` prints itself.
pub(crate) fn timestamp(now: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    now.to_offset(time::UtcOffset::UTC).format(&format).unwrap_or_default()
}

/// Characters of generated names: no vowels, so no words; nothing that looks like another.
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// A generated name fits a DNS label.
const MAX_GENERATED: usize = 63;

/// `prefix` and five random characters.
fn generated(prefix: &str) -> String {
    let room = MAX_GENERATED - 5;
    let end = (0..=prefix.len().min(room)).rev().find(|at| prefix.is_char_boundary(*at)).unwrap_or(0);
    let suffix = (0..5).map(|_| char::from(SUFFIX[rand::random_range(0..SUFFIX.len())]));
    prefix[..end].chars().chain(suffix).collect()
}

/// Fits a new object: what `rest.BeforeCreate` and the strategies of the real server do.
pub(super) fn create(
    kind: &KindDef,
    namespace: &str,
    mut object: Value,
    options: &WriteOptions,
    now: OffsetDateTime,
) -> Result<Value> {
    fill_type(kind, &mut object)?;
    set_namespace(kind, namespace, &mut object)?;
    if !object["metadata"]["resourceVersion"].as_str().unwrap_or("").is_empty() {
        // The real server says so as an error of its own, not of the client.
        let message = "resourceVersion should not be set on objects to be created";
        return Err(Error::internal_plain(message));
    }
    set_defaults(kind, &mut object)?;
    let metadata = metadata_of(&mut object);
    for owned in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "uid"] {
        metadata.shift_remove(owned);
    }
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or("").to_owned();
    let prefix = metadata.get("generateName").and_then(Value::as_str).unwrap_or("").to_owned();
    if name.is_empty() && !prefix.is_empty() {
        metadata.insert("name".into(), generated(&prefix).into());
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), timestamp(now).into());
    if kind.generation {
        metadata.insert("generation".into(), json!(1));
    }
    if kind.has_status() && !keeps_status_on_create(kind) {
        remove(&mut object, "status");
    }
    (kind.prepare)(&mut object, None);
    if let Some(track) = &options.track {
        track(kind, None, &mut object);
    }
    let mut errors = Vec::new();
    validate::metadata(kind, &object, None, &mut errors);
    validate_kind(kind, &object, None, &mut errors);
    refuse_if_any(kind, &object, errors)?;
    Ok(object)
}

/// Nodes register with their status; Namespaces get theirs from the defaults.
fn keeps_status_on_create(kind: &KindDef) -> bool {
    matches!(kind.storage.as_str(), "nodes" | "namespaces" | "customresourcedefinitions.apiextensions.k8s.io")
}

/// Fits an object that replaces `old`: `rest.BeforeUpdate` and the strategies.
pub(super) fn update(
    kind: &KindDef,
    old: &Value,
    mut new: Value,
    part: Part,
    options: &WriteOptions,
) -> Result<Value> {
    fill_type(kind, &mut new)?;
    let (namespace, name) = super::key_of(old);
    set_namespace(kind, namespace, &mut new)?;
    check_name(name, &mut new)?;
    check_identity(kind, old, &new)?;
    if part == Part::Status {
        new = isolated_status(kind, old, new);
    }
    set_defaults(kind, &mut new)?;
    keep_metadata(old, &mut new);
    if part == Part::Main && kind.has_status() {
        match old.get("status") {
            Some(status) => new["status"] = status.clone(),
            None => remove(&mut new, "status"),
        }
    }
    if part == Part::Main {
        (kind.prepare)(&mut new, Some(old));
    }
    // The server's own subresources count nothing: a pod that is bound is of the generation that was created.
    if kind.generation && part == Part::Main && spec_changed(old, &new) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        new["metadata"]["generation"] = json!(generation + 1);
    }
    if let Some(track) = &options.track {
        track(kind, Some(old), &mut new);
    }
    let mut errors = Vec::new();
    validate::metadata(kind, &new, Some(old), &mut errors);
    // The server's own subresources do what nobody else may: they bind a pod, say.
    if part != Part::Whole {
        validate_kind(kind, &new, Some(old), &mut errors);
    }
    refuse_if_any(kind, &new, errors)?;
    Ok(new)
}

fn validate_kind(kind: &KindDef, object: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    match &kind.custom {
        Some(structural) => crd::validate(structural, object, old, errors),
        None => (kind.validate)(object, old, errors),
    }
}

fn refuse_if_any(kind: &KindDef, object: &Value, errors: Vec<FieldError>) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or("");
    Err(Error::invalid(kind, name, errors))
}

fn set_defaults(kind: &KindDef, object: &mut Value) -> Result<()> {
    if let Some(structural) = &kind.custom {
        structural.prune(object);
        structural.default(object);
    }
    (kind.default)(object);
    Ok(())
}

fn fill_type(kind: &KindDef, object: &mut Value) -> Result<()> {
    let Value::Object(map) = object else {
        return Err(Error::bad_request("the object provided is unrecognized (must be of type object)"));
    };
    map.insert("apiVersion".into(), kind.api_version().into());
    map.insert("kind".into(), kind.kind.clone().into());
    if !map.get("metadata").is_some_and(Value::is_object) {
        map.insert("metadata".into(), json!({}));
    }
    Ok(())
}

fn metadata_of(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"].as_object_mut().expect("made an object above")
}

fn set_namespace(kind: &KindDef, namespace: &str, object: &mut Value) -> Result<()> {
    let metadata = metadata_of(object);
    let given = metadata.get("namespace").and_then(Value::as_str).unwrap_or("");
    if !kind.namespaced {
        if !given.is_empty() {
            metadata.shift_remove("namespace");
        }
        return Ok(());
    }
    if given.is_empty() {
        metadata.insert("namespace".into(), namespace.into());
    } else if given != namespace {
        return Err(Error::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

fn check_name(name: &str, object: &mut Value) -> Result<()> {
    let metadata = metadata_of(object);
    let given = metadata.get("name").and_then(Value::as_str).unwrap_or("").to_owned();
    if given.is_empty() {
        metadata.insert("name".into(), name.into());
    } else if given != name {
        return Err(Error::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    Ok(())
}

/// The version and uid that the new object was based on are the stored ones.
fn check_identity(kind: &KindDef, old: &Value, new: &Value) -> Result<()> {
    let name = old["metadata"]["name"].as_str().unwrap_or("");
    let text = |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
    let (given, stored) = (text(new, "resourceVersion"), text(old, "resourceVersion"));
    if given.is_empty() && !kind.unconditional_update {
        let cause =
            FieldError::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
        return Err(Error::invalid_resource(kind, name, cause));
    }
    if !given.is_empty() && given != stored {
        return Err(Error::stale(kind, name));
    }
    let (given, stored) = (text(new, "uid"), text(old, "uid"));
    if !given.is_empty() && given != stored {
        let place = format!("/registry/{}/{}", kind.plural, super::key_of(old).0);
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {place}/{name}, ResourceVersion: 0, AdditionalErrorMsg: \
             Precondition failed: UID in precondition: {given}, UID in object meta: {stored}"
        );
        return Err(Error::conflict(kind, name, &why));
    }
    Ok(())
}

/// Fields of the metadata that no client changes.
fn keep_metadata(old: &Value, new: &mut Value) {
    let metadata = metadata_of(new);
    metadata.shift_remove("selfLink");
    let owned = [
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    for field in owned {
        match old["metadata"].get(field) {
            Some(value) => {
                metadata.insert(field.into(), value.clone());
            }
            None => {
                metadata.shift_remove(field);
            }
        }
    }
    // Absent managed fields mean that the client does not know of them; an empty list clears them.
    if !metadata.contains_key("managedFields")
        && let Some(managed) = old["metadata"].get("managedFields")
    {
        metadata.insert("managedFields".into(), managed.clone());
    }
}

/// A write to `/status`: the stored object with the new status, and, for built-in kinds, the new labels
/// and annotations.
fn isolated_status(kind: &KindDef, old: &Value, mut new: Value) -> Value {
    let mut object = old.clone();
    match new.get_mut("status").map(Value::take) {
        Some(Value::Null) | None => remove(&mut object, "status"),
        Some(status) => object["status"] = status,
    }
    let carried: &[&str] = match kind.storage.as_str() {
        _ if kind.is_custom() => &["managedFields"],
        "deployments.apps" => &["annotations", "finalizers", "managedFields"],
        _ => &["annotations", "labels", "finalizers", "managedFields"],
    };
    for field in carried {
        match new["metadata"].get_mut(*field).map(Value::take) {
            Some(value) => object["metadata"][*field] = value,
            // Clients that do not know of managed fields do not clear them.
            None if *field == "managedFields" => {}
            None => {
                metadata_of(&mut object).shift_remove(*field);
            }
        }
    }
    object
}

/// Whether anything but metadata and status differs.
fn spec_changed(old: &Value, new: &Value) -> bool {
    let rest = |object: &Value| {
        let mut rest = object.as_object().cloned().unwrap_or_default();
        for apart in ["metadata", "status", "apiVersion", "kind"] {
            rest.shift_remove(apart);
        }
        rest
    };
    rest(old) != rest(new)
}

fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.shift_remove(field);
    }
}

/// Whether two objects differ in nothing but the times of their managed fields: then nothing is written.
pub(super) fn same(old: &Value, new: &Value) -> bool {
    let without_managed = |object: &Value| {
        let mut object = object.clone();
        metadata_of(&mut object).shift_remove("managedFields");
        object
    };
    let managed = |object: &Value| -> Vec<Value> {
        let entries = object["metadata"]["managedFields"].as_array();
        let timeless = |entry: &Value| {
            let mut entry = entry.clone();
            remove(&mut entry, "time");
            entry
        };
        entries.map(|entries| entries.iter().map(timeless).collect()).unwrap_or_default()
    };
    without_managed(old) == without_managed(new) && managed(old) == managed(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        let name = generated(&"a".repeat(100));
        assert_eq!(name.len(), MAX_GENERATED);
        assert!(generated("web-").starts_with("web-"));
    }

    #[test]
    fn times_of_managed_fields_are_no_change() {
        let object = |time: &str, value: i64| json!({"metadata": {"managedFields": [{"manager": "a", "time": time}]}, "data": value});
        assert!(same(&object("1", 1), &object("2", 1)));
        assert!(!same(&object("1", 1), &object("1", 2)));
    }
}
