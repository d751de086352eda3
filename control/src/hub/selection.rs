//! What a node needs of the cluster's objects. Pure.
//!
//! Every node needs all Services, EndpointSlices, EdgeNodes and Revocations; its own Node, its Site, and a little of
//! the Nodes of its site; the pods on it; and the ConfigMaps and Secrets that those pods use, with the cluster's CA for their
//! service-account mounts.

use std::collections::BTreeSet;

use edgeloom_api::hub::Key;
use edgeloom_api::kind::{
    CONFIG_MAP, EDGE_NODE, ENDPOINT_SLICE, Kind, NODE, POD, REVOCATION, SECRET, SERVICE, SITE,
};
use serde_json::Value;

/// ConfigMap in every namespace with the CA of the cluster's API.
const ROOT_CA: &str = "kube-root-ca.crt";

/// Kinds that every node needs whole.
pub(super) static SHARED: [&Kind; 4] = [&REVOCATION, &EDGE_NODE, &SERVICE, &ENDPOINT_SLICE];
/// Kinds that are watched.
pub(super) static WATCHED: [&Kind; 9] =
    [&REVOCATION, &SITE, &EDGE_NODE, &SERVICE, &ENDPOINT_SLICE, &NODE, &CONFIG_MAP, &SECRET, &POD];
/// Kinds without which all else works: of a cluster whose definitions are those of the release before.
pub(super) static OPTIONAL: [&Kind; 1] = [&SITE];

/// What the hub has to know of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodFacts {
    /// `spec.nodeName`, empty while the pod is not scheduled.
    pub(super) node: String,
    /// `metadata.uid`.
    pub(super) uid: String,
    /// `spec.serviceAccountName`.
    pub(super) service_account: String,
    /// ConfigMaps and Secrets that it uses.
    pub(super) uses: BTreeSet<Key>,
}

impl PodFacts {
    /// Reads a pod. What is not where it should be is not used.
    pub(super) fn of(pod: &Value) -> Self {
        let namespace = text(&pod["metadata"]["namespace"]);
        let spec = &pod["spec"];
        let mut uses = Uses { namespace, keys: BTreeSet::new() };
        uses.config_map(&Value::from(ROOT_CA));
        for secret in list(&spec["imagePullSecrets"]) {
            uses.secret(&secret["name"]);
        }
        for volume in list(&spec["volumes"]) {
            uses.volume(volume);
        }
        for field in ["initContainers", "containers", "ephemeralContainers"] {
            for container in list(&spec[field]) {
                uses.container(container);
            }
        }
        Self {
            node: text(&spec["nodeName"]).to_owned(),
            uid: text(&pod["metadata"]["uid"]).to_owned(),
            service_account: text(&spec["serviceAccountName"]).to_owned(),
            uses: uses.keys,
        }
    }
}

struct Uses<'a> {
    namespace: &'a str,
    keys: BTreeSet<Key>,
}

impl Uses<'_> {
    fn volume(&mut self, volume: &Value) {
        self.config_map(&volume["configMap"]["name"]);
        self.secret(&volume["secret"]["secretName"]);
        self.secret(&volume["csi"]["nodePublishSecretRef"]["name"]);
        for source in list(&volume["projected"]["sources"]) {
            self.config_map(&source["configMap"]["name"]);
            self.secret(&source["secret"]["name"]);
        }
    }

    fn container(&mut self, container: &Value) {
        for variable in list(&container["env"]) {
            self.config_map(&variable["valueFrom"]["configMapKeyRef"]["name"]);
            self.secret(&variable["valueFrom"]["secretKeyRef"]["name"]);
        }
        for source in list(&container["envFrom"]) {
            self.config_map(&source["configMapRef"]["name"]);
            self.secret(&source["secretRef"]["name"]);
        }
    }

    fn config_map(&mut self, name: &Value) {
        self.add(&CONFIG_MAP, name);
    }

    fn secret(&mut self, name: &Value) {
        self.add(&SECRET, name);
    }

    fn add(&mut self, kind: &Kind, name: &Value) {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            self.keys.insert(Key::new(kind, self.namespace, name));
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_that_a_pod_can_use_is_found() {
        let pod = json!({"metadata": {"namespace": "shop", "uid": "u"}, "spec": {
            "nodeName": "edge-1", "serviceAccountName": "till",
            "imagePullSecrets": [{"name": "registry"}],
            "volumes": [
                {"configMap": {"name": "volume-map"}}, {"secret": {"secretName": "volume-secret"}},
                {"projected": {"sources": [{"configMap": {"name": "projected-map"}}, {"secret": {"name": "projected-secret"}},
                    {"serviceAccountToken": {"path": "token"}}]}},
                {"emptyDir": {}}],
            "initContainers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "env-map"}}}]}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env-secret"}}}, {"name": "A", "value": "b"}],
                "envFrom": [{"configMapRef": {"name": "from-map"}}, {"secretRef": {"name": "from-secret"}}]}]}});
        let facts = PodFacts::of(&pod);
        let found: Vec<String> = facts.uses.iter().map(|key| format!("{}/{}", key.kind, key.name)).collect();
        let expected = [
            "configmaps/env-map",
            "configmaps/from-map",
            "configmaps/kube-root-ca.crt",
            "configmaps/projected-map",
            "configmaps/volume-map",
            "secrets/env-secret",
            "secrets/from-secret",
            "secrets/projected-secret",
            "secrets/registry",
            "secrets/volume-secret",
        ];
        assert_eq!(found, expected);
        assert!(facts.uses.iter().all(|key| key.namespace == "shop"));
        assert_eq!((facts.node.as_str(), facts.service_account.as_str()), ("edge-1", "till"));
    }

    #[test]
    fn a_malformed_pod_is_no_panic() {
        for pod in [json!(null), json!({"spec": []}), json!({"spec": {"volumes": {}, "containers": [7]}})] {
            assert_eq!(PodFacts::of(&pod).node, "");
        }
    }
}
