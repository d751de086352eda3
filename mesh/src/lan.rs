//! Routes to the pods of other nodes of the own site: what makes them near.
//!
//! A node that stands on the same link and answers there gets a route to each of its pod ranges; its
//! endpoints are then reached by their own addresses, by the kernel alone. One that falls silent loses
//! the routes after a few probes, and is far: reached through its agent, if at all.

mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use edgeloom_api::names::OVERLAY_PORT;
use edgeloom_model::{Family, NodeName};
use futures::future::join_all;
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::host;
use crate::snapshot::Snapshot;
use routes::Routes;

/// How often neighbours are probed.
const EVERY: Duration = Duration::from_secs(5);
/// How long an answer on the own link may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Probes in a row without an answer after which a neighbour is no longer one. A single lost probe moves
/// nothing.
const MISSES: u8 = 3;

/// Another node of the own site that could be near.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Neighbour {
    /// Where it is probed.
    probe: IpAddr,
    /// Its pods' ranges with the address of the node that each is routed to.
    routes: BTreeMap<IpNet, IpAddr>,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    near: bool,
    misses: u8,
}

impl Standing {
    fn after(self, answered: bool) -> Self {
        if answered {
            return Self { near: true, misses: 0 };
        }
        let misses = self.misses.saturating_add(1);
        Self { near: self.near && misses < MISSES, misses }
    }
}

/// Keeps the routes, and `near` up to date, until `stop` is cancelled. The routes stay then: what is near
/// goes on while the agent restarts.
pub(crate) async fn run(
    snapshot: Arc<ArcSwap<Snapshot>>,
    near: watch::Sender<BTreeSet<(NodeName, Family)>>,
    stop: CancellationToken,
) {
    let mut routes = match Routes::open() {
        Ok(routes) => routes,
        Err(error) => {
            tracing::warn!(%error, "nodes of the own site are reached through their agents: no routing socket");
            return;
        }
    };
    let mut standings = BTreeMap::new();
    let mut every = tokio::time::interval(EVERY);
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        let neighbours = neighbours(&snapshot.load(), &host::links());
        standings = probe(&neighbours, &standings).await;
        let is_near = |name: &NodeName| standings.get(name).is_some_and(|standing| standing.near);
        let mut now = BTreeSet::new();
        let mut wanted = BTreeMap::new();
        for (name, neighbour) in neighbours.into_iter().filter(|(name, _)| is_near(name)) {
            now.extend(neighbour.routes.keys().map(|range| (name.clone(), Family::of(range.addr()))));
            wanted.extend(neighbour.routes);
        }
        if let Err(error) = routes.set(&wanted).await {
            tracing::warn!(%error, "routes to nodes of the own site; they are reached through their agents");
            now.clear();
        }
        near.send_if_modified(|near| {
            let changed = *near != now;
            *near = now;
            changed
        });
    }
}

/// The nodes of the own site that are on one of the host's own links, with those of their pods' ranges that
/// they can be a gateway to: a LAN without IPv6 has none to IPv6 pods, which stay far.
fn neighbours(snapshot: &Snapshot, links: &[IpNet]) -> BTreeMap<NodeName, Neighbour> {
    let place = &snapshot.place;
    let others =
        snapshot.model.members().filter(|m| !m.revoked && m.site == place.site && m.name != place.node);
    let neighbour = |member: &Arc<edgeloom_model::EdgeNode>| {
        let node = snapshot.model.node(member.name.as_str())?;
        let on_link =
            |ip: &&IpAddr| links.iter().any(|link| link.contains(*ip)) && !snapshot.addresses.contains(ip);
        let addresses: Vec<IpAddr> = node.addresses.iter().filter(on_link).copied().collect();
        let via = |range: &IpNet| {
            let family = Family::of(range.addr());
            Some((range.trunc(), *addresses.iter().find(|ip| Family::of(**ip) == family)?))
        };
        let routes: BTreeMap<_, _> = member.pod_cidrs.iter().filter_map(via).collect();
        let probe = *addresses.first().filter(|_| !routes.is_empty())?;
        Some((member.name.clone(), Neighbour { probe, routes }))
    };
    others.filter_map(neighbour).collect()
}

async fn probe(
    neighbours: &BTreeMap<NodeName, Neighbour>,
    known: &BTreeMap<NodeName, Standing>,
) -> BTreeMap<NodeName, Standing> {
    let asked = neighbours.iter().map(async |(name, neighbour)| {
        let standing = known.get(name).copied().unwrap_or_default();
        (name.clone(), standing.after(answers(neighbour.probe).await))
    });
    join_all(asked).await.into_iter().collect()
}

/// Whether anybody is at an address: a refusal is an answer.
async fn answers(address: IpAddr) -> bool {
    let connecting = TcpStream::connect(SocketAddr::new(address, OVERLAY_PORT));
    match timeout(PATIENCE, connecting).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use edgeloom_model::{Model, Site};
    use serde_json::json;

    use super::*;
    use crate::snapshot::Place;

    #[test]
    fn a_single_lost_probe_moves_nothing() {
        let mut standing = Standing::default();
        let mut seen = Vec::new();
        for answered in [false, true, false, false, true, false, false, false, false, true] {
            standing = standing.after(answered);
            seen.push(standing.near);
        }
        assert_eq!(seen, [false, true, true, true, true, true, true, false, false, true]);
    }

    #[test]
    fn who_could_be_near() {
        let mut model = Model::default();
        let mut add = |name: &str, site: &str, address: &str, ranges: &[&str]| {
            let member = json!({"apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode", "metadata": {"name": name},
                                "spec": {"peerId": name, "site": site, "podCidrs": ranges}});
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata":
                {"name": name, "annotations": {"edgeloom.io/site-address": address}}});
            model.put(&member).unwrap();
            model.put(&node).unwrap();
        };
        add("own", "a", "192.168.10.5", &["10.244.1.0/24"]);
        add("near", "a", "192.168.10.6", &["10.244.2.0/24"]);
        add("routed", "a", "192.168.20.6", &["10.244.3.0/24"]);
        add("elsewhere", "b", "192.168.10.7", &["10.244.4.0/24"]);
        add("dual", "a", "192.168.10.8,fd00::8", &["10.244.5.0/24", "fd00:10:244:5::/64"]);
        add("half", "a", "192.168.10.9", &["10.244.6.0/24", "fd00:10:244:6::/64"]);
        let place =
            Place { node: NodeName::new("own").unwrap(), site: Site::new("a").unwrap(), exports: Vec::new() };
        let snapshot = Snapshot {
            model: Arc::new(model),
            addresses: vec!["192.168.10.5".parse().unwrap()],
            ..Snapshot::empty(Arc::new(place))
        };
        let links = ["192.168.10.0/24", "fd00::/64"].map(|link| link.parse().unwrap());
        let found = neighbours(&snapshot, &links);
        let names: Vec<_> = found.keys().map(NodeName::as_str).collect();
        assert_eq!(names, ["dual", "half", "near"]);
        assert_eq!((found["dual"].routes.len(), found["half"].routes.len()), (2, 1));
        assert_eq!(found["near"].probe, "192.168.10.6".parse::<IpAddr>().unwrap());
    }
}
