//! What a node may write: its own Node, Lease and pods, as Kubernetes' NodeRestriction has it. Pure.
//!
//! The node is the one of the verified credential; what a message claims is only compared with it.

use edgeloom_api::hub::Write;
use edgeloom_api::kind::{EVENT, LEASE, NODE, POD};
use serde_json::{Value, json};

use super::selection::PodFacts;

/// Namespace of the nodes' Leases.
const LEASES: &str = "kube-node-lease";
/// Namespace of events about objects that have none.
const DEFAULT: &str = "default";
/// Annotations that a node may set on its Node.
const ANNOTATION_PREFIX: &str = "edgeloom.io/";
/// What the control says of a Node itself: how to reach its kubelet, which is through the control.
const CONTROLS_OWN_STATUS: [&str; 2] = ["addresses", "daemonEndpoints"];

/// What is to be done for a write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Call the API.
    Call(Call),
    /// Nothing: what it is about is gone.
    Done,
    /// Never: the reason is told to the node.
    Refuse(String),
}

/// A call of the API; each may be made twice without harm.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Call {
    /// Merge patch; an object that is gone or another one by now is left alone.
    Patch { path: String, body: Value },
    /// Deletion of the object with this UID, at once.
    Delete { path: String, uid: String },
    /// Merge patch, or creation where there is none: `create` is the whole object.
    Upsert { collection: String, name: String, patch: Value, create: Value },
    /// Creation, or merge patch where it was created before.
    Create { collection: String, name: String, object: Value },
}

/// Judges `write` of `node`. `pod` looks a pod up, whoever it belongs to; `node_uid` is its Node's now: the one
/// that the node knows of may have been deleted and made anew.
pub(super) fn judge(
    node: &str,
    node_uid: &str,
    write: Write,
    pod: impl Fn(&str, &str) -> Option<PodFacts>,
) -> Verdict {
    match write {
        Write::Status { kind, name, status, .. } if kind == NODE.kind => {
            node_status(node, node_uid, &name, status)
        }
        Write::Status { kind, namespace, name, uid, status } if kind == POD.kind => {
            not_own(node, pod(&namespace, &name), &uid).unwrap_or_else(|| {
                let path = format!("{}/status", POD.path(&namespace, Some(&name)));
                Verdict::Call(Call::Patch { path, body: json!({"metadata": {"uid": uid}, "status": status}) })
            })
        }
        Write::Status { kind, .. } => {
            Verdict::Refuse(format!("a node does not write the status of a {kind}"))
        }
        Write::Lease { name, body } => lease(node, node_uid, &name, body),
        Write::Event { event } => event_of(node, event, pod),
        Write::DeletePod { namespace, name, uid } => not_own(node, pod(&namespace, &name), &uid)
            .unwrap_or_else(|| Verdict::Call(Call::Delete { path: POD.path(&namespace, Some(&name)), uid })),
        Write::NodeAnnotations { annotations } => {
            if let Some(key) = annotations.keys().find(|key| !key.starts_with(ANNOTATION_PREFIX)) {
                return Verdict::Refuse(format!(
                    "a node sets annotations under {ANNOTATION_PREFIX} only, not {key}"
                ));
            }
            let body = json!({"metadata": {"annotations": annotations}});
            Verdict::Call(Call::Patch { path: NODE.path("", Some(node)), body })
        }
        Write::Unknown => {
            Verdict::Refuse("this control does not know that kind of write: upgrade it".to_owned())
        }
    }
}

fn node_status(node: &str, node_uid: &str, name: &str, mut status: Value) -> Verdict {
    if name != node {
        return Verdict::Refuse(format!("node {node} does not write the status of node {name}"));
    }
    if let Some(fields) = status.as_object_mut() {
        fields.retain(|field, _| !CONTROLS_OWN_STATUS.contains(&field.as_str()));
    }
    let metadata = json!({"uid": node_uid});
    let path = format!("{}/status", NODE.path("", Some(node)));
    Verdict::Call(Call::Patch { path, body: json!({"metadata": metadata, "status": status}) })
}

/// The verdict on a pod that is not the node's, or not the one that is meant.
fn not_own(node: &str, pod: Option<PodFacts>, uid: &str) -> Option<Verdict> {
    match pod {
        // It was deleted, perhaps made anew since.
        None => Some(Verdict::Done),
        Some(pod) if pod.node != node => Some(Verdict::Refuse("the pod is not on this node".to_owned())),
        Some(pod) if pod.uid != uid => Some(Verdict::Done),
        Some(_) => None,
    }
}

fn lease(node: &str, node_uid: &str, name: &str, spec: Value) -> Verdict {
    if name != node {
        return Verdict::Refuse(format!("node {node} does not renew the lease of node {name}"));
    }
    let owner = json!([{"apiVersion": NODE.api_version(), "kind": NODE.kind, "name": node, "uid": node_uid}]);
    let create = json!({
        "apiVersion": LEASE.api_version(), "kind": LEASE.kind,
        "metadata": {"name": node, "namespace": LEASES, "ownerReferences": owner}, "spec": spec,
    });
    let patch = json!({"spec": spec});
    Verdict::Call(Call::Upsert { collection: LEASE.path(LEASES, None), name: node.to_owned(), patch, create })
}

/// An event tells of the node itself or of a pod; it says of itself where it comes from, and we say it too.
fn event_of(node: &str, mut event: Value, pod: impl Fn(&str, &str) -> Option<PodFacts>) -> Verdict {
    let refuse = |reason: &str| Verdict::Refuse(reason.to_owned());
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let (about, about_name) = (text("/involvedObject/kind"), text("/involvedObject/name"));
    let about_namespace = text("/involvedObject/namespace");
    if name.is_empty() || namespace.is_empty() {
        return refuse("the event has no name or namespace");
    }
    if about == NODE.kind && about_name != node {
        return refuse("the event is about another node");
    }
    if about == NODE.kind && namespace != DEFAULT {
        return refuse("an event about a node belongs to the namespace default");
    }
    if about != NODE.kind && about != POD.kind {
        return refuse("a node tells of itself and of its pods only");
    }
    if about == POD.kind && namespace != about_namespace {
        return refuse("the event is in another namespace than its pod");
    }
    if about == POD.kind {
        match pod(&namespace, &about_name) {
            Some(pod) if pod.node != node => {
                return refuse("the event is about a pod that is not on this node");
            }
            // A pod that is gone was perhaps its own; there is nothing left to tell of another's.
            _ => {}
        }
    }
    let Some(fields) = event.as_object_mut() else { return refuse("the event is no object") };
    fields.insert("reportingInstance".to_owned(), node.into());
    let source = fields.entry("source").or_insert_with(|| json!({}));
    if let Some(source) = source.as_object_mut() {
        source.insert("host".to_owned(), node.into());
    }
    Verdict::Call(Call::Create { collection: EVENT.path(&namespace, None), name, object: event })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn pods(namespace: &str, name: &str) -> Option<PodFacts> {
        let node = match (namespace, name) {
            ("shop", "mine") => "edge-1",
            ("shop", "theirs") => "edge-2",
            _ => return None,
        };
        Some(PodFacts { node: node.into(), uid: "u".into(), ..PodFacts::default() })
    }

    fn judged(write: Write) -> Verdict {
        judge("edge-1", "nu", write, pods)
    }

    fn status(kind: &str, name: &str, uid: &str) -> Write {
        let namespace = if kind == "Pod" { "shop".into() } else { String::new() };
        let status = json!({"phase": "Running", "addresses": [], "daemonEndpoints": {}});
        Write::Status { kind: kind.into(), namespace, name: name.into(), uid: uid.into(), status }
    }

    fn refused(write: Write) -> bool {
        matches!(judged(write), Verdict::Refuse(_))
    }

    #[test]
    fn a_node_writes_what_is_its_own() {
        let Verdict::Call(Call::Patch { path, body }) = judged(status("Pod", "mine", "u")) else { panic!() };
        assert_eq!(path, "/api/v1/namespaces/shop/pods/mine/status");
        assert_eq!((&body["metadata"]["uid"], &body["status"]["phase"]), (&json!("u"), &json!("Running")));
        let Verdict::Call(Call::Patch { path, body }) = judged(status("Node", "edge-1", "older")) else {
            panic!()
        };
        assert_eq!(path, "/api/v1/nodes/edge-1/status");
        assert_eq!(body, json!({"metadata": {"uid": "nu"}, "status": {"phase": "Running"}}));
        let end = |name: &str, uid: &str| Write::DeletePod {
            namespace: "shop".into(),
            name: name.into(),
            uid: uid.into(),
        };
        assert!(matches!(judged(end("mine", "u")), Verdict::Call(Call::Delete { uid, .. }) if uid == "u"));
        assert!(matches!(
            judged(Write::Lease { name: "edge-1".into(), body: json!({}) }),
            Verdict::Call(Call::Upsert { .. })
        ));
        let own = BTreeMap::from([("edgeloom.io/site-address".to_owned(), Some("192.168.10.5".to_owned()))]);
        assert!(matches!(
            judged(Write::NodeAnnotations { annotations: own }),
            Verdict::Call(Call::Patch { .. })
        ));
    }

    #[test]
    fn what_is_gone_is_done() {
        assert_eq!(judged(status("Pod", "gone", "u")), Verdict::Done);
        assert_eq!(judged(status("Pod", "mine", "older")), Verdict::Done);
        let end = Write::DeletePod { namespace: "shop".into(), name: "gone".into(), uid: "u".into() };
        assert_eq!(judged(end), Verdict::Done);
    }

    #[test]
    fn what_is_anothers_is_refused() {
        assert!(refused(status("Pod", "theirs", "u")));
        assert!(refused(status("Node", "edge-2", "u")));
        assert!(refused(status("Secret", "x", "u")));
        assert!(refused(Write::DeletePod {
            namespace: "shop".into(),
            name: "theirs".into(),
            uid: "u".into()
        }));
        assert!(refused(Write::Lease { name: "edge-2".into(), body: json!({}) }));
        let foreign = BTreeMap::from([("kubernetes.io/x".to_owned(), None)]);
        assert!(refused(Write::NodeAnnotations { annotations: foreign }));
        assert!(refused(Write::Unknown));
    }

    #[test]
    fn events_say_where_they_come_from() {
        let event = |namespace: &str, about: Value| {
            let metadata = json!({"name": "e", "namespace": namespace});
            Write::Event {
                event: json!({"metadata": metadata, "involvedObject": about, "source": {"host": "edge-2"}}),
            }
        };
        let pod = json!({"kind": "Pod", "namespace": "shop", "name": "mine"});
        let Verdict::Call(Call::Create { object, .. }) = judged(event("shop", pod.clone())) else { panic!() };
        assert_eq!(
            (&object["source"]["host"], &object["reportingInstance"]),
            (&json!("edge-1"), &json!("edge-1"))
        );
        assert!(!refused(event("default", json!({"kind": "Node", "name": "edge-1"}))));
        assert!(refused(event("kube-system", pod)));
        assert!(refused(event("shop", json!({"kind": "Pod", "namespace": "shop", "name": "theirs"}))));
        assert!(!refused(event("shop", json!({"kind": "Pod", "namespace": "shop", "name": "gone"}))));
        assert!(refused(event("default", json!({"kind": "Node", "name": "edge-2"}))));
        assert!(refused(event("shop", json!({"kind": "Secret", "name": "x", "namespace": "shop"}))));
        assert!(refused(Write::Event { event: json!([]) }));
    }
}
