//! What knows the peers: puts frames, paths and relays together, and writes the socket's table.
//!
//! [`Engine`] is one lock around pure parts ([`crate::path::Paths`] by peer, [`crate::forwarder::Sessions`]);
//! nothing in it waits. [`run`] feeds it with frames and time. Sealed messages come in through
//! [`Engine::receive`]; actions of the paths go out as frames and as routes in the table.

mod acquaint;
mod bounds;
pub(crate) mod carriers;
mod messages;
mod peer;
mod relays;
mod sizes;
mod tell;
mod tick;
mod trace;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use tokio::sync::{Notify, oneshot, watch};

pub(crate) use peer::PeerState;
pub(crate) use tick::run;

use crate::config::{Config, Peer, RelayPeer};
use crate::connection::Connections;
use crate::error::{Named, OpenError};
use crate::forwarder::{Limits, Sessions};
use crate::identity::Guard;
use crate::lan::LanPeer;
use crate::metrics::Metrics;
use crate::path::{Candidate, Kind, Origin, RouteKey};
use crate::socket::{Mux, PeerSlot};
use crate::status::{DirectKind, Path, PeerStatus, Ping};
use crate::store::{Remembered, Store};
use crate::swarm::Surroundings;
use crate::wire::frame::Hint;
use crate::wire::seal::{OwnKey, hint, public_key};
use crate::wire::stamp::Stamps;

/// How long the path to a peer that was used is kept after its last use.
const KEEP_AFTER_USE: Duration = Duration::from_secs(3600);
/// How long the peers of a former run are looked for after a start.
const KEEP_AFTER_START: Duration = Duration::from_secs(600);
/// Most peers that are known without being members: those who showed a credential, or whom a relay told of.
const MAX_GUESTS: usize = 16_384;

/// Shared handle to the engine.
#[derive(Clone)]
pub(crate) struct Handle {
    engine: Arc<Mutex<Engine>>,
    /// Wakes [`run`] when something is due earlier than it thinks.
    wake: Arc<Notify>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// Everything known about peers.
pub(crate) struct Engine {
    config: Config,
    own: PeerId,
    key: OwnKey,
    guard: Guard,
    epoch: u64,
    mux: Arc<Mux>,
    connections: Arc<Connections>,
    metrics: Metrics,
    store: Store,
    peers: HashMap<PeerId, PeerState>,
    by_hint: HashMap<Hint, PeerId>,
    relays: HashSet<PeerId>,
    /// Peers whose path is kept whoever asks for it.
    kept: HashSet<PeerId>,
    /// Own addresses at the interfaces, and the relays: what the swarm is told.
    surroundings: watch::Sender<Surroundings>,
    local: Vec<SocketAddr>,
    /// Own addresses as relays see them.
    observed: HashMap<PeerId, SocketAddr>,
    sessions: Sessions,
    /// Peers that have a figure of their own in the relay's metrics.
    accounts: HashSet<PeerId>,
    /// When that was last counted.
    accounted: Instant,
    hellos: acquaint::Bucket,
    /// Packets of others that are sent back as long as they came.
    fills: acquaint::Bucket,
    /// Of the frames that this node sends.
    stamps: Stamps,
    /// What the keeper of carriers is told.
    wanted: watch::Sender<carriers::Wanted>,
}

impl Handle {
    pub(crate) fn new(
        config: Config,
        guard: Guard,
        key: OwnKey,
        mux: Arc<Mux>,
        connections: Arc<Connections>,
        metrics: Metrics,
        store: Store,
    ) -> Self {
        let own = guard.identity().peer_id();
        let now = Instant::now();
        let relays = config.relays.clone();
        let limits = Limits {
            sessions: config.limits.relay_sessions,
            per_peer: config.limits.relay_sessions_per_peer,
            ..Limits::default()
        };
        let mut engine = Engine {
            config,
            own,
            key,
            guard,
            epoch: rand::random(),
            mux,
            connections,
            metrics,
            store,
            peers: HashMap::new(),
            by_hint: HashMap::new(),
            relays: HashSet::new(),
            kept: HashSet::new(),
            surroundings: watch::Sender::default(),
            local: Vec::new(),
            observed: HashMap::new(),
            sessions: Sessions::new(limits),
            accounts: HashSet::new(),
            accounted: Instant::now(),
            hellos: acquaint::Bucket::hellos(now),
            fills: sizes::bucket(now),
            stamps: Stamps::default(),
            wanted: watch::Sender::default(),
        };
        engine.metrics.rate(engine.config.lowest_rate());
        engine.recall(now);
        engine.set_relays(now, relays);
        Self { engine: Arc::new(Mutex::new(engine)), wake: Arc::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The address to dial `peer` at, once a path works. Looks for one for at most `patience`.
    pub(crate) async fn path(&self, peer: PeerId, patience: Duration) -> Result<SocketAddr, OpenError> {
        let waiting = {
            let mut engine = self.lock();
            let now = Instant::now();
            let Some(state) = engine.peers.get_mut(&peer) else {
                return Err(OpenError::UnknownPeer(peer.into()));
            };
            state.keep_until = state.keep_until.max(now + KEEP_AFTER_USE);
            if state.paths.working(now).is_some() {
                return Ok(state.slot.virtual_address);
            }
            let (found, waiting) = oneshot::channel();
            state.waiters.push(found);
            engine.service(now, peer);
            waiting
        };
        self.wake();
        match tokio::time::timeout(patience, waiting).await {
            Ok(Ok(address)) => Ok(address),
            Ok(Err(_)) => Err(OpenError::UnknownPeer(peer.into())),
            Err(_) => {
                let tried = self.lock().tried(&peer);
                Err(OpenError::NoPath { peer: peer.into(), waited: patience, tried })
            }
        }
    }

    /// Probes `peer` over the path in use.
    pub(crate) async fn ping(&self, peer: PeerId, patience: Duration) -> Result<Ping, OpenError> {
        self.path(peer, patience).await?;
        let answer = {
            let mut engine = self.lock();
            let now = Instant::now();
            let Some(state) = engine.peers.get_mut(&peer) else {
                return Err(OpenError::UnknownPeer(peer.into()));
            };
            let Some(id) = state.paths.ping(now) else { return Err(OpenError::UnknownPeer(peer.into())) };
            let (answered, answer) = oneshot::channel();
            state.pings.push((id, answered));
            engine.service(now, peer);
            answer
        };
        let lost =
            || OpenError::NoPath { peer: peer.into(), waited: patience, tried: "the probe was lost".into() };
        let rtt = tokio::time::timeout(patience, answer).await.map_err(|_| lost())?.map_err(|_| lost())?;
        let path = self.lock().path_of(&peer);
        Ok(Ping { rtt, path })
    }
}

impl Engine {
    /// Peers of a former run, by what the disk says.
    fn recall(&mut self, now: Instant) {
        for remembered in self.store.load() {
            let Remembered { peer, node, site, addresses } = remembered;
            let Some(state) = self.ensure_peer(peer) else { continue };
            state.member = Some(Peer { peer, node, site, addresses: Vec::new() });
            if addresses.is_empty() {
                continue;
            }
            state.keep_until = now + KEEP_AFTER_START;
            for (address, kind) in addresses {
                state.paths.add(now, RouteKey::Direct(address), Kind::Direct(kind), Origin::Remembered);
            }
        }
    }

    /// The peer's state, made if there is none; `None` for ids that are no key of a node, and for the own.
    fn ensure_peer(&mut self, peer: PeerId) -> Option<&mut PeerState> {
        if peer == self.own {
            return None;
        }
        if !self.peers.contains_key(&peer) {
            let public = public_key(&peer)?;
            let state = PeerState::new(peer, public, self.key.pair(&public)?, self.own);
            self.mux.table.add_peer(&state.slot);
            self.by_hint.insert(hint(&public), peer);
            self.peers.insert(peer, state);
        }
        self.peers.get_mut(&peer)
    }

    fn drop_peer(&mut self, peer: &PeerId) {
        let Some(state) = self.peers.remove(peer) else { return };
        self.by_hint.remove(&hint(&state.public));
        self.mux.table.remove_peer(&state.slot);
        for candidate in state.paths.candidates() {
            if let RouteKey::Direct(address) = candidate.route {
                self.mux.table.unbind(address, &state.slot);
            }
        }
        for session in state.sessions.values() {
            self.mux.table.remove_session(session);
        }
        for carrier in &state.carriers {
            carrier.stop.cancel();
        }
        for id in self.sessions.remove_peer(peer) {
            self.mux.table.forwards.remove(&id);
        }
        self.observed.remove(peer);
        self.connections.forget(peer);
    }

    /// Replaces the membership.
    pub(crate) fn set_peers(&mut self, now: Instant, peers: Vec<Peer>) {
        let members: HashSet<PeerId> = peers.iter().map(|peer| peer.peer).collect();
        for member in peers {
            let addresses = member.addresses.clone();
            let Some(state) = self.ensure_peer(member.peer) else { continue };
            state.member = Some(member);
            state.next_poll = Some(now);
            for address in addresses {
                let kind = Kind::Direct(DirectKind::Public);
                state.paths.add(now, RouteKey::Direct(address), kind, Origin::Configured);
            }
        }
        let gone: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(peer, state)| {
                state.member.is_some() && !members.contains(peer) && !self.relays.contains(peer)
            })
            .map(|(peer, _)| *peer)
            .collect();
        for peer in gone {
            self.connections.close_peer(&peer, now, "no longer a member");
            self.drop_peer(&peer);
        }
        self.remember();
    }

    /// Replaces the relays.
    pub(crate) fn set_relays(&mut self, now: Instant, relays: Vec<RelayPeer>) {
        self.surroundings.send_modify(|surroundings| surroundings.relays.clone_from(&relays));
        self.relays = relays.iter().map(|relay| relay.peer).filter(|peer| *peer != self.own).collect();
        for relay in relays {
            let Some(state) = self.ensure_peer(relay.peer) else { continue };
            state.slot.set_first(true);
            state.paths.expect_back_soon();
            state.next_poll = Some(now);
            for address in relay.addresses {
                let kind = Kind::Direct(DirectKind::Public);
                state.paths.add(now, RouteKey::Direct(address), kind, Origin::Configured);
            }
        }
    }

    /// Replaces the peers whose path is kept.
    pub(crate) fn keep(&mut self, now: Instant, peers: HashSet<PeerId>) {
        for peer in &peers {
            if let Some(state) = self.peers.get_mut(peer) {
                state.next_poll = Some(now);
            }
        }
        self.kept = peers;
    }

    /// Own addresses changed.
    pub(crate) fn set_local(&mut self, now: Instant, local: Vec<SocketAddr>) {
        if self.local == local {
            return;
        }
        tracing::debug!(?local, "own addresses");
        self.surroundings.send_modify(|surroundings| surroundings.local.clone_from(&local));
        self.carriers_moved();
        self.local = local;
        for state in self.peers.values_mut() {
            state.told = None;
            state.next_poll = Some(now);
            state.paths.urge(now);
        }
    }

    /// What the keeper of carriers is to be told.
    pub(crate) fn wanted(&self) -> watch::Receiver<carriers::Wanted> {
        self.wanted.subscribe()
    }

    /// What the swarm is to be told.
    pub(crate) fn surroundings(&self) -> watch::Receiver<Surroundings> {
        self.surroundings.subscribe()
    }

    /// Peers that announced themselves on the LAN.
    pub(crate) fn neighbours(&mut self, now: Instant, found: Vec<(PeerId, SocketAddr)>) {
        if !self.config.allows_direct() {
            return;
        }
        for (peer, address) in found {
            if self.local.contains(&address) {
                continue;
            }
            let Some(state) = self.peers.get_mut(&peer) else { continue };
            let kind = Kind::Direct(DirectKind::Lan);
            state.paths.add(now, RouteKey::Direct(address), kind, Origin::Told);
            state.paths.urge(now);
            state.next_poll = Some(now);
        }
    }

    /// Drops peers that trust no longer covers.
    pub(crate) fn recheck(&mut self) {
        let Some(trust) = self.guard.trust() else { return };
        let revoked: Vec<PeerId> = self.peers.keys().filter(|peer| trust.is_revoked(peer)).copied().collect();
        for peer in revoked {
            self.drop_peer(&peer);
        }
    }

    fn path_of(&self, peer: &PeerId) -> Path {
        let now = Instant::now();
        let working = self.peers.get(peer).and_then(|state| state.paths.working(now));
        working.map_or(Path::None, |candidate| self.shown(candidate))
    }

    /// A candidate as people know it.
    fn shown(&self, candidate: &Candidate) -> Path {
        match (candidate.route, candidate.kind) {
            (RouteKey::Direct(addr), Kind::Direct(kind)) => {
                // People know the other end's address, not what stands for the carrier here.
                let carrier = self.mux.table.carrier(&addr);
                Path::Direct { addr: carrier.map_or(addr, |carrier| carrier.remote), kind }
            }
            (RouteKey::Relayed(relay), _) => Path::Relayed { relay },
            (RouteKey::Direct(addr), Kind::Relayed) => Path::Direct { addr, kind: DirectKind::Public },
        }
    }

    /// How packets to `peer` leave this node, where that is over TCP.
    fn carrier_of(&self, peer: &PeerId) -> Option<DirectKind> {
        match self.path_of(peer) {
            Path::Direct { kind, .. } => kind.is_carrier().then_some(kind),
            Path::Relayed { relay } if relay != *peer => self.carrier_of(&relay),
            _ => None,
        }
    }

    /// A peer by its node's name, where that is known.
    pub(crate) fn named(&self, peer: &PeerId) -> Named {
        Named { peer: *peer, node: self.peers.get(peer).and_then(PeerState::node) }
    }

    /// What was tried to reach `peer`, for an error.
    fn tried(&self, peer: &PeerId) -> String {
        let Some(state) = self.peers.get(peer) else { return "nothing, the peer is gone".into() };
        let direct = state.paths.candidates().iter().filter(|c| c.kind != Kind::Relayed).count();
        let refusals: Vec<String> = state
            .asked
            .iter()
            .map(|(relay, asked)| match asked.refused {
                Some(reason) => format!("relay on {}: {reason}", self.named(relay)),
                None => format!("relay on {} did not answer", self.named(relay)),
            })
            .collect();
        let relays = if refusals.is_empty() { "no relay known".to_owned() } else { refusals.join("; ") };
        format!("{direct} direct addresses did not answer; {relays}")
    }

    /// Smoothed round trip time of the path in use to a peer.
    pub(crate) fn rtt(&self, peer: &PeerId) -> Option<Duration> {
        self.peers.get(peer)?.paths.working(Instant::now())?.rtt()
    }

    /// What the hot path knows a peer by.
    pub(crate) fn slot(&self, peer: &PeerId) -> Option<Arc<PeerSlot>> {
        self.peers.get(peer).map(|state| state.slot.clone())
    }

    /// A peer on the LAN to which flows may go over TCP.
    pub(crate) fn lan(&self, peer: &PeerId) -> Option<(LanPeer, Arc<PeerSlot>)> {
        let Path::Direct { addr: address, kind: DirectKind::Lan } = self.path_of(peer) else { return None };
        let slot = self.slot(peer).filter(|_| self.config.uses_lan_tcp())?;
        Some((LanPeer { address, bytes: slot.traffic.sent() + slot.traffic.received() }, slot))
    }

    /// Every peer and how it is reached.
    pub(crate) fn status(&self) -> Vec<PeerStatus> {
        let now = Instant::now();
        let status = |(peer, state): (&PeerId, &PeerState)| {
            let working = state.paths.working(now);
            let verified = self.connections.verified(peer);
            PeerStatus {
                peer: *peer,
                node: state.node().or_else(|| Some(verified.as_ref()?.node.clone())),
                site: state.site().or_else(|| Some(verified.as_ref()?.site.clone())),
                path: self.path_of(peer),
                carrier: self.carrier_of(peer),
                rtt: working.and_then(|candidate| candidate.rtt()),
                loss: state.paths.current().map_or(0.0, |candidate| candidate.loss()),
                passed_over_loss: state.paths.passed_over(now).map(Candidate::loss),
                sent_bytes: state.slot.traffic.sent(),
                received_bytes: state.slot.traffic.received(),
                connected: verified.is_some(),
            }
        };
        self.peers.iter().map(status).collect()
    }

    /// What the disk should know.
    fn remember(&self) {
        let remembered = self.peers.values().filter_map(PeerState::remembered).collect();
        self.store.save(remembered);
    }
}

#[cfg(test)]
mod tests;
