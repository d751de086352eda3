//! Far traffic: from a steered socket through the tunnel to a socket at the other site.
//!
//! ```text
//! client ─> listen ─> outgoing ─(Carrier: one stream a connection)─> incoming ─> target
//!                        │ Snapshot::route: which endpoints?            │ Snapshot::targets: ours?
//!                        │ Balancer: in which order?                    │
//! ```
//!
//! `splice` carries the bytes both ways with half-close, resets and back-pressure. Every connection is
//! a task of its own, owned by the proxy's tracker: a slow endpoint delays nobody else.

mod early;
mod ends;
mod incoming;
mod listen;
mod metrics;
mod outgoing;
mod splice;
mod udp;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use edgeloom_model::{Backend, Choice, FarBackend, NodeName, PodRef, Protocol, ServiceKey};
use edgeloom_tunnel::{LanStream, PeerId, Stream, Verified};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::balance::{Balancer, Candidate, Client, EndpointId};
use crate::carrier::Carrier;
use crate::config::Settings;
use crate::lan_tcp::LanTcp;
use crate::snapshot::{Route, Snapshot};
use crate::wire::{Header, Target};

pub use metrics::Metrics;

/// Most endpoints that one flow tries before it is refused.
const MAX_ATTEMPTS: usize = 3;

/// Most TCP connections of nodes on the LAN that wait for a flow.
const MAX_WAITING: usize = 1024;

/// How often what is over is looked for: idle flows, endpoints that are gone or tried again.
const SWEEP: Duration = Duration::from_secs(2);

/// What all flows of the agent share.
pub struct Proxy {
    /// The newest snapshot of the model.
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    /// The way to other nodes.
    pub(crate) carrier: Arc<dyn Carrier>,
    /// Which flows go over TCP on the LAN.
    pub(crate) lan_tcp: Arc<LanTcp>,
    balancer: Mutex<Balancer>,
    pub(crate) metrics: Metrics,
    /// Bound of a connect to an endpoint, whichever side makes it.
    pub(crate) connect_timeout: Duration,
    outgoing: Arc<Semaphore>,
    incoming: Arc<Semaphore>,
    measures: Arc<Semaphore>,
    /// TCP connections of the LAN that wait for a flow.
    waiting: Arc<Semaphore>,
    next_flow: AtomicU64,
    udp: udp::Udp,
    /// Owner of every TCP connection's task: what a shutdown waits for.
    pub(crate) tasks: TaskTracker,
    /// Owner of the tasks of UDP flows, which never end by themselves.
    pub(crate) udp_tasks: TaskTracker,
    /// Ends every flow at once.
    pub(crate) force: CancellationToken,
}

/// How to reach an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// By its own address, from here.
    Direct,
    /// Through the agent of a node.
    Node(PeerId),
}

/// One endpoint to try.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) id: EndpointId,
    pub(crate) via: Via,
}

/// The endpoints to try for one flow, in order, and what to ask of another node's agent.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) attempts: Vec<Attempt>,
    goal: Option<Goal>,
    /// The client that keeps its endpoint, and for how long.
    pub(crate) client: Option<(Client, Duration)>,
}

#[derive(Debug)]
enum Goal {
    Service(ServiceKey, u16),
    Pod(PodRef),
}

impl Proxy {
    /// A proxy without listeners.
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        carrier: Arc<dyn Carrier>,
        settings: &Settings,
        metrics: Metrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            snapshot,
            lan_tcp: LanTcp::new(carrier.clone()),
            carrier,
            balancer: Mutex::default(),
            metrics,
            connect_timeout: Duration::from_millis(settings.connect_timeout_ms),
            outgoing: Arc::new(Semaphore::new(settings.max_connections)),
            incoming: Arc::new(Semaphore::new(settings.max_connections)),
            measures: Arc::new(Semaphore::new(crate::measure::AT_ONCE)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            next_flow: AtomicU64::new(rand::random()),
            udp: udp::Udp::new(settings),
            tasks: TaskTracker::new(),
            udp_tasks: TaskTracker::new(),
            force: CancellationToken::new(),
        })
    }

    /// Takes a stream that another node's agent opened; it is served by a task of its own.
    pub fn take(self: &Arc<Self>, from: Arc<Verified>, stream: Stream) {
        self.tasks.spawn(self.clone().incoming(from, stream));
    }

    /// Takes a TCP connection that the agent of a node on the LAN made.
    pub fn take_lan(self: &Arc<Self>, from: Arc<Verified>, stream: LanStream) {
        // Until its flow begins it is none that a shutdown waits for.
        self.udp_tasks.spawn(self.clone().incoming_lan(from, stream));
    }

    /// Gives running connections `drain` to end by themselves, then ends them and all UDP flows.
    pub async fn shutdown(&self, drain: Duration) {
        self.tasks.close();
        self.udp_tasks.close();
        if tokio::time::timeout(drain, self.tasks.wait()).await.is_err() {
            tracing::info!(connections = self.tasks.len(), "connections that did not end in time are reset");
        }
        self.force.cancel();
        self.tasks.wait().await;
        self.udp_tasks.wait().await;
    }

    /// Ends UDP flows that are idle or have lost their endpoint, forgets clients, and counts the endpoints set
    /// aside, until `stop` is cancelled.
    pub async fn sweep(self: Arc<Self>, stop: CancellationToken) {
        let mut every = tokio::time::interval(SWEEP);
        while stop.run_until_cancelled(every.tick()).await.is_some() {
            self.sweep_udp();
            let now = Instant::now();
            self.balancer().expire(now);
            let aside = self.balancer().aside(now);
            self.metrics.set_aside.set(i64::try_from(aside).unwrap_or(i64::MAX));
        }
    }

    /// When a flow last went to an endpoint that a node dials, by node.
    pub fn used(&self) -> HashMap<NodeName, Instant> {
        self.balancer().used()
    }

    /// How many of a Service's endpoints, as chosen now, failed lately.
    pub fn set_aside(&self, choice: &Choice) -> usize {
        let (balancer, now) = (self.balancer(), Instant::now());
        endpoints(choice).filter(|(id, _)| balancer.is_aside(id, now)).count()
    }

    pub(crate) fn balancer(&self) -> MutexGuard<'_, Balancer> {
        // Counters and times of single endpoints: whole whatever panicked while they were held.
        self.balancer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_flow(&self) -> u64 {
        self.next_flow.fetch_add(1, Ordering::Relaxed)
    }

    /// The endpoints to try for a flow from `client` to `destination`, without those that it has `tried`; none
    /// if nothing can serve it.
    pub(crate) fn plan(
        &self,
        client: SocketAddr,
        destination: SocketAddr,
        protocol: Protocol,
        tried: &[EndpointId],
    ) -> Plan {
        let snapshot = self.snapshot.load();
        let ip = client.ip().to_canonical();
        match snapshot.route(ip, destination, protocol) {
            None => Plan::default(),
            Some(Route::Pod { node, pod }) => {
                let mut order = vec![EndpointId { node: Some(node), address: destination }];
                order.retain(|id| !tried.contains(id));
                Plan { attempts: attempts(&snapshot, order), goal: Some(Goal::Pod(pod)), client: None }
            }
            Some(Route::Service { service, port, affinity, choice }) => {
                let client = affinity.map(|life| (Client { ip, service: service.clone(), port }, life));
                let mut candidates = self.candidates(&snapshot, &choice);
                candidates.retain(|candidate| !tried.contains(&candidate.id));
                let order = self.balancer().order(
                    candidates,
                    client.as_ref().map(|(client, life)| (client, *life)),
                    Instant::now(),
                    &mut rand::rng(),
                );
                Plan {
                    attempts: attempts(&snapshot, order),
                    goal: Some(Goal::Service(service, port)),
                    client,
                }
            }
        }
    }

    /// Whether an endpoint is among those that serve flows from `client` to `destination` now.
    pub(crate) fn may_serve(
        &self,
        client: SocketAddr,
        destination: SocketAddr,
        protocol: Protocol,
        id: &EndpointId,
    ) -> bool {
        match self.snapshot.load().route(client.ip(), destination, protocol) {
            None => false,
            Some(Route::Pod { node, .. }) => id.node == Some(node),
            Some(Route::Service { choice, .. }) => endpoints(&choice).any(|(endpoint, _)| endpoint == *id),
        }
    }

    /// The endpoints with how far they are. Where all are of one node, none is farther than another.
    fn candidates(&self, snapshot: &Snapshot, choice: &Choice) -> Vec<Candidate> {
        let candidate = |(id, preferred)| Candidate { id, preferred, rtt: Some(Duration::ZERO) };
        let mut candidates: Vec<_> = endpoints(choice).map(candidate).collect();
        if candidates.windows(2).all(|pair| pair[0].id.node == pair[1].id.node) {
            return candidates;
        }
        let mut measured: HashMap<NodeName, Option<Duration>> = HashMap::new();
        for Candidate { id, rtt, .. } in &mut candidates {
            let Some(node) = &id.node else { continue };
            let measure = || self.carrier.rtt(peer_of(snapshot, node)?);
            *rtt = *measured.entry(node.clone()).or_insert_with(measure);
        }
        candidates
    }

    /// The header that asks another node's agent for an endpoint of a plan.
    pub(crate) fn header(
        &self,
        plan: &Plan,
        attempt: &Attempt,
        client: SocketAddr,
        protocol: Protocol,
    ) -> Option<Header> {
        let address = attempt.id.address;
        let target = match plan.goal.as_ref()? {
            Goal::Service(service, port) => Target::Service {
                service: service.clone(),
                port: *port,
                protocol,
                endpoint: Some(address.ip()),
            },
            Goal::Pod(pod) => Target::Pod {
                namespace: pod.namespace.to_string(),
                name: pod.name.to_string(),
                family: edgeloom_model::Family::of(address.ip()),
                port: address.port(),
                protocol,
            },
        };
        let source = self.snapshot.load().model.workload_at(client.ip()).map(|workload| (*workload).clone());
        Some(Header { flow: self.next_flow(), target, source })
    }
}

/// The endpoints of a choice, each with whether it is of the own site.
fn endpoints(choice: &Choice) -> impl Iterator<Item = (EndpointId, bool)> {
    let (near, far): (&[Backend], &[FarBackend]) = match choice {
        Choice::Near(backends) => (backends, &[]),
        Choice::Far(backends) => (&[], backends),
        Choice::None => (&[], &[]),
    };
    let near = near.iter().map(|b| (EndpointId { node: None, address: b.address }, true));
    let far = far
        .iter()
        .map(|b| (EndpointId { node: Some(b.node.clone()), address: b.backend.address }, b.same_site));
    near.chain(far)
}

fn peer_of(snapshot: &Snapshot, node: &NodeName) -> Option<PeerId> {
    snapshot.model.member(node.as_str())?.peer.parse().ok()
}

/// The way to each endpoint; those whose node has no valid peer id are left out.
fn attempts(snapshot: &Snapshot, order: Vec<EndpointId>) -> Vec<Attempt> {
    let with_way = order.into_iter().filter_map(|id| {
        let via = match &id.node {
            None => Via::Direct,
            Some(node) => Via::Node(peer_of(snapshot, node)?),
        };
        Some(Attempt { id, via })
    });
    with_way.take(MAX_ATTEMPTS).collect()
}

#[cfg(test)]
mod tests;
