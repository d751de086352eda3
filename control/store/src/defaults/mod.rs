//! What the server fills in where a client says nothing: pure functions over one object, each named by
//! the declaration of its kind.

mod cluster;
mod custom;
mod pod;
mod service;
mod workload;

use serde_json::{Map, Value};

pub(crate) use self::cluster::*;
pub(crate) use self::custom::{crd, prepare_crd};
pub(crate) use self::pod::{pod, prepare_pod};
pub(crate) use self::service::{prepare_service, service};
pub(crate) use self::workload::{deployment, prepare_deployment, prepare_replica_set, replica_set};

/// The fields of an object within an object, made if it is not there.
fn object<'a>(parent: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !parent.is_object() {
        *parent = Value::Object(Map::new());
    }
    let child = &mut parent[field];
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    child.as_object_mut().expect("made an object above")
}

/// Sets a field that is missing, null or an empty string.
fn set(map: &mut Map<String, Value>, field: &str, default: impl Into<Value>) {
    let missing = match map.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    };
    if missing {
        map.insert(field.to_owned(), default.into());
    }
}

/// The items of a list field, none if it is not there.
fn items<'a>(parent: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    parent.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}
