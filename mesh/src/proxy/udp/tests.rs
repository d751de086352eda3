use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::testing::{Node, pair, pair_with, service};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Bound of everything that a test waits for, far above what it takes.
const SOON: Duration = Duration::from_secs(20);

/// Both nodes know the UDP Service `echo`, at an address where the replies' socket can be bound.
fn serve(nodes: [&Node; 2], port: u16, node: &str) -> SocketAddr {
    let called = edgeloom_ports::free();
    for to in nodes {
        to.put(&service("echo", called, "UDP"));
        to.serve("echo", port, "UDP", &[(LOOPBACK, node)]);
    }
    called
}

async fn socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (length, from) = tokio::time::timeout(SOON, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    buffer.truncate(length);
    (buffer, from)
}

/// Waits until `condition` holds, looking again after each turn of the other tasks.
async fn until(condition: impl Fn() -> bool) {
    let patience = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, patience).await.expect("it takes too long");
}

#[tokio::test]
async fn questions_and_answers_small_and_large() {
    let (a, b) = pair().await;
    let (target, at) = socket().await;
    let called = serve([&a, &b], at.port(), "b1");
    let (client, from) = socket().await;
    for size in [0, 1, 1000, 1300, 9000, 60_000, 5] {
        let question: Vec<u8> = (0..size).map(|i| i as u8).collect();
        a.proxy.from_client(from, called, &question);
        let (got, flow) = receive(&target).await;
        assert_eq!(got, question);
        let answer: Vec<u8> = question.iter().rev().copied().collect();
        target.send_to(&answer, flow).await.unwrap();
        let (got, source) = receive(&client).await;
        assert_eq!((got, source), (answer, called), "from the address called");
    }
    assert!(a.metric("edgeloom_mesh_udp_sent_total", &["datagram"]) >= 1.0);
    assert!(a.metric("edgeloom_mesh_udp_sent_total", &["stream"]) >= 3.0);
    assert_eq!(a.metric("edgeloom_mesh_udp_flows", &["outgoing"]), 1.0);
    assert_eq!(b.metric("edgeloom_mesh_udp_flows", &["incoming"]), 1.0);
}

#[tokio::test]
async fn a_burst_before_the_flow_is_set_up_keeps_its_order() {
    let (a, b) = pair().await;
    let (target, at) = socket().await;
    let called = serve([&a, &b], at.port(), "b1");
    let (_client, from) = socket().await;
    for i in 0..50u8 {
        a.proxy.from_client(from, called, &[i]);
    }
    for i in 0..50u8 {
        assert_eq!(receive(&target).await.0, [i]);
    }
}

#[tokio::test]
async fn each_client_has_a_flow_of_its_own() {
    let (a, b) = pair().await;
    let (target, at) = socket().await;
    let called = serve([&a, &b], at.port(), "b1");
    let mut clients = Vec::new();
    for i in 0..20u8 {
        let (client, from) = socket().await;
        a.proxy.from_client(from, called, &[i]);
        clients.push(client);
    }
    for _ in 0..20 {
        let (question, flow) = receive(&target).await;
        target.send_to(&question, flow).await.unwrap();
    }
    for (i, client) in clients.iter().enumerate() {
        assert_eq!(usize::from(receive(client).await.0[0]), i);
    }
}

#[tokio::test]
async fn as_many_flows_as_are_allowed() {
    let settings = Settings { max_udp_flows: 2, ..Settings::default() };
    let (a, b) = pair_with(quinn::TransportConfig::default(), &settings).await;
    let (_target, at) = socket().await;
    let called = serve([&a, &b], at.port(), "b1");
    for port in 1..=5 {
        a.proxy.from_client(SocketAddr::new(LOOPBACK, port), called, b"x");
    }
    assert_eq!(a.metric("edgeloom_mesh_udp_flows", &["outgoing"]), 2.0);
    assert_eq!(a.metric("edgeloom_mesh_udp_dropped_total", &["too_many_flows"]), 3.0);
}

#[tokio::test]
async fn idle_flows_end_on_both_sides() {
    let settings = Settings { udp_idle_seconds: 0, ..Settings::default() };
    let (a, b) = pair_with(quinn::TransportConfig::default(), &settings).await;
    let (target, at) = socket().await;
    let called = serve([&a, &b], at.port(), "b1");
    let (_client, from) = socket().await;
    a.proxy.from_client(from, called, b"x");
    receive(&target).await;
    a.proxy.sweep_udp();
    assert_eq!(a.metric("edgeloom_mesh_udp_flows", &["outgoing"]), 0.0);
    until(|| b.metric("edgeloom_mesh_udp_flows", &["incoming"]) == 0.0).await;
}

#[tokio::test]
async fn a_flow_leaves_an_endpoint_that_is_gone() {
    let (a, b) = pair().await;
    let (old, old_at) = socket().await;
    let called = serve([&a, &b], old_at.port(), "b1");
    let (_client, from) = socket().await;
    a.proxy.from_client(from, called, b"1");
    receive(&old).await;
    let (new, new_at) = socket().await;
    for node in [&a, &b] {
        node.serve("echo", new_at.port(), "UDP", &[(LOOPBACK, "b1")]);
    }
    a.proxy.sweep_udp();
    a.proxy.from_client(from, called, b"2");
    assert_eq!(receive(&new).await.0, b"2");
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_set_aside_and_its_flow_ends() {
    let (a, b) = pair().await;
    let (closed, at) = socket().await;
    drop(closed);
    let called = serve([&a, &b], at.port(), "b1");
    let (_client, from) = socket().await;
    a.proxy.from_client(from, called, b"x");
    until(|| a.metric("edgeloom_mesh_udp_flows", &["outgoing"]) == 0.0).await;
    assert_eq!(a.proxy.balancer().aside(Instant::now()), 1);
    until(|| b.metric("edgeloom_mesh_udp_flows", &["incoming"]) == 0.0).await;
}

#[tokio::test]
async fn a_near_endpoint_is_called_from_here() {
    let (a, b) = pair().await;
    let (target, at) = socket().await;
    let called = serve([&a, &b], at.port(), "a1");
    let (client, from) = socket().await;
    a.proxy.from_client(from, called, b"question");
    let (question, flow) = receive(&target).await;
    assert_eq!(question, b"question");
    target.send_to(b"answer", flow).await.unwrap();
    assert_eq!(receive(&client).await, (b"answer".to_vec(), called));
}

#[tokio::test]
async fn the_flows_of_a_lost_session_end_with_it() {
    let (a, b) = pair().await;
    let (target, at) = socket().await;
    let called = serve([&a, &b], at.port(), "b1");
    let (_client, from) = socket().await;
    a.proxy.from_client(from, called, b"1");
    receive(&target).await;
    let stream = a.proxy.session(a.wire.peer);
    a.wire.connection.close(0u32.into(), b"gone");
    until(|| a.metric("edgeloom_mesh_udp_flows", &["outgoing"]) == 0.0).await;
    until(|| b.metric("edgeloom_mesh_udp_flows", &["incoming"]) == 0.0).await;
    assert!(stream.is_closed());
}

#[tokio::test]
async fn flows_do_not_hold_up_a_shutdown() {
    let (a, b) = pair().await;
    let (target, at) = socket().await;
    let called = serve([&a, &b], at.port(), "b1");
    let (_client, from) = socket().await;
    a.proxy.from_client(from, called, b"x");
    receive(&target).await;
    let hour = Duration::from_secs(3600);
    for node in [&a, &b] {
        tokio::time::timeout(SOON, node.proxy.shutdown(hour)).await.expect("it waits for the drain");
    }
}
