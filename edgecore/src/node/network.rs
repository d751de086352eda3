//! Keeps the pods' network as the Node's pod ranges say: CNI configuration, forwarding, masquerade.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edgeloom_api::{kind, overlap};
use edgeloom_client::routes;
use ipnet::IpNet;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{cni, masquerade};
use crate::edged::Node;
use crate::edged::cluster::Change;

/// A failure is tried again, and rules that somebody flushed are put back, this often.
const REPEAT: Duration = Duration::from_secs(60);

/// How the network is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of CNI configurations that the runtime reads.
    pub conf_dir: PathBuf,
    /// Directory of the addresses that were given out.
    pub data_dir: PathBuf,
    /// Whether pods leave the node under its address.
    pub masquerade: bool,
    /// Ranges of all pods and Services, to which nothing is masqueraded.
    pub inside: Vec<IpNet>,
}

/// Follows the own Node until `cancel`.
pub async fn run(node: Arc<Node>, settings: Settings, cancel: CancellationToken) {
    let mut changes = node.cluster.subscribe(&[&kind::NODE]);
    let own = node.facts.load().node.clone();
    let mut ranges: Vec<IpNet> = Vec::new();
    let mut repeat = tokio::time::interval(REPEAT);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            change = changes.next() => {
                let Change::Put(object) = change else { continue };
                let found = pod_ranges(&object);
                if object["metadata"]["name"] != own || found == ranges || found.is_empty() {
                    continue;
                }
                tracing::info!(?found, "the node's pod ranges");
                ranges = found;
            }
            _ = repeat.tick() => {}
        }
        if !ranges.is_empty() {
            apply(&ranges, &settings).await;
        }
    }
}

/// Why pods get no network.
#[derive(Debug, thiserror::Error)]
enum NotMade {
    #[error(
        "the node's pod range {range} overlaps this host's route {route}, and pods would take traffic from it: change \
         the route, or the cluster's pod ranges, then `edgecore reset` and join again"
    )]
    Overlap { range: IpNet, route: IpNet },
    #[error("the CNI configuration was not written to {directory}: {source}")]
    Write { directory: PathBuf, source: io::Error },
}

/// Writes the CNI configuration, unless the ranges overlap one of the host's `routes`: a cluster may give a Node
/// its ranges after it joined, when nobody held them against the routes yet. A network that stands is kept,
/// since a route that came later should not take it from running pods.
fn configure(ranges: &[IpNet], routes: &[IpNet], settings: &Settings) -> Result<(), NotMade> {
    let list = cni::conflist(ranges, &settings.data_dir, in_path("iptables"));
    if cni::stands(&settings.conf_dir, &list) {
        return Ok(());
    }
    if let Some((range, route)) = overlap::first(ranges, routes) {
        return Err(NotMade::Overlap { range, route });
    }
    let written = cni::write(&settings.conf_dir, &list);
    written.map(drop).map_err(|source| NotMade::Write { directory: settings.conf_dir.clone(), source })
}

async fn apply(ranges: &[IpNet], settings: &Settings) {
    match configure(ranges, &routes::of_host(), settings) {
        Ok(()) => {}
        Err(overlap @ NotMade::Overlap { .. }) => {
            return tracing::error!(error = %overlap, "the pods' network is not made; trying again");
        }
        Err(error) => tracing::error!(%error, "pods cannot start"),
    }
    forward();
    if settings.masquerade {
        let inside: Vec<IpNet> = settings.inside.iter().chain(ranges).copied().collect();
        let inside = IpNet::aggregate(&inside);
        if let Err(error) = masquerade::apply(ranges, &inside).await {
            tracing::warn!(%error, "pods have no way off the node");
        }
    }
}

/// `spec.podCIDRs`, or the one `podCIDR`.
pub fn pod_ranges(node: &Value) -> Vec<IpNet> {
    let all = node["spec"]["podCIDRs"].as_array().into_iter().flatten();
    let found: Vec<IpNet> = all.filter_map(|range| range.as_str()?.parse().ok()).collect();
    if found.is_empty() {
        return node["spec"]["podCIDR"].as_str().and_then(|range| range.parse().ok()).into_iter().collect();
    }
    found
}

/// Has the kernel forward between the bridge and the rest. A host that forwards IPv6 would forget routes that
/// its router announces; `accept_ra` 2 keeps them.
fn forward() {
    let conf = Path::new("/proc/sys/net/ipv6/conf");
    for interface in fs::read_dir(conf).into_iter().flatten().flatten() {
        let path = interface.path().join("accept_ra");
        if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
            set(&path, "2");
        }
    }
    set(Path::new("/proc/sys/net/ipv4/ip_forward"), "1");
    set(&conf.join("all/forwarding"), "1");
}

fn set(path: &Path, value: &str) {
    if fs::read_to_string(path).is_ok_and(|now| now.trim() == value) {
        return;
    }
    // A host without IPv6 has not the second.
    if let Err(error) = fs::write(path, value) {
        tracing::warn!(path = %path.display(), value, %error, "not set");
    }
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ranges_that_the_host_has_a_route_to_make_no_network() {
        let folder = tempfile::tempdir().unwrap();
        let conf_dir = folder.path().join("net.d");
        let data_dir = folder.path().join("data");
        let settings =
            Settings { conf_dir: conf_dir.clone(), data_dir, masquerade: false, inside: Vec::new() };
        let ranges: [IpNet; 1] = ["10.244.1.0/24".parse().unwrap()];
        let routes: [IpNet; 2] = ["192.168.10.0/24".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        let error = configure(&ranges, &routes, &settings).unwrap_err().to_string();
        assert!(error.contains("10.244.1.0/24") && error.contains("10.0.0.0/8"), "{error}");
        assert!(!conf_dir.exists());
        configure(&ranges, &routes[..1], &settings).unwrap();
        assert!(conf_dir.exists());
        // The network stands, and is kept.
        configure(&ranges, &routes, &settings).unwrap();
    }

    #[test]
    fn ranges_of_a_node() {
        let both = json!({"spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00::/64"]}});
        assert_eq!(pod_ranges(&both).len(), 2);
        assert_eq!(pod_ranges(&json!({"spec": {"podCIDR": "10.244.1.0/24"}})).len(), 1);
        assert!(pod_ranges(&json!({"spec": {"podCIDRs": ["nonsense"]}})).is_empty());
        assert!(pod_ranges(&json!({})).is_empty());
    }
}
