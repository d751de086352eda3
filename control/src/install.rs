//! `edgeloom-control install`: what the control needs of a cluster, applied once by an administrator.
//!
//! The namespace, the custom resource definitions, and the least rights that the control works with. The
//! same runs at every start against the embedded API, where the control is the administrator.

use std::time::Duration;

use edgeloom_api::names::SYSTEM_NAMESPACE;
use edgeloom_api::v1alpha1;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

/// How long the API server may take to serve a new definition.
const ESTABLISHED: Duration = Duration::from_secs(30);

/// Why the installation stopped; what was applied before stays, and running it again goes on.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The API server refused an object.
    #[error("applying {what}: {source}; run it with an administrator's kubeconfig")]
    Apply {
        /// Kind and name.
        what: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// A definition was taken but is not served.
    #[error("CustomResourceDefinition {name} was applied but is not established after {} s", ESTABLISHED.as_secs())]
    NotEstablished {
        /// The definition's name.
        name: String,
    },
}

/// Everything that is applied, in order.
pub fn objects() -> Vec<Value> {
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SYSTEM_NAMESPACE },
    })];
    objects.extend(v1alpha1::definitions().iter().map(|definition| {
        serde_json::to_value(definition).expect("a definition generated from a type is valid JSON")
    }));
    objects.push(json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": "edgeloom-control", "namespace": SYSTEM_NAMESPACE },
    }));
    objects.push(cluster_role());
    objects.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": { "name": "edgeloom-control" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edgeloom-control" },
        "subjects": subjects(),
    }));
    objects.extend(own_namespace());
    objects.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": "edgeloom-control-authentication", "namespace": "kube-system" },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "Role",
            "name": "extension-apiserver-authentication-reader",
        },
        "subjects": subjects(),
    }));
    objects
}

/// The control as it runs in a cluster, and as a user with a client certificate beside one.
fn subjects() -> Value {
    json!([
        { "kind": "ServiceAccount", "name": "edgeloom-control", "namespace": SYSTEM_NAMESPACE },
        { "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "edgeloom-control" },
    ])
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": groups, "resources": resources, "verbs": verbs })
}

fn cluster_role() -> Value {
    let read = ["get", "list", "watch"];
    let mut signer = rule(&["certificates.k8s.io"], &["signers"], &["approve"]);
    signer["resourceNames"] = json!(["kubernetes.io/kubelet-serving"]);
    let rules = [
        // What edge nodes are told of.
        rule(&[""], &["configmaps", "secrets", "services", "serviceaccounts", "namespaces"], &read),
        rule(&["discovery.k8s.io"], &["endpointslices"], &read),
        // What edge nodes report, each only of itself: the hub holds them to it.
        rule(&[""], &["pods"], &["get", "list", "watch", "delete"]),
        rule(&[""], &["pods/status", "nodes/status"], &["get", "patch", "update"]),
        rule(&["", "events.k8s.io"], &["events"], &["get", "create", "patch", "update"]),
        rule(&["coordination.k8s.io"], &["leases"], &["get", "create", "patch", "update"]),
        rule(&[""], &["serviceaccounts/token"], &["create"]),
        // Joining.
        rule(&["networking.k8s.io"], &["servicecidrs"], &["list"]),
        rule(&[""], &["nodes"], &["get", "list", "watch", "create", "patch", "update", "delete"]),
        rule(
            &["edgeloom.io"],
            &["edgenodes", "edgenodes/status", "revocations"],
            &["get", "list", "watch", "create", "patch", "update", "delete"],
        ),
        rule(&["edgeloom.io"], &["sites"], &read),
        // The kubelet ports and the admin HTTPS.
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
        rule(&["certificates.k8s.io"], &["certificatesigningrequests"], &["create", "get", "list", "watch"]),
        rule(&["certificates.k8s.io"], &["certificatesigningrequests/approval"], &["update"]),
        signer,
    ];
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": { "name": "edgeloom-control" }, "rules": rules,
    })
}

/// The control's own state: the CA, join tokens, serving certificates.
fn own_namespace() -> [Value; 2] {
    let metadata = json!({ "name": "edgeloom-control", "namespace": SYSTEM_NAMESPACE });
    let all = ["get", "list", "watch", "create", "patch", "update", "delete"];
    [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata,
            "rules": [rule(&[""], &["secrets", "configmaps"], &all)],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "edgeloom-control" },
            "subjects": subjects(),
        }),
    ]
}

/// Applies every object and waits until the definitions are served.
pub async fn install(client: &kube::Client) -> Result<(), InstallError> {
    let mut definitions = Vec::new();
    for object in objects() {
        let what = describe(&object);
        apply(client, &object).await.map_err(|source| InstallError::Apply { what, source })?;
        if object["kind"] == "CustomResourceDefinition" {
            definitions.push(object);
        }
    }
    for definition in definitions {
        established(client, &definition).await?;
    }
    Ok(())
}

async fn apply(client: &kube::Client, object: &Value) -> Result<(), kube::Error> {
    let name = text(object, "/metadata/name");
    let parameters = PatchParams::apply(crate::MANAGER).force();
    api(client, object).patch(name, &parameters, &Patch::Apply(object)).await.map(drop)
}

async fn established(client: &kube::Client, definition: &Value) -> Result<(), InstallError> {
    let name = text(definition, "/metadata/name");
    let api = api(client, definition);
    let deadline = tokio::time::Instant::now() + ESTABLISHED;
    loop {
        let now =
            api.get(name).await.map_err(|source| InstallError::Apply { what: name.to_owned(), source })?;
        let conditions = now.data.pointer("/status/conditions").and_then(Value::as_array);
        let served = conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Established" && condition["status"] == "True");
        if served {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(InstallError::NotEstablished { name: name.to_owned() });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The API of an object's own kind and namespace. The plurals of the kinds in [`objects`] are regular.
fn api(client: &kube::Client, object: &Value) -> Api<DynamicObject> {
    let (group, version) = match text(object, "/apiVersion").split_once('/') {
        Some(both) => both,
        None => ("", text(object, "/apiVersion")),
    };
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text(object, "/kind")));
    match object.pointer("/metadata/namespace").and_then(Value::as_str) {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

fn describe(object: &Value) -> String {
    format!("{} {}", text(object, "/kind"), text(object, "/metadata/name"))
}

fn text<'o>(object: &'o Value, pointer: &str) -> &'o str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// All objects as one YAML stream, for `install --dry-run` and `kubectl apply -f -`.
pub fn yaml() -> Result<String, serde_yaml_ng::Error> {
    let documents: Result<Vec<String>, _> = objects().iter().map(serde_yaml_ng::to_string).collect();
    Ok(documents?.join("---\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_has_what_applying_it_needs() {
        for object in objects() {
            for field in ["/apiVersion", "/kind", "/metadata/name"] {
                assert_ne!(text(&object, field), "", "{object}");
            }
        }
    }

    #[test]
    fn the_control_may_not_do_everything() {
        let role = cluster_role().to_string();
        assert!(!role.contains("\"*\""), "no wildcard in {role}");
    }

    #[test]
    fn the_stream_reads_back() {
        let stream = yaml().unwrap();
        let count = stream.split("---\n").filter(|text| !text.is_empty()).count();
        assert_eq!(count, objects().len());
    }
}
