//! Joining and a session over the real tunnel, on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeloom_api::admin::TokenRequest;
use edgeloom_api::join::JoinRequest;
use edgeloom_api::kind::SERVICE;
use edgeloom_api::token::JoinToken;
use edgeloom_client::{
    JoinConfig, JoinError, Membership, Metastore, Outbox, Session, TunnelOverlay, Write, join,
};
use edgeloom_model::NodeName;
use edgeloom_tunnel::identity::Identity;
use edgeloom_tunnel::join::{Proof, request as request_join};
use edgeloom_tunnel::{Accepted, Alpn, Carriers, Config, Incoming, Tunnel};
use prometheus::Registry;
use serde_json::json;

use crate::api::Api;
use crate::cluster::{Control, control, put_service};
use crate::flow::until;

/// An address of the control where UDP is swallowed and TCP passes, until it is dropped.
async fn without_udp(control: SocketAddr) -> (SocketAddr, tokio::task::JoinSet<()>, std::net::UdpSocket) {
    let address = edgeloom_ports::free();
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let silent = std::net::UdpSocket::bind(address).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut passing = tokio::task::JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            passing.spawn(async move {
                let mut far = tokio::net::TcpStream::connect(control).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, tasks, silent)
}

async fn serve(control: &Control, mut incoming: Incoming) {
    while let Some(accepted) = incoming.accept().await {
        match accepted {
            Accepted::Join { from, remote, stream } => {
                let join = control.join.clone();
                tokio::spawn(async move { join.serve(from, remote, stream).await });
            }
            Accepted::Stream { from, alpn: Alpn::Hub, stream } => {
                control.hub.accept(from, stream.recv, stream.send)
            }
            _ => {}
        }
    }
}

pub async fn start(client: kube::Client) -> (Arc<Control>, SocketAddr, Tunnel) {
    start_at(client, edgeloom_ports::free()).await
}

/// Where a control that listens at `listen` takes WebSockets: another address of the loopback network.
fn websocket_of(listen: SocketAddr) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 2], listen.port()))
}

/// A control that tells nodes to find it at `contact` and listens at `listen`.
async fn start_behind(
    client: kube::Client,
    contact: SocketAddr,
    listen: SocketAddr,
) -> (Arc<Control>, Tunnel) {
    let control = Arc::new(control(client, contact).await);
    let carriers = Carriers { websocket_listen: Some(websocket_of(listen)), ..Carriers::default() };
    let config = Config { listen, relay: true, serve_join: true, carriers, ..Config::default() };
    let (identity, credential) = (Arc::clone(&control.identity), control.join.own_credential());
    let (tunnel, incoming) =
        Tunnel::start(config, identity, credential, control.join.trust(), &Registry::new()).await.unwrap();
    let serving = Arc::clone(&control);
    tokio::spawn(async move { serve(&serving, incoming).await });
    (control, tunnel)
}

async fn start_at(client: kube::Client, address: SocketAddr) -> (Arc<Control>, SocketAddr, Tunnel) {
    let (control, tunnel) = start_behind(client, address, address).await;
    (control, address, tunnel)
}

pub async fn token(control: &Control, uses: u32) -> String {
    let request = TokenRequest { site: "berlin".into(), ttl_seconds: 600, uses, node: None };
    control.tokens.create(&request).await.unwrap().token
}

pub fn config(
    folder: &std::path::Path,
    node: &str,
    address: SocketAddr,
    token: Option<String>,
) -> JoinConfig {
    JoinConfig {
        state_dir: folder.to_owned(),
        node: NodeName::new(node).unwrap(),
        control: vec![address.to_string()],
        token,
        patience: Duration::ZERO,
        carriers: Carriers::default(),
    }
}

pub async fn refusal(config: &JoinConfig) -> String {
    match join(config).await {
        Err(JoinError::Wire(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_udp_is_blocked_joins_and_holds_a_session_over_tcp() {
    let listen = edgeloom_ports::free();
    let (blocked, _tasks, _silent) = without_udp(listen).await;
    let (control, tunnel) = start_behind(Api::new().client(), blocked, listen).await;
    let folder = tempfile::tempdir().unwrap();
    let started = std::time::Instant::now();
    let token = token(&control, 1).await;
    let membership = join(&config(folder.path(), "edge-1", blocked, Some(token))).await.unwrap();
    assert_eq!(membership.node.as_str(), "edge-1");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let (edge, session, ..) = session(membership, folder.path()).await;
    tokio::time::timeout(Duration::from_secs(30), session.synced().wait_for(|synced| *synced))
        .await
        .unwrap()
        .unwrap();
    assert!(edge.peers().iter().any(|peer| peer.carrier.is_some()), "{:?}", edge.peers());
    session.shutdown().await;
    edge.shutdown(Duration::ZERO).await;
    control.hub.shutdown().await;
    tunnel.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_joins_by_a_websocket_where_only_that_answers() {
    let (control, address, tunnel) = start(Api::new().client()).await;
    let folder = tempfile::tempdir().unwrap();
    // At this address of the control's there is no port but that of the WebSockets.
    let websocket = websocket_of(address);
    let nothing_else = SocketAddr::new(websocket.ip(), 9);
    let token = token(&control, 1).await;
    let mut config = config(folder.path(), "edge-1", nothing_else, Some(token));
    config.carriers.websocket_port = websocket.port();
    assert_eq!(join(&config).await.unwrap().node.as_str(), "edge-1");
    tunnel.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_joins_and_holds_a_session() {
    let api = Api::new();
    put_service(&api, "orders", 0);
    let (control, address, tunnel) = start(api.client()).await;
    let folder = tempfile::tempdir().unwrap();
    let membership =
        join(&config(folder.path(), "edge-1", address, Some(token(&control, 1).await))).await.unwrap();
    assert_eq!((membership.node.as_str(), membership.site.as_str()), ("edge-1", "berlin"));
    let node = api.get("/api/v1/nodes/edge-1").unwrap();
    assert_eq!(node["metadata"]["labels"]["topology.kubernetes.io/zone"], "berlin");
    let edge_node = api.get("/apis/edgeloom.io/v1alpha1/edgenodes/edge-1").unwrap();
    assert_eq!(edge_node["spec"]["peerId"], membership.identity.peer_id().to_base58());
    // A later start needs neither token nor control.
    let again = join(&config(folder.path(), "edge-1", "127.0.0.1:9".parse().unwrap(), None)).await.unwrap();
    assert_eq!(again.identity.peer_id(), membership.identity.peer_id());
    assert!(matches!(
        join(&config(folder.path(), "edge-2", address, None)).await,
        Err(JoinError::Renamed { .. })
    ));

    let (edge, session, store, _) = session(membership, folder.path()).await;
    tokio::time::timeout(Duration::from_secs(30), session.synced().wait_for(|synced| *synced))
        .await
        .unwrap()
        .unwrap();
    assert!(store.inventory().iter().any(|(key, _)| key.name == "orders"));
    put_service(&api, "bills", 0);
    let arrived = async {
        while !store.inventory().iter().any(|(key, _)| key.name == "bills") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), arrived).await.unwrap();
    session.shutdown().await;
    edge.shutdown(Duration::ZERO).await;
    control.hub.shutdown().await;
    tunnel.shutdown(Duration::ZERO).await;
}

pub async fn session(
    membership: Membership,
    folder: &std::path::Path,
) -> (Tunnel, Session, Metastore, Outbox) {
    let store = Metastore::open(folder.join("metastore.db")).unwrap();
    let outbox = Outbox::open(folder.join("outbox.db")).unwrap();
    let config = Config {
        listen: edgeloom_ports::free(),
        relays: membership.relays_with(&store),
        ..Config::default()
    };
    let trust = membership.trust_with(&store).unwrap();
    let (identity, credential) = (Arc::clone(&membership.identity), membership.credential.clone());
    let (tunnel, _incoming) =
        Tunnel::start(config, identity, credential, trust, &Registry::new()).await.unwrap();
    tunnel.set_peers(membership.peers_with(&store));
    let overlay = Arc::new(TunnelOverlay::new(tunnel.clone(), membership.control.peer));
    let session =
        Session::start(membership, overlay, store.clone(), outbox.clone(), &Registry::new()).unwrap();
    (tunnel, session, store, outbox)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_of_a_joiner_has_its_own_answer() {
    let api = Api::new();
    let (control, address, tunnel) = start(api.client()).await;
    let good = token(&control, 1).await;
    let (first, second, third) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    join(&config(first.path(), "edge-1", address, Some(good.clone()))).await.unwrap();
    let used_up = refusal(&config(second.path(), "edge-2", address, Some(good))).await;
    assert!(used_up.contains("used"), "{used_up}");
    let taken = refusal(&config(second.path(), "edge-1", address, Some(token(&control, 1).await))).await;
    assert!(taken.contains("edge-1") && taken.contains("taken"), "{taken}");
    let secret = token(&control, 1).await.split_once('.').unwrap().1.to_owned();
    let other_ca =
        refusal(&config(third.path(), "edge-3", address, Some(format!("{}.{secret}", "00".repeat(32)))))
            .await;
    assert!(other_ca.contains("another CA"), "{other_ca}");
    let hash = token(&control, 1).await.split_once('.').unwrap().0.to_owned();
    let unknown =
        refusal(&config(third.path(), "edge-3", address, Some(format!("{hash}.{}", "A".repeat(43))))).await;
    assert!(unknown.contains("not known"), "{unknown}");
    // Whether a name is taken, and by whom, is not for everybody.
    let blind = Some(format!("{hash}.{}", "A".repeat(43)));
    let blind = refusal(&config(third.path(), "edge-1", address, blind)).await;
    assert!(blind.contains("not known") && !blind.contains("taken"), "{blind}");
    assert!(api.get("/api/v1/nodes/edge-3").is_none());
    tunnel.shutdown(Duration::ZERO).await;
    control.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_source_has_a_share_of_the_joins_and_the_next_is_told_to_come_again() {
    let api = Api::new();
    let (control, address, tunnel) = start(api.client()).await;
    let token = token(&control, 17).await;
    let folder = tempfile::tempdir().unwrap();
    let node = |name: &str, ranges: serde_json::Value| {
        let metadata = json!({"name": name, "labels": {"node-role.kubernetes.io/edge": ""}});
        let node =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"podCIDRs": ranges}});
        api.put(&format!("/api/v1/nodes/{name}"), node);
    };
    let names: Vec<String> = (0..16).map(|index| format!("edge-{index}")).collect();
    let mut joining = tokio::task::JoinSet::new();
    for name in &names {
        // Without pod ranges, which are waited for.
        node(name, json!([]));
        let config = config(&folder.path().join(name), name, address, Some(token.clone()));
        joining.spawn(async move { join(&config).await });
    }
    until("sixteen conversations", || async { api.list("/apis/edgeloom.io/v1alpha1/edgenodes").len() == 16 })
        .await;
    let late = config(&folder.path().join("late"), "late", address, Some(token));
    let told = refusal(&late).await;
    assert!(told.contains("refused") && told.contains("try again"), "{told}");
    names.iter().for_each(|name| node(name, json!(["10.244.1.0/24"])));
    while let Some(joined) = joining.join_next().await {
        joined.unwrap().unwrap();
    }
    join(&late).await.unwrap();
    tunnel.shutdown(Duration::ZERO).await;
    control.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_are_held_against_the_clusters_own_range_of_services() {
    let api = Api::new();
    let (control, address, tunnel) = start(api.client()).await;
    let token = token(&control, 3).await;
    let at = |route: &str, node: &str| {
        let identity = Arc::new(Identity::generate().unwrap());
        let token: JoinToken = token.parse().unwrap();
        let request = JoinRequest {
            secret: token.secret().to_owned(),
            node: node.to_owned(),
            hostname: node.to_owned(),
            os: "linux".to_owned(),
            arch: "amd64".to_owned(),
            release: "test".to_owned(),
            routes: vec![route.parse().unwrap()],
        };
        async move {
            let (proof, carriers) = (Proof::Token(&token), Carriers::default());
            let joined = request_join(&identity, proof, &[address], &carriers, &request).await;
            joined.map(drop).map_err(|error| error.to_string())
        }
    };
    // The API serves no ServiceCIDRs: what is configured counts.
    let refused = at("198.51.100.128/25", "edge-1").await.unwrap_err();
    assert!(refused.contains("198.51.100.0/24"), "{refused}");
    let cidr = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.43.0.0/16", "fd00:43::/112"]}});
    api.put("/apis/networking.k8s.io/v1/servicecidrs/kubernetes", cidr);
    let refused = at("10.43.7.0/24", "edge-1").await.unwrap_err();
    assert!(refused.contains("10.43.0.0/16") && refused.contains("10.43.7.0/24"), "{refused}");
    // The default range of other clusters is nothing to this one, nor what was configured.
    at("10.96.0.0/16", "edge-1").await.unwrap();
    at("198.51.100.128/25", "edge-2").await.unwrap();
    tunnel.shutdown(Duration::ZERO).await;
    control.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_that_was_killed_is_found_again() {
    let api = Api::new();
    put_service(&api, "orders", 0);
    let (control, address, tunnel) = start(api.client()).await;
    let folder = tempfile::tempdir().unwrap();
    let token = token(&control, 1).await;
    let membership = join(&config(folder.path(), "edge-1", address, Some(token))).await.unwrap();
    let (edge, session, store, outbox) = session(membership, folder.path()).await;
    session.synced().wait_for(|synced| *synced).await.unwrap();
    // The node always has something to say, as one that renews its lease has.
    let lease = |second: u32| Write::Lease { name: "edge-1".into(), body: json!({"renewTime": second}) };
    tunnel.abort();
    drop(tunnel);
    control.hub.shutdown().await;
    drop(control);
    until("the port", || async { std::net::UdpSocket::bind(address).is_ok() }).await;
    api.delete("/api/v1/namespaces/shop/services/orders");
    put_service(&api, "bills", 0);
    outbox.put(lease(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (control, _, tunnel) = start_at(api.client(), address).await;
    let began = Instant::now();
    until("agreement", || async {
        let names: Vec<String> =
            store.list(&SERVICE).iter().map(|service| service["metadata"]["name"].to_string()).collect();
        names == ["\"bills\""] && outbox.pending() == 0
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    println!("found again after {:?}", began.elapsed());
    session.shutdown().await;
    edge.shutdown(Duration::ZERO).await;
    control.hub.shutdown().await;
    tunnel.shutdown(Duration::ZERO).await;
}
