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
        own_pod("orders-0", false, "10.244.2.7"),
        own_pod("exporter", true, "192.168.10.5"),
    ];
    for object in &objects {
        model.put(object).unwrap();
    }
    let place = Place {
        node: NodeName::new("b1").unwrap(),
        site: Site::new("b").unwrap(),
        exports: exports.iter().map(|text| text.parse().unwrap()).collect(),
    };
    let addresses = vec![ip("192.168.10.5"), ip("10.244.2.1")];
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

fn own_pod(name: &str, host_network: bool, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": name},
           "spec": {"nodeName": "b1", "hostNetwork": host_network, "containers": [
               {"ports": [{"name": "metrics", "containerPort": 9100}]}]},
           "status": {"podIPs": [{"ip": address}]}})
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
    let two = json!([pod("10.244.2.7", "b1", "orders-0"), pod("10.244.2.8", "b1", "orders-2")]);
    let mut both = closed.clone();
    let model = Arc::make_mut(&mut both.model);
    model.put(&slice("orders", two)).unwrap();
    model.put(&own_pod("orders-2", false, "10.244.2.8")).unwrap();
    assert_eq!(both.targets(&wanted("orders", 80, None)).len(), 2);
    assert_eq!(both.targets(&wanted("orders", 80, Some("10.244.2.8"))), address("10.244.2.8:8080"));
    assert_eq!(both.targets(&wanted("orders", 80, Some("10.244.2.9"))).len(), 2, "the one chosen has gone");
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
    assert_eq!(
        snapshot.targets(&pod("exporter", Family::V4)),
        [],
        "the node's own address: any port of the host"
    );
}

#[test]
fn a_pod_on_the_nodes_network_is_reached_at_the_port_of_its_service_only() {
    let (name, address) = ("exporter", "192.168.10.5");
    for (target_port, slice_port, reached) in [
        (json!(9100), 9100, true),
        (json!("metrics"), 9100, true),
        (json!(9100), 22, false),
        (json!("metrics"), 22, false),
        (json!("unknown"), 9100, false),
        (Value::Null, 80, true),
    ] {
        let mut snapshot = snapshot(&[]);
        let model = Arc::make_mut(&mut snapshot.model);
        let ports = json!([{"port": 80, "targetPort": target_port}]);
        model.put(&service(name, json!({"clusterIPs": ["10.96.0.12"], "ports": ports}))).unwrap();
        let mut object = slice(name, json!([pod(address, "b1", name)]));
        object["ports"][0]["port"] = json!(slice_port);
        model.put(&object).unwrap();
        let want: Vec<_> = reached.then(|| SocketAddr::new(ip(address), slice_port)).into_iter().collect();
        assert_eq!(snapshot.targets(&wanted(name, 80, None)), want, "{target_port} {slice_port}");
    }
}

#[test]
fn a_slice_alone_opens_nothing_of_the_host() {
    for (address, name, why) in [
        ("127.0.0.1", "orders-0", "another address than the pod's"),
        ("192.168.10.77", "orders-0", "a machine of the site in a pod's name"),
        ("10.244.2.8", "orders-0", "another pod in this one's name"),
        ("10.244.2.7", "nobody", "a pod that is not here"),
        ("10.244.2.1", "orders-0", "the host's address among its pods'"),
    ] {
        let mut snapshot = snapshot(&[]);
        let model = Arc::make_mut(&mut snapshot.model);
        model.put(&slice("orders", json!([pod(address, "b1", name)]))).unwrap();
        assert_eq!(snapshot.targets(&wanted("orders", 80, None)), [], "{why}");
        let unnamed = json!([{"addresses": ["10.244.2.1"], "nodeName": "b1"}]);
        Arc::make_mut(&mut snapshot.model).put(&slice("orders", unnamed)).unwrap();
        assert_eq!(snapshot.targets(&wanted("orders", 80, None)), [], "the host's own end");
    }
}
