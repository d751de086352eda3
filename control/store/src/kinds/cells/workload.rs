//! Deployments and ReplicaSets.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{NONE, items};
use crate::selector::LabelSelector;

/// A count in the status, 0 if it is not there.
pub(in crate::kinds) fn count(object: &Value, field: &str) -> Value {
    json!(object["status"][field].as_i64().unwrap_or(0))
}

pub(in crate::kinds) fn deployment_ready(object: &Value, _: OffsetDateTime) -> Value {
    let desired = object["spec"]["replicas"].as_i64().unwrap_or(0);
    json!(format!("{}/{desired}", count(object, "readyReplicas")))
}

fn containers(object: &Value, field: &str) -> Value {
    let all: Vec<&str> = items(&object["spec"]["template"]["spec"]["containers"])
        .filter_map(|one| one[field].as_str())
        .collect();
    json!(all.join(","))
}

pub(in crate::kinds) fn template_containers(object: &Value, _: OffsetDateTime) -> Value {
    containers(object, "name")
}

pub(in crate::kinds) fn template_images(object: &Value, _: OffsetDateTime) -> Value {
    containers(object, "image")
}

pub(in crate::kinds) fn workload_selector(object: &Value, _: OffsetDateTime) -> Value {
    let selector = LabelSelector::from_object(&object["spec"]["selector"]);
    match selector {
        Some(selector) if !selector.is_everything() => json!(selector.to_string()),
        Some(_) => json!(NONE),
        None => json!("<error>"),
    }
}
