//! A control with a cluster behind it, and a node that has joined it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edgeloom_api::join::Contact;
use edgeloom_client::Membership;
use edgeloom_control::hub::Hub;
use edgeloom_control::join::authority::{ClusterCa, load_or_create};
use edgeloom_control::join::{Holder, Issuer, JoinConfig, JoinService, ServiceRanges, Tokens};
use edgeloom_tunnel::identity::{Identity, Presented, Role, SignedCredential, Verified};
use prometheus::Registry;
use serde_json::{Value, json};

use crate::api::Api;

pub const NODE: &str = "edge-1";

pub struct Control {
    pub identity: Arc<Identity>,
    pub issuer: Issuer,
    pub join: JoinService,
    pub tokens: Tokens,
    pub hub: Hub,
}

/// A control on the API; the CA is the cluster's, so a second one is like the first after a restart.
pub async fn control(client: kube::Client, address: std::net::SocketAddr) -> Control {
    let ca: ClusterCa = load_or_create(&client, "cluster").await.unwrap();
    let issuer = Issuer::new(Arc::new(ca), Duration::from_secs(3600), Duration::from_secs(600));
    let identity = Arc::new(Identity::from_secret([7; 32]));
    let own = Holder {
        peer: identity.peer_id(),
        node: "control".into(),
        uid: "none".into(),
        site: "cloud".into(),
        roles: vec![Role::Control, Role::Relay],
    };
    let contact = Contact {
        peer: identity.peer_id().to_bytes().into(),
        node: "control".into(),
        site: "cloud".into(),
        addresses: vec![address],
    };
    let tokens = Tokens::new(client.clone(), issuer.ca().authority.certificate());
    let config = JoinConfig {
        issuer: issuer.clone(),
        own,
        control: contact.clone(),
        relays: vec![contact],
        services: ServiceRanges::Cluster(vec!["198.51.100.0/24".parse().unwrap()]),
    };
    let join = JoinService::new(client.clone(), config, tokens.clone(), &Registry::new()).unwrap();
    let hub = Hub::start(client, join.clone(), None, &Registry::new()).unwrap();
    Control { identity, issuer, join, tokens, hub }
}

/// A node as it is after joining: its state under `folder`, and the EdgeNode at the API.
pub fn member(api: &Api, control: &Control, folder: &Path) -> (Membership, Verified) {
    let identity = Identity::load_or_create(&folder.join("identity.key")).unwrap();
    let credential = control.issuer.issue(&Holder {
        peer: identity.peer_id(),
        node: NODE.into(),
        uid: "node-uid".into(),
        site: "berlin".into(),
        roles: vec![Role::Edge],
    });
    let credential = credential.unwrap();
    put_edge_node(api, NODE, &identity, &["edge"]);
    put_edge_node(api, "control", &control.identity, &["control", "relay"]);
    let known = json!({"peerId": control.identity.peer_id().to_base58(), "node": "control", "site": "cloud",
        "addresses": ["127.0.0.1:1"]});
    let file = json!({"version": 1, "authorities": [hex::encode(control.issuer.ca().authority.certificate())],
        "credential": hex::encode(credential.encode()), "nodeUid": "node-uid", "control": known, "relays": []});
    std::fs::write(folder.join("membership.json"), file.to_string()).unwrap();
    (Membership::load(folder).unwrap().unwrap(), verified(control, &identity, credential))
}

fn verified(control: &Control, identity: &Identity, credential: SignedCredential) -> Verified {
    let presented = Presented { peer: identity.peer_id(), credential: Some(credential), spki: Vec::new() };
    control.issuer.trust().unwrap().verify(&presented, SystemTime::now()).unwrap()
}

pub fn put_edge_node(api: &Api, name: &str, identity: &Identity, roles: &[&str]) {
    let spec = json!({"peerId": identity.peer_id().to_base58(), "site": "berlin", "nodeUid": "node-uid", "roles": roles});
    api.put(
        &format!("/apis/edgeloom.io/v1alpha1/edgenodes/{name}"),
        json!({"apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode", "metadata": {"name": name}, "spec": spec}),
    );
}

pub fn pod_path(name: &str) -> String {
    format!("/api/v1/namespaces/shop/pods/{name}")
}

pub fn put_pod(api: &Api, name: &str, map: &str) -> Value {
    let spec =
        json!({"nodeName": NODE, "serviceAccountName": "till", "volumes": [{"configMap": {"name": map}}]});
    let metadata = json!({"namespace": "shop", "name": name});
    api.put(&pod_path(name), json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
}

pub fn put_service(api: &Api, name: &str, round: u64) {
    let metadata = json!({"namespace": "shop", "name": name, "annotations": {"round": round.to_string()}});
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"clusterIP": "10.96.0.9"}});
    api.put(&format!("/api/v1/namespaces/shop/services/{name}"), object);
}

pub fn put_config_map(api: &Api, name: &str, value: &str) {
    let metadata = json!({"namespace": "shop", "name": name});
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": value}});
    api.put(&format!("/api/v1/namespaces/shop/configmaps/{name}"), object);
}
