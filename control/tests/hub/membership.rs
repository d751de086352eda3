//! Who is no member any more is served no more: by the hub at once, and nowhere by its credential.

use std::time::Duration;

use edgeloom_api::hub::{CloseReason, FromControl, FromNode, Hello};
use edgeloom_api::message::MAX_MESSAGE;
use edgeloom_api::v1alpha1::{Cause, EdgeNode, Revocation};
use edgeloom_client::{Membership, Overlay as _, Pipe, Request, Write, join};
use edgeloom_control::removal;
use edgeloom_tunnel::identity::Identity;
use edgeloom_tunnel::{Bounds, frames};
use kube::api::{Api as Objects, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::cluster::{NODE, put_edge_node, put_pod};
use crate::embedded::{Cloud, cloud};
use crate::flow::{Edge, start, until};
use crate::join::{config, refusal, session, start as start_control, token};

const EDGE_NODE: &str = "/apis/edgeloom.io/v1alpha1/edgenodes/edge-1";

async fn synced(api: &Api) -> Edge {
    let edge = start(api).await;
    edge.session.synced().wait_for(|synced| *synced).await.unwrap();
    edge
}

/// What the control says first on a new stream of the edge that begins with `message`.
async fn said_to(edge: &Edge, message: FromNode) -> FromControl {
    let Pipe { mut read, mut write } = edge.wires.open_hub().await.unwrap();
    frames::write(&mut write, &message.encode().unwrap()).await.unwrap();
    FromControl::decode(&frames::read(&mut read, MAX_MESSAGE).await.unwrap().unwrap()).unwrap()
}

/// Whatever a member may have is refused, and the reason is told.
async fn is_refused(edge: &Edge, request: Request, why: &str) {
    let FromControl::Reply(reply) = said_to(edge, request.into()).await else { panic!() };
    let failure = reply.result.unwrap_err();
    assert!(failure.code == 403 && failure.message.contains(why), "{failure}");
    let hello = Hello { version: 1, release: "x".into(), kinds: Vec::new(), digest: vec![0; 32].into() };
    let FromControl::Closing(closing) = said_to(edge, hello.into()).await else { panic!() };
    assert!(closing.reason == CloseReason::NoMember && closing.message.contains(why), "{closing:?}");
}

fn service_account_token(uid: &serde_json::Value) -> Request {
    let body = json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": "web", "uid": uid}}});
    Request::Token { namespace: "shop".into(), service_account: "till".into(), body }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_edge_node_there_is_no_session_no_token_and_no_renewal() {
    let api = Api::new();
    let pod = put_pod(&api, "web", "menu");
    let edge = synced(&api).await;
    api.delete(EDGE_NODE);
    edge.session.synced().wait_for(|synced| !*synced).await.unwrap();
    is_refused(&edge, Request::Renew, "was removed").await;
    is_refused(&edge, service_account_token(&pod["metadata"]["uid"]), "was removed").await;
    assert!(!*edge.session.connected().borrow());
    edge.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_alone_expels() {
    let api = Api::new();
    let edge = synced(&api).await;
    let peer = api.get(EDGE_NODE).unwrap()["spec"]["peerId"].clone();
    api.put(
        "/apis/edgeloom.io/v1alpha1/revocations/by-hand",
        json!({"apiVersion": "edgeloom.io/v1alpha1", "kind": "Revocation", "metadata": {"name": "by-hand"},
            "spec": {"peerId": peer}}),
    );
    edge.session.synced().wait_for(|synced| !*synced).await.unwrap();
    is_refused(&edge, Request::Renew, "revoked").await;
    edge.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_is_told_and_obeys_offline_too() {
    let api = Api::new();
    let path = |site: &str| format!("/apis/edgeloom.io/v1alpha1/sites/{site}");
    let site = |name: &str, spec: serde_json::Value| json!({"apiVersion": "edgeloom.io/v1alpha1", "kind": "Site", "metadata": {"name": name}, "spec": spec});
    api.put(&path("paris"), site("paris", json!({"direct": false})));
    let edge = synced(&api).await;
    let bounds = || *edge.wires.bounds.lock().unwrap();
    assert_eq!(bounds(), Bounds::default(), "that of another site");
    api.put(&path("berlin"), site("berlin", json!({"direct": false, "rateMbit": 8})));
    let told = Bounds { direct: false, rate: Some(1_000_000) };
    until("the bounds", || async { bounds() == told }).await;
    // Without the control what was told holds, and for the next start too.
    edge.wires.set_down(true);
    edge.wires.cut_after(Vec::new());
    api.delete(&path("berlin"));
    edge.session.synced().wait_for(|synced| !*synced).await.unwrap();
    assert_eq!(bounds(), told);
    let membership = Membership::load(edge.folder.path()).unwrap().unwrap();
    assert_eq!(membership.bounds_with(&edge.store), told);
    edge.wires.set_down(false);
    until("no bounds", || async { bounds() == Bounds::default() }).await;
    edge.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_whose_name_another_has_gets_nothing_of_its_successors() {
    let api = Api::new();
    let pod = put_pod(&api, "web", "menu");
    let edge = synced(&api).await;
    put_edge_node(&api, NODE, &Identity::from_secret([9; 32]), &["edge"]);
    edge.session.synced().wait_for(|synced| !*synced).await.unwrap();
    is_refused(&edge, service_account_token(&pod["metadata"]["uid"]), "another machine").await;
    is_refused(&edge, Request::Renew, "another machine").await;
    edge.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_object_that_was_deleted_comes_back_while_the_member_is_connected() {
    let api = Api::new();
    let edge = synced(&api).await;
    let path = "/api/v1/nodes/edge-1";
    for round in 1..=2 {
        api.delete(path);
        let status = |uid: &str| Write::Status {
            kind: "Node".into(),
            namespace: String::new(),
            name: NODE.into(),
            uid: uid.into(),
            status: json!({"round": round}),
        };
        // The deletion may not have reached the hub when the first one does.
        until("the Node", || async {
            edge.outbox.put(status("of-the-first-node")).await.unwrap();
            api.get(path).is_some_and(|node| node["status"]["round"] == round)
        })
        .await;
        let labels = api.get(path).unwrap()["metadata"]["labels"].clone();
        assert_eq!(labels["topology.kubernetes.io/zone"], "berlin");
        assert_eq!(labels["kubernetes.io/os"], "linux");
        until("every answer", || async { edge.outbox.pending() == 0 }).await;
    }
    edge.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_controls_own_name_is_not_to_be_freed() {
    let api = Api::new();
    let (control, address, tunnel) = start_control(api.client()).await;
    put_edge_node(&api, "edgeloom-control", &control.identity, &["control", "relay"]);
    let folder = tempfile::tempdir().unwrap();
    let wanted = config(folder.path(), "edgeloom-control", address, Some(token(&control, 1).await));
    let refused = join(&wanted).await.unwrap_err().to_string();
    assert!(refused.contains("that of the control") && refused.contains("another name"), "{refused}");
    assert!(!refused.contains("kubectl delete"), "{refused}");
    control.hub.shutdown().await;
    tunnel.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_machines_that_want_one_name_one_gets_it() {
    let api = Api::new();
    let (control, address, tunnel) = start_control(api.client()).await;
    for round in 0..5 {
        let name = format!("edge-{round}");
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let token = token(&control, 2).await;
        let [one, other] =
            folders.each_ref().map(|folder| config(folder.path(), &name, address, Some(token.clone())));
        let (one, other) = tokio::join!(join(&one), join(&other));
        let (winner, loser) = match (one, other) {
            (Ok(winner), Err(loser)) | (Err(loser), Ok(winner)) => (winner, loser),
            both => panic!("{both:?}"),
        };
        assert!(loser.to_string().contains("taken by another machine"), "{loser}");
        let known = api.get(&format!("/apis/edgeloom.io/v1alpha1/edgenodes/{name}")).unwrap();
        assert_eq!(known["spec"]["peerId"], peer_id(&winner));
    }
    control.hub.shutdown().await;
    tunnel.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_that_the_operator_set_survives_joining_again() {
    let api = Api::new();
    let (control, address, tunnel) = start_control(api.client()).await;
    let folder = tempfile::tempdir().unwrap();
    join(&config(folder.path(), "edge-1", address, Some(token(&control, 1).await))).await.unwrap();
    let mut node = api.get("/api/v1/nodes/edge-1").unwrap();
    node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("hall-2");
    api.put("/api/v1/nodes/edge-1", node);
    std::fs::remove_file(folder.path().join("membership.json")).unwrap();
    join(&config(folder.path(), "edge-1", address, Some(token(&control, 1).await))).await.unwrap();
    let node = api.get("/api/v1/nodes/edge-1").unwrap();
    assert_eq!(node["metadata"]["labels"]["topology.kubernetes.io/zone"], "hall-2");
    control.hub.shutdown().await;
    tunnel.shutdown(Duration::ZERO).await;
}

async fn cause(revocations: &Objects<Revocation>) -> Option<Cause> {
    revocations.list(&ListParams::default()).await.unwrap().items.first().map(|one| one.spec.cause)
}

fn peer_id(edge: &Membership) -> String {
    edge.identity.peer_id().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_outlives_the_edge_node_until_a_token_undoes_it() {
    let folder = tempfile::tempdir().unwrap();
    let Cloud { client, server, plane } = cloud(&folder.path().join("cloud")).await;
    let (control, address, tunnel) = start_control(client.clone()).await;
    let stop = CancellationToken::new();
    let removals = tokio::spawn(removal::run(client.clone(), stop.clone()));
    let state = folder.path().join("edge");
    let member = join(&config(&state, "edge-1", address, Some(token(&control, 1).await))).await.unwrap();
    let peer = peer_id(&member);
    let (edge, session, _, _) = session(member, &state).await;
    session.synced().wait_for(|synced| *synced).await.unwrap();

    let edge_nodes: Objects<EdgeNode> = Objects::all(client.clone());
    let revocations: Objects<Revocation> = Objects::all(client.clone());
    until("the finalizer", || async {
        edge_nodes.get("edge-1").await.unwrap().metadata.finalizers.is_some_and(|held| held.len() == 1)
    })
    .await;
    edge_nodes.delete("edge-1", &DeleteParams::default()).await.unwrap();
    until("the EdgeNode's end", || async { edge_nodes.get_opt("edge-1").await.unwrap().is_none() }).await;
    let removed = revocations.get(&Revocation::name_of("edge-1", &peer)).await.unwrap();
    assert_eq!((removed.spec.peer_id.as_str(), removed.spec.cause), (peer.as_str(), Cause::Removed));
    session.synced().wait_for(|synced| !*synced).await.unwrap();
    session.shutdown().await;
    edge.shutdown(Duration::ZERO).await;

    // The same machine is let in by a token, and by nothing else.
    std::fs::remove_file(state.join("membership.json")).unwrap();
    let again = join(&config(&state, "edge-1", address, Some(token(&control, 1).await))).await.unwrap();
    assert_eq!(peer_id(&again), peer);
    assert_eq!(cause(&revocations).await, None);

    // Who is revoked stays it when its EdgeNode goes, and no token helps.
    let patch = Patch::Merge(json!({"spec": {"revoked": true}}));
    edge_nodes.patch("edge-1", &PatchParams::default(), &patch).await.unwrap();
    until("the revocation", || async { cause(&revocations).await == Some(Cause::Revoked) }).await;
    edge_nodes.delete("edge-1", &DeleteParams::default()).await.unwrap();
    until("the EdgeNode's end", || async { edge_nodes.get_opt("edge-1").await.unwrap().is_none() }).await;
    assert_eq!(cause(&revocations).await, Some(Cause::Revoked));
    std::fs::remove_file(state.join("membership.json")).unwrap();
    let why = refusal(&config(&state, "edge-1", address, Some(token(&control, 1).await))).await;
    assert!(why.contains("kubectl delete revocation edge-1-"), "{why}");

    stop.cancel();
    removals.await.unwrap();
    control.hub.shutdown().await;
    tunnel.shutdown(Duration::ZERO).await;
    plane.shutdown(Duration::from_secs(1)).await;
    server.shutdown(Duration::from_secs(1)).await;
}
