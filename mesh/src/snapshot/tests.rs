use edgeloom_model::Choice;
use serde_json::{Value, json};

use super::*;

/// Seen from node `b1` of site `b`; `a1` is at site `a`.
fn snapshot(exports: &[&str]) -> Snapshot {
    let mut model = Model::default();
    let objects = [
        json!({"apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode", "metadata": {"name": "a1"},
               "spec": {"peerId": "a1", "site": "a", "roles": ["edge"], "podCidrs": ["10.244.1.0/24"]}}),
        json!({"apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode", "metadata": {"name": "b1"},
               "spec": {"peerId": "b1", "site": "b", "roles": ["edge"], "podCidrs": ["10.244.2.0/24"]}}),
        service(
            "orders",
            json!({"type": "NodePort", "clusterIPs": ["10.96.0.9"], "externalTrafficPolicy": "Local",
                                 "ports": [{"port": 80, "nodePort": 30080}]}),
        ),
        slice("orders", json!([pod("10.244.2.7", "b1", "orders-0"), pod("10.244.1.7", "a1", "orders-1")])),
        service("plc", json!({"clusterIPs": ["10.96.0.10"], "ports": [{"port": 502}]})),
        slice("plc", json!([{"addresses": ["192.168.10.77"], "zone": "b"}])),
        service("spoof", json!({"clusterIPs": ["10.96.0.11"], "ports": [{"port": 22}]})),
        slice("spoof", json!([{"addresses": ["127.0.0.1"], "nodeName": "b1"}])),
    ];
    for object in &objects {
        model.put(object).unwrap();
    }
    let place = Place {
        node: NodeName::new("b1").unwrap(),
        site: Site::new("b").unwrap(),
        exports: exports.iter().map(|text| text.parse().unwrap()).collect(),
    };
    let addresses = vec![ip("192.168.10.5")];
    Snapshot { model: Arc::new(model), addresses, ..Snapshot::empty(Arc::new(place)) }
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name}, "spec": spec})
}

fn slice(service: &str, endpoints: Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
           "metadata": {"namespace": "shop", "name": service, "labels": {"kubernetes.io/service-name": service}},
           "ports": [{"port": 8080}], "endpoints": endpoints})
}

fn pod(address: &str, node: &str, name: &str) -> Value {
    json!({"addresses": [address], "nodeName": node,
           "targetRef": {"kind": "Pod", "namespace": "shop", "name": name}})
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn wanted(name: &str, port: u16, endpoint: Option<&str>) -> Target {
    Target::Service {
        service: ServiceKey::new("shop", name),
        port,
        protocol: Protocol::Tcp,
        endpoint: endpoint.map(ip),
    }
}

#[test]
fn where_flows_go() {
    let snapshot = snapshot(&[]);
    let route = |client: &str, to: &str| snapshot.route(ip(client), to.parse().unwrap(), Protocol::Tcp);
    let near = |route: Option<Route>| match route {
        Some(Route::Service { choice: Choice::Near(backends), .. }) => backends.len(),
        _ => 0,
    };
    assert_eq!(near(route("10.244.2.9", "10.96.0.9:80")), 1);
    assert_eq!(near(route("10.244.2.9", "192.168.10.5:30080")), 1);
    assert_eq!(near(route("192.168.10.200", "192.168.10.5:30080")), 1, "from outside, and one is local");
    assert!(route("10.244.2.9", "10.96.0.9:81").is_none());
    let Some(Route::Pod { node, pod }) = route("10.244.2.9", "10.244.1.7:5432") else { panic!("a pod") };
    assert_eq!((node.as_str(), &*pod.name), ("a1", "orders-1"));
    assert!(route("10.244.2.9", "10.244.1.8:5432").is_none(), "no pod that is known");
    assert!(route("10.244.2.9", "10.244.2.7:5432").is_none(), "an own pod is no business of the proxy");
}

#[test]
fn a_node_answers_for_its_own_pods_and_for_what_it_exports() {
    let closed = snapshot(&[]);
    let open = snapshot(&["192.168.10.77/32:8080"]);
    let address = |text: &str| vec![text.parse::<SocketAddr>().unwrap()];
    assert_eq!(closed.targets(&wanted("orders", 80, None)), address("10.244.2.7:8080"));
    assert_eq!(closed.targets(&wanted("orders", 80, Some("10.244.1.7"))), address("10.244.2.7:8080"));
    assert_eq!(closed.targets(&wanted("orders", 81, None)), []);
    assert_eq!(closed.targets(&wanted("nobody", 80, None)), []);
    assert_eq!(closed.targets(&wanted("plc", 502, None)), []);
    assert_eq!(open.targets(&wanted("plc", 502, None)), address("192.168.10.77:8080"));
    assert_eq!(closed.targets(&wanted("spoof", 22, None)), [], "an address that is no pod's needs an export");
}

#[test]
fn a_pod_is_called_by_its_name() {
    let snapshot = snapshot(&[]);
    let pod = |name: &str, family| Target::Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        family,
        port: 5432,
        protocol: Protocol::Tcp,
    };
    assert_eq!(snapshot.targets(&pod("orders-0", Family::V4)), ["10.244.2.7:5432".parse().unwrap()]);
    assert_eq!(snapshot.targets(&pod("orders-0", Family::V6)), []);
    assert_eq!(snapshot.targets(&pod("orders-1", Family::V4)), [], "another node's");
}
