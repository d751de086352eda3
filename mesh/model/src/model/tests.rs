use serde_json::json;

use super::*;

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name}, "spec": spec})
}

fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|a| json!({"addresses": [a], "targetRef": {"kind": "Pod", "namespace": "shop", "name": format!("p-{a}")}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080}], "endpoints": endpoints,
    })
}

fn member(name: &str, ranges: &[&str], revoked: bool) -> Value {
    json!({
        "apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode", "metadata": {"name": name},
        "spec": {"peerId": name, "site": "s", "podCidrs": ranges, "revoked": revoked},
    })
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(model: &Model, address: &str, port: u16) -> Option<String> {
    let own = [ip("192.168.10.5")];
    model.frontend(ip(address), port, Protocol::Tcp, &own).map(|f| f.service.key.name.to_string())
}

#[test]
fn a_service_is_found_by_each_of_its_addresses_and_by_no_older_one() {
    let mut model = Model::default();
    let spec = |ip: &str| json!({"type": "NodePort", "clusterIPs": [ip], "ports": [{"port": 80, "nodePort": 30080}]});
    assert!(model.put(&service("orders", spec("10.96.0.9"))).unwrap());
    assert!(!model.put(&service("orders", spec("10.96.0.9"))).unwrap(), "nothing changed");
    assert_eq!(at(&model, "10.96.0.9", 80).as_deref(), Some("orders"));
    assert_eq!(at(&model, "::ffff:10.96.0.9", 80).as_deref(), Some("orders"));
    assert_eq!(at(&model, "192.168.10.5", 30080).as_deref(), Some("orders"));
    assert_eq!(at(&model, "192.168.10.6", 30080), None, "no address of this node");
    assert_eq!(at(&model, "10.96.0.9", 81), None);
    assert!(model.put(&service("orders", spec("10.96.0.10"))).unwrap());
    assert_eq!(
        (at(&model, "10.96.0.9", 80), at(&model, "10.96.0.10", 80).as_deref()),
        (None, Some("orders"))
    );
    assert!(model.delete(ObjectKind::Service, "shop", "orders"));
    assert!(!model.delete(ObjectKind::Service, "shop", "orders"));
    assert_eq!((at(&model, "10.96.0.10", 80), at(&model, "192.168.10.5", 30080)), (None, None));
    assert!(model.by_address.is_empty() && model.by_node_port.is_empty());
}

#[test]
fn a_cluster_address_is_never_lost_to_an_external_one() {
    let mut model = Model::default();
    let thief = json!({"clusterIPs": ["10.96.0.1"], "externalIPs": ["10.96.0.9"], "ports": [{"port": 80}]});
    model.put(&service("a-thief", thief)).unwrap();
    assert_eq!(at(&model, "10.96.0.9", 80).as_deref(), Some("a-thief"), "unclaimed so far");
    model.put(&service("orders", json!({"clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}]}))).unwrap();
    assert_eq!(at(&model, "10.96.0.9", 80).as_deref(), Some("orders"));
}

#[test]
fn a_malformed_object_leaves_everything_as_it_was() {
    let mut model = Model::default();
    model.put(&service("orders", json!({"clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}]}))).unwrap();
    let error = model.put(&service("orders", json!({"clusterIPs": ["x"]}))).unwrap_err().to_string();
    assert!(error.starts_with("Service shop/orders: spec.clusterIPs[0]: "), "{error}");
    assert!(model.put(&json!({"apiVersion": "v1", "kind": "Secret"})).is_err());
    assert!(model.put(&json!(null)).is_err());
    assert_eq!(at(&model, "10.96.0.9", 80).as_deref(), Some("orders"));
}

#[test]
fn slices_follow_their_service() {
    let mut model = Model::default();
    let orders = ServiceKey::new("shop", "orders");
    model.put(&slice("orders-1", "orders", &["10.244.1.2", "10.244.1.3"])).unwrap();
    model.put(&slice("orders-2", "orders", &["10.244.2.2"])).unwrap();
    assert_eq!(model.slices(&orders).count(), 2);
    assert_eq!(model.endpoints_at(ip("10.244.1.3")).count(), 1);
    model.put(&slice("orders-1", "other", &["10.244.1.2"])).unwrap();
    assert_eq!((model.slices(&orders).count(), model.endpoints_at(ip("10.244.1.3")).count()), (1, 0));
    let mut orphan = slice("orders-2", "", &["10.244.2.2"]);
    orphan["metadata"]["labels"] = json!({});
    assert!(model.put(&orphan).unwrap(), "a slice that lost its label belongs to nobody");
    assert_eq!((model.slices(&orders).count(), model.counts().endpoints), (0, 1));
}

#[test]
fn a_pod_address_leads_to_its_node() {
    let mut model = Model::default();
    model.put(&member("a", &["10.244.1.0/24", "fd00:10:244:1::/64"], false)).unwrap();
    model.put(&member("b", &["10.244.2.0/24"], false)).unwrap();
    let owner = |model: &Model, text| model.member_at(ip(text)).map(|m| m.name.to_string());
    assert_eq!(owner(&model, "10.244.1.255").as_deref(), Some("a"));
    assert_eq!(owner(&model, "10.244.2.0").as_deref(), Some("b"));
    assert_eq!(owner(&model, "fd00:10:244:1::7").as_deref(), Some("a"));
    for nobody in ["10.244.0.255", "10.244.3.0", "fd00:10:244:2::7", "0.0.0.0"] {
        assert_eq!(owner(&model, nobody), None);
    }
    model.put(&member("b", &["10.244.2.0/24"], true)).unwrap();
    assert_eq!(owner(&model, "10.244.2.0"), None, "revoked");
    model.delete(ObjectKind::EdgeNode, "", "a");
    assert_eq!(owner(&model, "10.244.1.255"), None);
}

#[test]
fn the_source_of_a_flow_is_named_by_the_pod_while_it_runs() {
    let mut model = Model::default();
    let pod = |phase: &str, host: bool| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"serviceAccountName": "web-sa", "hostNetwork": host},
            "status": {"phase": phase, "podIPs": [{"ip": "10.244.1.7"}]},
        })
    };
    let source = |model: &Model| model.workload_at(ip("10.244.1.7")).map(|w| w.service_account.to_string());
    model.put(&pod("Running", false)).unwrap();
    assert_eq!(source(&model).as_deref(), Some("web-sa"));
    model.put(&pod("Succeeded", false)).unwrap();
    assert_eq!(source(&model), None);
    model.put(&pod("Running", true)).unwrap();
    assert_eq!(source(&model), None, "the address is the node's");
}
