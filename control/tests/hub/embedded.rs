//! The whole way, with the embedded API and its controllers: a host joins over the real tunnel, gets a pod, and
//! reports on it.

use std::time::Duration;

use edgeloom_api::admin::TokenRequest;
use edgeloom_api::join::RefusalReason;
use edgeloom_api::kind::{self, CONFIG_MAP, POD};
use edgeloom_api::token::JoinToken;
use edgeloom_client::{Request, Write, join};
use edgeloom_control::install::install;
use edgeloom_control::join::Tokens;
use edgeloom_model::NodeName;
use edgeloom_plane::{Plane, PlaneConfig};
use edgeloom_store::{ApiServer, ServerConfig};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod};
use kube::api::{Api, DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use prometheus::Registry;
use serde_json::{Value, json};

use crate::flow::until;
use crate::join::{config, session, start, token};

pub struct Cloud {
    pub client: kube::Client,
    pub server: ApiServer,
    pub plane: Plane,
}

pub async fn cloud(folder: &std::path::Path) -> Cloud {
    let server = ServerConfig::new(folder, "127.0.0.1:0".parse().unwrap());
    let server = ApiServer::start(server, &Registry::new()).await.unwrap();
    let kubeconfig = Kubeconfig::from_yaml(&server.admin_kubeconfig().unwrap()).unwrap();
    let client =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = kube::Client::try_from(client).unwrap();
    install(&client).await.unwrap();
    let pair = server.ca_pair();
    let config = PlaneConfig {
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/48".parse().unwrap()],
        root_ca_pem: server.ca_certificate_pem().to_owned(),
        signing_certificate_pem: pair.certificate.clone(),
        signing_key_pem: pair.key.clone(),
    };
    let plane = Plane::start(client.clone(), config, &Registry::new()).unwrap();
    Cloud { client, server, plane }
}

fn create<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_joins_runs_a_pod_and_reports_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let Cloud { client, server, plane } = cloud(&folder.path().join("cloud")).await;
    let (control, address, tunnel) = start(client.clone()).await;
    let state = folder.path().join("edge");
    let membership = join(&config(&state, "edge-1", address, Some(token(&control, 1).await))).await.unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    let node = nodes.get("edge-1").await.unwrap();
    assert_eq!(node.spec.unwrap().pod_cidrs.unwrap_or_default().len(), 2);
    let node_uid = membership.node_uid.clone();
    let (edge, session, store, outbox) = session(membership, &state).await;
    session.synced().wait_for(|synced| *synced).await.unwrap();

    // Readiness makes the node one that pods are put on.
    let ready = json!({"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]});
    let status = Write::Status {
        kind: "Node".into(),
        namespace: String::new(),
        name: "edge-1".into(),
        uid: node_uid,
        status: ready,
    };
    outbox.put(status).await.unwrap();
    let lease = json!({"holderIdentity": "edge-1", "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"});
    outbox.put(Write::Lease { name: "edge-1".into(), body: lease }).await.unwrap();
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    until("the lease", || async { leases.get_opt("edge-1").await.unwrap().is_some() }).await;

    let shop = json!({"metadata": {"name": "shop"}});
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &create(shop)).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let spec =
        json!({"nodeName": "edge-1", "containers": [{"name": "web", "image": "example.invalid/web:1"}]});
    let pod = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
    until("the namespace's service account", || async {
        pods.create(&PostParams::default(), &create(pod.clone())).await.is_ok()
    })
    .await;
    until("the pod", || async { store.get(&POD, "shop", "web").is_some() }).await;
    until("the cluster's CA", || async { store.get(&CONFIG_MAP, "shop", "kube-root-ca.crt").is_some() })
        .await;
    let uid = store.get(&POD, "shop", "web").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();

    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": uid});
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": 3607, "boundObjectRef": bound}});
    let asked = Request::Token { namespace: "shop".into(), service_account: "default".into(), body };
    let token = session.request(asked).await.unwrap();
    assert!(token["status"]["token"].as_str().is_some_and(|token| token.split('.').count() == 3));

    let running = |status| Write::Status {
        kind: "Pod".into(),
        namespace: "shop".into(),
        name: "web".into(),
        uid: uid.clone(),
        status,
    };
    outbox.put(running(json!({"phase": "Running", "podIP": "10.244.0.5"}))).await.unwrap();
    until("the pod's status", || async {
        pods.get("web").await.unwrap().status.is_some_and(|status| status.phase.as_deref() == Some("Running"))
    })
    .await;
    let about = json!({"kind": "Pod", "namespace": "shop", "name": "web", "uid": uid});
    for count in 1..=2 {
        let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "web.1", "namespace": "shop"},
            "involvedObject": about, "reason": "Started", "message": "it started", "type": "Normal", "count": count});
        outbox.put(Write::Event { event }).await.unwrap();
    }
    let events: Api<Event> = Api::namespaced(client.clone(), "shop");
    until("the event", || async {
        events.get_opt("web.1").await.unwrap().is_some_and(|event| event.count == Some(2))
    })
    .await;

    // A deletion is the node's to end.
    pods.delete("web", &DeleteParams::default()).await.unwrap();
    until("the deletion's time", || async {
        store.get(&POD, "shop", "web").is_some_and(|pod| pod["metadata"]["deletionTimestamp"].is_string())
    })
    .await;
    outbox.put(Write::DeletePod { namespace: "shop".into(), name: "web".into(), uid }).await.unwrap();
    until("the pod's end", || async { pods.get_opt("web").await.unwrap().is_none() }).await;
    until("the pod's end at the node", || async { store.list(&POD).is_empty() }).await;
    until("every answer", || async { outbox.pending() == 0 }).await;
    assert!(store.inventory().iter().all(|(key, _)| !key.is(&kind::SECRET)));

    session.shutdown().await;
    edge.shutdown(Duration::ZERO).await;
    control.hub.shutdown().await;
    tunnel.shutdown(Duration::ZERO).await;
    plane.shutdown(Duration::from_secs(1)).await;
    server.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_admits_as_many_at_once_as_it_has_uses() {
    let folder = tempfile::tempdir().unwrap();
    let Cloud { client, server, plane } = cloud(&folder.path().join("cloud")).await;
    // Two replicas of the control.
    let replicas = [Tokens::new(client.clone(), b"ca"), Tokens::new(client.clone(), b"ca")];
    let wanted = TokenRequest { site: "berlin".into(), ttl_seconds: 600, uses: 100, node: None };
    let made = replicas[0].create(&wanted).await.unwrap();
    let token: JoinToken = made.token.parse().unwrap();
    let mut takes = tokio::task::JoinSet::new();
    for index in 0..100 {
        let (tokens, secret) = (replicas[index % 2].clone(), token.secret().to_owned());
        let node = NodeName::new(format!("edge-{index}")).unwrap();
        takes.spawn(async move { tokens.take(&secret, &node).await.map_err(|refusal| refusal.to_string()) });
    }
    let refused: Vec<String> = takes.join_all().await.into_iter().filter_map(Result::err).collect();
    assert!(refused.is_empty(), "{} of 100: {refused:?}", refused.len());
    let late = NodeName::new("late").unwrap();
    let refusal = replicas[1].take(token.secret(), &late).await.unwrap_err();
    assert_eq!(refusal.reason(), RefusalReason::UsedUpToken, "{refusal}");
    assert!(refusal.to_string().contains("--site berlin"), "{refusal}");

    let mut given = tokio::task::JoinSet::new();
    for index in 0..50 {
        let (tokens, id) = (replicas[index % 2].clone(), made.details.id.clone());
        given.spawn(async move { tokens.give_back(&id).await.map_err(|error| error.to_string()) });
    }
    assert!(given.join_all().await.iter().all(Result::is_ok));
    assert_eq!(replicas[0].list().await.unwrap()[0].uses_left, 50);
    plane.shutdown(Duration::from_secs(1)).await;
    server.shutdown(Duration::from_secs(1)).await;
}
