//! The agent: all parts of the mesh on one node, wired and owned.
//!
//! ```text
//! Metastore ─> discovery ─> Snapshot ─┬─> steer (datapath in the kernel)
//!                                     ├─> DNS zone
//! Tunnel <─> proxy <──────────────────┴─> admin
//! ```

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use edgeloom_api::admin;
use edgeloom_client::Metastore;
use edgeloom_dns::{Server, ServerConfig, ServerError, Zone, ZoneError};
use edgeloom_ebpf::sockets::FarSockets;
use edgeloom_ebpf::{Datapath, LoadConfig, Steering};
use edgeloom_model::{NodeName, Site};
use edgeloom_tunnel::{Accepted, Alpn, Tunnel};
use prometheus::Registry;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{Admin, Facts};
use crate::config::Settings;
use crate::discovery::{self, Discovery};
use crate::ops::Readiness;
use crate::proxy::{self, Proxy};
use crate::snapshot::{Place, Snapshot};
use crate::steer::{self, Feeder};
use crate::{host, keep, lan};

/// Who the agent is and how it works.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Name of the node.
    pub node: NodeName,
    /// Its site.
    pub site: Site,
    /// The program that the agent runs in, for its status: `edgecore` or `mesh-agent`.
    pub program: &'static str,
    /// Version of the program.
    pub version: &'static str,
    /// Settings.
    pub settings: Settings,
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The sockets for far traffic.
    #[error("cannot open the agent's sockets on the loopback interface: {0}")]
    Sockets(#[from] io::Error),
    /// The DNS domain.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// A metric of the same name is registered already.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The running agent. Dropping it leaves its tasks running: call [`Agent::shutdown`].
pub struct Agent {
    proxy: Arc<Proxy>,
    admin: Admin,
    feeder: Option<JoinHandle<Datapath>>,
    tasks: TaskTracker,
    /// Ends what brings new work; flows go on until they are drained.
    stop: CancellationToken,
}

impl Agent {
    /// Starts the agent on what the store holds, with or without the cloud. `incoming` is the `mesh/1` part
    /// of what the tunnel accepts; `control` says whether the session with the control is up. The guards
    /// `mesh` and `dns` of `readiness` are held until the parts have what they need.
    pub async fn start(
        config: AgentConfig,
        tunnel: Tunnel,
        incoming: mpsc::Receiver<Accepted>,
        store: &Metastore,
        control: watch::Receiver<bool>,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Result<Self, AgentError> {
        let ready = readiness.guard("mesh");
        let AgentConfig { node, site, program, version, settings } = config;
        let place = Arc::new(Place { node, site, exports: settings.exports.clone() });
        let parts = Parts {
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::empty(place.clone()))),
            place,
            settings,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let own_addresses = host::addresses();
        let published = parts.start_discovery(store, own_addresses.clone(), registry)?;
        let metrics = proxy::Metrics::register(registry)?;
        let tunnel_of_flows = Arc::new(tunnel.clone());
        let proxy = Proxy::new(parts.snapshot.clone(), tunnel_of_flows, &parts.settings, metrics);
        let sockets = FarSockets::bind()?;
        let report = Arc::new(ArcSwap::from_pointee(admin::Datapath::default()));
        let datapath = load(&parts.settings, own_addresses, &sockets, &report);
        let feeder = parts.start_feeder(datapath, published.clone(), &report, registry)?;
        parts.start_proxy(&proxy, sockets, incoming)?;
        parts.start_dns(published.clone(), registry, readiness)?;
        parts.start_keeping(&proxy, &tunnel, published.clone());
        let Parts { snapshot, place, tasks, stop, .. } = parts;
        let facts =
            Facts { place, program, version, snapshot, proxy: proxy.clone(), tunnel, control, report };
        let admin = Admin::new(facts);
        tasks.spawn(admin.clone().watch(stop.clone()));
        tasks.spawn(async move {
            let mut published = published;
            // It fails only where the agent ends before it was ready.
            let _ = published.wait_for(|count| *count > 0).await;
            drop(ready);
        });
        Ok(Self { proxy, admin, feeder, tasks, stop })
    }

    /// What answers the admin API, for the daemon's socket and for the kubelet's server.
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// Takes nothing new, gives running flows `drain` to end, then resets them. What the datapath has
    /// pinned goes on serving near Services.
    pub async fn shutdown(self, drain: Duration) {
        self.stop.cancel();
        self.proxy.shutdown(drain).await;
        self.tasks.close();
        self.tasks.wait().await;
        match self.feeder {
            None => {}
            Some(feeder) => match feeder.await {
                Ok(datapath) => {
                    if let Err(error) = datapath.shutdown().await {
                        tracing::warn!(%error, "the datapath left something behind");
                    }
                }
                Err(error) => tracing::error!(%error, "the datapath's task ended by a panic"),
            },
        }
    }
}

/// What the parts of an agent share while they are started.
struct Parts {
    place: Arc<Place>,
    settings: Settings,
    snapshot: Arc<ArcSwap<Snapshot>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Parts {
    /// Follows the store and the host; what is returned counts the snapshots.
    fn start_discovery(
        &self,
        store: &Metastore,
        own_addresses: Vec<IpAddr>,
        registry: &Registry,
    ) -> Result<watch::Receiver<u64>, AgentError> {
        let (published, seen) = watch::channel(0);
        let (addresses, addresses_seen) = watch::channel(own_addresses);
        let (routed, routed_seen) = watch::channel(BTreeSet::new());
        self.tasks.spawn(host::watch(addresses, self.stop.clone()));
        if self.settings.lan_routes {
            self.tasks.spawn(lan::run(self.snapshot.clone(), routed, self.stop.clone()));
        }
        let discovery = Discovery {
            place: self.place.clone(),
            addresses: addresses_seen,
            routed: routed_seen,
            snapshot: self.snapshot.clone(),
            published,
            metrics: discovery::Metrics::register(registry)?,
        };
        self.tasks.spawn(discovery.run(store.subscribe(&discovery::KINDS), self.stop.clone()));
        Ok(seen)
    }

    /// Feeds the datapath, where there is one.
    fn start_feeder(
        &self,
        datapath: Option<Datapath>,
        published: watch::Receiver<u64>,
        report: &Arc<ArcSwap<admin::Datapath>>,
        registry: &Registry,
    ) -> Result<Option<JoinHandle<Datapath>>, AgentError> {
        let feeder = Feeder {
            snapshot: self.snapshot.clone(),
            published,
            service_cidrs: self.settings.service_cidrs.clone(),
            report: report.clone(),
            metrics: steer::Metrics::register(registry)?,
            kernel: edgeloom_ebpf::Metrics::register(registry)?,
        };
        Ok(datapath.map(|datapath| tokio::spawn(feeder.run(datapath, self.stop.clone()))))
    }

    /// Takes what the kernel steers here, and what other nodes' agents send.
    fn start_proxy(
        &self,
        proxy: &Arc<Proxy>,
        sockets: FarSockets,
        incoming: mpsc::Receiver<Accepted>,
    ) -> io::Result<()> {
        for listener in [Some(sockets.tcp4), sockets.tcp6].into_iter().flatten() {
            self.tasks.spawn(proxy.clone().accept(TcpListener::from_std(listener)?, self.stop.clone()));
        }
        for socket in [Some(sockets.udp4), sockets.udp6].into_iter().flatten() {
            self.tasks.spawn(proxy.clone().receive_udp(UdpSocket::from_std(socket)?, self.stop.clone()));
        }
        self.tasks.spawn(proxy.clone().sweep(self.stop.clone()));
        self.tasks.spawn(proxy.lan_tcp.clone().run(self.stop.clone()));
        self.tasks.spawn(receive(proxy.clone(), incoming, self.stop.clone()));
        Ok(())
    }

    /// Keeps the paths to the nodes that callers here need.
    fn start_keeping(&self, proxy: &Arc<Proxy>, tunnel: &Tunnel, published: watch::Receiver<u64>) {
        let (proxy, tunnel) = (proxy.clone(), tunnel.clone());
        let (used, keep) = (move || proxy.used(), move |peers| tunnel.keep(peers));
        self.tasks.spawn(keep::run(self.snapshot.clone(), published, used, keep, self.stop.clone()));
    }

    /// Starts DNS and feeds it. A port that is taken, or an address that cannot be had, is tried again: it
    /// must not keep Services from working.
    fn start_dns(
        &self,
        mut published: watch::Receiver<u64>,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Result<(), AgentError> {
        let domain = self.settings.cluster_domain.clone();
        let zone = Zone::build(self.snapshot.load().model.clone(), &domain)?;
        let zone = Arc::new(ArcSwap::from_pointee(zone));
        let (fed, snapshot, stop) = (zone.clone(), self.snapshot.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            while let Some(Ok(())) = stop.run_until_cancelled(published.changed()).await {
                steer::publish_zone(&snapshot.load(), &domain, &fed);
            }
        });
        if self.settings.dns_listen.is_empty() {
            return Ok(());
        }
        let config = ServerConfig {
            listen: self.settings.dns_listen.clone(),
            upstreams: self.settings.dns_upstreams.clone(),
            ..ServerConfig::default()
        };
        let (ready, registry, stop) = (readiness.guard("dns"), registry.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            if let Some(server) = serve_dns(config, zone, registry, &stop).await {
                drop(ready);
                stop.cancelled().await;
                server.shutdown().await;
            }
        });
        Ok(())
    }
}

/// Loads the datapath. Without it the node still answers for its own pods, and DNS works: the status says
/// what is off and why.
fn load(
    settings: &Settings,
    node_addresses: Vec<IpAddr>,
    sockets: &FarSockets,
    report: &ArcSwap<admin::Datapath>,
) -> Option<Datapath> {
    let config = LoadConfig {
        cgroup: settings.cgroup.clone(),
        pin: settings.pin.clone(),
        node_addresses,
        ..LoadConfig::default()
    };
    let loaded = Datapath::load(config).and_then(|mut datapath| {
        datapath.set_agent_sockets(sockets.borrow())?;
        Ok(datapath)
    });
    loaded
        .inspect_err(|error| {
            tracing::error!(%error, "Services are not served on this node: the datapath did not load");
            let off = admin::Missing { what: "datapath".to_owned(), why: error.to_string() };
            report.store(Arc::new(admin::Datapath { mode: "off".to_owned(), off: vec![off] }));
        })
        .ok()
}

/// Serves what other nodes' agents send until the tunnel has ended.
async fn receive(proxy: Arc<Proxy>, mut incoming: mpsc::Receiver<Accepted>, stop: CancellationToken) {
    while let Some(Some(accepted)) = stop.run_until_cancelled(incoming.recv()).await {
        match accepted {
            Accepted::Stream { from, alpn: Alpn::Mesh, stream } => proxy.take(from, stream),
            Accepted::Stream { alpn, .. } => tracing::debug!(?alpn, "a stream that is none of the mesh's"),
            Accepted::Lan { from, stream } => proxy.take_lan(from, stream),
            Accepted::Datagram { from, bytes } => proxy.take_datagram(&from, &bytes),
            Accepted::Join { .. } => {}
        }
    }
}

/// Pause between two tries to start DNS.
const DNS_PAUSE: Duration = Duration::from_secs(5);

async fn serve_dns(
    config: ServerConfig,
    zone: Arc<ArcSwap<Zone>>,
    registry: Registry,
    stop: &CancellationToken,
) -> Option<Server> {
    loop {
        // A token of its own: a start that failed must not end the next one.
        match Server::start(config.clone(), zone.clone(), &registry, stop.child_token()).await {
            Ok(server) => return Some(server),
            Err(ServerError::Metrics(error)) => {
                tracing::error!(%error, "DNS does not start");
                return None;
            }
            Err(error) => tracing::error!(%error, "DNS does not start; it is tried again"),
        }
        stop.run_until_cancelled(tokio::time::sleep(DNS_PAUSE)).await?;
    }
}
