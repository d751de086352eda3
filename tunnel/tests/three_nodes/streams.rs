//! Many streams between two nodes, and some whose readers stop.

use std::time::{Duration, Instant};

use bytes::Bytes;
use edgeloom_tunnel::{Alpn, Config, Limits, Peer, Stream};
use futures::future::join_all;

use crate::common::{Cluster, Node, config, exchange};

/// Bound of what is to happen soon, on a machine that is busy with other things.
const SOON: Duration = Duration::from_secs(20);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it takes too long")
}

/// Two nodes that reach each other.
async fn pair(a: Config, b: Config) -> (Node, Node) {
    let cluster = Cluster::new("test");
    let listen = edgeloom_ports::free();
    let b = cluster.node("b", Config { listen, ..b }).await;
    let a = cluster.node("a", a).await;
    b.tunnel.set_peers(vec![a.as_peer()]);
    a.tunnel.set_peers(vec![Peer { addresses: vec![listen], ..b.as_peer() }]);
    a.echo(&b, 1000).await.unwrap();
    (a, b)
}

fn limited(limits: Limits) -> Config {
    Config { limits, ..config(None) }
}

/// Opens so many streams and gets a byte back on each.
async fn open(a: &Node, b: &Node, count: usize) -> Vec<Stream> {
    let one = || async {
        let mut stream = a.tunnel.open(b.id(), Alpn::Mesh).await.unwrap();
        answers(&mut stream).await;
        stream
    };
    join_all((0..count).map(|_| one())).await
}

async fn answers(stream: &mut Stream) {
    stream.send.write_all(b"x").await.unwrap();
    stream.recv.read_exact(&mut [0]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_of_a_connection_take_another() {
    let (a, b) = pair(config(None), config(None)).await;
    let mut streams = soon(open(&a, &b, 3000)).await;
    soon(join_all(streams.iter_mut().map(answers))).await;
    for node in [&a, &b] {
        assert_eq!(node.counter("edgeloom_tunnel_streams"), 3000.0);
        let connections = node.counter("edgeloom_tunnel_connections");
        assert!((3.0..=8.0).contains(&connections), "{connections}");
    }
    // Either end has its own.
    drop(soon(open(&b, &a, 1500)).await);
    drop(streams);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_more_than_all_connections_bear_waits_for_a_place() {
    let limits = Limits { streams: 4, connections_per_peer: 4, ..Limits::default() };
    let (a, b) = pair(Config { connect_timeout: SOON, ..limited(limits.clone()) }, limited(limits)).await;
    let mut streams = soon(open(&a, &b, 8)).await;
    let ninth = async {
        let mut stream = a.tunnel.open(b.id(), Alpn::Mesh).await.unwrap();
        answers(&mut stream).await;
    };
    let leave = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        // All of them, for a place is given back with some others.
        streams.clear();
    };
    soon(async { tokio::join!(ninth, leave) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stop_cost_the_other_streams_nothing() {
    let limits = Limits { buffers_mib: Some(32), ..Limits::default() };
    let (a, b) = pair(limited(limits.clone()), limited(limits)).await;
    let mut stopped = soon(open(&a, &b, 20)).await;
    let mut beside = soon(open(&a, &b, 1)).await;
    let chunk = Bytes::from(vec![0; 64 << 10]);
    for stream in &mut stopped {
        // What comes back is not read: the other end stops reading when it can send no more.
        let fill = async { while stream.send.write_chunk(chunk.clone()).await.is_ok() {} };
        let _ = tokio::time::timeout(Duration::from_millis(300), fill).await;
    }
    let started = Instant::now();
    soon(join_all(beside.iter_mut().map(answers))).await;
    println!("a stream beside answers after {:?}", started.elapsed());
    let mut beside = beside.remove(0);
    soon(exchange(&mut beside, 4 << 20)).await.unwrap();
    soon(a.echo(&b, 4 << 20)).await.unwrap();
    println!("and 4 MiB each have passed after {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_on_a_slow_path_leaves_room_to_others() {
    // One connection, which all have to share.
    let limits = Limits { connections_per_peer: 2, ..Limits::default() };
    let slow = Config { rate: Some(500_000), ..limited(limits) };
    let (a, b) = pair(slow, config(None)).await;
    let mut beside = soon(open(&a, &b, 1)).await;
    let bulk = soon(open(&a, &b, 4)).await;
    let chunk = Bytes::from(vec![0; 256 << 10]);
    let senders = bulk.into_iter().map(|mut stream| {
        let chunk = chunk.clone();
        tokio::spawn(async move {
            // Both halves are held: what comes back is not read.
            let Stream { send, recv: _recv } = &mut stream;
            while send.write_chunk(chunk.clone()).await.is_ok() {}
        })
    });
    let senders: Vec<_> = senders.collect();
    let arrived = || b.counter("edgeloom_tunnel_received_bytes_total");
    let (before, begun) = (arrived(), Instant::now());
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let started = Instant::now();
        soon(answers(&mut beside[0])).await;
        let answered = started.elapsed();
        soon(a.echo(&b, 20_000)).await.unwrap();
        println!(
            "a byte and back took {answered:?}, 20 kB on a new stream {:?}",
            started.elapsed() - answered
        );
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
    let rate = (arrived() - before) / begun.elapsed().as_secs_f64();
    assert!(rate > 250_000.0, "the bulk goes on: {rate} bytes a second");
    senders.into_iter().for_each(|sender| sender.abort());
}
