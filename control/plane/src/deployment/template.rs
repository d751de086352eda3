//! The pod template's hash and the ReplicaSet made from it. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use sha2::{Digest, Sha256};

/// Label that tells the pods of one template from those of another.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";
/// Annotation that numbers a Deployment's templates.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotations of a Deployment that are not copied to its ReplicaSets.
const NOT_COPIED: [&str; 4] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    "deployment.kubernetes.io/revision-history",
    "deprecated.deployment.rollback.to",
];

/// Ten letters that stand for a template.
pub(crate) fn hash(template: &PodTemplateSpec) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    // Field order is the struct's and maps are sorted, so equal templates have equal text.
    let text = serde_json::to_vec(template).unwrap_or_default();
    Sha256::digest(text)
        .iter()
        .take(10)
        .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]))
        .collect()
}

/// Whether `set` was made from the Deployment's template of now.
pub(crate) fn is_current(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let Some(wanted) = deployment.spec.as_ref().map(|spec| &spec.template) else { return false };
    let Some(mut template) = set.spec.as_ref().and_then(|spec| spec.template.clone()) else { return false };
    if let Some(labels) = template.metadata.as_mut().and_then(|metadata| metadata.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    without_empty(template) == without_empty(wanted.clone())
}

/// An absent map and an empty one are the same to the API.
fn without_empty(mut template: PodTemplateSpec) -> PodTemplateSpec {
    if let Some(metadata) = template.metadata.as_mut() {
        metadata.labels = metadata.labels.take().filter(|map| !map.is_empty());
        metadata.annotations = metadata.annotations.take().filter(|map| !map.is_empty());
        metadata.creation_timestamp = None;
    }
    template
}

/// A new ReplicaSet of the Deployment's template, without replicas yet.
pub(crate) fn replica_set(deployment: &Deployment, revision: u64, replicas: i32) -> Option<ReplicaSet> {
    let spec = deployment.spec.as_ref()?;
    let hash = hash(&spec.template);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector: LabelSelector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    Some(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: Some(labels),
            annotations: Some(annotations(deployment, revision)),
            owner_references: Some(vec![owner(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    })
}

/// The annotations of a ReplicaSet: the Deployment's, its revision, and the sizes that kubectl shows.
pub(crate) fn annotations(deployment: &Deployment, revision: u64) -> BTreeMap<String, String> {
    let mut annotations = deployment.annotations().clone();
    annotations.retain(|name, _| !NOT_COPIED.contains(&name.as_str()));
    annotations.insert(REVISION.to_owned(), revision.to_string());
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let surge = super::rolling::limits(deployment).surge;
    annotations.insert("deployment.kubernetes.io/desired-replicas".to_owned(), replicas.to_string());
    annotations.insert("deployment.kubernetes.io/max-replicas".to_owned(), (replicas + surge).to_string());
    annotations
}

/// The revision of a ReplicaSet, 0 if it has none.
pub(crate) fn revision(set: &ReplicaSet) -> u64 {
    set.annotations().get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn owner(deployment: &Deployment) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        name: deployment.name_any(),
        uid: deployment.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(image: &str) -> Deployment {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "shop", "uid": "1",
                          "annotations": { "kubernetes.io/change-cause": "first", REVISION: "7" } },
            "spec": { "replicas": 3, "selector": { "matchLabels": { "app": "web" } },
                      "template": { "metadata": { "labels": { "app": "web" } },
                                    "spec": { "containers": [{ "name": "app", "image": image }] } } },
        }))
        .unwrap()
    }

    #[test]
    fn a_set_is_current_for_its_template_and_no_other() {
        let set = replica_set(&deployment("a:1"), 1, 0).unwrap();
        assert!(is_current(&deployment("a:1"), &set));
        assert!(!is_current(&deployment("a:2"), &set));
        assert_ne!(
            hash(&deployment("a:1").spec.unwrap().template),
            hash(&deployment("a:2").spec.unwrap().template)
        );
    }

    #[test]
    fn the_set_selects_only_its_own_pods() {
        let set = replica_set(&deployment("a:1"), 2, 0).unwrap();
        let spec = set.spec.as_ref().unwrap();
        let wanted = spec.selector.match_labels.as_ref().unwrap();
        let labels = spec.template.as_ref().unwrap().metadata.as_ref().unwrap().labels.as_ref().unwrap();
        assert_eq!(wanted, labels);
        assert_eq!(wanted.len(), 2);
        assert_eq!(revision(&set), 2);
        assert_eq!(set.annotations()["kubernetes.io/change-cause"], "first");
        assert_eq!(set.annotations()["deployment.kubernetes.io/max-replicas"], "4");
    }
}
