//! Namespaces, Nodes, configuration, endpoints, RBAC and certificates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{items, object, set};

const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The label with the name, the finalizer, the phase.
pub(crate) fn namespace(namespace: &mut Value) {
    let name = namespace["metadata"]["name"].clone();
    if name.is_string() {
        object(&mut namespace["metadata"], "labels").insert(NAME_LABEL.into(), name);
    }
    let deleting = namespace["metadata"]["deletionTimestamp"].is_string();
    if !deleting {
        set(object(namespace, "spec"), "finalizers", json!(["kubernetes"]));
    }
    set(object(namespace, "status"), "phase", if deleting { "Terminating" } else { "Active" });
}

/// What holds a Namespace is let go only through `/finalize`.
pub(crate) fn prepare_namespace(new: &mut Value, old: Option<&Value>) {
    if let Some(old) = old {
        new["spec"] = old["spec"].clone();
    }
}

const NODE_INFO: [&str; 10] = [
    "machineID",
    "systemUUID",
    "bootID",
    "kernelVersion",
    "osImage",
    "containerRuntimeVersion",
    "kubeletVersion",
    "kubeProxyVersion",
    "operatingSystem",
    "architecture",
];

/// `spec.podCIDR` and `spec.podCIDRs` agree; allocatable follows capacity.
pub(crate) fn node(node: &mut Value) {
    object(node, "spec");
    let spec = &mut node["spec"];
    match (spec["podCIDR"].as_str().map(str::to_owned), spec["podCIDRs"][0].clone()) {
        (Some(one), Value::Null) => spec["podCIDRs"] = json!([one]),
        (None, Value::String(first)) => spec["podCIDR"] = json!(first),
        _ => {}
    }
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    let status = object(node, "status");
    set(status, "daemonEndpoints", json!({"kubeletEndpoint": {"Port": 0}}));
    let info = object(&mut node["status"], "nodeInfo");
    for field in NODE_INFO {
        if !info.contains_key(field) {
            info.insert(field.to_owned(), json!(""));
        }
    }
    if let Some(capacity) = node["status"].get("capacity").cloned() {
        set(object(node, "status"), "allocatable", capacity);
    }
}

/// The type, and `stringData` moved into `data`.
pub(crate) fn secret(secret: &mut Value) {
    let plain = secret.as_object_mut().and_then(|fields| fields.shift_remove("stringData"));
    if let Some(Value::Object(plain)) = plain {
        let data = object(secret, "data");
        for (name, value) in plain {
            data.insert(name, json!(STANDARD.encode(value.as_str().unwrap_or(""))));
        }
    }
    if let Some(fields) = secret.as_object_mut() {
        set(fields, "type", "Opaque");
    }
}

/// The protocol of ports.
pub(crate) fn endpoints(endpoints: &mut Value) {
    for subset in items(endpoints, "subsets") {
        for port in items(subset, "ports").filter_map(Value::as_object_mut) {
            set(port, "protocol", "TCP");
        }
    }
}

/// The protocol and name of ports; the list of endpoints and their conditions are there, even if they are empty.
pub(crate) fn endpoint_slice(slice: &mut Value) {
    for port in items(slice, "ports").filter_map(Value::as_object_mut) {
        set(port, "protocol", "TCP");
        if !port.contains_key("name") {
            port.insert("name".into(), json!(""));
        }
    }
    if let Some(fields) = slice.as_object_mut() {
        set(fields, "endpoints", Value::Array(Vec::new()));
    }
    for endpoint in items(slice, "endpoints").filter_map(Value::as_object_mut) {
        set(endpoint, "conditions", json!({}));
    }
}

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// Groups of the role and of the subjects.
pub(crate) fn role_binding(binding: &mut Value) {
    if let Some(role) = binding.get_mut("roleRef").and_then(Value::as_object_mut) {
        set(role, "apiGroup", RBAC_GROUP);
    }
    for subject in items(binding, "subjects").filter_map(Value::as_object_mut) {
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            set(subject, "apiGroup", RBAC_GROUP);
        }
    }
}

/// The usages of a request that names none.
pub(crate) fn signing_request(csr: &mut Value) {
    let spec = object(csr, "spec");
    set(spec, "usages", json!(["digital signature", "key encipherment"]));
}

/// The rules are there, even if they are none.
pub(crate) fn role(role: &mut Value) {
    if let Some(fields) = role.as_object_mut()
        && !fields.contains_key("rules")
    {
        fields.insert("rules".into(), Value::Null);
    }
}

/// A signing request cannot be changed once it is made.
pub(crate) fn prepare_signing_request(new: &mut Value, old: Option<&Value>) {
    match old {
        Some(old) => new["spec"] = old["spec"].clone(),
        None => new["status"] = json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_encoded() {
        let mut object = json!({"stringData": {"a": "b"}, "data": {"c": "ZA=="}});
        secret(&mut object);
        assert_eq!(object, json!({"data": {"c": "ZA==", "a": "Yg=="}, "type": "Opaque"}));
    }

    #[test]
    fn namespaces_and_nodes() {
        let mut object = json!({"metadata": {"name": "shop"}});
        namespace(&mut object);
        assert_eq!(object["metadata"]["labels"][NAME_LABEL], "shop");
        assert_eq!(object["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(object["status"]["phase"], "Active");
        let mut object = json!({"spec": {"podCIDR": "10.0.0.0/24"}});
        node(&mut object);
        assert_eq!(object["spec"]["podCIDRs"], json!(["10.0.0.0/24"]));
    }
}
