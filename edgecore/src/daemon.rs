//! The wiring of the daemon: what is started, in which order, and how it ends.
//!
//! ```text
//! Tunnel ─Incoming─> dispatch ─┬─ kubelet/1 (from the control only) ─> Kubelet
//!   ^                          └─ mesh/1 ─> mesh agent
//! Session ─> Metastore ─> edged, network, mesh;   Outbox <─ edged, node report
//! ```

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use edgeloom_api::credential::Role;
use edgeloom_client::{
    JoinConfig, JoinError, Membership, Metastore, Outbox, Session, SessionError, StoreError, TunnelOverlay,
    join,
};
use edgeloom_mesh::admin;
use edgeloom_mesh::ops::{self, Readiness};
use edgeloom_mesh::{Agent, AgentConfig, AgentError};
use edgeloom_model::{NodeName, Site};
use edgeloom_tunnel::{Accepted, Alpn, Incoming, Tunnel};
use futures::FutureExt as _;
use prometheus::Registry;
use prometheus::process_collector::ProcessCollector;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::cri::{Cri, CriError};
use crate::edged::cluster::Cluster;
use crate::edged::events::Recorder;
use crate::edged::fields::Facts;
use crate::edged::{self, Edged, Images, Metrics, Node, Rotation, Runtime};
use crate::kubelet::Kubelet;
use crate::node::{address, machine, network, report};
use crate::store::Store;
use crate::supervisor::{Restart, Supervisor};

/// Streams and datagrams that wait for the mesh agent.
const MESH_QUEUE: usize = 256;
/// Name of the admin API's socket in the run directory.
const SOCKET: &str = "edgecore.sock";
/// How long modules have to end: none of them has anything to finish.
const MODULES_DRAIN: Duration = Duration::from_secs(5);

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name of the node.
    #[error("node {0:?}: {1}; set node to a name of lower-case letters, digits, '-' and '.'")]
    Name(String, String),
    /// A directory could not be made.
    #[error("cannot make {path}: {source}; is edgecore run as root?")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The container runtime's socket.
    #[error(transparent)]
    Cri(#[from] CriError),
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
    /// The session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A metric of the same name is registered already.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The mesh agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The admin API's socket.
    #[error(transparent)]
    Socket(#[from] admin::SocketError),
    /// The overlay's socket broke.
    #[error("the overlay ended by itself; the messages before say why")]
    OverlayEnded,
    /// The operators' endpoint.
    #[error(transparent)]
    Ops(#[from] ops::ListenError),
}

/// Runs the node until `stop`, then ends all of it but the pods.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    let name = NodeName::new(config.node.clone())
        .map_err(|error| Error::Name(config.node.clone(), error.to_string()))?;
    let config = make_directories(config)?;
    let cri = Cri::new(&config.cri.socket)?;
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self()))?;
    let readiness = Readiness::new();
    let ops = ops::serve(config.ops.listen, registry.clone(), readiness.clone(), stop.clone()).await?;

    let joined = {
        let _guard = readiness.guard("membership");
        let joining = JoinConfig {
            state_dir: config.state_dir.clone(),
            node: name,
            control: config.control.addresses.clone(),
            token: config.control.token.clone(),
            patience: Duration::from_secs(config.control.patience_seconds),
            carriers: config.overlay.carriers.settings(),
        };
        tokio::select! {
            joined = join(&joining) => joined?,
            () = stop.cancelled() => return Ok(()),
        }
    };
    let overlay = Overlay::start(&config, joined, &registry).await?;
    let node = Arc::new(node(&config, cri, Arc::clone(&overlay.store), &registry)?);
    // Pods first: loading the datapath takes a while, and those that run need nothing of it.
    let mut supervisor = Supervisor::new(&registry, stop.clone())?;
    start_modules(&mut supervisor, &config, &node, &overlay.store);
    let (mesh, for_mesh) = mpsc::channel(MESH_QUEUE);
    let agent = start_agent(&config, &overlay, for_mesh, &registry, &readiness).await?;
    let router = admin::router(agent.admin().clone());
    let socket = admin::serve(&config.run_dir.join(SOCKET), router.clone(), stop.clone()).await?;
    let kubelet = Kubelet::new(Arc::clone(&node), registry.clone(), Some(router), &stop);
    let Overlay { tunnel, session, incoming, .. } = overlay;
    dispatch(incoming, &kubelet, &mesh, &stop).await;
    let unasked = !stop.is_cancelled();

    let drain = Duration::from_secs(config.drain_seconds);
    supervisor.shutdown(MODULES_DRAIN).await;
    kubelet.shutdown().await;
    agent.shutdown(drain).await;
    session.shutdown().await;
    tunnel.shutdown(drain).await;
    stop.cancel();
    socket.join().await;
    ops.join().await;
    if unasked { Err(Error::OverlayEnded) } else { Ok(()) }
}

/// Makes the daemon's directories, and names the state directory as the container runtime knows it, which has
/// another working directory.
fn make_directories(mut config: Config) -> Result<Config, Error> {
    let pods = config.state_dir.join("pods");
    for path in [&config.state_dir, &pods, &config.run_dir] {
        let failed = |source| Error::Directory { path: path.clone(), source };
        std::fs::create_dir_all(path).map_err(failed)?;
        // Secrets of pods and of the node; the run directory is for operators.
        if path != &config.run_dir {
            std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
        }
    }
    let failed = |source| Error::Directory { path: config.state_dir.clone(), source };
    config.state_dir = config.state_dir.canonicalize().map_err(failed)?;
    Ok(config)
}

/// The node's place in the overlay, and what it holds of the cluster.
struct Overlay {
    tunnel: Tunnel,
    incoming: Incoming,
    session: Session,
    metastore: Metastore,
    store: Arc<Store>,
    /// Name and site of the node, as its credential says.
    place: (NodeName, Site),
}

impl Overlay {
    async fn start(config: &Config, membership: Membership, registry: &Registry) -> Result<Self, Error> {
        let metastore = Metastore::open(config.state_dir.join("metastore.db"))?;
        let outbox = Outbox::open(config.state_dir.join("outbox.db"))?;
        let trust = membership.trust_with(&metastore).map_err(|error| Error::Trust(error.to_string()))?;
        let settings = edgeloom_tunnel::Config {
            listen: config.overlay.listen,
            carriers: config.overlay.carriers.settings(),
            direct: config.overlay.direct,
            lan_tcp: config.overlay.uses_lan_tcp(),
            exclude_interfaces: config.overlay.exclude_interfaces.clone(),
            rate: config.overlay.rate(),
            site: membership.bounds_with(&metastore),
            limits: config.overlay.limits.clone(),
            relays: membership.relays_with(&metastore),
            state_dir: Some(config.state_dir.clone()),
            ..edgeloom_tunnel::Config::default()
        };
        let identity = Arc::clone(&membership.identity);
        let credential = membership.credential.clone();
        let (tunnel, incoming) = Tunnel::start(settings, identity, credential, trust, registry).await?;
        tunnel.set_peers(membership.peers_with(&metastore));
        let store = Arc::new(Store::new(
            metastore.clone(),
            outbox.clone(),
            membership.node.as_str(),
            &membership.node_uid,
            &config.state_dir,
        ));
        let control = Arc::new(TunnelOverlay::new(tunnel.clone(), membership.control.peer));
        let place = (membership.node.clone(), membership.site.clone());
        let session = Session::start(membership, control, metastore.clone(), outbox, registry)?;
        store.set_session(session.clone());
        Ok(Self { tunnel, incoming, session, metastore, store, place })
    }
}

async fn start_agent(
    config: &Config,
    overlay: &Overlay,
    incoming: mpsc::Receiver<Accepted>,
    registry: &Registry,
    readiness: &Readiness,
) -> Result<Agent, AgentError> {
    let (node, site) = overlay.place.clone();
    let settings = config.mesh.clone();
    let agent = AgentConfig { node, site, program: "edgecore", version: env!("CARGO_PKG_VERSION"), settings };
    let control = overlay.session.connected();
    let tunnel = overlay.tunnel.clone();
    Agent::start(agent, tunnel, incoming, &overlay.metastore, control, registry, readiness).await
}

fn node(
    config: &Config,
    cri: Cri,
    store: Arc<Store>,
    registry: &Registry,
) -> Result<Node, prometheus::Error> {
    let cluster: Arc<dyn Cluster> = store;
    let recorder = Arc::new(Recorder::new(Arc::clone(&cluster), &config.node));
    let host_ips = address::detect(config.site.address, config.site.interface.as_deref());
    if host_ips.is_empty() {
        tracing::warn!("this host has no address that its site could reach; set site.address");
    }
    let machine = machine::Machine::read();
    let facts = Facts {
        node: config.node.clone(),
        host_ips: host_ips.iter().map(ToString::to_string).collect(),
        allocatable_cpu_milli: i64::try_from(machine.cpus).unwrap_or(1) * 1000,
        allocatable_memory: i64::try_from(machine.memory).unwrap_or(i64::MAX),
        ..Facts::default()
    };
    let metrics = Metrics::register(registry)?;
    Ok(Node {
        images: Images::new(cri.clone(), Arc::clone(&cluster), Arc::clone(&recorder), metrics.clone()),
        metrics,
        runtime: Runtime::new(cri),
        cluster,
        recorder,
        facts: ArcSwap::from_pointee(facts),
        pods: config.state_dir.join("pods"),
        log_root: config.pods.log_dir.clone(),
        cgroup_root: config.pods.cgroup.clone(),
        cluster_servers: config.mesh.dns_listen.iter().map(|address| address.ip().to_string()).collect(),
        cluster_domain: config.mesh.cluster_domain.clone(),
        resolv_conf: config.pods.resolv_conf.clone(),
        memory: machine.memory,
        data: 0.into(),
    })
}

fn start_modules(supervisor: &mut Supervisor, config: &Config, node: &Arc<Node>, store: &Arc<Store>) {
    let inside = config.network.cluster_cidrs.iter().chain(&config.mesh.service_cidrs).copied().collect();
    let network = network::Settings {
        conf_dir: config.network.conf_dir.clone(),
        data_dir: config.network.data_dir.clone(),
        masquerade: config.network.masquerade,
        inside,
    };
    let report = report::Settings {
        max_pods: config.pods.max,
        address: config.site.address,
        interface: config.site.interface.clone(),
    };
    let rotation = Rotation { max_size: config.pods.log_max_bytes, max_files: config.pods.log_max_files };
    let mut module =
        |name, run: fn(Arc<Node>, Modules, CancellationToken) -> futures::future::BoxFuture<'static, ()>| {
            let node = Arc::clone(node);
            let modules = Modules { network: network.clone(), report: report.clone(), rotation };
            supervisor.module(name, Restart::Always, move |cancel| {
                let running = run(Arc::clone(&node), modules.clone(), cancel);
                async move {
                    running.await;
                    Ok(())
                }
                .boxed()
            });
        };
    module("network", |node, modules, cancel| network::run(node, modules.network, cancel).boxed());
    module("edged", |node, _, cancel| Edged::run(node, cancel).boxed());
    module("node", |node, modules, cancel| report::run(node, modules.report, cancel).boxed());
    module("logs", |node, modules, cancel| edged::rotate_logs(node, modules.rotation, cancel).boxed());
    module("garbage", |node, _, cancel| edged::collect_garbage(node, cancel).boxed());
    let store = Arc::clone(store);
    supervisor.module("completeness", Restart::OnFailure, move |cancel| {
        let store = Arc::clone(&store);
        async move {
            cancel.run_until_cancelled(store.watch_completeness()).await;
            Ok(())
        }
        .boxed()
    });
}

/// Settings of the modules.
#[derive(Clone)]
struct Modules {
    network: network::Settings,
    report: report::Settings,
    rotation: Rotation,
}

/// Hands what comes in to whom it is for, until `stop` or the end of the tunnel.
async fn dispatch(
    mut incoming: Incoming,
    kubelet: &Kubelet,
    mesh: &mpsc::Sender<Accepted>,
    stop: &CancellationToken,
) {
    while let Some(Some(accepted)) = stop.run_until_cancelled(incoming.accept()).await {
        match accepted {
            Accepted::Stream { from, alpn: Alpn::Kubelet, stream } => {
                if from.roles.contains(Role::Control) {
                    kubelet.spawn(tokio::io::join(stream.recv, stream.send));
                } else {
                    tracing::warn!(peer = %from.node, "refused: only the control may open kubelet streams");
                }
            }
            Accepted::Stream { alpn: Alpn::Mesh, .. } | Accepted::Lan { .. } | Accepted::Datagram { .. } => {
                // Dropping a stream resets it: the far end learns that this node is overloaded.
                if mesh.try_send(accepted).is_err() {
                    tracing::debug!("the mesh agent does not keep up");
                }
            }
            Accepted::Stream { .. } | Accepted::Join { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_is_named_without_links() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(root.path(), root.path().join("link")).unwrap();
        let below = root.path().join("link/state");
        let config = Config { state_dir: below, run_dir: root.path().join("run"), ..Config::default() };
        let state_dir = make_directories(config).unwrap().state_dir;
        assert_eq!(state_dir, root.path().canonicalize().unwrap().join("state"));
        assert!(state_dir.join("pods").is_dir());
    }
}
