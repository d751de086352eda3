//! What a Node's silence means: conditions, taints, and when its pods have to go. Pure.

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::scheduler::tolerates;

/// Taint of a node that says that it is not ready.
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of a node that says nothing.
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Pods with this label are never evicted from a node that is cut off (KubeEdge's own label).
const AUTONOMY: (&str, &str) = ("app-offline.kubeedge.io", "autonomy");

/// A node's `Ready` condition, as far as taints go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Ready,
    NotReady,
    Unreachable,
}

/// What the Node says of itself.
pub(crate) fn of(node: &Node) -> Health {
    let ready = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .find(|condition| condition.type_ == "Ready");
    match ready.map(|ready| ready.status.as_str()) {
        Some("True") => Health::Ready,
        Some("Unknown") => Health::Unreachable,
        _ => Health::NotReady,
    }
}

/// The taints that the node should have, others kept; nothing if it has them already.
pub(crate) fn taints(node: &Node, health: Health, now: Timestamp) -> Option<Vec<Taint>> {
    let present = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let key = match health {
        Health::Ready => None,
        Health::NotReady => Some(NOT_READY),
        Health::Unreachable => Some(UNREACHABLE),
    };
    let ours = |taint: &Taint| taint.key == NOT_READY || taint.key == UNREACHABLE;
    let mut wanted: Vec<Taint> =
        present.iter().filter(|taint| !ours(taint) || Some(taint.key.as_str()) == key).cloned().collect();
    for effect in ["NoSchedule", "NoExecute"] {
        if let Some(key) = key
            && !wanted.iter().any(|taint| taint.key == key && taint.effect == effect)
        {
            wanted.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: (effect == "NoExecute").then_some(Time(now)),
            });
        }
    }
    (wanted != present).then_some(wanted)
}

/// In how many seconds `pod` has to leave a node with these taints: 0 or less is now, none is never.
pub(crate) fn leaves_in(pod: &Pod, taints: &[Taint], now: Timestamp) -> Option<i64> {
    if pod.labels().get(AUTONOMY.0).is_some_and(|value| value == AUTONOMY.1) {
        return None;
    }
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let limits = taints.iter().filter(|taint| taint.effect == "NoExecute").filter_map(|taint| {
        let matching: Vec<_> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if matching.is_empty() {
            return Some(0);
        }
        let seconds = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min()?;
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        Some(seconds - (now.as_second() - since.as_second()))
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(ready: &str, taints: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": "edge-a" }, "spec": { "taints": taints },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        }))
        .unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn taints_follow_the_condition_and_leave_others_alone() {
        let own = json!([{ "key": "site", "value": "x", "effect": "NoSchedule" }]);
        let silent = node("Unknown", own.clone());
        let wanted = taints(&silent, of(&silent), now()).unwrap();
        let keys: Vec<_> = wanted.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect();
        assert_eq!(keys, [("site", "NoSchedule"), (UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]);
        let tainted = node("Unknown", serde_json::to_value(&wanted).unwrap());
        assert_eq!(taints(&tainted, of(&tainted), now()), None, "no change, no write");
        let back = node("True", serde_json::to_value(&wanted).unwrap());
        let left = taints(&back, of(&back), now()).unwrap();
        assert_eq!(serde_json::to_value(left).unwrap(), own);
    }

    #[test]
    fn a_pod_leaves_after_its_toleration() {
        let taint: Taint = serde_json::from_value(json!({
            "key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "2025-12-31T23:59:00Z",
        }))
        .unwrap();
        let pod = |labels: Value, tolerations: Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": { "name": "p", "labels": labels },
                "spec": { "containers": [], "tolerations": tolerations },
            }))
            .unwrap()
        };
        let for_five = json!([{ "key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 }]);
        let for_ever = json!([{ "operator": "Exists" }]);
        for (labels, tolerations, expected) in [
            (json!({}), json!([]), Some(0)),
            (json!({}), for_five.clone(), Some(240)),
            (json!({}), for_ever, None),
            (json!({ AUTONOMY.0: AUTONOMY.1 }), for_five, None),
        ] {
            assert_eq!(leaves_in(&pod(labels, tolerations), std::slice::from_ref(&taint), now()), expected);
        }
    }
}
