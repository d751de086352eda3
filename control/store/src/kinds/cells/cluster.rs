//! Nodes, namespaces, configuration, RBAC and certificates.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{NONE, UNKNOWN, human_duration, items, text_or_none};

pub(in crate::kinds) fn phase(object: &Value, _: OffsetDateTime) -> Value {
    object["status"]["phase"].clone()
}

pub(in crate::kinds) fn node_status(node: &Value, _: OffsetDateTime) -> Value {
    let ready = items(&node["status"]["conditions"]).find(|one| one["type"] == "Ready");
    let status = match ready.map(|one| one["status"].as_str().unwrap_or("")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = node["spec"]["unschedulable"] == json!(true);
    json!(if cordoned { format!("{status},SchedulingDisabled") } else { status.to_owned() })
}

pub(in crate::kinds) fn node_roles(node: &Value, _: OffsetDateTime) -> Value {
    let mut roles: Vec<&str> = node["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ if key == "kubernetes.io/role" => value.as_str().filter(|role| !role.is_empty()),
            _ => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    json!(if roles.is_empty() { NONE.to_owned() } else { roles.join(",") })
}

pub(in crate::kinds) fn node_version(node: &Value, _: OffsetDateTime) -> Value {
    json!(node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap_or(""))
}

fn address(node: &Value, kind: &str) -> Value {
    let found = items(&node["status"]["addresses"]).find(|one| one["type"] == kind);
    text_or_none(found.map_or(&Value::Null, |one| &one["address"]))
}

pub(in crate::kinds) fn node_internal_ip(node: &Value, _: OffsetDateTime) -> Value {
    address(node, "InternalIP")
}

pub(in crate::kinds) fn node_external_ip(node: &Value, _: OffsetDateTime) -> Value {
    address(node, "ExternalIP")
}

fn info(node: &Value, field: &str) -> Value {
    let text = node["status"]["nodeInfo"][field].as_str().filter(|text| !text.is_empty());
    json!(text.unwrap_or(UNKNOWN))
}

pub(in crate::kinds) fn node_os(node: &Value, _: OffsetDateTime) -> Value {
    info(node, "osImage")
}

pub(in crate::kinds) fn node_kernel(node: &Value, _: OffsetDateTime) -> Value {
    info(node, "kernelVersion")
}

pub(in crate::kinds) fn node_runtime(node: &Value, _: OffsetDateTime) -> Value {
    info(node, "containerRuntimeVersion")
}

fn size(map: &Value) -> usize {
    map.as_object().map_or(0, serde_json::Map::len)
}

pub(in crate::kinds) fn config_map_size(object: &Value, _: OffsetDateTime) -> Value {
    json!(size(&object["data"]) + size(&object["binaryData"]))
}

pub(in crate::kinds) fn secret_type(object: &Value, _: OffsetDateTime) -> Value {
    object["type"].clone()
}

pub(in crate::kinds) fn secret_size(object: &Value, _: OffsetDateTime) -> Value {
    json!(size(&object["data"]))
}

pub(in crate::kinds) fn account_secrets(object: &Value, _: OffsetDateTime) -> Value {
    json!(items(&object["secrets"]).count())
}

pub(in crate::kinds) fn binding_role(binding: &Value, _: OffsetDateTime) -> Value {
    let role = &binding["roleRef"];
    json!(format!("{}/{}", role["kind"].as_str().unwrap_or(""), role["name"].as_str().unwrap_or("")))
}

fn subjects(binding: &Value, kind: &str, show: fn(&Value) -> String) -> Value {
    let all: Vec<String> =
        items(&binding["subjects"]).filter(|subject| subject["kind"] == kind).map(show).collect();
    json!(all.join(", "))
}

fn subject_name(subject: &Value) -> String {
    subject["name"].as_str().unwrap_or("").to_owned()
}

pub(in crate::kinds) fn binding_users(binding: &Value, _: OffsetDateTime) -> Value {
    subjects(binding, "User", subject_name)
}

pub(in crate::kinds) fn binding_groups(binding: &Value, _: OffsetDateTime) -> Value {
    subjects(binding, "Group", subject_name)
}

pub(in crate::kinds) fn binding_accounts(binding: &Value, _: OffsetDateTime) -> Value {
    subjects(binding, "ServiceAccount", |one| {
        format!("{}/{}", one["namespace"].as_str().unwrap_or(""), subject_name(one))
    })
}

pub(in crate::kinds) fn csr_duration(csr: &Value, _: OffsetDateTime) -> Value {
    json!(csr["spec"]["expirationSeconds"].as_i64().map_or_else(|| NONE.to_owned(), human_duration))
}

pub(in crate::kinds) fn csr_condition(csr: &Value, _: OffsetDateTime) -> Value {
    let has = |kind: &str| items(&csr["status"]["conditions"]).any(|one| one["type"] == kind);
    let decided = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    };
    let issued = csr["status"]["certificate"].as_str().is_some_and(|text| !text.is_empty());
    let suffix = match (has("Failed"), issued) {
        (true, _) => ",Failed",
        (_, true) => ",Issued",
        _ => "",
    };
    json!(format!("{decided}{suffix}"))
}
