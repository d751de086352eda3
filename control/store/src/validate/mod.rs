//! What is wrong with an object: pure functions over a defaulted object and, on update, the stored one,
//! in the paths and words of the real server.

mod cluster;
mod custom;
mod meta;
pub mod names;
mod pod;
mod pod_update;
mod rbac;
mod service;
mod workload;

use serde_json::Value;

pub(crate) use self::cluster::*;
pub(crate) use self::custom::crd;
pub(crate) use self::meta::metadata;
pub use self::names::NameRule;
pub(crate) use self::pod::pod;
pub(crate) use self::rbac::*;
pub(crate) use self::service::{endpoint_slice, endpoints, service};
pub(crate) use self::workload::{deployment, replica_set};
use crate::error::FieldError;

/// What validators add to.
type Errors = Vec<FieldError>;

/// A field that stays as it was.
const IMMUTABLE: &str = "field is immutable";

/// Items of a list, none if it is not there.
fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A string field, empty if it is not there.
fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("")
}

/// Reports each fault of a value that some rule found.
fn refuse(errors: &mut Errors, field: &str, value: &Value, faults: Vec<String>) {
    errors.extend(faults.iter().map(|fault| FieldError::invalid(field, value, fault)));
}

/// Reports a value outside a closed set; sorted, as the server lists it.
fn one_of(errors: &mut Errors, field: &str, value: &Value, allowed: &[&str]) {
    if !value.as_str().is_some_and(|text| allowed.contains(&text)) {
        errors.push(FieldError::not_supported(field, value, allowed));
    }
}
