//! The metadata of every object.

use serde_json::{Value, json};

use super::names::{label_value, qualified_name};
use super::{Errors, IMMUTABLE, refuse, text};
use crate::error::FieldError;
use crate::kinds::KindDef;

/// Annotations of an object may not be larger together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Checks the metadata of an object of a kind.
pub(crate) fn metadata(kind: &KindDef, object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let metadata = &object["metadata"];
    name(kind, metadata, errors);
    labels(&metadata["labels"], "metadata.labels", errors);
    annotations(&metadata["annotations"], errors);
    owners(&metadata["ownerReferences"], errors);
    finalizers(&metadata["finalizers"], errors);
    if let Some(old) = old {
        for field in ["name", "namespace", "uid", "creationTimestamp"] {
            if metadata[field] != old["metadata"][field] {
                errors.push(FieldError::invalid(format!("metadata.{field}"), &metadata[field], IMMUTABLE));
            }
        }
    }
}

fn name(kind: &KindDef, metadata: &Value, errors: &mut Errors) {
    let name = text(metadata, "name");
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
        return;
    }
    refuse(errors, "metadata.name", &json!(name), kind.name_rule.check(name));
}

/// Labels, wherever they stand.
pub(super) fn labels(labels: &Value, path: &str, errors: &mut Errors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        refuse(errors, path, &json!(key), qualified_name(key));
        refuse(errors, path, value, label_value(value.as_str().unwrap_or("")));
    }
}

fn annotations(annotations: &Value, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        refuse(errors, "metadata.annotations", &json!(key), qualified_name(&key.to_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long("metadata.annotations", MAX_ANNOTATIONS));
    }
}

fn owners(owners: &Value, errors: &mut Errors) {
    let mut controllers = 0;
    for owner in super::items(owners) {
        for (field, detail) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, field).is_empty() {
                errors.push(FieldError::invalid(
                    format!("metadata.ownerReferences.{field}"),
                    &json!(""),
                    detail,
                ));
            }
        }
        controllers += usize::from(owner["controller"] == true);
    }
    if controllers > 1 {
        let detail =
            "Only one reference can have Controller set to true. Found \"true\" in references for more";
        errors.push(FieldError::invalid("metadata.ownerReferences", owners, detail));
    }
}

fn finalizers(finalizers: &Value, errors: &mut Errors) {
    let standard = ["orphan", "foregroundDeletion"];
    for (index, finalizer) in super::items(finalizers).enumerate() {
        let path = format!("metadata.finalizers[{index}]");
        let name = finalizer.as_str().unwrap_or("");
        refuse(errors, &path, finalizer, qualified_name(name));
        if !name.contains('/') && !standard.contains(&name) && name.split('.').count() < 2 {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(path, finalizer, detail));
        }
    }
    let has = |wanted: &str| super::items(finalizers).any(|one| one == wanted);
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid("metadata.finalizers", finalizers, detail));
    }
}
