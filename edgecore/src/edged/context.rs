//! What all pods of the node share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::cluster::Cluster;
use super::dns::{Resolver, parse_resolv_conf};
use super::events::Recorder;
use super::fields::Facts;
use super::images::Images;
use super::metrics::Metrics;
use super::runtime::Runtime;
use super::sandbox;

/// The node, as its pods' workers see it.
pub struct Node {
    /// The store and the way to the cloud.
    pub cluster: Arc<dyn Cluster>,
    /// Events.
    pub recorder: Arc<Recorder>,
    /// The container runtime.
    pub runtime: Runtime,
    /// Images.
    pub images: Images,
    /// What pods are told of the node.
    pub facts: ArcSwap<Facts>,
    /// Directory of the pods' directories.
    pub pods: PathBuf,
    /// Directory of the pods' logs.
    pub log_root: PathBuf,
    /// Cgroup of all pods.
    pub cgroup_root: String,
    /// Name servers of pods.
    pub cluster_servers: Vec<String>,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// The host's resolv.conf.
    pub resolv_conf: PathBuf,
    /// The node's memory, in bytes.
    pub memory: u64,
    /// What edged counts.
    pub metrics: Metrics,
    /// Grows with every change of a ConfigMap, a Secret or the own Node.
    pub data: AtomicU64,
}

impl Node {
    /// Version of the data that volumes show.
    pub fn data_version(&self) -> u64 {
        self.data.load(Ordering::Acquire)
    }

    /// What goes into a sandbox. Reads the host's resolv.conf, which may change at any time.
    pub fn sandbox_settings(&self) -> sandbox::Settings {
        let host = std::fs::read_to_string(&self.resolv_conf).unwrap_or_default();
        sandbox::Settings {
            log_root: self.log_root.clone(),
            cgroup_root: self.cgroup_root.clone(),
            resolver: Resolver {
                cluster_servers: self.cluster_servers.clone(),
                cluster_domain: self.cluster_domain.clone(),
                host: parse_resolv_conf(&host),
            },
        }
    }
}
