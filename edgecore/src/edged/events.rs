//! Events: what happened, once with a count where it happens again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::cluster::{Cluster, Report};
use super::pod::Pod;
use super::status::rfc3339;

/// Events remembered for counting. Beyond it the oldest start anew.
const MAX_KNOWN: usize = 1024;
const COMPONENT: &str = "edgecore";

/// How an event reads to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Worth a look.
    Warning,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    kind: &'static str,
    namespace: String,
    name: String,
    uid: String,
    field: String,
}

impl Subject {
    /// A pod.
    pub fn pod(pod: &Pod) -> Self {
        let id = pod.id.clone();
        Self { kind: "Pod", namespace: id.namespace, name: id.name, uid: id.uid, field: String::new() }
    }

    /// A container of a pod.
    pub fn container(pod: &Pod, name: &str) -> Self {
        let init = pod.spec.init_containers.iter().flatten().any(|container| container.name == name);
        let list = if init { "initContainers" } else { "containers" };
        Self { field: format!("spec.{list}{{{name}}}"), ..Self::pod(pod) }
    }

    /// The node.
    pub fn node(name: &str) -> Self {
        let name = name.to_owned();
        Self { kind: "Node", namespace: String::new(), uid: name.clone(), name, field: String::new() }
    }
}

#[derive(Debug)]
struct Known {
    name: String,
    first: String,
    count: u64,
    /// Position in the order of use.
    used: u64,
}

/// A clock of uses, and what was told by subject, reason and message.
type Book = (u64, HashMap<(Subject, &'static str, String), Known>);

/// Sends events.
pub struct Recorder {
    cluster: Arc<dyn Cluster>,
    node: String,
    known: Mutex<Book>,
}

impl Recorder {
    /// A recorder of the node with this name.
    pub fn new(cluster: Arc<dyn Cluster>, node: &str) -> Self {
        Self { cluster, node: node.to_owned(), known: Mutex::default() }
    }

    /// Something as it should be.
    pub async fn normal(&self, subject: Subject, reason: &'static str, message: impl Into<String>) {
        self.record(subject, Severity::Normal, reason, message.into()).await;
    }

    /// Something worth a look.
    pub async fn warning(&self, subject: Subject, reason: &'static str, message: impl Into<String>) {
        self.record(subject, Severity::Warning, reason, message.into()).await;
    }

    async fn record(&self, subject: Subject, severity: Severity, reason: &'static str, message: String) {
        tracing::info!(object = %subject.name, reason, "{message}");
        let event = self.event(subject, severity, reason, message, OffsetDateTime::now_utc());
        if let Err(error) = self.cluster.report(Report::Event(event)).await {
            tracing::warn!(%error, reason, "event not recorded");
        }
    }

    fn event(
        &self,
        subject: Subject,
        severity: Severity,
        reason: &'static str,
        message: String,
        now: OffsetDateTime,
    ) -> Value {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (clock, known) = &mut *known;
        *clock += 1;
        let time = rfc3339(now);
        if known.len() >= MAX_KNOWN {
            let oldest = known.iter().min_by_key(|(_, k)| k.used).map(|(key, _)| key.clone());
            oldest.map(|key| known.remove(&key));
        }
        let entry = known.entry((subject.clone(), reason, message.clone())).or_insert_with(|| Known {
            name: format!("{}.{:x}", subject.name, now.unix_timestamp_nanos()),
            first: time.clone(),
            count: 0,
            used: 0,
        });
        entry.count += 1;
        entry.used = *clock;
        let namespace = if subject.namespace.is_empty() { "default" } else { &subject.namespace };
        let mut involved =
            json!({ "kind": subject.kind, "name": subject.name, "uid": subject.uid, "apiVersion": "v1" });
        if !subject.namespace.is_empty() {
            involved["namespace"] = json!(subject.namespace);
        }
        if !subject.field.is_empty() {
            involved["fieldPath"] = json!(subject.field);
        }
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "name": entry.name, "namespace": namespace },
            "involvedObject": involved,
            "reason": reason,
            "message": message,
            "source": { "component": COMPONENT, "host": self.node },
            "firstTimestamp": entry.first,
            "lastTimestamp": time,
            "count": entry.count,
            "type": match severity { Severity::Normal => "Normal", Severity::Warning => "Warning" },
            "reportingComponent": COMPONENT,
            "reportingInstance": self.node,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edged::pod::tests::pod;
    use crate::edged::testing::Memory;

    #[test]
    fn the_same_event_is_counted() {
        let recorder = Recorder::new(Arc::new(Memory::default()), "edge-a");
        let pod = pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}));
        let event = |subject, second| {
            let now = OffsetDateTime::from_unix_timestamp(second).unwrap();
            recorder.event(subject, Severity::Warning, "BackOff", "m".into(), now)
        };
        let first = event(Subject::container(&pod, "c"), 1);
        let again = event(Subject::container(&pod, "c"), 2);
        let other = event(Subject::container(&pod, "i"), 3);
        assert_eq!(first["metadata"]["name"], again["metadata"]["name"]);
        assert_eq!((&again["count"], &again["firstTimestamp"]), (&json!(2), &json!("1970-01-01T00:00:01Z")));
        assert_eq!(again["involvedObject"]["fieldPath"], "spec.containers{c}");
        assert_eq!(
            (&other["count"], &other["involvedObject"]["fieldPath"]),
            (&json!(1), &json!("spec.initContainers{i}"))
        );
    }

    #[test]
    fn memory_is_bounded() {
        let recorder = Recorder::new(Arc::new(Memory::default()), "edge-a");
        for n in 0..(MAX_KNOWN + 10) {
            let subject = Subject::node("edge-a");
            recorder.event(subject, Severity::Normal, "X", n.to_string(), OffsetDateTime::UNIX_EPOCH);
        }
        assert_eq!(recorder.known.lock().unwrap().1.len(), MAX_KNOWN);
    }
}
