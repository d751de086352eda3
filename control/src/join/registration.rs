//! The Node of a member, from what its host said. Pure.

use edgeloom_api::join::JoinRequest;
use edgeloom_api::names::{EDGE_NODE_LABEL, ZONE_LABEL};
use edgeloom_api::v1alpha1::{EdgeNodeSpec, Host};
use edgeloom_model::NodeName;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, NodeSpec};
use kube::ResourceExt as _;
use serde_json::{Value, json};

/// What the host of `request` says of itself.
pub(super) fn host(name: &NodeName, request: &JoinRequest) -> Host {
    let hostname = if request.hostname.is_empty() { name.to_string() } else { request.hostname.clone() };
    Host { hostname, os: request.os.clone(), arch: request.arch.clone() }
}

/// The part of the Node that the control owns.
pub(super) fn node(name: &str, zone: &str, host: &Host) -> Value {
    let mut labels = json!({ EDGE_NODE_LABEL: "", ZONE_LABEL: zone });
    for (label, value) in [
        ("kubernetes.io/hostname", host.hostname.as_str()),
        ("kubernetes.io/os", &host.os),
        ("kubernetes.io/arch", &host.arch),
    ] {
        if !value.is_empty() {
            labels[label] = value.into();
        }
    }
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels } })
}

/// The Node of a member whose Node is gone. It keeps its ranges where none of the `others` has got them, for its
/// pods have addresses of them.
pub(super) fn anew(name: &str, member: &EdgeNodeSpec, others: &[Node]) -> Node {
    let mut host = member.host.clone();
    // A member of a release that did not keep them.
    if host.hostname.is_empty() {
        host.hostname = name.to_owned();
    }
    if host.os.is_empty() {
        host.os = "linux".to_owned();
    }
    let object = node(name, &member.site, &host);
    let mut node: Node = serde_json::from_value(object).expect("name and labels make a Node");
    let own = nets(&member.pod_cidrs);
    let taken = others.iter().filter(|other| other.name_any() != name).any(|other| {
        let theirs = other.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
        nets(theirs).iter().any(|theirs| own.iter().any(|own| overlap(own, theirs)))
    });
    if !taken && !member.pod_cidrs.is_empty() {
        node.spec = Some(NodeSpec {
            pod_cidr: member.pod_cidrs.first().cloned(),
            pod_cidrs: Some(member.pod_cidrs.clone()),
            ..NodeSpec::default()
        });
    }
    node
}

fn nets(texts: &[String]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_ranges(name: &str, ranges: &[&str]) -> Node {
        let object = json!({ "metadata": { "name": name }, "spec": { "podCIDRs": ranges } });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_node_made_anew_is_the_one_it_was() {
        let member = EdgeNodeSpec {
            site: "berlin".into(),
            pod_cidrs: vec!["10.244.1.0/24".into(), "fd00:1::/64".into()],
            host: Host { hostname: "box".into(), os: "linux".into(), arch: "arm64".into() },
            ..EdgeNodeSpec::default()
        };
        let others = [with_ranges("edge-2", &["10.244.2.0/24"])];
        let node = anew("edge-1", &member, &others);
        let labels = node.labels();
        for (label, value) in [
            ("kubernetes.io/hostname", "box"),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", "arm64"),
            (ZONE_LABEL, "berlin"),
            (EDGE_NODE_LABEL, ""),
        ] {
            assert_eq!(labels.get(label).map(String::as_str), Some(value), "{label}");
        }
        let spec = node.spec.unwrap();
        assert_eq!((spec.pod_cidr.as_deref(), spec.pod_cidrs.unwrap().len()), (Some("10.244.1.0/24"), 2));
        let others = [with_ranges("edge-2", &["10.244.0.0/16"])];
        assert!(anew("edge-1", &member, &others).spec.is_none(), "its ranges are another's now");
    }

    #[test]
    fn a_member_of_an_older_release_has_the_labels_that_pods_choose_by() {
        let node = anew("edge-1", &EdgeNodeSpec { site: "s".into(), ..EdgeNodeSpec::default() }, &[]);
        assert_eq!(node.labels().get("kubernetes.io/hostname").map(String::as_str), Some("edge-1"));
        assert_eq!(node.labels().get("kubernetes.io/os").map(String::as_str), Some("linux"));
        assert!(!node.labels().contains_key("kubernetes.io/arch"));
    }
}
