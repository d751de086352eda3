//! A direct path that loses much, beside a relay.

use std::time::{Duration, Instant};

use edgeloom_tunnel::{Alpn, Config, Path, Peer};

use crate::common::{Cluster, Node, Relay, config};
use crate::middlebox::Middlebox;

/// How long it may take until the direct path is left: some dozen probes, side by side.
const LEFT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_path_that_loses_much_is_left_for_the_relay() {
    let cluster = Cluster::new("test");
    let mut relay = Relay::new();
    let control = relay.start(&cluster).await;
    // Nobody sees another's own address: all goes through boxes.
    let doors = [Middlebox::new(relay.address, true).await, Middlebox::new(relay.address, true).await];
    let listens = [edgeloom_ports::free(), edgeloom_ports::free()];
    let mut node = async |index: usize| {
        relay.peer.addresses = vec![doors[index].address];
        let config = Config { listen: listens[index], ..config(Some(&relay)) };
        cluster.node(["a", "b"][index], config).await
    };
    let (a, b) = (node(0).await, node(1).await);
    let between = Middlebox::new(listens[1], true).await;
    a.tunnel.set_peers(vec![Peer { addresses: vec![between.address], ..b.as_peer() }]);
    a.echo(&b, 1000).await.unwrap();
    a.until_path(&b, Path::is_direct).await;
    between.lose(30);
    let relayed = until_relayed(&a, &b).await;
    let (trace, status) = (a.tunnel.trace(b.id()).await.unwrap(), a.status_of(&b));
    assert!(relayed, "after {LEFT:?} still {}: {}, {:?}", status.path, trace.why, trace.attempts);
    assert_eq!(status.path, Path::Relayed { relay: control.id() });
    assert!(status.passed_over_loss.is_some_and(|loss| loss > 0.2), "{status:?}");
    assert!(trace.why.contains("of the round trips by it are lost"), "{}", trace.why);
}

/// Packets flow from `a` to `b` and back until both go by the relay.
async fn until_relayed(a: &Node, b: &Node) -> bool {
    let mut stream = a.tunnel.open(b.id(), Alpn::Mesh).await.unwrap();
    let began = Instant::now();
    let is_relayed = |from: &Node, to| matches!(from.status_of(to).path, Path::Relayed { .. });
    while !(is_relayed(a, b) && is_relayed(b, a)) && began.elapsed() < LEFT {
        stream.send.write_all(&[7; 500]).await.unwrap();
        stream.recv.read_exact(&mut [0; 500]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed() < LEFT
}
