use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Fixture;
use crate::db::{DeleteOptions, Part, WriteOptions};

fn service(name: &str, mut spec: Value) -> Value {
    if spec.get("ports").is_none() {
        spec["ports"] = json!([{"port": 80}]);
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn addresses_by_family_policy() {
    let fixture = Fixture::new().await;
    let single = fixture.create("services", "default", service("a", json!({"selector": {"a": "b"}}))).await;
    assert_eq!(single["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(single["spec"]["clusterIPs"], json!([single["spec"]["clusterIP"]]));
    let dual = service("b", json!({"ipFamilyPolicy": "PreferDualStack"}));
    let dual = fixture.create("services", "default", dual).await;
    assert_eq!(dual["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert!(dual["spec"]["clusterIPs"][1].as_str().unwrap().starts_with("fd00:10:96::"));
    let six = fixture.create("services", "default", service("c", json!({"ipFamilies": ["IPv6"]}))).await;
    assert_eq!(six["spec"]["clusterIP"], six["spec"]["clusterIPs"][0]);
    assert_eq!(six["spec"]["ipFamilies"], json!(["IPv6"]));
    let headless = fixture.create("services", "default", service("d", json!({"clusterIP": "None"}))).await;
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(headless["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let external = json!({"type": "ExternalName", "externalName": "example.com"});
    let external = fixture.create("services", "default", service("e", external)).await;
    assert!(external["spec"].get("clusterIP").is_none());
}

#[tokio::test]
async fn requested_addresses_are_held_and_released() {
    let fixture = Fixture::new().await;
    let kind = fixture.kind("services");
    let wanted = || json!({"clusterIP": "10.96.0.10"});
    fixture.create("services", "default", service("a", wanted())).await;
    let error = fixture.try_create("services", "default", service("b", wanted())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: failed to allocate IP \
         10.96.0.10: provided IP is already allocated"
    );
    let outside = service("b", json!({"clusterIP": "10.1.0.1"}));
    let error = fixture.try_create("services", "default", outside).await.unwrap_err();
    assert!(error.to_string().ends_with("the provided network does not match the current range"));
    let fixture = fixture.reopen().await;
    assert!(fixture.try_create("services", "default", service("b", wanted())).await.is_err());
    fixture.store.delete(&kind, "default", "a", &DeleteOptions::default()).await.unwrap();
    fixture.create("services", "default", service("b", wanted())).await;
}

#[tokio::test]
async fn node_ports() {
    let fixture = Fixture::new().await;
    let kind = fixture.kind("services");
    let both = json!({"type": "NodePort", "ports": [{"name": "t", "port": 53, "protocol": "TCP"},
        {"name": "u", "port": 53, "protocol": "UDP"}]});
    let created = fixture.create("services", "default", service("dns", both)).await;
    let ports = |service: &Value| -> BTreeSet<u64> {
        service["spec"]["ports"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|port| port["nodePort"].as_u64())
            .collect()
    };
    assert_eq!(ports(&created).len(), 1, "one number for both protocols");
    let wanted = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    fixture.create("services", "default", service("a", wanted.clone())).await;
    let error = fixture.try_create("services", "default", service("b", wanted.clone())).await.unwrap_err();
    assert!(error.to_string().ends_with("provided port is already allocated"));
    let mut inner = fixture.store.get(&kind, "default", "a").await.unwrap();
    inner["spec"]["type"] = json!("ClusterIP");
    let inner = fixture
        .store
        .update(&kind, "default", "a", inner, Part::Main, &WriteOptions::default())
        .await
        .unwrap();
    assert!(ports(&inner).is_empty());
    fixture.create("services", "default", service("b", wanted)).await;
}
