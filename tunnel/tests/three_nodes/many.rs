//! Many nodes at one relay, all at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeloom_tunnel::{Carriers, Config, Path};
use futures::{StreamExt as _, stream};

use crate::common::{Cluster, Node, Relay, config};

/// As many as wedged a comparable overlay's relay.
const NODES: usize = 841;
/// Calls at the same time: every handshake of both ends is this one process's.
const CALLS: usize = 64;
/// How long a call may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_that_come_at_once_are_all_served() {
    let cluster = Arc::new(Cluster::new("crowd"));
    let relay = Relay::new();
    let at_relay = relay.start(&cluster).await;
    let started = Instant::now();
    let mut nodes: Vec<Node> = Vec::with_capacity(NODES);
    for number in 0..NODES {
        // The machine's own addresses may come and go meanwhile.
        let exclude_interfaces = vec!["*".to_owned()];
        // This one machine is all of them: where it is too busy to answer in time, they would go over to TCP.
        let carriers = Carriers { dial: false, ..Carriers::default() };
        let config = Config {
            direct: false,
            exclude_interfaces,
            carriers,
            connect_timeout: PATIENCE,
            ..config(Some(&relay))
        };
        nodes.push(cluster.node(&format!("n{number}"), config).await);
    }
    // Each wants a path to its neighbour at once, and calls it when it is its turn.
    for (number, node) in nodes.iter().enumerate() {
        let neighbour = &nodes[(number + 1) % NODES];
        node.tunnel.set_peers(vec![neighbour.as_peer()]);
        node.tunnel.keep([neighbour.id()]);
    }
    for (number, node) in nodes.iter().enumerate() {
        node.until_path(&nodes[(number + 1) % NODES], |path| matches!(path, Path::Relayed { .. })).await;
    }
    println!("{NODES} nodes have started and have a path after {:?}", started.elapsed());
    let calls = stream::iter(0..NODES).map(|number| {
        let (caller, called) = (&nodes[number], &nodes[(number + 1) % NODES]);
        async move { (number, caller.echo(called, 1000).await) }
    });
    let answers: Vec<_> = calls.buffer_unordered(CALLS).collect().await;
    println!("and have been answered after {:?}", started.elapsed());
    for (number, answer) in answers {
        assert_eq!(answer, Ok(()), "node {number}");
    }
    assert_eq!(at_relay.counter("edgeloom_tunnel_forwarder_sessions"), NODES as f64);
}
