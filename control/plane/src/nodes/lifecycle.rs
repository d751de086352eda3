//! Nodes that fall silent, and their pods.
//!
//! Who is silent says [`Heard`]. What is judged of a Node is written only while it is as it was judged: one that
//! comes back meanwhile has changed its Node or its Lease, and is judged again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::health::{self, Health};
use super::heard::{Heard, Sign};
use crate::controller::{Error, Next, Reconcile, unless_overtaken};
use crate::events::Events;
use crate::pods;
use crate::queue::Queue;
use crate::watch::{Hook, Key};

/// Silence after which a Node is unreachable (`--node-monitor-grace-period` of the real controller).
const GRACE: Duration = Duration::from_secs(40);
/// How often a Node is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Namespace of the Nodes' Leases.
pub(crate) const LEASES: &str = "kube-node-lease";

/// Watches over the Nodes.
pub(crate) struct Controller {
    pub(crate) client: Client,
    pub(crate) nodes: Store<Node>,
    pub(crate) pods: Store<Pod>,
    pub(crate) leases: Store<Lease>,
    pub(crate) events: Events,
    pub(crate) heard: Mutex<Heard>,
    /// By silent Node, the pods that were marked since it fell silent.
    pub(crate) marked: Mutex<HashMap<String, HashSet<String>>>,
}

pub(crate) fn on_node(queue: Arc<Queue<Key>>) -> Hook<Node> {
    Box::new(move |node| queue.add(Key::of(node)))
}

/// A pod bound to a node that is gone has nobody who would end it; whether it is gone, the key's turn shows.
pub(crate) fn on_pod(queue: Arc<Queue<Key>>) -> Hook<Pod> {
    Box::new(move |pod| {
        if let Some(node) = pods::node(pod) {
            queue.add(Key::new("", node));
        }
    })
}

impl Reconcile for Controller {
    type Key = Key;
    const NAME: &'static str = "node-lifecycle";

    async fn reconcile(&self, key: Key) -> Result<Next, Error> {
        let Some(node) = self.nodes.get(&key.reference()) else { return self.orphans(&key.name).await };
        let mut node = Node::clone(&node);
        if self.is_silent(&node).await? && health::of(&node) != Health::Unreachable {
            node = self.mark_unknown(&node).await?;
        }
        let health = health::of(&node);
        let now = Timestamp::now();
        let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
        if let Some(taints) = health::taints(&node, health, whole) {
            let patch = Patch::Merge(json!({
                "metadata": { "resourceVersion": node.resource_version() },
                "spec": { "taints": taints },
            }));
            let api: Api<Node> = Api::all(self.client.clone());
            node = api.patch(&key.name, &PatchParams::default(), &patch).await?;
        }
        if health == Health::Unreachable {
            self.mark_pods(&key.name).await?;
            // Who was away itself gives the Nodes time to be heard of, however old their taints are.
            let looking = self.heard.lock().expect("no holder of this lock panics").looking(Instant::now());
            if looking <= GRACE {
                return Ok(Next::After(LOOK));
            }
        } else {
            self.marked().remove(&key.name);
        }
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        self.evict(&key.name, &taints, now).await?;
        Ok(Next::After(LOOK))
    }
}

impl Controller {
    /// Whether nothing was heard of the Node for long. The copy of the Leases is asked first; before a Node is
    /// given up, the API, which may know of a renewal that the copy does not show yet.
    async fn is_silent(&self, node: &Node) -> Result<bool, Error> {
        let name = node.name_any();
        let known = self.leases.get(&ObjectRef::new(&name).within(LEASES));
        let silent = |lease: Option<String>| {
            let mut heard = self.heard.lock().expect("no holder of this lock panics");
            heard.silence(&name, Sign::of(node, lease), Instant::now()) > GRACE
        };
        if !silent(known.and_then(|lease| lease.resource_version())) {
            return Ok(false);
        }
        if health::of(node) == Health::Unreachable {
            return Ok(true);
        }
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), LEASES);
        let lease = leases.get_opt(&name).await?;
        Ok(silent(lease.and_then(|lease| lease.resource_version())))
    }

    /// Takes back what the Node said of itself, unless it has changed; returns it as it is then.
    async fn mark_unknown(&self, node: &Node) -> Result<Node, Error> {
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let present = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let mut conditions: Vec<Value> = Vec::new();
        for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
            let before = present.iter().find(|condition| condition.type_ == kind);
            let reason = if before.is_some() { "NodeStatusUnknown" } else { "NodeStatusNeverUpdated" };
            let message = if before.is_some() {
                "Kubelet stopped posting node status."
            } else {
                "Kubelet never posted node status."
            };
            conditions.push(json!({
                "type": kind, "status": "Unknown", "reason": reason, "message": message,
                "lastTransitionTime": now.to_string(),
                "lastHeartbeatTime": before.and_then(|before| before.last_heartbeat_time.clone()),
            }));
        }
        let known = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
        let others = present.iter().filter(|condition| !known.contains(&condition.type_.as_str()));
        conditions.extend(others.filter_map(|condition| serde_json::to_value(condition).ok()));
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({
            "metadata": { "uid": node.uid(), "resourceVersion": node.resource_version() },
            "status": { "conditions": conditions },
        }));
        let marked = api.patch_status(&node.name_any(), &PatchParams::default(), &patch).await?;
        let note = format!("Node {} status is now: NodeNotReady", node.name_any());
        self.events.normal(&node.object_ref(&()), "NodeNotReady", "NodeNotReady", note).await;
        Ok(marked)
    }

    /// Pods of a node that is cut off are not ready as far as anyone here knows. The node itself sets
    /// that right when it comes back, so each is marked once in a silence: one that is ready again was told of by
    /// a node that is about to say that it is back.
    async fn mark_pods(&self, node: &str) -> Result<(), Error> {
        for pod in self.pods_of(node).iter().filter(|pod| pods::is_ready(pod)) {
            let uid = pod.uid().unwrap_or_default();
            if self.marked().get(node).is_some_and(|marked| marked.contains(&uid)) {
                continue;
            }
            let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
            let status = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            let mut conditions =
                serde_json::to_value(status).map_err(|error| Error::Object(error.to_string()))?;
            for condition in conditions.as_array_mut().into_iter().flatten() {
                if condition["type"] == "Ready" {
                    condition["status"] = json!("False");
                    condition["lastTransitionTime"] = json!(now.to_string());
                }
            }
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
            let patch = Patch::Merge(json!({
                "metadata": { "uid": pod.uid(), "resourceVersion": pod.resource_version() },
                "status": { "conditions": conditions },
            }));
            let written = api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await;
            if unless_overtaken(written)?.is_some() {
                self.marked().entry(node.to_owned()).or_default().insert(uid);
            }
        }
        Ok(())
    }

    fn marked(&self) -> MutexGuard<'_, HashMap<String, HashSet<String>>> {
        self.marked.lock().expect("no holder of this lock panics")
    }

    async fn evict(
        &self,
        node: &str,
        taints: &[k8s_openapi::api::core::v1::Taint],
        now: Timestamp,
    ) -> Result<(), Error> {
        if taints.is_empty() {
            return Ok(());
        }
        for pod in self.pods_of(node).iter().filter(|pod| pods::is_active(pod)) {
            if health::leaves_in(pod, taints, now).is_some_and(|left| left <= 0) {
                let note = format!(
                    "Marking for deletion Pod {}/{}",
                    pod.namespace().unwrap_or_default(),
                    pod.name_any()
                );
                self.events.normal(&pod.object_ref(&()), "TaintManagerEviction", "Eviction", note).await;
                self.delete(pod, None).await?;
            }
        }
        Ok(())
    }

    /// Ends the pods of a Node that was deleted: nobody else will.
    async fn orphans(&self, node: &str) -> Result<Next, Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        if api.get_opt(node).await?.is_some() {
            return Ok(Next::After(LOOK));
        }
        self.heard.lock().expect("no holder of this lock panics").forget(node);
        self.marked().remove(node);
        for pod in self.pods_of(node) {
            self.delete(&pod, Some(0)).await?;
        }
        Ok(Next::Wait)
    }

    async fn delete(&self, pod: &Pod, grace: Option<u32>) -> Result<(), Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let parameters = DeleteParams {
            grace_period_seconds: grace,
            preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        unless_overtaken(api.delete(&pod.name_any(), &parameters).await)?;
        Ok(())
    }

    fn pods_of(&self, node: &str) -> Vec<Arc<Pod>> {
        self.pods.state_filter(|pod: &Pod| pods::node(pod) == Some(node))
    }
}
