//! The tables of the Kubernetes documentation (virtual IPs and service proxies; EndpointSlices) and of
//! the order of preference, seen from node `a1` of site `a`, which reaches `a2` by route but not `a3`.

use serde_json::{Value, json};

use super::*;

fn model(service: Value, endpoints: Vec<Value>) -> Model {
    let mut model = Model::default();
    for (node, site) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("b2", "b")] {
        model
            .put(&json!({
                "apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode", "metadata": {"name": node},
                "spec": {"peerId": node, "site": site, "roles": ["edge"]},
            }))
            .unwrap();
    }
    let mut spec =
        json!({"clusterIPs": ["10.96.0.9"], "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    spec.as_object_mut().unwrap().extend(service.as_object().unwrap().clone());
    let metadata = json!({"namespace": "shop", "name": "orders"});
    model.put(&json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})).unwrap();
    model
        .put(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "shop", "name": "orders-1", "labels": {"kubernetes.io/service-name": "orders"}},
            "ports": [{"name": "other", "port": 1}, {"name": "http", "port": 8080}], "endpoints": endpoints,
        }))
        .unwrap();
    model
}

/// An endpoint on a node, with `more` fields; its last octet comes from the node's name.
fn on(node: &str, more: Value) -> Value {
    let octets: Vec<u32> = node.bytes().map(u32::from).collect();
    let mut endpoint =
        json!({"addresses": [format!("10.244.{}.{}", octets[0], octets[1])], "nodeName": node});
    endpoint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    endpoint
}

fn ready(node: &str) -> Value {
    on(node, json!({}))
}

fn unready(node: &str) -> Value {
    on(node, json!({"conditions": {"ready": false}}))
}

fn leaving(node: &str) -> Value {
    on(node, json!({"conditions": {"ready": false, "serving": true, "terminating": true}}))
}

fn hinted(node: &str, zones: &[&str], nodes: &[&str]) -> Value {
    let names = |list: &[&str]| list.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
    on(node, json!({"hints": {"forZones": names(zones), "forNodes": names(nodes)}}))
}

/// The choice as text: `near a1 a2`, `far b1 b2` or `none`.
fn seen(model: &Model, entry: Entry) -> String {
    let (node, site) = (NodeName::new("a1").unwrap(), Site::new("a").unwrap());
    let routed = [(NodeName::new("a2").unwrap(), Family::V4)].into();
    let view = View { node: &node, site: &site, zone: "a", routed: &routed };
    let service = model.services().next().unwrap();
    match model.choose(service, &service.ports[0], Family::V4, entry, &view) {
        Choice::Near(backends) => {
            let name = |b: &Backend| b.endpoint.node.as_ref().map_or("?".to_owned(), NodeName::to_string);
            format!("near {}", backends.iter().map(name).collect::<Vec<_>>().join(" "))
        }
        Choice::Far(backends) => {
            format!("far {}", backends.iter().map(|b| b.node.to_string()).collect::<Vec<_>>().join(" "))
        }
        Choice::None => "none".to_owned(),
    }
}

fn internal(service: Value, endpoints: Vec<Value>) -> String {
    seen(&model(service, endpoints), Entry::Cluster)
}

#[test]
fn the_nearest_that_is_ready() {
    for (endpoints, want) in [
        (vec![], "none"),
        (vec![ready("a1"), ready("a2"), ready("b1")], "near a1"),
        (vec![ready("a2"), ready("a3"), ready("b1")], "near a2"),
        (vec![ready("b1"), ready("a3"), ready("b2")], "far a3 b1 b2"),
        (vec![ready("b1"), ready("b2")], "far b1 b2"),
        (vec![unready("a1"), ready("b1")], "far b1"),
        (vec![ready("stranger")], "none"),
        (vec![unready("a1"), unready("b1")], "none"),
    ] {
        assert_eq!(internal(json!({}), endpoints.clone()), want, "{endpoints:?}");
    }
}

#[test]
fn what_terminates_serves_when_nothing_else_is_ready() {
    assert_eq!(internal(json!({}), vec![leaving("a1"), ready("b1")]), "far b1");
    assert_eq!(internal(json!({}), vec![leaving("a1"), unready("b1")]), "near a1");
    let gone = on("a1", json!({"conditions": {"ready": false, "serving": false, "terminating": true}}));
    assert_eq!(internal(json!({}), vec![gone, leaving("b1")]), "far b1");
}

#[test]
fn not_ready_addresses_are_served_when_published() {
    assert_eq!(internal(json!({"publishNotReadyAddresses": true}), vec![unready("b1")]), "far b1");
}

#[test]
fn traffic_policies() {
    let local = json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"});
    for (endpoints, cluster, inside, outside) in [
        (vec![ready("a1"), ready("b1")], "near a1", "near a1", "near a1"),
        (vec![ready("a2"), ready("b1")], "none", "near a2", "none"),
        (vec![leaving("a1"), ready("b1")], "near a1", "far b1", "near a1"),
    ] {
        let model = model(local.clone(), endpoints);
        assert_eq!(seen(&model, Entry::Cluster), cluster);
        assert_eq!(seen(&model, Entry::ExternalFromInside), inside);
        assert_eq!(seen(&model, Entry::ExternalFromOutside), outside);
    }
}

#[test]
fn hints_count_only_when_every_ready_endpoint_has_them() {
    for (endpoints, want) in [
        // Hinted to this zone, though another site's.
        (vec![hinted("b1", &["a"], &[]), hinted("a1", &["b"], &[])], "far b1"),
        // One ready endpoint without a hint: none counts.
        (vec![hinted("b1", &["a"], &[]), ready("a1")], "near a1"),
        // An endpoint that is not ready need not have one.
        (vec![hinted("b1", &["a"], &[]), hinted("a1", &["b"], &[]), unready("a2")], "far b1"),
        // None for this zone: all are used.
        (vec![hinted("b1", &["b"], &[]), hinted("a1", &["c"], &[])], "near a1"),
        // Node hints stand before zone hints, and fall back to them.
        (vec![hinted("b1", &["a"], &["a1"]), hinted("a2", &["a"], &["a2"])], "far b1"),
        (vec![hinted("b1", &["b"], &["b1"]), hinted("b2", &["a"], &["b2"])], "far b2"),
    ] {
        assert_eq!(internal(json!({}), endpoints.clone()), want, "{endpoints:?}");
    }
}

#[test]
fn traffic_distribution_without_hints() {
    let zoned = |node: &str, zone: &str| on(node, json!({"zone": zone}));
    for (distribution, endpoints, want) in [
        ("PreferClose", vec![zoned("b1", "a"), zoned("a2", "b")], "far b1"),
        ("PreferSameZone", vec![zoned("a1", "b"), zoned("b1", "b")], "near a1"),
        ("PreferSameNode", vec![zoned("a1", "b"), zoned("b1", "a")], "near a1"),
        ("PreferSameNode", vec![zoned("b1", "a"), zoned("a2", "b")], "far b1"),
        ("PreferSameZone", vec![ready("a3"), ready("b1")], "far a3"),
    ] {
        assert_eq!(internal(json!({"trafficDistribution": distribution}), endpoints), want, "{distribution}");
    }
}

#[test]
fn endpoints_that_are_on_no_node() {
    let machine = |zone: Option<&str>| json!({"addresses": ["192.168.10.77"], "zone": zone});
    assert_eq!(internal(json!({}), vec![machine(Some("a"))]), "near ?");
    assert_eq!(internal(json!({}), vec![machine(Some("b"))]), "far b1 b2");
    assert_eq!(internal(json!({}), vec![machine(Some("nowhere"))]), "none");
    assert_eq!(internal(json!({}), vec![machine(None)]), "near ?");
}

#[test]
fn only_the_family_and_the_port_asked_for() {
    let model = model(json!({}), vec![ready("a1")]);
    let service = model.services().next().unwrap();
    let (node, site, routed) = (NodeName::new("a1").unwrap(), Site::new("a").unwrap(), BTreeSet::new());
    let view = View { node: &node, site: &site, zone: "a", routed: &routed };
    let choose = |port: &ServicePort, family| model.choose(service, port, family, Entry::Cluster, &view);
    let Choice::Near(backends) = choose(&service.ports[0], Family::V4) else { panic!("near") };
    assert_eq!(backends[0].address.port(), 8080);
    assert_eq!(choose(&service.ports[0], Family::V6), Choice::None);
    let missing = ServicePort { name: "metrics".into(), ..service.ports[0].clone() };
    assert_eq!(choose(&missing, Family::V4), Choice::None);
}

#[test]
fn what_a_node_answers_for() {
    let machine = |zone: &str| json!({"addresses": ["192.168.10.77"], "zone": zone});
    let served = |endpoints| {
        let model = model(json!({}), endpoints);
        let (node, site, routed) = (NodeName::new("a1").unwrap(), Site::new("a").unwrap(), BTreeSet::new());
        let view = View { node: &node, site: &site, zone: "a", routed: &routed };
        let service = model.services().next().unwrap();
        model.served_here(service, &service.ports[0], &view).len()
    };
    assert_eq!(served(vec![ready("a1"), ready("a2"), ready("b1")]), 1);
    assert_eq!(served(vec![unready("a1"), ready("b1")]), 0);
    assert_eq!(served(vec![leaving("a1")]), 1);
    assert_eq!(served(vec![machine("a")]), 1);
    assert_eq!(served(vec![machine("b")]), 0);
}
