//! ReplicaSets: as many pods of a template as asked for.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Selector;
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

use crate::controller::{Error, Next, Reconcile, unless_overtaken};
use crate::events::Events;
use crate::pods::{self, controller_of};
use crate::queue::Queue;
use crate::watch::{Hook, Key};

/// Pods made or deleted in one go; the rest follows in the next.
const BURST: usize = 100;

/// Keeps all ReplicaSets.
pub(crate) struct Controller {
    pub(crate) client: Client,
    pub(crate) sets: Store<ReplicaSet>,
    pub(crate) events: Events,
}

pub(crate) fn on_replica_set(queue: Arc<Queue<Key>>) -> Hook<ReplicaSet> {
    Box::new(move |set| queue.add(Key::of(set)))
}

/// A pod concerns the ReplicaSet that controls it; one without an owner, every set of its namespace.
pub(crate) fn on_pod(queue: Arc<Queue<Key>>, sets: Store<ReplicaSet>) -> Hook<Pod> {
    Box::new(move |pod| {
        let namespace = pod.namespace().unwrap_or_default();
        match controller_of(pod.metadata.owner_references.as_ref()) {
            Some(owner) if owner.kind == "ReplicaSet" => queue.add(Key::new(&namespace, &owner.name)),
            Some(_) => {}
            None => {
                let near =
                    sets.state_filter(|set: &ReplicaSet| set.namespace().as_deref() == Some(&namespace));
                near.iter().for_each(|set| queue.add(Key::of(&**set)));
            }
        }
    })
}

impl Reconcile for Controller {
    type Key = Key;
    const NAME: &'static str = "replicaset";

    async fn reconcile(&self, key: Key) -> Result<Next, Error> {
        let Some(set) = self.sets.get(&key.reference()) else { return Ok(Next::Wait) };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut own = self.own_pods(&api, &set).await?;
        if set.metadata.deletion_timestamp.is_none() {
            let wanted = usize::try_from(wanted(&set)).unwrap_or(0);
            if own.len() < wanted {
                self.create(&api, &set, (wanted - own.len()).min(BURST), &mut own).await?;
            } else if own.len() > wanted {
                let surplus = (own.len() - wanted).min(BURST);
                self.delete(&api, &set, surplus, &mut own).await?;
            }
        }
        self.write_status(&set, &own).await
    }
}

impl Controller {
    /// Active pods that the set controls, adopting those that match and have no controller. The list
    /// comes from the API and not from a copy, so that a pod made a moment ago is never made twice.
    async fn own_pods(&self, api: &Api<Pod>, set: &ReplicaSet) -> Result<Vec<Pod>, Error> {
        let selector = set.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
        let parameters = ListParams::default().labels(&text(&selector)?);
        let mut own = Vec::new();
        for pod in api.list(&parameters).await?.into_iter().filter(pods::is_active) {
            match controller_of(pod.metadata.owner_references.as_ref()) {
                Some(owner) if Some(&owner.uid) == set.uid().as_ref() => own.push(pod),
                Some(_) => {}
                None if set.metadata.deletion_timestamp.is_none() => own.extend(adopt(api, set, &pod).await?),
                None => {}
            }
        }
        Ok(own)
    }

    async fn create(
        &self,
        api: &Api<Pod>,
        set: &ReplicaSet,
        count: usize,
        own: &mut Vec<Pod>,
    ) -> Result<(), Error> {
        let pod = pod_of(set);
        for _ in 0..count {
            match api.create(&PostParams::default(), &pod).await {
                Ok(made) => {
                    let note = format!("Created pod: {}", made.name_any());
                    self.events.normal(&set.object_ref(&()), "SuccessfulCreate", "Create", note).await;
                    own.push(made);
                }
                Err(error) => {
                    let note = format!("Error creating: {}", said(&error));
                    self.events.warning(&set.object_ref(&()), "FailedCreate", "Create", note).await;
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    async fn delete(
        &self,
        api: &Api<Pod>,
        set: &ReplicaSet,
        count: usize,
        own: &mut Vec<Pod>,
    ) -> Result<(), Error> {
        own.sort_by_cached_key(|pod| Reverse(dispensable(pod)));
        for pod in own.drain(..count) {
            let parameters = DeleteParams {
                preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
                ..DeleteParams::background()
            };
            unless_overtaken(api.delete(&pod.name_any(), &parameters).await)?;
            let note = format!("Deleted pod: {}", pod.name_any());
            self.events.normal(&set.object_ref(&()), "SuccessfulDelete", "Delete", note).await;
        }
        Ok(())
    }

    async fn write_status(&self, set: &ReplicaSet, own: &[Pod]) -> Result<Next, Error> {
        let (status, again) = status(set, own, Timestamp::now());
        if set.status.as_ref() != Some(&status) {
            let api: Api<ReplicaSet> =
                Api::namespaced(self.client.clone(), &set.namespace().unwrap_or_default());
            let patch = Patch::Merge(json!({ "status": {
                "replicas": status.replicas,
                "fullyLabeledReplicas": status.fully_labeled_replicas,
                "readyReplicas": status.ready_replicas,
                "availableReplicas": status.available_replicas,
                "observedGeneration": status.observed_generation,
            }}));
            unless_overtaken(api.patch_status(&set.name_any(), &PatchParams::default(), &patch).await)?;
        }
        Ok(again.map_or(Next::Wait, |seconds| Next::After(Duration::from_secs(seconds))))
    }
}

/// What the API server said, without the client's wrapping.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn text(selector: &LabelSelector) -> Result<String, Error> {
    let selector: Selector =
        selector.clone().try_into().map_err(|error| Error::Object(format!("spec.selector: {error}")))?;
    Ok(selector.to_string())
}

async fn adopt(api: &Api<Pod>, set: &ReplicaSet, pod: &Pod) -> Result<Option<Pod>, Error> {
    let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
    owners.push(owner(set));
    let patch = Patch::Merge(json!({ "metadata": { "uid": pod.uid(), "ownerReferences": owners } }));
    Ok(unless_overtaken(api.patch(&pod.name_any(), &PatchParams::default(), &patch).await)?)
}

fn pod_of(set: &ReplicaSet) -> Pod {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let metadata = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.name_any())),
            namespace: set.namespace(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![owner(set)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

fn owner(set: &ReplicaSet) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "ReplicaSet".to_owned(),
        name: set.name_any(),
        uid: set.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The greater, the sooner a pod is given up: not bound, not running, not ready, younger.
fn dispensable(pod: &Pod) -> (bool, bool, bool, Option<Timestamp>, String) {
    let created = pod.creation_timestamp().map(|time| time.0);
    (pods::node(pod).is_none(), pods::phase(pod) != "Running", !pods::is_ready(pod), created, pod.name_any())
}

/// The status, and in how many seconds a ready pod becomes available.
fn status(set: &ReplicaSet, own: &[Pod], now: Timestamp) -> (ReplicaSetStatus, Option<u64>) {
    let spec = set.spec.as_ref();
    let least = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let labels =
        spec.and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let availability: Vec<_> = own.iter().map(|pod| pods::available(pod, least, now)).collect();
    let fully =
        own.iter().filter(|pod| labels.iter().all(|(key, value)| pod.labels().get(key) == Some(value)));
    let again = availability.iter().filter_map(|answer| answer.err().flatten()).min();
    let status = ReplicaSetStatus {
        replicas: count(own.len()),
        fully_labeled_replicas: Some(count(fully.count())),
        ready_replicas: Some(count(own.iter().filter(|pod| pods::is_ready(pod)).count())),
        available_replicas: Some(count(availability.iter().filter(|answer| answer.is_ok()).count())),
        observed_generation: set.metadata.generation,
        terminating_replicas: None,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    (status, again.map(|seconds| u64::try_from(seconds).unwrap_or(1).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn pod(name: &str, fields: Value) -> Pod {
        let mut pod =
            json!({ "metadata": { "name": name, "labels": { "app": "web" } }, "spec": { "containers": [] } });
        for (key, value) in fields.as_object().unwrap() {
            for (field, value) in value.as_object().unwrap() {
                pod[key][field] = value.clone();
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    fn running(name: &str, ready: &str, since: &str) -> Pod {
        pod(
            name,
            json!({
                "metadata": { "creationTimestamp": since },
                "spec": { "nodeName": "edge-a" },
                "status": { "phase": "Running",
                            "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": since }] },
            }),
        )
    }

    #[test]
    fn the_least_useful_pod_goes_first() {
        let mut pods = [
            running("old", "True", "2026-01-01T00:00:00Z"),
            running("young", "True", "2026-01-02T00:00:00Z"),
            running("sick", "False", "2026-01-01T00:00:00Z"),
            pod("unbound", json!({})),
        ];
        pods.sort_by_cached_key(|pod| Reverse(dispensable(pod)));
        let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
        assert_eq!(names, ["unbound", "sick", "young", "old"]);
    }

    #[test]
    fn ready_becomes_available_after_the_minimum() {
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": { "name": "web-1" },
            "spec": { "minReadySeconds": 10, "selector": {},
                      "template": { "metadata": { "labels": { "app": "web" } } } },
        }))
        .unwrap();
        let pods =
            [running("a", "True", "2026-01-01T00:00:00Z"), running("b", "False", "2026-01-01T00:00:00Z")];
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (early, again) = status(&set, &pods, at("2026-01-01T00:00:04Z"));
        assert_eq!((early.replicas, early.ready_replicas, early.available_replicas), (2, Some(1), Some(0)));
        assert_eq!(again, Some(6));
        let (late, again) = status(&set, &pods, at("2026-01-01T00:00:10Z"));
        assert_eq!((late.available_replicas, late.fully_labeled_replicas, again), (Some(1), Some(2), None));
    }
}
