use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};

use edgeloom_api::admin::Phase;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::testing::{Node, pair, pair_with, service};

mod lan;
mod sharing;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Bound of everything that a test waits for, far above what it takes.
const SOON: Duration = Duration::from_secs(20);

fn cluster_ip() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 9], 80))
}

/// Both nodes know the Service `orders` with these endpoints.
fn serve(nodes: [&Node; 2], port: u16, endpoints: &[(IpAddr, &str)]) {
    for node in nodes {
        node.put(&service("orders", cluster_ip(), "TCP"));
        node.serve("orders", port, "TCP", endpoints);
    }
}

/// A client's connection whose packets the kernel would have steered to `a`'s agent.
async fn call(a: &Node, to: SocketAddr) -> TcpStream {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (steered, from) = listener.accept().await.unwrap();
    let proxy = a.proxy.clone();
    proxy.tasks.spawn(proxy.clone().outgoing(steered, from, to));
    client
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A port of 127.0.0.1 where nobody listens.
fn closed_port() -> u16 {
    edgeloom_ports::free().port()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it takes too long")
}

#[tokio::test]
async fn a_call_across_with_half_close_in_both_orders() {
    let (a, b) = pair().await;
    let (target, port) = listener().await;
    serve([&a, &b], port, &[(LOOPBACK, "b1")]);
    let mut client = call(&a, cluster_ip()).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut server, _) = soon(target.accept()).await.unwrap();
    let mut question = String::new();
    soon(server.read_to_string(&mut question)).await.unwrap();
    assert_eq!(question, "question");
    server.write_all(b"answer").await.unwrap();
    drop(server);
    let mut answer = String::new();
    soon(client.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "answer");

    let mut client = call(&a, cluster_ip()).await;
    let (mut server, _) = soon(target.accept()).await.unwrap();
    server.write_all(b"greeting").await.unwrap();
    server.shutdown().await.unwrap();
    let mut greeting = String::new();
    soon(client.read_to_string(&mut greeting)).await.unwrap();
    assert_eq!(greeting, "greeting");
    client.write_all(b"still here").await.unwrap();
    drop(client);
    let mut rest = String::new();
    soon(server.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "still here");
    drop(server);
    a.proxy.shutdown(SOON).await;
    assert_eq!(a.metric("edgeloom_mesh_connections_total", &["outgoing", "complete"]), 2.0);
    assert_eq!(a.metric("edgeloom_mesh_bytes_total", &["sent"]), 18.0);
    assert_eq!(a.metric("edgeloom_mesh_bytes_total", &["received"]), 14.0);
    assert_eq!(a.metric("edgeloom_mesh_connections", &["outgoing"]), 0.0);
}

#[tokio::test]
async fn megabytes_both_ways_arrive_whole() {
    let (a, b) = pair().await;
    let (target, port) = listener().await;
    serve([&a, &b], port, &[(LOOPBACK, "b1")]);
    both_ways(&a, &target).await;
}

/// Sends 20 MiB both ways at the same time, between a client at `a` and the target.
async fn both_ways(a: &Node, target: &TcpListener) {
    let client = call(a, cluster_ip()).await;
    let (server, _) = soon(target.accept()).await.unwrap();
    let data: Vec<u8> = (0..20u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let both = |tcp: TcpStream| {
        let data = data.clone();
        async move {
            let (mut read, mut write) = tcp.into_split();
            let send = async {
                write.write_all(&data).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let (_, read) = tokio::join!(send, read.read_to_end(&mut got));
            read.unwrap();
            got == data
        }
    };
    let (client, server) = soon(async { tokio::join!(both(client), both(server)) }).await;
    assert!(client && server);
}

#[tokio::test]
async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let (a, b) = pair().await;
    let (target, port) = listener().await;
    serve([&a, &b], port, &[(LOOPBACK, "b1")]);
    for from_client in [true, false] {
        let mut client = call(&a, cluster_ip()).await;
        client.write_all(b"x").await.unwrap();
        let (mut server, _) = soon(target.accept()).await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        server.write_all(b"y").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        let (gone, mut left) = if from_client { (client, server) } else { (server, client) };
        socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
        drop(gone);
        let error = soon(left.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{from_client}");
    }
    a.proxy.shutdown(SOON).await;
    assert_eq!(a.metric("edgeloom_mesh_connections_total", &["outgoing", "reset"]), 2.0);
}

#[tokio::test]
async fn a_refusal_at_the_far_end_is_a_reset_before_any_byte() {
    let (a, b) = pair().await;
    serve([&a, &b], closed_port(), &[(LOOPBACK, "b1")]);
    let mut client = call(&a, cluster_ip()).await;
    client.write_all(b"hello").await.unwrap();
    let error = soon(client.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    a.proxy.shutdown(SOON).await;
    assert_eq!(a.metric("edgeloom_mesh_connections_total", &["outgoing", "refused"]), 1.0);
    assert_eq!(a.proxy.balancer().aside(Instant::now()), 1);
}

#[tokio::test]
async fn what_nobody_serves_is_refused() {
    let (a, b) = pair().await;
    let (_target, port) = listener().await;
    // The caller knows a Service that the other node does not (yet).
    a.put(&service("orders", cluster_ip(), "TCP"));
    a.serve("orders", port, "TCP", &[(LOOPBACK, "b1")]);
    for to in [cluster_ip(), SocketAddr::from(([10, 96, 0, 9], 81)), SocketAddr::from(([10, 244, 2, 9], 80))]
    {
        let mut client = call(&a, to).await;
        let error = soon(client.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{to}");
    }
    a.proxy.shutdown(SOON).await;
    assert_eq!(a.metric("edgeloom_mesh_connections_total", &["outgoing", "not_here"]), 1.0);
    assert_eq!(a.metric("edgeloom_mesh_connections_total", &["outgoing", "no_endpoint"]), 2.0);
    assert_eq!(b.metric("edgeloom_mesh_connections_total", &["incoming", "not_here"]), 1.0);
}

#[tokio::test]
async fn a_connect_that_fails_goes_to_the_next_endpoint_with_every_byte() {
    let (a, b) = pair().await;
    let (target, port) = listener().await;
    // The first is tried first, since its node is of the caller's site; and that node is not there.
    let gone: IpAddr = [127, 0, 0, 2].into();
    let stranger = edgeloom_tunnel::identity::Identity::generate().unwrap().peer_id().to_string();
    for node in [&a, &b] {
        node.put(&serde_json::json!({
            "apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode", "metadata": {"name": "a2"},
            "spec": {"peerId": stranger, "site": "a", "roles": ["edge"]},
        }));
    }
    serve([&a, &b], port, &[(gone, "a2"), (LOOPBACK, "b1")]);
    let mut client = call(&a, cluster_ip()).await;
    client.write_all(b"said once").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut server, _) = soon(target.accept()).await.unwrap();
    let mut got = String::new();
    soon(server.read_to_string(&mut got)).await.unwrap();
    assert_eq!(got, "said once");
    assert_eq!(a.proxy.balancer().aside(Instant::now()), 1);
    drop((server, client));
    a.proxy.shutdown(SOON).await;
    assert_eq!(a.metric("edgeloom_mesh_connections_total", &["outgoing", "complete"]), 1.0);
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_writer_and_nobody_else() {
    const WINDOW: u32 = 64 << 10;
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(WINDOW.into()).send_window(u64::from(WINDOW));
    let (a, b) = pair_with(transport, &Settings::default()).await;
    let (target, port) = listener().await;
    serve([&a, &b], port, &[(LOOPBACK, "b1")]);
    let client = call(&a, cluster_ip()).await;
    let (stalled, _) = soon(target.accept()).await.unwrap();
    let mut written = 0;
    let quiet = Duration::from_millis(500);
    while tokio::time::timeout(quiet, client.writable()).await.is_ok() {
        written += client.try_write(&[7; 64 << 10]).unwrap_or(0);
        assert!(written < 64 << 20, "nothing holds the writer back");
    }
    let mut other = call(&a, cluster_ip()).await;
    let (mut server, _) = soon(target.accept()).await.unwrap();
    other.write_all(b"ping").await.unwrap();
    soon(server.read_exact(&mut [0; 4])).await.unwrap();
    drop(client);
    let mut stalled = stalled;
    let mut rest = Vec::new();
    soon(stalled.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest.len(), written, "every byte that was taken arrives");
}

#[tokio::test]
async fn a_slow_endpoint_delays_nobody_else() {
    let (a, b) = pair().await;
    let (target, port) = listener().await;
    serve([&a, &b], port, &[(LOOPBACK, "b1")]);
    // No packet comes back from a range for documentation (RFC 5737): the connect hangs or is refused.
    let slow = SocketAddr::from(([10, 96, 0, 10], 80));
    for node in [&a, &b] {
        node.put(&service("slow", slow, "TCP"));
        node.serve("slow", 80, "TCP", &[([192, 0, 2, 1].into(), "b1")]);
    }
    let _waiting = call(&a, slow).await;
    let _client = call(&a, cluster_ip()).await;
    soon(target.accept()).await.unwrap();
}

#[tokio::test]
async fn a_drain_that_runs_out_resets_what_is_left() {
    let (a, b) = pair().await;
    let (target, port) = listener().await;
    serve([&a, &b], port, &[(LOOPBACK, "b1")]);
    let mut client = call(&a, cluster_ip()).await;
    let (mut server, _) = soon(target.accept()).await.unwrap();
    soon(a.proxy.shutdown(Duration::from_millis(10))).await;
    assert_eq!(soon(client.read(&mut [0])).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(soon(server.read(&mut [0])).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_near_endpoint_is_dialled_from_here() {
    let (a, b) = pair().await;
    let (target, port) = listener().await;
    serve([&a, &b], port, &[(LOOPBACK, "a1")]);
    let mut client = call(&a, cluster_ip()).await;
    client.write_all(b"hi").await.unwrap();
    let (mut server, _) = soon(target.accept()).await.unwrap();
    soon(server.read_exact(&mut [0; 2])).await.unwrap();
}

#[tokio::test]
async fn as_many_connections_as_are_allowed() {
    let settings = Settings { max_connections: 1, ..Settings::default() };
    let (a, b) = pair_with(quinn::TransportConfig::default(), &settings).await;
    let (target, port) = listener().await;
    serve([&a, &b], port, &[(LOOPBACK, "b1")]);
    let _first = call(&a, cluster_ip()).await;
    soon(target.accept()).await.unwrap();
    let mut second = call(&a, cluster_ip()).await;
    assert_eq!(soon(second.read(&mut [0])).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_stream_that_makes_no_sense_is_refused() {
    let (a, b) = pair().await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[1, 1, 0xff, 0xff], &[]] {
        let mut stream = a.wire.open(a.wire.peer).await.unwrap();
        stream.send.write_all(bytes).await.unwrap();
        stream.send.finish().unwrap();
        let error = soon(stream.recv.read_to_end(1)).await.unwrap_err();
        assert!(error.to_string().contains("reset"), "{error}");
    }
    assert_eq!(b.metric("edgeloom_mesh_connections_total", &["incoming", "malformed"]), 3.0);
}

#[tokio::test]
async fn a_measurement_moves_bytes_and_times_round_trips() {
    let (a, _b) = pair().await;
    let time = Duration::from_millis(100);
    for phase in [Phase::Latency, Phase::Send, Phase::Receive] {
        let measured = crate::measure::run(&*a.wire, a.wire.peer, phase, time, 2);
        let outcome = soon(measured).await.unwrap();
        assert!(outcome.bytes > 0, "{phase:?}");
        assert!(outcome.took >= time, "{phase:?}: {:?}", outcome.took);
        assert_eq!(outcome.round_trips.is_empty(), phase != Phase::Latency);
    }
}
