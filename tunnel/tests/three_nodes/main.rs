//! Two nodes and a relay: relayed, direct, and what happens when one of them goes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod carriers;
mod common;
mod lossy;
mod many;
mod middlebox;
mod strangers;
mod streams;

use std::time::{Duration, Instant};

use common::{Cluster, Relay, config, exchange};
use edgeloom_tunnel::{Alpn, Bounds, Config, OpenError, Path, Peer};
use middlebox::Middlebox;

#[tokio::test(flavor = "multi_thread")]
async fn where_direct_paths_are_forbidden_streams_are_relayed() {
    let cluster = Cluster::new("test");
    let relay = Relay::new();
    let control = relay.start(&cluster).await;
    let a = cluster.node("a", Config { direct: false, ..config(Some(&relay)) }).await;
    let b = cluster.node("b", Config { direct: false, ..config(Some(&relay)) }).await;
    a.tunnel.set_peers(vec![b.as_peer()]);
    a.echo(&b, 3 << 20).await.unwrap();
    assert_eq!(a.status_of(&b).path, Path::Relayed { relay: control.id() });
    assert!(
        control.counter("edgeloom_tunnel_forwarder_bytes_total") > 6e6,
        "both ways went through the relay"
    );
    let ping = a.tunnel.ping(b.id()).await.unwrap();
    assert!(matches!(ping.path, Path::Relayed { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_path_is_found_and_outlives_the_relay() {
    let cluster = Cluster::new("test");
    let relay = Relay::new();
    let control = relay.start(&cluster).await;
    let a = cluster.node("a", config(Some(&relay))).await;
    let b = cluster.node("b", config(Some(&relay))).await;
    a.tunnel.set_peers(vec![b.as_peer()]);
    // Nobody opens a stream yet: the path is found because it is to be kept.
    a.tunnel.keep([b.id()]);
    a.until_path(&b, Path::is_direct).await;
    let mut stream = a.tunnel.open(b.id(), Alpn::Mesh).await.unwrap();
    b.until_path(&a, Path::is_direct).await;
    control.kill();
    exchange(&mut stream, 1 << 20).await.unwrap();
    a.echo(&b, 1 << 20).await.unwrap();
    // And in the other direction, over the connection that stands.
    b.echo(&a, 1 << 20).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_tells_how_large_packets_may_be_by_each_way() {
    let cluster = Cluster::new("test");
    let relay = Relay::new();
    let control = relay.start(&cluster).await;
    let a = cluster.node("a", config(Some(&relay))).await;
    let b = cluster.node("b", config(Some(&relay))).await;
    a.tunnel.set_peers(vec![b.as_peer()]);
    a.tunnel.keep([b.id()]);
    a.until_path(&b, Path::is_direct).await;
    let trace = a.tunnel.trace(b.id()).await.unwrap();
    let by = |direct: bool| trace.attempts.iter().filter(move |attempt| attempt.path.is_direct() == direct);
    let sizes = |direct| by(direct).filter_map(|attempt| attempt.datagram).collect::<Vec<_>>();
    assert!(sizes(true).contains(&1472), "{:?}", trace.attempts);
    assert_eq!(sizes(false), [1440], "{:?}", trace.attempts);
    // To a relay too, and from the end that was not asked to look.
    assert_eq!(b.tunnel.trace(control.id()).await.unwrap().attempts[0].datagram, Some(1472));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_site_allows_is_obeyed_while_it_runs() {
    let cluster = Cluster::new("test");
    let relay = Relay::new();
    let control = relay.start(&cluster).await;
    let a = cluster.node("a", config(Some(&relay))).await;
    let b = cluster.node("b", config(Some(&relay))).await;
    a.tunnel.set_peers(vec![b.as_peer()]);
    a.tunnel.keep([b.id()]);
    a.until_path(&b, Path::is_direct).await;
    let mut stream = a.tunnel.open(b.id(), Alpn::Mesh).await.unwrap();
    let mut echoed = [0; 6];
    a.tunnel.set_bounds(Bounds { direct: false, ..Bounds::default() });
    let relayed = Path::Relayed { relay: control.id() };
    let forbidden = Instant::now();
    // The connection that stands goes on.
    stream.send.write_all(b"onward").await.unwrap();
    stream.recv.read_exact(&mut echoed).await.unwrap();
    a.echo(&b, 1 << 20).await.unwrap();
    assert!(forbidden.elapsed() < Duration::from_secs(3), "{:?}", forbidden.elapsed());
    assert_eq!(a.status_of(&b).path, relayed);
    b.until_path(&a, |path| !path.is_direct()).await;
    let forwarded = control.counter("edgeloom_tunnel_forwarder_bytes_total");
    assert!(forwarded > 2e6, "both ways went through the relay: {forwarded}");

    // A megabyte a second: what is echoed is sent by b, which may send as much as it likes.
    a.tunnel.set_bounds(Bounds { rate: Some(1_000_000), ..Bounds::default() });
    a.until_path(&b, Path::is_direct).await;
    let slow = Instant::now();
    a.echo(&b, 1 << 20).await.unwrap();
    assert!(slow.elapsed() > Duration::from_millis(900), "{:?}", slow.elapsed());
    a.tunnel.set_bounds(Bounds::default());
    let fast = Instant::now();
    exchange(&mut stream, 1 << 20).await.unwrap();
    assert!(fast.elapsed() < Duration::from_millis(600), "{:?}", fast.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_the_only_path_goes_on_as_soon_as_it_is_back() {
    let cluster = Cluster::new("test");
    let listen = edgeloom_ports::free();
    let b = cluster.node("b", Config { listen, ..config(None) }).await;
    let middlebox = Middlebox::new(listen, true).await;
    let a = cluster.node("a", config(None)).await;
    b.tunnel.set_peers(vec![a.as_peer()]);
    a.tunnel.set_peers(vec![Peer { addresses: vec![middlebox.address], ..b.as_peer() }]);
    a.echo(&b, 1000).await.unwrap();
    let mut stream = a.tunnel.open(b.id(), Alpn::Mesh).await.unwrap();
    stream.send.write_all(b"before").await.unwrap();
    let mut echoed = [0; 6];
    stream.recv.read_exact(&mut echoed).await.unwrap();
    middlebox.pass_udp(false);
    stream.send.write_all(b"during").await.unwrap();
    a.until_path(&b, |path| *path == Path::None).await;
    // As long as it takes until QUIC by itself tries only every few seconds.
    tokio::time::sleep(Duration::from_secs(8)).await;
    middlebox.pass_udp(true);
    a.until_path(&b, Path::is_direct).await;
    let back = Instant::now();
    stream.recv.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"during");
    assert!(back.elapsed() < Duration::from_millis(500), "{:?} after the path was back", back.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_is_reached_again_without_any_relay() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::new("test");
    let relay = Relay::new();
    let control = relay.start(&cluster).await;
    let listen = edgeloom_ports::free();
    let of_a = Config { listen, state_dir: Some(folder.path().join("a")), ..config(Some(&relay)) };
    let a = cluster.node("a", of_a.clone()).await;
    let b = cluster.node("b", config(Some(&relay))).await;
    a.tunnel.set_peers(vec![b.as_peer()]);
    a.echo(&b, 1000).await.unwrap();
    a.until_path(&b, Path::is_direct).await;
    control.kill();
    // The file is there before an address is in it.
    let remembers = || {
        let file = std::fs::read_to_string(folder.path().join("a/peers.json"));
        file.is_ok_and(|text| text.contains("\"address\""))
    };
    while !remembers() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let identity = a.kill();

    let restarted = Instant::now();
    // The port is free once the killed node's last task is gone.
    while std::net::UdpSocket::bind(listen).is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let a = cluster.node_with("a", identity, of_a).await;
    a.echo(&b, 1000).await.unwrap();
    b.echo(&a, 1000).await.unwrap();
    assert!(restarted.elapsed() < Duration::from_secs(5), "{:?}", restarted.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_restarts_is_used_again() {
    let cluster = Cluster::new("test");
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay { state_dir: Some(folder.path().to_owned()), ..Relay::new() };
    let control = relay.start(&cluster).await;
    let a = cluster.node("a", Config { direct: false, ..config(Some(&relay)) }).await;
    let b = cluster.node("b", Config { direct: false, ..config(Some(&relay)) }).await;
    a.tunnel.set_peers(vec![b.as_peer()]);
    let mut stream = a.tunnel.open(b.id(), Alpn::Mesh).await.unwrap();
    while !folder.path().join("peers.json").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    control.kill();
    while std::net::UdpSocket::bind(relay.address).is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _control = relay.start(&cluster).await;
    // The stream that stood goes on in a session of the new relay.
    tokio::time::timeout(Duration::from_secs(5), exchange(&mut stream, 100_000)).await.unwrap().unwrap();
    a.echo(&b, 1000).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_of_another_cluster_or_unknown_gets_nothing() {
    let (ours, theirs) = (Cluster::new("ours"), Cluster::new("theirs"));
    let relay = Relay::new();
    let control = relay.start(&ours).await;
    let b = ours.node("b", config(Some(&relay))).await;
    let patience = Config { connect_timeout: Duration::from_millis(700), ..config(Some(&relay)) };
    let stranger = theirs.node("a", patience).await;
    stranger.tunnel.set_peers(vec![b.as_peer()]);
    let error = stranger.tunnel.open(b.id(), Alpn::Mesh).await.unwrap_err();
    assert!(matches!(error, OpenError::NoPath { .. }), "{error}");
    let named = format!("no path to node b (peer {})", b.id());
    assert!(error.to_string().starts_with(&named), "{error}");
    assert!(control.counter("edgeloom_tunnel_refused_total") >= 1.0, "the relay says why in its metrics");
    assert!(control.tunnel.peers().iter().all(|status| status.peer != stranger.id()));
    let unknown = b.tunnel.open(stranger.id(), Alpn::Mesh).await.unwrap_err();
    assert!(matches!(unknown, OpenError::UnknownPeer(_)), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_and_shutdown() {
    let cluster = Cluster::new("test");
    let relay = Relay::new();
    let _control = relay.start(&cluster).await;
    let a = cluster.node("a", config(Some(&relay))).await;
    let b = cluster.node("b", config(Some(&relay))).await;
    a.tunnel.set_peers(vec![b.as_peer()]);
    assert!(a.tunnel.send_datagram(b.id(), "early".into()).is_err());
    a.echo(&b, 10).await.unwrap();
    assert!(a.tunnel.max_datagram_size(b.id()).unwrap() >= 1100);
    a.tunnel.send_datagram(b.id(), "over there".into()).unwrap();
    assert_eq!(b.datagram().await, "over there");
    tokio::time::timeout(Duration::from_secs(3), a.tunnel.shutdown(Duration::from_millis(100)))
        .await
        .unwrap();
    assert!(matches!(a.tunnel.open(b.id(), Alpn::Mesh).await, Err(OpenError::ShuttingDown)));
}

#[tokio::test(flavor = "multi_thread")]
async fn libp2p_and_streams_share_the_socket() {
    let cluster = Cluster::new("test");
    let relay = Relay { libp2p: true, ..Relay::new() };
    let control = relay.start(&cluster).await;
    let a = cluster.node("a", Config { libp2p: true, ..config(Some(&relay)) }).await;
    let connected = |node: &common::Node| node.counter("edgeloom_tunnel_libp2p_peers") >= 1.0;
    let both = async {
        while !connected(&a) || !connected(&control) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), both).await.expect("the relay is known by its address");
    a.echo(&control, 1 << 20).await.unwrap();
    // Another cluster's node is refused here as on the raw endpoint.
    let stranger = Cluster::new("theirs").node("s", Config { libp2p: true, ..config(Some(&relay)) }).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!connected(&stranger));
}
