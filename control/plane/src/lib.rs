//! The controllers of the embedded Kubernetes API.
//!
//! They know the API only through `kube`: each kind that is read is watched once ([`watch`]), a change
//! becomes a key in the queue of every controller that it concerns ([`queue`]), and a controller brings
//! what the key names to the wanted state ([`controller`]). Nothing is kept that could not be learnt
//! again from the API, so that a restart needs no recovery. On a real cluster kube-controller-manager
//! and kube-scheduler do all this, and none of it runs.

mod controller;
mod deployment;
mod endpoints;
mod events;
mod garbage;
mod namespaces;
mod nodes;
mod pods;
mod queue;
mod replicaset;
mod scheduler;
mod signer;
mod start;
mod watch;

use std::time::Duration;

use ipnet::IpNet;
use kube::Client;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the controllers need beside the API.
#[derive(Clone)]
pub struct PlaneConfig {
    /// Ranges of which every Node gets a piece for its pods, one of each family.
    pub cluster_cidrs: Vec<IpNet>,
    /// Certificate (PEM) with which pods verify the API server; goes into every namespace.
    pub root_ca_pem: String,
    /// CA certificate (PEM) that signs CertificateSigningRequests.
    pub signing_certificate_pem: String,
    /// Its key (PEM).
    pub signing_key_pem: String,
}

/// Why the controllers did not start.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// The signing CA cannot sign.
    #[error("the signing CA of the embedded plane: {0}; check the CA files in the state directory")]
    SigningCa(#[from] rcgen::Error),
    /// A metric stands already in the registry.
    #[error("metrics of the embedded plane: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The API could not be read.
    #[error("reading the API: {0}")]
    Api(#[from] kube::Error),
}

/// The running controllers.
pub struct Plane {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Plane {
    /// Starts all controllers against the API behind `client`.
    pub fn start(client: Client, config: PlaneConfig, registry: &Registry) -> Result<Self, PlaneError> {
        let plane = Self { tasks: TaskTracker::new(), stop: CancellationToken::new() };
        start::start(client, config, registry, &plane.tasks, &plane.stop)?;
        Ok(plane)
    }

    /// Stops them; what is under way has `drain` to end.
    pub async fn shutdown(self, drain: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(drain, self.tasks.wait()).await.is_err() {
            tracing::warn!("controllers did not end in time");
        }
    }
}
