//! The agent's admin API: what it knows and does, as JSON over HTTP/1.1.
//!
//! The types and paths are [`edgeloom_api::admin`]'s. A daemon serves [`router`] on its Unix socket
//! ([`serve`]); the kubelet's server of an edge node nests it below
//! [`KUBELET_PREFIX`](edgeloom_api::admin::KUBELET_PREFIX), by which the control reaches it.

mod answers;
mod socket;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use edgeloom_api::admin::{
    self, Failure, Link, MAX_BENCH_SECONDS, MAX_BENCH_STREAMS, MAX_ECHOES, Measurement, Phase, Timestamp,
};
use edgeloom_tunnel::{DirectKind, OpenError, Path, PeerId, PeerStatus, Tunnel};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::measure::{self, MeasureError};
use crate::proxy::Proxy;
use crate::snapshot::{Place, Snapshot};

pub use socket::{Server, SocketError, serve};

/// How often the paths of peers are looked at, to say when one last changed.
const WATCH: Duration = Duration::from_secs(1);

/// Pause between two echoes of one request.
const ECHO_PAUSE: Duration = Duration::from_millis(200);

/// Where the answers come from.
pub(crate) struct Facts {
    pub(crate) place: Arc<Place>,
    pub(crate) program: &'static str,
    pub(crate) version: &'static str,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) tunnel: Tunnel,
    pub(crate) control: watch::Receiver<bool>,
    pub(crate) report: Arc<ArcSwap<admin::Datapath>>,
}

/// Answers the admin API. Clones share it.
#[derive(Clone)]
pub struct Admin(Arc<Inner>);

struct Inner {
    facts: Facts,
    started: Timestamp,
    changes: Mutex<Changes>,
}

/// When things last changed.
#[derive(Default)]
struct Changes {
    control: Link,
    paths: HashMap<PeerId, (admin::Path, Timestamp)>,
}

impl Admin {
    pub(crate) fn new(facts: Facts) -> Self {
        let started: Timestamp = SystemTime::now().into();
        let control = Link { connected: *facts.control.borrow(), since: Some(started) };
        let changes = Mutex::new(Changes { control, ..Changes::default() });
        Self(Arc::new(Inner { facts, started, changes }))
    }

    /// Takes note of what changes, until `stop` is cancelled.
    pub(crate) async fn watch(self, stop: CancellationToken) {
        let mut every = tokio::time::interval(WATCH);
        let mut control = self.0.facts.control.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = control.changed() => {}
                _ = every.tick() => {}
            }
            self.note(SystemTime::now().into());
        }
    }

    fn note(&self, now: Timestamp) {
        let connected = *self.0.facts.control.borrow();
        let mut changes = self.changes();
        if changes.control.connected != connected {
            changes.control = Link { connected, since: Some(now) };
        }
        let peers = answers::peers(&self.0.facts.snapshot.load(), &self.known());
        let mut paths = std::mem::take(&mut changes.paths);
        for (id, peer) in peers {
            let noted = match paths.remove(&id) {
                Some((path, since)) if path == peer.path => (path, since),
                _ => (peer.path, now),
            };
            changes.paths.insert(id, noted);
        }
    }

    /// Every peer of the tunnel, with what carries TCP connections to it.
    fn known(&self) -> Vec<PeerStatus> {
        let facts = &self.0.facts;
        let over_tcp = |peer| facts.proxy.lan_tcp.compared(peer).is_some_and(|compared| compared.over_tcp);
        let carrier = |status: PeerStatus| match status.path {
            Path::Direct { kind: DirectKind::Lan, .. } if over_tcp(status.peer) => {
                PeerStatus { carrier: Some(DirectKind::Tcp), ..status }
            }
            _ => status,
        };
        facts.tunnel.peers().into_iter().map(carrier).collect()
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        // Times of single things: whole whatever panicked while they were held.
        self.0.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The daemon in one answer.
    pub fn status(&self) -> admin::Status {
        let facts = &self.0.facts;
        let counts = facts.snapshot.load().model.counts();
        let peers = self.peers();
        let direct = peers.iter().filter(|peer| matches!(peer.path, admin::Path::Direct { .. })).count();
        let relayed = peers.iter().filter(|peer| matches!(peer.path, admin::Path::Relayed { .. })).count();
        let near = peers.iter().filter(|peer| peer.near).count();
        admin::Status {
            node: facts.place.node.to_string(),
            site: facts.place.site.to_string(),
            program: facts.program.to_owned(),
            version: facts.version.to_owned(),
            started: self.0.started,
            control: self.changes().control.clone(),
            datapath: Some((**facts.report.load()).clone()),
            services: counts.services,
            endpoints: counts.endpoints,
            peers: admin::PeerCounts { known: peers.len(), direct, relayed, near },
        }
    }

    /// Every other member and how it is reached, by name.
    pub fn peers(&self) -> Vec<admin::Peer> {
        let (facts, known) = (&self.0.facts, self.known());
        let changes = self.changes();
        let since = |id: &PeerId, path: &admin::Path| {
            changes.paths.get(id).filter(|(known, _)| known == path).map(|(_, since)| *since)
        };
        let peers = answers::peers(&facts.snapshot.load(), &known);
        let mut peers: Vec<_> = peers
            .into_iter()
            .map(|(id, peer)| admin::Peer { last_change: since(&id, &peer.path), ..peer })
            .collect();
        peers.sort_by(|a, b| a.node.cmp(&b.node));
        peers
    }

    /// Every Service as callers here meet it, by namespace and name.
    pub fn services(&self) -> Vec<admin::Service> {
        answers::services(&self.0.facts.snapshot.load(), |choice| self.0.facts.proxy.set_aside(choice))
    }

    /// Asks a node for echoes over the tunnel; `None` if no such node is known.
    pub async fn ping(&self, node: &str, count: u32) -> Option<Vec<admin::Echo>> {
        let facts = &self.0.facts;
        let peer: PeerId = facts.snapshot.load().model.member(node)?.peer.parse().ok()?;
        let mut echoes = Vec::new();
        for sequence in 1..=count {
            if sequence > 1 {
                tokio::time::sleep(ECHO_PAUSE).await;
            }
            let answer = facts.tunnel.ping(peer).await;
            echoes.push(answers::echo(sequence, answer, &facts.snapshot.load()));
        }
        Some(echoes)
    }

    /// Probes every way to a node; `None` if no such node is known.
    pub async fn trace(&self, node: &str) -> Option<Result<admin::Trace, OpenError>> {
        let facts = &self.0.facts;
        let peer: PeerId = facts.snapshot.load().model.member(node)?.peer.parse().ok()?;
        let trace = facts.tunnel.trace(peer).await;
        let flows = facts.tunnel.lan(peer).map(|_| answers::flows(facts.proxy.lan_tcp.compared(peer)));
        Some(trace.map(|trace| answers::trace(&trace, flows, &facts.snapshot.load())))
    }

    /// Measures the way to a node; `None` if no such node is known.
    async fn bench(&self, node: &str, query: &BenchQuery) -> Option<Result<Measurement, MeasureError>> {
        let facts = &self.0.facts;
        let peer: PeerId = facts.snapshot.load().model.member(node)?.peer.parse().ok()?;
        let (phase, streams) = (query.phase, query.streams);
        let outcome =
            measure::run(&facts.tunnel, peer, phase, Duration::from_secs(query.seconds), streams).await;
        let path = facts.tunnel.peers().into_iter().find(|status| status.peer == peer);
        let path = path.map_or(Path::None, |status| status.path);
        Some(
            outcome
                .map(|outcome| answers::measurement(phase, streams, &outcome, &path, &facts.snapshot.load())),
        )
    }
}

#[derive(Deserialize)]
struct BenchQuery {
    phase: Phase,
    #[serde(default = "five")]
    seconds: u64,
    #[serde(default = "one_stream")]
    streams: usize,
}

fn five() -> u64 {
    5
}

fn one_stream() -> usize {
    1
}

#[derive(Deserialize)]
struct PingQuery {
    #[serde(default = "one")]
    count: u32,
}

fn one() -> u32 {
    1
}

/// The API's paths.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route(admin::STATUS, get(async |State(admin): State<Admin>| Json(admin.status())))
        .route(admin::PEERS, get(async |State(admin): State<Admin>| Json(admin.peers())))
        .route(admin::SERVICES, get(async |State(admin): State<Admin>| Json(admin.services())))
        .route(&format!("{}/{{node}}", admin::PING), post(ping))
        .route(&format!("{}/{{node}}", admin::TRACE), post(trace))
        .route(&format!("{}/{{node}}", admin::BENCH), post(bench))
        .fallback(async || failure(StatusCode::NOT_FOUND, "there is nothing at this path", None))
        .with_state(admin)
}

async fn ping(
    State(admin): State<Admin>,
    UrlPath(node): UrlPath<String>,
    Query(query): Query<PingQuery>,
) -> Response {
    if !(1..=MAX_ECHOES).contains(&query.count) {
        let error = format!("count={}: expected 1 to {MAX_ECHOES}", query.count);
        return failure(StatusCode::BAD_REQUEST, &error, None);
    }
    if node == admin.0.facts.place.node.as_str() {
        let error = format!("{node} is the node that would send the echoes: there is no path to itself");
        return failure(StatusCode::BAD_REQUEST, &error, Some("name another node"));
    }
    match admin.ping(&node, query.count).await {
        Some(echoes) => Json(echoes).into_response(),
        None => unknown(&node),
    }
}

async fn trace(State(admin): State<Admin>, UrlPath(node): UrlPath<String>) -> Response {
    match admin.trace(&node).await {
        Some(Ok(trace)) => Json(trace).into_response(),
        Some(Err(error)) => failure(StatusCode::BAD_GATEWAY, &error.to_string(), None),
        None => unknown(&node),
    }
}

async fn bench(
    State(admin): State<Admin>,
    UrlPath(node): UrlPath<String>,
    Query(query): Query<BenchQuery>,
) -> Response {
    if !(1..=MAX_BENCH_SECONDS).contains(&query.seconds) || !(1..=MAX_BENCH_STREAMS).contains(&query.streams)
    {
        let error =
            format!("expected 1 to {MAX_BENCH_SECONDS} seconds, and 1 to {MAX_BENCH_STREAMS} streams");
        return failure(StatusCode::BAD_REQUEST, &error, None);
    }
    match admin.bench(&node, &query).await {
        Some(Ok(measurement)) => Json(measurement).into_response(),
        Some(Err(error)) => failure(StatusCode::BAD_GATEWAY, &error.to_string(), None),
        None => unknown(&node),
    }
}

fn unknown(node: &str) -> Response {
    let error = format!("no member of the mesh is called {node:?}");
    failure(StatusCode::NOT_FOUND, &error, Some("`meshctl peers` lists those that are known here"))
}

fn failure(status: StatusCode, error: &str, remedy: Option<&str>) -> Response {
    let failure = Failure { error: error.to_owned(), remedy: remedy.map(str::to_owned) };
    (status, Json(failure)).into_response()
}
