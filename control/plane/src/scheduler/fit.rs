//! Which nodes a pod may run on, and which it gets. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};
use kube::ResourceExt;

use super::resources::Amounts;

/// A node with what its pods already take.
pub(crate) struct Candidate<'n> {
    pub(crate) node: &'n Node,
    /// Pods bound to it that are not finished.
    pub(crate) pods: usize,
    /// What they ask for.
    pub(crate) used: Amounts,
}

/// The node with the fewest pods among those that fit, or why none does, in the scheduler's words.
pub(crate) fn choose<'n>(pod: &Pod, candidates: &[Candidate<'n>]) -> Result<&'n Node, String> {
    let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<&Candidate<'n>> = None;
    for candidate in candidates {
        match fits(pod, candidate) {
            Ok(()) => {
                let rank = |candidate: &Candidate<'_>| (candidate.pods, candidate.node.name_any());
                if best.is_none_or(|best| rank(candidate) < rank(best)) {
                    best = Some(candidate);
                }
            }
            Err(reason) => *refusals.entry(reason).or_default() += 1,
        }
    }
    best.map(|best| best.node).ok_or_else(|| explain(candidates.len(), &refusals))
}

fn explain(nodes: usize, refusals: &BTreeMap<String, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let reasons: Vec<String> = refusals.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
}

fn fits(pod: &Pod, candidate: &Candidate<'_>) -> Result<(), String> {
    let node = candidate.node;
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
        return Err("node(s) were unschedulable".to_owned());
    }
    if !selected(pod, node) {
        return Err("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    if let Some(taint) = untolerated(pod, node) {
        let value = taint.value.as_deref().unwrap_or_default();
        return Err(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key));
    }
    let allocatable = Amounts::allocatable(node);
    if candidate.pods >= allocatable.pods {
        return Err("Too many pods".to_owned());
    }
    candidate
        .used
        .plus(&Amounts::requested(pod))
        .within(&allocatable)
        .map_err(|what| format!("Insufficient {what}"))
}

fn selected(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = pod.spec.as_ref() else { return true };
    let labels = node.labels();
    let simple = spec.node_selector.iter().flatten().all(|(label, value)| labels.get(label) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    simple
        && required
            .is_none_or(|required| required.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels =
        term.match_expressions.iter().flatten().map(|wanted| (wanted, node.labels().get(&wanted.key)));
    let name = node.name_any();
    let fields = term.match_fields.iter().flatten().map(|wanted| (wanted, Some(&name)));
    let mut all = labels.chain(fields).peekable();
    // An empty term selects nothing.
    all.peek().is_some() && all.all(|(wanted, value)| requirement(wanted, value))
}

fn requirement(wanted: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    match wanted.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(number(values.first())).is_some_and(|(is, least)| is > least),
        "Lt" => number(value).zip(number(values.first())).is_some_and(|(is, most)| is < most),
        _ => false,
    }
}

fn untolerated<'n>(pod: &Pod, node: &'n Node) -> Option<&'n Taint> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    taints.iter().find(|taint| {
        let hard = taint.effect == "NoSchedule" || taint.effect == "NoExecute";
        hard && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    })
}

/// Whether a toleration covers a taint (Kubernetes API, `Toleration`).
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let effect = given(&toleration.effect).is_none_or(|effect| effect == taint.effect);
    let key = given(&toleration.key);
    let named = key.as_ref().is_none_or(|key| *key == taint.key);
    let value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => {
            key.is_some()
                && toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
        }
    };
    effect && named && value
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, labels: Value, spec: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": name, "labels": labels }, "spec": spec,
            "status": { "allocatable": { "cpu": "2", "memory": "1Gi", "pods": "3" } },
        }))
        .unwrap()
    }

    fn pod(spec: Value) -> Pod {
        let mut whole = json!({ "containers": [] });
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(json!({ "metadata": { "name": "p" }, "spec": whole })).unwrap()
    }

    fn chosen(pod: &Pod, nodes: &[(Node, usize)]) -> Result<String, String> {
        let candidates: Vec<_> = nodes
            .iter()
            .map(|(node, pods)| Candidate { node, pods: *pods, used: Amounts::default() })
            .collect();
        choose(pod, &candidates).map(ResourceExt::name_any)
    }

    #[test]
    fn the_node_with_the_fewest_pods() {
        let nodes = [(node("a", json!({}), json!({})), 2), (node("b", json!({}), json!({})), 1)];
        assert_eq!(chosen(&pod(json!({})), &nodes).unwrap(), "b");
    }

    #[test]
    fn a_refusal_counts_the_reasons() {
        let nodes = [
            (node("a", json!({ "zone": "x" }), json!({})), 3),
            (node("b", json!({}), json!({ "unschedulable": true })), 0),
            (node("c", json!({}), json!({})), 0),
            (
                node(
                    "d",
                    json!({ "zone": "x" }),
                    json!({ "taints": [{ "key": "k", "value": "v", "effect": "NoSchedule" }] }),
                ),
                0,
            ),
        ];
        let refusal = chosen(&pod(json!({ "nodeSelector": { "zone": "x" } })), &nodes).unwrap_err();
        assert_eq!(
            refusal,
            "0/4 nodes are available: 1 Too many pods, 1 node(s) didn't match Pod's node affinity/selector, \
             1 node(s) had untolerated taint {k: v}, 1 node(s) were unschedulable."
        );
        assert_eq!(chosen(&pod(json!({})), &[]).unwrap_err(), "no nodes available to schedule pods");
    }

    #[test]
    fn required_affinity() {
        let nodes = [
            (node("a", json!({ "cores": "4" }), json!({})), 0),
            (node("b", json!({ "cores": "16" }), json!({})), 0),
        ];
        let with = |term: Value| {
            pod(json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [term] } } } }))
        };
        let expression = |operator: &str, values: Value| {
            with(json!({ "matchExpressions": [{ "key": "cores", "operator": operator, "values": values }] }))
        };
        assert_eq!(chosen(&expression("Gt", json!(["8"])), &nodes).unwrap(), "b");
        assert_eq!(chosen(&expression("NotIn", json!(["16"])), &nodes).unwrap(), "a");
        assert!(chosen(&expression("DoesNotExist", json!([])), &nodes).is_err());
        let field = json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["b"] }] });
        assert_eq!(chosen(&with(field), &nodes).unwrap(), "b");
        assert!(chosen(&with(json!({})), &nodes).is_err(), "an empty term selects nothing");
    }

    #[test]
    fn requests_are_held_to_what_is_left() {
        let big =
            pod(json!({ "containers": [{ "name": "c", "resources": { "requests": { "memory": "2Gi" } } }] }));
        let refusal = chosen(&big, &[(node("a", json!({}), json!({})), 0)]).unwrap_err();
        assert_eq!(refusal, "0/1 nodes are available: 1 Insufficient memory.");
    }

    #[test]
    fn tolerations() {
        let taint: Taint =
            serde_json::from_value(json!({ "key": "k", "value": "v", "effect": "NoExecute" })).unwrap();
        for (toleration, expected) in [
            (json!({ "operator": "Exists" }), true),
            (json!({ "key": "k", "operator": "Exists" }), true),
            (json!({ "key": "k", "value": "v" }), true),
            (json!({ "key": "k", "value": "v", "effect": "NoSchedule" }), false),
            (json!({ "key": "k", "value": "w" }), false),
            (json!({ "key": "other", "operator": "Exists" }), false),
        ] {
            let toleration: Toleration = serde_json::from_value(toleration).unwrap();
            assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
        }
    }
}
