//! UDP is blocked, wholly or for a while: what goes over TCP, and comes back.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use edgeloom_tunnel::{Alpn, Carriers, Config, DirectKind, OpenError, Path, Peer, Proxy, RelayPeer};

use crate::common::{Cluster, Node, Relay, config};
use crate::middlebox::{HttpProxy, Middlebox};

/// A node that knows the relay by the middlebox's address.
fn behind(middlebox: &Middlebox, relay: &Relay) -> Config {
    let relays = vec![RelayPeer { peer: relay.peer.peer, addresses: vec![middlebox.address] }];
    Config { relays, direct: false, ..config(None) }
}

fn is(kind: DirectKind) -> impl Fn(&Path) -> bool {
    move |path| matches!(path, Path::Direct { kind: found, .. } if *found == kind)
}

async fn echoes(a: &Node, b: &Node) {
    a.tunnel.set_peers(vec![b.as_peer()]);
    a.echo(b, 3 << 20).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_is_blocked_streams_and_the_hub_go_over_tls() {
    let cluster = Cluster::new("test");
    let relay = Relay::new();
    let control = relay.start(&cluster).await;
    let middlebox = Middlebox::new(relay.address, false).await;
    let started = Instant::now();
    let a = cluster.node("a", behind(&middlebox, &relay)).await;
    let b = cluster.node("b", Config { direct: false, ..config(Some(&relay)) }).await;
    // To the relay itself, from which also the first connection may come.
    a.echo(&control, 1000).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    control.echo(&a, 100_000).await.unwrap();
    echoes(&a, &b).await;
    let status = a.status_of(&control);
    assert_eq!(status.path, Path::Direct { addr: middlebox.address, kind: DirectKind::Tcp });
    assert_eq!(a.status_of(&b).path, Path::Relayed { relay: control.id() });
    assert_eq!(a.status_of(&b).carrier, Some(DirectKind::Tcp));
    assert_eq!(b.status_of(&a).carrier, None);
    assert!(a.counter("edgeloom_tunnel_carrier_sent_bytes_total") > 3e6);
    assert!(control.counter("edgeloom_tunnel_carriers") >= 1.0);
    assert!(a.tunnel.ping(b.id()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_that_does_not_relay_takes_carriers_too() {
    let cluster = Cluster::new("test");
    let listen = edgeloom_ports::free();
    let control = cluster.node("control", Config { listen, serve_join: true, ..config(None) }).await;
    let middlebox = Middlebox::new(listen, false).await;
    let a = cluster.node("a", config(None)).await;
    a.tunnel.set_peers(vec![Peer { addresses: vec![middlebox.address], ..control.as_peer() }]);
    a.echo(&control, 1000).await.unwrap();
    assert_eq!(a.status_of(&control).carrier, Some(DirectKind::Tcp));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_carriers_meet_at_the_relay() {
    let cluster = Cluster::new("test");
    let relay = Relay::new();
    let control = relay.start(&cluster).await;
    let (of_a, of_b) =
        (Middlebox::new(relay.address, false).await, Middlebox::new(relay.address, false).await);
    let a = cluster.node("a", behind(&of_a, &relay)).await;
    let b = cluster.node("b", behind(&of_b, &relay)).await;
    b.until_path(&control, is(DirectKind::Tcp)).await;
    echoes(&a, &b).await;
    assert_eq!(b.status_of(&a).carrier, Some(DirectKind::Tcp));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_stream_moves_to_tcp_and_back() {
    let cluster = Cluster::new("test");
    let relay = Relay::new();
    let control = relay.start(&cluster).await;
    let middlebox = Middlebox::new(relay.address, true).await;
    let a = cluster.node("a", behind(&middlebox, &relay)).await;
    let b = cluster.node("b", Config { direct: false, ..config(Some(&relay)) }).await;
    a.tunnel.set_peers(vec![b.as_peer()]);
    let mut stream = a.tunnel.open(b.id(), Alpn::Mesh).await.unwrap();
    let mut said = async |text: &[u8]| {
        stream.send.write_all(text).await.unwrap();
        let mut back = vec![0; text.len()];
        stream.recv.read_exact(&mut back).await.unwrap();
        assert_eq!(back, text);
    };
    said(b"by UDP").await;
    a.until_path(&control, is(DirectKind::Public)).await;
    assert_eq!(a.counter("edgeloom_tunnel_carriers"), 0.0, "none is dialled that is not needed");
    middlebox.pass_udp(false);
    said(b"by TCP").await;
    a.until_path(&control, is(DirectKind::Tcp)).await;
    control.until_path(&a, is(DirectKind::Tcp)).await;
    middlebox.pass_udp(true);
    a.until_path(&control, is(DirectKind::Public)).await;
    control.until_path(&a, |path| matches!(path, Path::Direct { kind, .. } if !kind.is_carrier())).await;
    said(b"by UDP again").await;
}

/// A relay that takes WebSockets only, and how nodes dial it.
fn only_websocket() -> (Relay, Carriers) {
    let address = edgeloom_ports::free();
    let serves = Carriers { listen: false, websocket_listen: Some(address), ..Carriers::default() };
    let relay = Relay { carriers: serves, ..Relay::new() };
    (relay, Carriers { websocket_port: address.port(), ..Carriers::default() })
}

/// A relay's address at which nothing answers.
fn unreachable(relay: &Relay, carriers: Carriers) -> Config {
    let nowhere = edgeloom_ports::free();
    let relays = vec![RelayPeer { peer: relay.peer.peer, addresses: vec![nowhere] }];
    Config { relays, direct: false, carriers, ..config(None) }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_https_passes_a_websocket_carries() {
    let cluster = Cluster::new("test");
    let (relay, carriers) = only_websocket();
    let control = relay.start(&cluster).await;
    let a = cluster.node("a", unreachable(&relay, carriers)).await;
    let b = cluster.node("b", Config { direct: false, ..config(Some(&relay)) }).await;
    echoes(&a, &b).await;
    assert_eq!(a.status_of(&b).carrier, Some(DirectKind::Wss));
    control.echo(&a, 100_000).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_goes_through_a_proxy_with_its_password() {
    let cluster = Cluster::new("test");
    let (relay, carriers) = only_websocket();
    let control = relay.start(&cluster).await;
    let proxy = HttpProxy::new("Basic dXNlcjpzZWNyZXQ=").await;
    let through = Proxy::parse(&format!("http://user:secret@{}", proxy.address), "").unwrap();
    let a = cluster.node("a", unreachable(&relay, Carriers { proxy: Some(through), ..carriers })).await;
    a.echo(&control, 1 << 20).await.unwrap();
    assert_eq!(a.status_of(&control).carrier, Some(DirectKind::Wss));
    assert_eq!(proxy.connected.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_node_gets_no_carrier() {
    let (ours, theirs) = (Cluster::new("ours"), Cluster::new("theirs"));
    let address = edgeloom_ports::free();
    let serves = Carriers { websocket_listen: Some(address), ..Carriers::default() };
    let relay = Relay { carriers: serves, ..Relay::new() };
    let control = relay.start(&ours).await;
    let middlebox = Middlebox::new(relay.address, false).await;
    let carriers = Carriers { websocket_port: address.port(), ..Carriers::default() };
    let impatient =
        Config { connect_timeout: Duration::from_secs(3), carriers, ..behind(&middlebox, &relay) };
    let stranger = theirs.node("s", impatient).await;
    let error = stranger.tunnel.open(control.id(), Alpn::Mesh).await.unwrap_err();
    assert!(matches!(error, OpenError::NoPath { .. }), "{error}");
    assert!(control.counter("edgeloom_tunnel_refused_total") >= 2.0, "by TLS and by the WebSocket");
    assert_eq!(control.counter("edgeloom_tunnel_carriers"), 0.0);
    assert_eq!(control.counter("edgeloom_tunnel_carrier_sent_bytes_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_carrier_whose_relay_restarts_is_dialled_again() {
    let cluster = Cluster::new("test");
    let relay = Relay::new();
    let control = relay.start(&cluster).await;
    let middlebox = Middlebox::new(relay.address, false).await;
    let a = cluster.node("a", behind(&middlebox, &relay)).await;
    a.echo(&control, 1000).await.unwrap();
    control.kill();
    while std::net::UdpSocket::bind(relay.address).is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let control = relay.start(&cluster).await;
    a.echo(&control, 1000).await.unwrap();
}
