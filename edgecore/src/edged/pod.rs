//! A pod as the API describes it, read once from its JSON, and what edged needs to know of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What the API server fills in where a pod does not say.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// Why an object is no pod that can be run.
#[derive(Debug, thiserror::Error)]
#[error("pod {name}: {reason}")]
pub struct PodError {
    /// Namespace and name, as far as they are there.
    pub name: String,
    /// What is wrong.
    pub reason: String,
}

/// Namespace, name and uid: what a pod is called in messages, labels and paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid: a pod made again under the same name is another one.
    pub uid: String,
}

impl fmt::Display for PodId {
    /// `name_namespace(uid)`, as kubelet writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}({})", self.name, self.namespace, self.uid)
    }
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    Always,
    /// Unless the exit code is 0.
    OnFailure,
    /// Never.
    Never,
}

/// What part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Runs to its end before the next one.
    Init,
    /// An init container with `restartPolicy: Always`: the next one starts when it has started.
    Sidecar,
    /// One of `spec.containers`.
    Main,
}

/// A pod to be run.
#[derive(Debug)]
pub struct Pod {
    /// Its identity.
    pub id: PodId,
    /// Metadata.
    pub meta: ObjectMeta,
    /// Specification.
    pub spec: PodSpec,
    /// The object as it came.
    pub object: Arc<Value>,
}

impl Pod {
    /// Reads a pod. Status is left in [`Pod::object`].
    pub fn parse(object: &Arc<Value>) -> Result<Self, PodError> {
        let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
        let id = PodId { namespace: field("namespace"), name: field("name"), uid: field("uid") };
        let refused = |reason: String| PodError { name: format!("{}/{}", id.namespace, id.name), reason };
        for (what, value) in [("namespace", &id.namespace), ("name", &id.name), ("uid", &id.uid)] {
            // These become names of directories, cgroups and labels.
            if value.is_empty() || value.contains('/') || value.starts_with('.') {
                return Err(refused(format!("metadata.{what} {value:?} cannot be used")));
            }
        }
        let meta = serde::Deserialize::deserialize(&object["metadata"])
            .map_err(|error: serde_json::Error| refused(format!("metadata: {error}")))?;
        let spec: PodSpec = serde::Deserialize::deserialize(&object["spec"])
            .map_err(|error: serde_json::Error| refused(format!("spec: {error}")))?;
        for (_, container) in containers_of(&spec) {
            let name = &container.name;
            if name.is_empty() || name.contains('/') || name.starts_with('.') {
                return Err(refused(format!("container name {name:?} cannot be used")));
            }
        }
        Ok(Self { id, meta, spec, object: Arc::clone(object) })
    }

    /// Every container with its role, in the order of the specification, init containers first.
    pub fn containers(&self) -> impl Iterator<Item = (Role, &Container)> {
        containers_of(&self.spec)
    }

    /// The container of this name.
    pub fn container(&self, name: &str) -> Option<(Role, &Container)> {
        self.containers().find(|(_, container)| container.name == name)
    }

    /// `spec.restartPolicy`, `Always` by default.
    pub fn restart_policy(&self) -> RestartPolicy {
        match self.spec.restart_policy.as_deref() {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        }
    }

    /// Whether the API has asked for its end.
    pub fn is_deleted(&self) -> bool {
        self.meta.deletion_timestamp.is_some()
    }

    /// How long its processes have between SIGTERM and SIGKILL.
    pub fn grace(&self) -> Duration {
        self.meta
            .deletion_grace_period_seconds
            .or(self.spec.termination_grace_period_seconds)
            .map_or(DEFAULT_GRACE, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }

    /// Whether it shares the host's network.
    pub fn host_network(&self) -> bool {
        self.spec.host_network.unwrap_or(false)
    }

    /// A label of the pod.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.meta.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// An annotation of the pod.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.meta.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

fn containers_of(spec: &PodSpec) -> impl Iterator<Item = (Role, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        (if sidecar { Role::Sidecar } else { Role::Init }, container)
    });
    init.chain(spec.containers.iter().map(|container| (Role::Main, container)))
}

/// What a running container is compared by: only the fields that the API lets change in place. Fields
/// that a newer API server would add by default must not restart anything.
pub fn spec_hash(container: &Container) -> String {
    let mut hash = Sha256::new();
    hash.update(container.name.as_bytes());
    hash.update([0]);
    hash.update(container.image.as_deref().unwrap_or_default().as_bytes());
    hex::encode(&hash.finalize()[..8])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn pod(spec: Value) -> Pod {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
            "spec": spec,
        });
        Pod::parse(&Arc::new(object)).unwrap()
    }

    #[test]
    fn roles_follow_the_specification() {
        let pod = pod(json!({
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "m"}],
        }));
        let roles: Vec<_> = pod.containers().map(|(role, c)| (role, c.name.as_str())).collect();
        assert_eq!(roles, [(Role::Init, "i"), (Role::Sidecar, "s"), (Role::Main, "m")]);
        assert_eq!(pod.grace(), Duration::from_secs(30));
        assert_eq!(pod.id.to_string(), "web_shop(u1)");
    }

    #[test]
    fn what_cannot_be_a_path_is_refused() {
        for (name, uid) in [("../x", "u"), ("x", ""), ("x", "a/b")] {
            let object = json!({"metadata": {"name": name, "namespace": "d", "uid": uid},
                                "spec": {"containers": [{"name": "c"}]}});
            assert!(Pod::parse(&Arc::new(object)).is_err(), "{name} {uid}");
        }
        let object =
            json!({"metadata": {"name": "a", "namespace": "d", "uid": "u"}, "spec": {"containers": 3}});
        assert!(Pod::parse(&Arc::new(object)).unwrap_err().to_string().contains("d/a: spec"));
    }

    #[test]
    fn only_name_and_image_make_another_container() {
        let one = Container { name: "a".into(), image: Some("i:1".into()), ..Default::default() };
        let mut other = Container { working_dir: Some("/x".into()), ..one.clone() };
        assert_eq!(spec_hash(&one), spec_hash(&other));
        other.image = Some("i:2".into());
        assert_ne!(spec_hash(&one), spec_hash(&other));
    }
}
