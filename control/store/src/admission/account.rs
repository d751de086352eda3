//! The ServiceAccount admission: every pod has an account, and what it needs to talk to the API as that
//! account, mounted at the path where every client library looks.

use serde_json::{Value, json};

use crate::db::{Txn, key_of};
use crate::error::{Error, Result};
use crate::kinds::KindDef;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour and seven seconds: marks the token as the injected one, which may be renewed for longer.
const TOKEN_SECONDS: u32 = 3607;
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Gives a new pod its account, the volume with its token, and the account's image pull secrets.
pub(super) fn admit(txn: &Txn<'_>, kind: &KindDef, pod: &mut Value) -> Result<()> {
    if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
        return Ok(());
    }
    let (namespace, pod_name) = (key_of(pod).0.to_owned(), key_of(pod).1.to_owned());
    let name = match pod["spec"]["serviceAccountName"].as_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "default".to_owned(),
    };
    let Some(account) = txn.get_stored("serviceaccounts", &namespace, &name)? else {
        let why =
            format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        return Err(Error::forbidden(kind, &pod_name, &why));
    };
    pod["spec"]["serviceAccountName"] = json!(name);
    pod["spec"]["serviceAccount"] = json!(name);
    if wants_token(pod, &account) {
        mount_token(pod);
    }
    let no_secrets = pod["spec"]["imagePullSecrets"].as_array().is_none_or(Vec::is_empty);
    if no_secrets && account["imagePullSecrets"].as_array().is_some_and(|list| !list.is_empty()) {
        pod["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
    }
    Ok(())
}

fn wants_token(pod: &Value, account: &Value) -> bool {
    let own = pod["spec"]["automountServiceAccountToken"].as_bool();
    own.or(account["automountServiceAccountToken"].as_bool()).unwrap_or(true)
}

fn mount_token(pod: &mut Value) {
    let suffix: String = (0..5).map(|_| char::from(SUFFIX[rand::random_range(0..SUFFIX.len())])).collect();
    let name = format!("kube-api-access-{suffix}");
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            needed |= mount_in(container, &name);
        }
    }
    if needed {
        push(&mut pod["spec"], "volumes", volume(&name));
    }
}

/// Mounts the volume unless the container has something at its path.
fn mount_in(container: &mut Value, volume: &str) -> bool {
    let taken = container["volumeMounts"]
        .as_array()
        .is_some_and(|mounts| mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH));
    if !taken {
        let mount = json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH});
        push(container, "volumeMounts", mount);
    }
    !taken
}

fn push(parent: &mut Value, field: &str, item: Value) {
    match parent.get_mut(field).and_then(Value::as_array_mut) {
        Some(list) => list.push(item),
        None => parent[field] = json!([item]),
    }
}

fn volume(name: &str) -> Value {
    json!({"name": name, "projected": {"sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ], "defaultMode": 420}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_where_nothing_is_mounted() {
        let mut pod = json!({"spec": {"containers": [
            {"name": "a"},
            {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]},
        ]}});
        mount_token(&mut pod);
        let volume = &pod["spec"]["volumes"][0];
        assert!(volume["name"].as_str().unwrap().starts_with("kube-api-access-"));
        assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], volume["name"]);
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn the_pod_decides_before_the_account() {
        let account = json!({"automountServiceAccountToken": false});
        assert!(!wants_token(&json!({"spec": {}}), &account));
        assert!(wants_token(&json!({"spec": {"automountServiceAccountToken": true}}), &account));
    }
}
