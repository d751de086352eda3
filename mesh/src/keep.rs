//! To which nodes a path is kept though nobody calls: so that the first call is direct at once, and works with
//! every relay gone.
//!
//! A path costs one probe about every 25 s, in the course of a day some 0.4 MB of an edge's uplink. So paths are
//! kept to the nodes that back the Services called from here in the last day, and in a small mesh to a few
//! more, whose Services nobody has called yet. Never to all.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use edgeloom_model::{Choice, Entry, Family, NodeName};
use edgeloom_tunnel::PeerId;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::snapshot::Snapshot;

/// A node is in use for so long after the last flow to it.
const IN_USE: Duration = Duration::from_secs(24 * 3600);
/// Most nodes to which paths are kept.
const MOST: usize = 16;
/// So many paths are kept where fewer nodes are in use, if the mesh has no more than [`SMALL_MESH`] members.
const SPARE: usize = 3;
const SMALL_MESH: usize = 8;
/// How often the flows are looked at, and how long changes are gathered.
const LOOK: Duration = Duration::from_secs(60);
const GATHER: Duration = Duration::from_secs(5);

/// Tells `keep` whenever it is other peers whose paths should be kept, until `stop` is cancelled. `used` says
/// when a flow last went to a node.
pub(crate) async fn run(
    snapshot: Arc<ArcSwap<Snapshot>>,
    mut published: watch::Receiver<u64>,
    used: impl Fn() -> HashMap<NodeName, Instant>,
    keep: impl Fn(Vec<PeerId>),
    stop: CancellationToken,
) {
    let mut kept = Vec::new();
    loop {
        let wanted = wanted(&snapshot.load(), &used(), Instant::now());
        if wanted != kept {
            keep(wanted.clone());
            kept = wanted;
        }
        let go_on = tokio::select! {
            changed = published.changed() => changed.is_ok(),
            () = sleep(LOOK) => true,
            () = stop.cancelled() => false,
        };
        if !go_on || stop.run_until_cancelled(sleep(GATHER)).await.is_none() {
            return;
        }
    }
}

/// The peers whose paths should be kept, in the order of their ids.
fn wanted(snapshot: &Snapshot, used: &HashMap<NodeName, Instant>, now: Instant) -> Vec<PeerId> {
    let is_used = |at: &&Instant| now.saturating_duration_since(**at) < IN_USE;
    let mut nodes: Vec<(Option<Instant>, usize, NodeName)> = backing(snapshot)
        .into_iter()
        .map(|(node, services)| (used.get(&node).filter(is_used).copied(), services, node))
        .collect();
    nodes.sort_by_key(|(at, services, node)| (Reverse(*at), Reverse(*services), spread(snapshot, node)));
    let small = snapshot.model.members().filter(|member| !member.revoked).count() <= SMALL_MESH;
    let spare = if small { SPARE } else { 0 };
    let chosen = nodes.iter().take(MOST).enumerate().filter(|(rank, (at, ..))| at.is_some() || *rank < spare);
    let peer = |node: &NodeName| snapshot.model.member(node.as_str())?.peer.parse().ok();
    let mut peers: Vec<PeerId> = chosen.filter_map(|(_, (.., node))| peer(node)).collect();
    peers.sort();
    peers
}

/// The nodes whose agents dial the endpoints that serve callers here, with how many Services each of them backs.
fn backing(snapshot: &Snapshot) -> BTreeMap<NodeName, usize> {
    let mut nodes: BTreeMap<NodeName, usize> = BTreeMap::new();
    for service in snapshot.model.services().filter(|service| !service.opted_out) {
        let far = service.ports.iter().flat_map(|port| {
            let choose = |family| snapshot.choose(service, port, family, Entry::Cluster);
            [choose(Family::V4), choose(Family::V6)]
        });
        let mut of_service: Vec<NodeName> = far
            .flat_map(|choice| if let Choice::Far(backends) = choice { backends } else { Vec::new() })
            .map(|backend| backend.node)
            .collect();
        of_service.sort();
        of_service.dedup();
        for node in of_service {
            *nodes.entry(node).or_default() += 1;
        }
    }
    nodes
}

/// Another order at every node, so that not all keep a path to the same one.
fn spread(snapshot: &Snapshot, node: &NodeName) -> u64 {
    let mut hasher = DefaultHasher::new();
    (snapshot.place.node.as_str(), node.as_str()).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use edgeloom_model::{Model, Site};
    use edgeloom_tunnel::identity::Identity;
    use serde_json::json;
    use tokio::sync::mpsc;

    use super::*;
    use crate::snapshot::Place;

    /// Seen from `own`: so many other nodes, each of a site of its own and behind a Service of its own.
    fn snapshot(others: usize) -> (Snapshot, Vec<PeerId>) {
        let mut model = Model::default();
        let mut peers = Vec::new();
        for index in 0..others {
            let (name, peer) = (format!("n{index}"), Identity::generate().unwrap().peer_id());
            let objects = [
                json!({"apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode", "metadata": {"name": name},
                       "spec": {"peerId": peer.to_string(), "site": name, "roles": ["edge"]}}),
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
                       "spec": {"clusterIPs": [format!("10.96.0.{index}")], "ports": [{"port": 80}]}}),
                json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                       "metadata": {"namespace": "shop", "name": name,
                                    "labels": {"kubernetes.io/service-name": name}},
                       "ports": [{"port": 80}],
                       "endpoints": [{"addresses": [format!("10.244.{index}.2")], "nodeName": name}]}),
            ];
            for object in &objects {
                model.put(object).unwrap();
            }
            peers.push(peer);
        }
        let (node, site) = (NodeName::new("own").unwrap(), Site::new("own").unwrap());
        let place = Arc::new(Place { node, site, exports: Vec::new() });
        (Snapshot { model: Arc::new(model), ..Snapshot::empty(place) }, peers)
    }

    fn used(nodes: impl IntoIterator<Item = usize>, at: Instant) -> HashMap<NodeName, Instant> {
        nodes.into_iter().map(|index| (NodeName::new(format!("n{index}")).unwrap(), at)).collect()
    }

    #[test]
    fn a_small_mesh_keeps_paths_that_nobody_used_yet() {
        let now = Instant::now();
        for (others, want) in [(0, 0), (1, 1), (3, 3), (8, SPARE), (9, 0), (40, 0)] {
            let (snapshot, _) = snapshot(others);
            assert_eq!(wanted(&snapshot, &HashMap::new(), now).len(), want, "{others} others");
        }
    }

    #[test]
    fn what_is_in_use_is_kept_and_bounded() {
        let start = Instant::now();
        let now = start + IN_USE / 2;
        let (snapshot, peers) = snapshot(40);
        assert_eq!(wanted(&snapshot, &used([7], start), now), [peers[7]]);
        assert!(wanted(&snapshot, &used([7], start), start + IN_USE).is_empty(), "not used for a day");
        assert_eq!(wanted(&snapshot, &used(0..40, start), now).len(), MOST);
        let mut all = used(0..40, start);
        all.extend(used([3, 33], now));
        let kept = wanted(&snapshot, &all, now);
        assert!(kept.contains(&peers[3]) && kept.contains(&peers[33]), "the last ones first");
    }

    #[test]
    fn nodes_keep_paths_to_different_ones() {
        let now = Instant::now();
        let (mut snapshot, peers) = snapshot(8);
        let mut seen = std::collections::BTreeSet::new();
        for index in 0..30 {
            let place =
                Place { node: NodeName::new(format!("own{index}")).unwrap(), ..(*snapshot.place).clone() };
            snapshot.place = Arc::new(place);
            seen.extend(wanted(&snapshot, &HashMap::new(), now));
        }
        assert_eq!(seen.len(), peers.len());
    }

    #[tokio::test(start_paused = true)]
    async fn the_tunnel_is_told_after_a_snapshot_and_only_of_changes() {
        let (first, peers) = snapshot(1);
        let place = first.place.clone();
        let shared = Arc::new(ArcSwap::from_pointee(Snapshot::empty(place)));
        let (publish, published) = watch::channel(0);
        let (tell, mut told) = mpsc::unbounded_channel();
        let keep = move |peers| tell.send(peers).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(shared.clone(), published, HashMap::new, keep, stop.clone()));
        shared.store(Arc::new(first));
        publish.send_replace(1);
        assert_eq!(told.recv().await.unwrap(), peers);
        publish.send_replace(2);
        sleep(2 * LOOK).await;
        assert!(told.try_recv().is_err(), "nothing changed");
        stop.cancel();
        running.await.unwrap();
    }
}
