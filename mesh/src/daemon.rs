//! `mesh-agent`: the agent as a daemon of its own, for a node that runs a stock kubelet.
//!
//! ```text
//! Tunnel ─> dispatch ─┬─ mesh/1 ─> Agent
//!                     └─ kubelet/1, from the control only ─> admin API
//! Session ─> Metastore ─> Agent
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use edgeloom_api::admin::KUBELET_PREFIX;
use edgeloom_api::credential::Role;
use edgeloom_api::names;
use edgeloom_client::{
    JoinConfig, JoinError, Membership, Metastore, Outbox, Session, SessionError, StoreError, TunnelOverlay,
    join,
};
use edgeloom_model::{NameError, NodeName};
use edgeloom_tunnel::{Accepted, Alpn, Incoming, Tunnel};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use prometheus::Registry;
use prometheus::process_collector::ProcessCollector;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::{Agent, AgentConfig, AgentError};
use crate::config::{Control, Ops, Overlay, Settings};
use crate::ops::{self, Readiness};
use crate::{admin, ops::ListenError};

/// Name of the daemon, of its configuration and of its socket.
pub const NAME: &str = "mesh-agent";

/// Streams and datagrams that wait for the agent.
const QUEUE: usize = 1024;

/// Everything that `mesh-agent` can be told. `--print-config` prints it with the values in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Config {
    /// Name of the Node that this host is; by default its host name.
    pub node: String,
    /// Identity, credential, and the last known state of the cluster.
    pub state_dir: PathBuf,
    /// Directory of the admin socket.
    pub run_dir: PathBuf,
    /// The control, and how to join it.
    pub control: Control,
    /// The overlay's socket.
    pub overlay: Overlay,
    /// The mesh.
    pub mesh: Settings,
    /// Plain HTTP for operators.
    pub ops: Ops,
    /// How long running connections may go on after a stop was asked for, in seconds.
    pub drain_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            node: hostname.trim().to_ascii_lowercase(),
            state_dir: Path::new(names::STATE_DIR).join(NAME),
            run_dir: PathBuf::from(names::RUN_DIR),
            control: Control::default(),
            overlay: Overlay::default(),
            mesh: Settings::default(),
            ops: Ops::default(),
            drain_seconds: 30,
        }
    }
}

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name of the node.
    #[error("{0}; set node to the name of this host's Node")]
    Name(#[from] NameError),
    /// A directory could not be made.
    #[error("cannot make {path}: {source}; is {NAME} run as root?")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Joining.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Metastore or outbox.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The credentials on disk.
    #[error("the node's credentials: {0}")]
    Trust(String),
    /// The overlay.
    #[error(transparent)]
    Tunnel(#[from] edgeloom_tunnel::Error),
    /// The session with the control.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The admin socket.
    #[error(transparent)]
    Socket(#[from] admin::SocketError),
    /// The operators' endpoint.
    #[error(transparent)]
    Ops(#[from] ListenError),
    /// A metric of the same name is registered already.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Runs the agent until `stop`, then drains it.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    let node = NodeName::new(config.node.clone())?;
    for path in [&config.state_dir, &config.run_dir] {
        std::fs::create_dir_all(path).map_err(|source| Error::Directory { path: path.clone(), source })?;
    }
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self()))?;
    let readiness = Readiness::new();
    let joining = readiness.guard("membership");
    let ops = ops::serve(config.ops.listen, registry.clone(), readiness.clone(), stop.clone()).await?;
    let join_config = JoinConfig {
        state_dir: config.state_dir.clone(),
        node,
        control: config.control.addresses.clone(),
        token: config.control.token.clone(),
        patience: Duration::from_secs(config.control.patience_seconds),
        carriers: config.overlay.carriers.settings(),
    };
    let Some(joined) = stop.run_until_cancelled(join(&join_config)).await else { return Ok(()) };
    let joined = joined?;
    drop(joining);
    let (node, site) = (joined.node.clone(), joined.site.clone());
    let Node { tunnel, incoming, session, store } = Node::start(&config, joined, &registry).await?;

    let (queue, queued) = mpsc::channel(QUEUE);
    let agent = AgentConfig {
        node,
        site,
        program: NAME,
        version: env!("CARGO_PKG_VERSION"),
        settings: config.mesh.clone(),
    };
    let control = session.connected();
    let agent = Agent::start(agent, tunnel.clone(), queued, &store, control, &registry, &readiness).await?;
    let router = admin::router(agent.admin().clone());
    let socket = config.run_dir.join(format!("{NAME}.sock"));
    let socket = admin::serve(&socket, router.clone(), stop.clone()).await?;
    let tasks = TaskTracker::new();
    dispatch(incoming, queue, &Router::new().nest(KUBELET_PREFIX, router), &tasks, &stop).await;

    let drain = Duration::from_secs(config.drain_seconds);
    agent.shutdown(drain).await;
    session.shutdown().await;
    tunnel.shutdown(drain).await;
    tasks.close();
    tasks.wait().await;
    socket.join().await;
    ops.join().await;
    Ok(())
}

/// The node's place in the overlay, and what it holds of the cluster.
struct Node {
    tunnel: Tunnel,
    incoming: Incoming,
    session: Session,
    store: Metastore,
}

impl Node {
    async fn start(config: &Config, membership: Membership, registry: &Registry) -> Result<Self, Error> {
        let store = Metastore::open(config.state_dir.join("metastore.db"))?;
        let outbox = Outbox::open(config.state_dir.join("outbox.db"))?;
        let trust = membership.trust_with(&store).map_err(|error| Error::Trust(error.to_string()))?;
        let settings = edgeloom_tunnel::Config {
            listen: config.overlay.listen,
            carriers: config.overlay.carriers.settings(),
            direct: config.overlay.direct,
            lan_tcp: config.overlay.uses_lan_tcp(),
            exclude_interfaces: config.overlay.exclude_interfaces.clone(),
            rate: config.overlay.rate(),
            site: membership.bounds_with(&store),
            limits: config.overlay.limits.clone(),
            relays: membership.relays_with(&store),
            state_dir: Some(config.state_dir.clone()),
            ..edgeloom_tunnel::Config::default()
        };
        let (identity, credential) = (membership.identity.clone(), membership.credential.clone());
        let (tunnel, incoming) = Tunnel::start(settings, identity, credential, trust, registry).await?;
        tunnel.set_peers(membership.peers_with(&store));
        let control = Arc::new(TunnelOverlay::new(tunnel.clone(), membership.control.peer));
        let session = Session::start(membership, control, store.clone(), outbox, registry)?;
        Ok(Self { tunnel, incoming, session, store })
    }
}

/// Hands what comes in to whom it is for, until `stop` or the end of the tunnel.
async fn dispatch(
    mut incoming: Incoming,
    agent: mpsc::Sender<Accepted>,
    admin: &Router,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    while let Some(Some(accepted)) = stop.run_until_cancelled(incoming.accept()).await {
        match accepted {
            Accepted::Stream { alpn: Alpn::Mesh, .. } | Accepted::Lan { .. } | Accepted::Datagram { .. } => {
                // Dropping a stream resets it: the far end learns that this node is overloaded.
                if agent.try_send(accepted).is_err() {
                    tracing::debug!("the agent does not keep up: a stream or datagram is dropped");
                }
            }
            Accepted::Stream { from, alpn: Alpn::Kubelet, stream } if from.roles.contains(Role::Control) => {
                let service = TowerToHyperService::new(admin.clone());
                let io = TokioIo::new(tokio::io::join(stream.recv, stream.send));
                let stop = stop.clone();
                tasks.spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new()).http1_only();
                    if let Some(Err(error)) =
                        stop.run_until_cancelled(server.serve_connection(io, service)).await
                    {
                        tracing::debug!(%error, "a request of the control broke off");
                    }
                });
            }
            Accepted::Stream { .. } | Accepted::Join { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_read_back() {
        let text = serde_yaml_ng::to_string(&Config::default()).unwrap();
        let read: Config = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!(serde_yaml_ng::to_string(&read).unwrap(), text);
    }
}
