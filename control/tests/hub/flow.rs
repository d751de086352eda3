//! The hub and a node's session over a wire in memory.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use edgeloom_api::hub::{FromControl, FromNode, Hello, Inventory, Key, VERSION};
use edgeloom_api::kind::{self, CONFIG_MAP, POD, SERVICE};
use edgeloom_api::message::MAX_MESSAGE;
use edgeloom_client::{
    Change, Metastore, Outbox, Overlay as _, Pace, Pipe, Request, RequestError, Session, Write,
};
use edgeloom_tunnel::frames;
use prometheus::Registry;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::api::Api;
use crate::cluster::{NODE, control, member, pod_path, put_config_map, put_pod, put_service};
use crate::wire::Wires;

pub struct Edge {
    pub store: Metastore,
    pub outbox: Outbox,
    pub session: Session,
    pub wires: Arc<Wires>,
    pub folder: tempfile::TempDir,
}

pub async fn start(api: &Api) -> Edge {
    let control = control(api.client(), "127.0.0.1:1".parse().unwrap()).await;
    let folder = tempfile::tempdir().unwrap();
    let (membership, verified) = member(api, &control, folder.path());
    let wires = Arc::new(Wires::new(control.hub.clone(), verified));
    let store = Metastore::open(folder.path().join("metastore.db")).unwrap();
    let outbox = Outbox::open(folder.path().join("outbox.db")).unwrap();
    let pace = Pace { min: Duration::from_millis(1), max: Duration::from_millis(20) };
    let overlay = Arc::clone(&wires) as Arc<dyn edgeloom_client::Overlay>;
    let session =
        Session::start_with(pace, membership, overlay, store.clone(), outbox.clone(), &Registry::new())
            .unwrap();
    Edge { store, outbox, session, wires, folder }
}

/// Waits until `holds` does, and says what did not come.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..3000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("in vain: {what}");
}

/// What the API says this node is to hold: name and version by key.
fn truth(api: &Api) -> BTreeMap<Key, String> {
    let mut held = BTreeMap::new();
    let mut add = |object: Value| {
        let (_, key, version) = Key::of(&object).unwrap();
        held.insert(key, version.resource_version);
    };
    let pods = api.list("/api/v1/namespaces/shop/pods/");
    let mounted: Vec<&str> =
        pods.iter().filter_map(|pod| pod["spec"]["volumes"][0]["configMap"]["name"].as_str()).collect();
    for map in api.list("/api/v1/namespaces/shop/configmaps/") {
        if mounted.contains(&map["metadata"]["name"].as_str().unwrap()) {
            add(map.clone());
        }
    }
    pods.iter().cloned().for_each(&mut add);
    api.list("/api/v1/namespaces/shop/services/").into_iter().for_each(&mut add);
    api.list("/apis/edgeloom.io/v1alpha1/edgenodes/").into_iter().for_each(&mut add);
    api.list("/api/v1/nodes/").into_iter().for_each(&mut add);
    held
}

fn held(store: &Metastore) -> BTreeMap<Key, String> {
    store.inventory().into_iter().map(|(key, version)| (key, version.resource_version)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_what_it_needs_and_reports_what_it_did() {
    let api = Api::new();
    put_service(&api, "orders", 0);
    put_config_map(&api, "menu", "soup");
    put_config_map(&api, "unused", "x");
    let pod = put_pod(&api, "web", "menu");
    let edge = start(&api).await;
    edge.session.synced().wait_for(|synced| *synced).await.unwrap();
    assert_eq!(held(&edge.store), truth(&api));
    assert!(edge.store.get(&CONFIG_MAP, "shop", "unused").is_none());
    until("the members", || async { edge.wires.peers.lock().unwrap().len() == 1 }).await;

    // A change and a deletion arrive.
    put_config_map(&api, "menu", "stew");
    api.delete("/api/v1/namespaces/shop/services/orders");
    until("the changes", || async { held(&edge.store) == truth(&api) }).await;
    assert_eq!(edge.store.get(&CONFIG_MAP, "shop", "menu").unwrap()["data"]["value"], "stew");

    // Status, lease, event and the pod's end arrive at the API.
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    let status = |uid: &str, phase: &str| Write::Status {
        kind: "Pod".into(),
        namespace: "shop".into(),
        name: "web".into(),
        uid: uid.into(),
        status: json!({"phase": phase}),
    };
    edge.outbox.put(status(&uid, "Running")).await.unwrap();
    edge.outbox.put(Write::Lease { name: NODE.into(), body: json!({"renewTime": "now"}) }).await.unwrap();
    until("the status", || async { api.get(&pod_path("web")).unwrap()["status"]["phase"] == "Running" })
        .await;
    until("the lease", || async {
        !api.list("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/edge-1").is_empty()
    })
    .await;
    // A sign of life renews the lease, with nothing in the outbox.
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/edge-1";
    assert!(edge.session.beat());
    until("the renewal", || async {
        let lease = api.get(lease).unwrap();
        lease["spec"]["holderIdentity"] == NODE && lease["spec"]["renewTime"] != "now"
    })
    .await;
    // A status of a pod of that name which is gone is answered and forgotten.
    edge.outbox.put(status("another", "Failed")).await.unwrap();
    until("the answer", || async { edge.outbox.pending() == 0 }).await;
    assert_eq!(api.get(&pod_path("web")).unwrap()["status"]["phase"], "Running");
    edge.outbox.put(Write::DeletePod { namespace: "shop".into(), name: "web".into(), uid }).await.unwrap();
    until("the pod's end", || async {
        edge.store.list(&POD).is_empty() && edge.store.list(&CONFIG_MAP).is_empty()
    })
    .await;
    edge.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_forbidden_for_a_while_is_not_lost_and_holds_up_no_other() {
    let api = Api::new();
    let pod = put_pod(&api, "web", "menu");
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let edge = start(&api).await;
    edge.session.synced().wait_for(|synced| *synced).await.unwrap();
    api.refuse_writes(Some(("/api/v1/namespaces/shop/pods/web", 403)));
    edge.outbox.put(pod_status(uid, 1)).await.unwrap();
    edge.outbox.put(event(1)).await.unwrap();
    until("the event", || async { !api.list("/api/v1/namespaces/shop/events/").is_empty() }).await;
    // A later status takes the place of the first, which is answered.
    edge.outbox.put(pod_status(uid, 2)).await.unwrap();
    until("the status alone", || async { edge.outbox.pending() == 1 }).await;
    api.refuse_writes(None);
    until("the status", || async { api.get(&pod_path("web")).unwrap()["status"]["round"] == 2 }).await;
    until("the answer", || async { edge.outbox.pending() == 0 }).await;

    // A credential of the control's own that ended says nothing about the writes.
    api.refuse_writes(Some(("/", 401)));
    edge.outbox.put(pod_status(uid, 3)).await.unwrap();
    let end = Write::DeletePod { namespace: "shop".into(), name: "web".into(), uid: uid.into() };
    edge.outbox.put(end).await.unwrap();
    let before = api.refusals();
    until("tries", || async { api.refusals() > before + 1 }).await;
    assert_eq!(edge.outbox.pending(), 2);
    api.refuse_writes(None);
    until("the pod's end", || async { api.get(&pod_path("web")).is_none() }).await;
    edge.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_given_for_own_pods_only_and_only_with_the_control_there() {
    let api = Api::new();
    let pod = put_pod(&api, "web", "menu");
    let edge = start(&api).await;
    edge.session.synced().wait_for(|synced| *synced).await.unwrap();
    let ask = |account: &str, uid: &Value| Request::Token {
        namespace: "shop".into(),
        service_account: account.into(),
        body: json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": "web", "uid": uid}}}),
    };
    let uid = &pod["metadata"]["uid"];
    let token = edge.session.request(ask("till", uid)).await.unwrap();
    assert!(token["status"]["token"].as_str().unwrap().contains("serviceaccounts/till"));
    for (account, uid) in [("admin", uid), ("till", &json!("another"))] {
        let error = edge.session.request(ask(account, uid)).await.unwrap_err();
        assert!(matches!(&error, RequestError::Refused(failure) if failure.code == 403), "{error}");
    }
    edge.wires.set_down(true);
    // The session itself still stands; a new stream does not come about.
    assert!(matches!(edge.session.request(ask("till", uid)).await, Err(RequestError::Disconnected)));
    edge.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_node_hears_nothing_of_kinds_that_it_does_not_know() {
    let api = Api::new();
    put_config_map(&api, "menu", "soup");
    put_pod(&api, "web", "menu");
    let edge = start(&api).await;
    edge.session.shutdown().await;
    let Pipe { mut read, mut write } = edge.wires.open_hub().await.unwrap();
    let hello = Hello {
        version: VERSION,
        release: "older".into(),
        kinds: vec!["pods".into(), "services".into()],
        digest: vec![0; 32].into(),
    };
    let inventory = Inventory { entries: Vec::new(), last: true };
    for message in [FromNode::from(hello), inventory.into()] {
        frames::write(&mut write, &message.encode().unwrap()).await.unwrap();
    }
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "services last in shop") {
        let message = frames::read(&mut read, MAX_MESSAGE).await.unwrap().unwrap();
        let key = match FromControl::decode(&message).unwrap() {
            FromControl::Put(put) => Key::of(&serde_json::from_slice(&put.object).unwrap()).unwrap().1,
            FromControl::Delete(delete) => delete.key,
            FromControl::Synced(_) => {
                put_config_map(&api, "menu", "stew");
                api.delete("/api/v1/namespaces/shop/configmaps/menu");
                put_service(&api, "last", 0);
                continue;
            }
            _ => continue,
        };
        heard.push(key.to_string());
    }
    assert_eq!(heard, ["pods web in shop", "services last in shop"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_while_the_control_was_away_agrees_soon_after() {
    let api = Api::new();
    for n in 0..20 {
        put_service(&api, &format!("s{n}"), 0);
    }
    put_config_map(&api, "menu", "soup");
    put_pod(&api, "stays", "menu");
    put_pod(&api, "goes", "menu");
    let edge = start(&api).await;
    edge.session.synced().wait_for(|synced| *synced).await.unwrap();
    edge.wires.set_down(true);
    let old = control(api.client(), "127.0.0.1:1".parse().unwrap()).await;
    edge.wires.replace_hub(old.hub.clone());
    // The wire that stands is cut by what is written next.
    edge.wires.cut_after(vec![]);
    api.delete(&pod_path("goes"));
    put_pod(&api, "comes", "menu");
    put_service(&api, "s3", 7);
    edge.wires.set_down(false);
    until("agreement", || async { held(&edge.store) == truth(&api) }).await;
    edge.session.shutdown().await;
    old.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_order_is_kept_wherever_the_wire_is_cut() {
    for seed in 0..2 {
        cut_at_random(seed).await;
    }
}

async fn cut_at_random(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let api = Api::new();
    for n in 0..30 {
        put_service(&api, &format!("s{n}"), 0);
    }
    put_config_map(&api, "menu", "soup");
    let uid = put_pod(&api, "web", "menu")["metadata"]["uid"].as_str().unwrap().to_owned();
    let edge = start(&api).await;
    let order = tokio::spawn(watch_order(edge.store.clone()));
    // Some in the greeting, some in what differs, some in what follows.
    edge.wires.cut_after(
        (0..40).map(|n| random.random_range(1..if n % 4 == 0 { 15_000 } else { 3_000 })).collect(),
    );
    let mut events = 0u64;
    let mut last = 0u64;
    let mut round = 0;
    while edge.wires.cuts_left() > 0 || round < 100 {
        assert!(round < 2_000, "seed {seed}: {} cuts are left", edge.wires.cuts_left());
        round += 1;
        mutate(&api, &mut random, round);
        if random.random_bool(0.5) {
            events += 1;
            edge.outbox.put(event(events)).await.unwrap();
        }
        if random.random_bool(0.5) {
            last = round;
            edge.outbox.put(pod_status(&uid, round)).await.unwrap();
        }
        if random.random_bool(0.02) {
            api.set_down(true);
            tokio::time::sleep(Duration::from_millis(5)).await;
            api.set_down(false);
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..4))).await;
    }
    until("every write", || async { edge.outbox.pending() == 0 }).await;
    until("every change", || async { held(&edge.store) == truth(&api) }).await;
    let told: Vec<u64> = api
        .list("/api/v1/namespaces/shop/events/")
        .iter()
        .map(|event| event["metadata"]["name"].as_str().unwrap()[1..].parse().unwrap())
        .collect();
    let mut sorted = told.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (1..=events).collect::<Vec<_>>(), "seed {seed}: every event once");
    assert_eq!(
        api.get(&pod_path("web")).unwrap()["status"]["round"],
        json!(last),
        "seed {seed}: the last status"
    );
    edge.session.shutdown().await;
    order.abort();
    assert!(order.await.unwrap_err().is_cancelled(), "seed {seed}: an object went back in time");
}

fn mutate(api: &Api, random: &mut StdRng, round: u64) {
    let name = format!("s{}", random.random_range(0..40));
    match random.random_range(0..10) {
        0 => {
            api.delete(&format!("/api/v1/namespaces/shop/services/{name}"));
        }
        1 => put_config_map(api, "menu", &round.to_string()),
        2 => {
            put_pod(api, &format!("p{}", random.random_range(0..5)), "menu");
        }
        3 => {
            api.delete(&pod_path(&format!("p{}", random.random_range(0..5))));
        }
        _ => put_service(api, &name, round),
    }
}

fn event(number: u64) -> Write {
    let about = json!({"kind": "Pod", "namespace": "shop", "name": "web"});
    let metadata = json!({"name": format!("e{number}"), "namespace": "shop"});
    Write::Event {
        event: json!({"apiVersion": "v1", "kind": "Event", "metadata": metadata, "involvedObject": about}),
    }
}

fn pod_status(uid: &str, round: u64) -> Write {
    let (kind, namespace, name) = ("Pod".into(), "shop".into(), "web".into());
    Write::Status { kind, namespace, name, uid: uid.to_owned(), status: json!({"round": round}) }
}

/// Panics if an object's version ever goes back.
async fn watch_order(store: Metastore) {
    let mut changes = store.subscribe(&[&POD, &SERVICE, &CONFIG_MAP]);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        let Change::Put(object) = changes.next().await else { continue };
        let (_, key, version) = Key::of(&object).unwrap();
        let version: u64 = version.resource_version.parse().unwrap();
        let before = seen.insert(key.to_string(), version).unwrap_or_default();
        assert!(version >= before, "{key}: {before} and then {version}");
        assert!(kind::ALL.iter().any(|kind| key.is(kind)));
    }
}
