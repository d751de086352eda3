//! Several endpoints of one node, and the flows that they share.

use super::*;

/// So many listeners at one port, each at a loopback address of its own, with the pods of `orders` behind them.
async fn listeners(nodes: [&Node; 2], count: u8) -> Vec<TcpListener> {
    let port = edgeloom_ports::free().port();
    let mut listeners = Vec::new();
    for last in 1..=count {
        listeners.push(TcpListener::bind(SocketAddr::from(([127, 0, 0, last], port))).await.unwrap());
    }
    let endpoints: Vec<(IpAddr, &str)> = (1..=count).map(|last| ([127, 0, 0, last].into(), "b1")).collect();
    serve(nodes, port, &endpoints);
    listeners
}

/// The next connection, and which of the listeners took it.
async fn accept(listeners: &[TcpListener]) -> (usize, TcpStream) {
    let accepting = listeners.iter().map(|listener| Box::pin(listener.accept()));
    let (accepted, at, _) = soon(futures::future::select_all(accepting)).await;
    (at, accepted.unwrap().0)
}

/// So many flows at the same time, none of which ends before all have heard from their endpoint: which of the
/// listeners took each.
async fn meet(a: &Node, listeners: &[TcpListener], flows: usize) -> Vec<usize> {
    let mut clients = futures::future::join_all((0..flows).map(|_| call(a, cluster_ip()))).await;
    let mut taken = Vec::new();
    for _ in 0..flows {
        let (at, mut server) = accept(listeners).await;
        server.write_all(b"x").await.unwrap();
        taken.push((at, server));
    }
    for client in &mut clients {
        soon(client.read_exact(&mut [0])).await.unwrap();
    }
    taken.into_iter().map(|(at, _)| at).collect()
}

/// `orders` with session affinity.
fn bind_clients(nodes: [&Node; 2]) {
    let mut service = service("orders", cluster_ip(), "TCP");
    service["spec"]["sessionAffinity"] = serde_json::json!("ClientIP");
    for node in nodes {
        node.put(&service);
    }
}

#[tokio::test]
async fn the_endpoints_of_a_node_share_the_calls() {
    let (a, b) = pair().await;
    let listeners = listeners([&a, &b], 2).await;
    let mut shares = [0; 2];
    for _ in 0..100 {
        let client = call(&a, cluster_ip()).await;
        let (at, server) = accept(&listeners).await;
        shares[at] += 1;
        drop((client, server));
    }
    assert!(shares.iter().all(|share| *share >= 30), "{shares:?}");
}

#[tokio::test]
async fn a_flow_that_stays_open_does_not_turn_the_others_away() {
    let (a, b) = pair().await;
    let listeners = listeners([&a, &b], 2).await;
    let _open = call(&a, cluster_ip()).await;
    let (_, _server) = accept(&listeners).await;
    let mut shares = [0; 2];
    for _ in 0..100 {
        let client = call(&a, cluster_ip()).await;
        let (at, server) = accept(&listeners).await;
        shares[at] += 1;
        drop((client, server));
    }
    assert!(shares.iter().all(|share| *share >= 30), "{shares:?}");
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over_though_its_node_has_others() {
    let (a, b) = pair().await;
    let mut listeners = listeners([&a, &b], 2).await;
    listeners.pop();
    let start = Instant::now();
    // Each call but one of four goes to the other endpoint than the last.
    for _ in 0..30 {
        let client = call(&a, cluster_ip()).await;
        drop((client, accept(&listeners).await));
    }
    assert_eq!(a.proxy.balancer().aside(start), 1);
}

#[tokio::test]
async fn the_flows_of_a_bound_client_meet_while_none_has_ended() {
    let (a, b) = pair().await;
    let listeners = listeners([&a, &b], 4).await;
    bind_clients([&a, &b]);
    let takers = meet(&a, &listeners, 16).await;
    assert!(takers.iter().all(|taker| *taker == takers[0]), "{takers:?}");
    let connects = a.registry.gather();
    let connects = connects.iter().find(|family| family.name() == "edgeloom_mesh_connect_seconds").unwrap();
    let counted = connects.get_metric()[0].get_histogram().get_sample_count();
    assert_eq!(counted, 16, "connects are counted when they are made");
}

#[tokio::test]
async fn the_flows_of_a_bound_client_move_together_when_their_endpoint_refuses() {
    let (a, b) = pair().await;
    let mut listeners = listeners([&a, &b], 8).await;
    bind_clients([&a, &b]);
    let first = call(&a, cluster_ip()).await;
    let (bound, server) = accept(&listeners).await;
    drop((first, server));
    drop(listeners.remove(bound));
    let takers = meet(&a, &listeners, 16).await;
    assert!(takers.iter().all(|taker| *taker == takers[0]), "{takers:?}");
}
