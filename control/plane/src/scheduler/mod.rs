//! The scheduler: binds each pod without a node to the fitting node with the fewest pods.

mod fit;
mod resources;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

pub(crate) use fit::tolerates;

use crate::controller::{Error, Next, Reconcile};
use crate::events::Events;
use crate::pods;
use crate::queue::Queue;
use crate::watch::{Hook, Key};
use fit::{Candidate, choose};
use resources::Amounts;

/// How long a pod that fits nowhere waits before it is looked at again, beside every change of a node.
const UNSCHEDULABLE: Duration = Duration::from_secs(30);

/// Binds pods.
pub(crate) struct Controller {
    pub(crate) client: Client,
    pub(crate) pods: Store<Pod>,
    pub(crate) nodes: Store<Node>,
    pub(crate) events: Events,
    /// Pods bound a moment ago, by uid, until the copy shows it.
    pub(crate) assumed: Mutex<HashMap<String, String>>,
}

/// Whether a pod waits for this scheduler.
fn waits(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let ours =
        spec.and_then(|spec| spec.scheduler_name.as_deref()).is_none_or(|name| name == "default-scheduler");
    let gated = spec.and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty());
    ours && !gated && pods::node(pod).is_none() && pods::is_active(pod)
}

pub(crate) fn on_pod(queue: Arc<Queue<Key>>) -> Hook<Pod> {
    Box::new(move |pod| {
        if waits(pod) {
            queue.add(Key::of(pod));
        }
    })
}

/// A node that came, changed or lost a taint may be what pods wait for.
pub(crate) fn on_node(queue: Arc<Queue<Key>>, pods: Store<Pod>) -> Hook<Node> {
    Box::new(move |_| pods.state_filter(waits).iter().for_each(|pod| queue.add(Key::of(&**pod))))
}

impl Reconcile for Controller {
    type Key = Key;
    const NAME: &'static str = "scheduler";

    async fn reconcile(&self, key: Key) -> Result<Next, Error> {
        let Some(pod) = self.pods.get(&key.reference()).filter(|pod| waits(pod)) else {
            return Ok(Next::Wait);
        };
        if self.is_assumed(&pod) {
            return Ok(Next::Wait);
        }
        let nodes = self.nodes.state();
        let candidates = self.candidates(&nodes);
        match choose(&pod, &candidates) {
            Ok(node) => {
                self.bind(&pod, &node.name_any()).await?;
                Ok(Next::Wait)
            }
            Err(reason) => {
                self.report(&pod, &reason).await?;
                Ok(Next::After(UNSCHEDULABLE))
            }
        }
    }
}

impl Controller {
    fn is_assumed(&self, pod: &Pod) -> bool {
        let assumed = self.assumed.lock().expect("no holder of this lock panics");
        assumed.contains_key(&pod.uid().unwrap_or_default())
    }

    fn assume(&self, pod: &Pod, node: &str) {
        let mut assumed = self.assumed.lock().expect("no holder of this lock panics");
        assumed.insert(pod.uid().unwrap_or_default(), node.to_owned());
    }

    fn candidates<'n>(&self, nodes: &'n [Arc<Node>]) -> Vec<Candidate<'n>> {
        let mut assumed = self.assumed.lock().expect("no holder of this lock panics");
        let mut load: HashMap<String, (usize, Amounts)> = HashMap::new();
        let all = self.pods.state();
        let waiting: Vec<String> = all.iter().filter(|pod| waits(pod)).filter_map(|pod| pod.uid()).collect();
        assumed.retain(|uid, _| waiting.contains(uid));
        for pod in all.iter().filter(|pod| !pods::is_finished(pod)) {
            let guess = pod.uid().and_then(|uid| assumed.get(&uid).cloned());
            if let Some(node) = pods::node(pod).map(str::to_owned).or(guess) {
                let entry = load.entry(node).or_default();
                entry.0 += 1;
                entry.1 = entry.1.plus(&Amounts::requested(pod));
            }
        }
        nodes
            .iter()
            .filter(|node| node.metadata.deletion_timestamp.is_none())
            .map(|node| {
                let (pods, used) = load.remove(&node.name_any()).unwrap_or_default();
                Candidate { node, pods, used }
            })
            .collect()
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Result<(), Error> {
        let namespace = pod.namespace().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.name_any()),
                namespace: pod.namespace(),
                uid: pod.uid(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let _: serde_json::Value =
            api.create_subresource("binding", &pod.name_any(), &PostParams::default(), &binding).await?;
        self.assume(pod, node);
        let note = format!("Successfully assigned {namespace}/{} to {node}", pod.name_any());
        self.events.normal(&pod.object_ref(&()), "Scheduled", "Binding", note).await;
        Ok(())
    }

    /// Says in the pod's conditions and in an Event why it has no node, once for each reason.
    async fn report(&self, pod: &Pod, reason: &str) -> Result<(), Error> {
        let known = pods::condition(pod, "PodScheduled").is_some_and(|condition| {
            condition.status == "False" && condition.message.as_deref() == Some(reason)
        });
        if known {
            return Ok(());
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let now = Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default());
        let mut conditions =
            pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        conditions.retain(|condition| condition.type_ != "PodScheduled");
        let mut conditions =
            serde_json::to_value(conditions).map_err(|error| Error::Object(error.to_string()))?;
        if let Some(list) = conditions.as_array_mut() {
            list.push(json!({
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": reason,
                "lastTransitionTime": now,
            }));
        }
        let patch = Patch::Merge(json!({
            "metadata": { "uid": pod.uid() },
            "status": { "phase": "Pending", "conditions": conditions },
        }));
        api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await?;
        self.events.warning(&pod.object_ref(&()), "FailedScheduling", "Scheduling", reason.to_owned()).await;
        Ok(())
    }
}
