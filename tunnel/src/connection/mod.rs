//! QUIC connections to peers: one per peer and protocol, more where that has too many streams, made when needed, closed
//! when void.
//!
//! [`Connections`] is the register; [`dial`](Connections::dial) and [`accept`] fill it, a task per connection takes
//! streams and datagrams off it into [`crate::Incoming`]. [`open`] puts new streams on them as [`spread`] says.
//! [`life`] keeps connections in step with credentials, [`tend`] with what they carry.

mod accept;
pub(crate) mod congestion;
pub(crate) mod dial;
mod drain;
mod holding;
mod ledger;
mod life;
mod open;
pub(crate) mod quic;
mod spread;
mod tend;
#[cfg(test)]
pub(crate) mod testing;
mod usage;
mod watch;
mod windows;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use libp2p::PeerId;
use quinn::VarInt;
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use accept::accept;
use congestion::PathState;
use holding::Holding;
use ledger::{Lease, Ledger};
use open::{Candidates, Growing};
use spread::{Bounds, Load};
pub(crate) use usage::Place;
use usage::Usage;
use watch::Watch;

use crate::Accepted;
use crate::alpn::Alpn;
use crate::identity::{Guard, Trust, Verified};
use crate::lan::{self, Buffered, Register};
use crate::metrics::Metrics;
use crate::socket::{Budget, PeerSlot};

/// Codes with which connections are closed.
pub(crate) mod code {
    use quinn::VarInt;

    /// Nothing is wrong; the node goes.
    pub(crate) const SHUTDOWN: VarInt = VarInt::from_u32(0);
    /// The peer may not use the protocol.
    pub(crate) const REFUSED: VarInt = VarInt::from_u32(1);
    /// The connection is void: the peer restarted, was revoked, or has no path.
    pub(crate) const VOID: VarInt = VarInt::from_u32(2);
    /// Nothing is wrong; there are more connections than are wanted.
    pub(crate) const SURPLUS: VarInt = VarInt::from_u32(3);
}

/// An open connection.
#[derive(Debug)]
struct Entry {
    connection: quinn::Connection,
    /// Whether this node dialled.
    dialled: bool,
    since: Instant,
    /// Who the peer is, by the newest credential that it showed.
    peer: Arc<Verified>,
    /// When the newest credential ends that this node showed it.
    shown_until: SystemTime,
    usage: Arc<Usage>,
    watch: Watch,
    /// What it may hold of the memory.
    holding: Holding,
    /// Datagrams take this one as long as it lasts: they are to keep their order.
    datagrams: bool,
    /// Since when nobody wants it, without a stream.
    surplus_since: Option<Instant>,
}

type Key = (PeerId, Alpn);

/// The open connections.
pub(crate) struct Connections {
    own: PeerId,
    guard: Guard,
    metrics: Metrics,
    /// Of each peer and protocol in the order in which both ends prefer them: of connections that were dialled at the
    /// same time that of the lower peer id, then the newest.
    open: Mutex<HashMap<Key, Vec<Entry>>>,
    /// A connection was registered, or the dialling of one more is over.
    registered: Notify,
    dialling: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
    growing: Growing,
    bounds: Bounds,
    /// What all connections hold.
    ledger: Arc<Ledger>,
    /// What the congestion controllers of each peer's connections are told.
    paths: Mutex<HashMap<PeerId, Arc<PathState>>>,
    config: quic::Settings,
    incoming: mpsc::Sender<Accepted>,
    /// Flows of the LAN over TCP, and what they may send.
    pub(crate) lan: Register,
    budget: Budget,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Connections {
    pub(crate) fn new(
        guard: Guard,
        metrics: Metrics,
        config: quic::Settings,
        incoming: mpsc::Sender<Accepted>,
        budget: Budget,
    ) -> Arc<Self> {
        let lan = Register::new(metrics.lan.connections.clone(), config.limits.streams as usize);
        Arc::new(Self {
            own: guard.identity().peer_id(),
            guard,
            metrics,
            open: Mutex::default(),
            registered: Notify::new(),
            dialling: Mutex::default(),
            growing: Growing::default(),
            bounds: config.bounds(),
            ledger: Ledger::new(config.buffers),
            paths: Mutex::default(),
            config,
            incoming,
            lan,
            budget,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<Entry>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self, peer: &PeerId, alpn: Alpn) -> bool {
        self.lock().get(&(*peer, alpn)).is_some_and(|entries| entries.iter().any(Entry::is_usable))
    }

    /// The connection that carries datagrams.
    pub(crate) fn for_datagrams(&self, peer: &PeerId) -> Option<quinn::Connection> {
        let mut open = self.lock();
        let entries = open.get_mut(&(*peer, Alpn::Mesh))?;
        let last = entries.iter().position(|entry| entry.datagrams);
        let lasts = last.filter(|at| entries[*at].is_usable() && entries[*at].surplus_since.is_none());
        let at = lasts.or_else(|| entries.iter().position(Entry::is_usable))?;
        if last != Some(at) {
            entries.iter_mut().enumerate().for_each(|(index, entry)| entry.datagrams = index == at);
        }
        Some(entries[at].connection.clone())
    }

    /// The connections for a new stream.
    fn candidates(&self, key: &Key) -> Candidates {
        let open = self.lock();
        let usable = open.get(key).into_iter().flatten().filter(|entry| entry.is_usable());
        let usable: Vec<&Entry> = usable.collect();
        let loads: Vec<Load> = usable.iter().map(|entry| entry.load()).collect();
        let order = self.bounds.order(&loads).into_iter();
        Candidates {
            connections: order.map(|at| (usable[at].connection.clone(), usable[at].usage.clone())).collect(),
            wants_more: self.bounds.wanted(&loads) > loads.len(),
            may_grow: loads.len() < self.bounds.connections,
        }
    }

    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        let open = self.lock();
        Alpn::ALL.iter().any(|alpn| open.get(&(*peer, *alpn)).is_some_and(|entries| !entries.is_empty()))
    }

    /// Registers a connection whose peer was admitted, and starts taking what comes on it.
    fn register(
        self: &Arc<Self>,
        alpn: Alpn,
        connection: &quinn::Connection,
        lease: Lease,
        dialled: bool,
        peer: Verified,
    ) {
        let peer = Arc::new(peer);
        let key = (peer.peer, alpn);
        let streams = self.metrics.links.streams.with_label_values(&[alpn.as_str()]);
        let usage = Usage::new(connection.clone(), lease, streams);
        let now = Instant::now();
        let entry = Entry {
            connection: connection.clone(),
            dialled,
            since: now,
            peer: peer.clone(),
            shown_until: self.shown_until(&peer),
            usage: usage.clone(),
            watch: Watch::new(now),
            holding: Holding::new(usage.lease.first()),
            datagrams: false,
            surplus_since: None,
        };
        let own_is_lower = self.own.to_bytes() < peer.peer.to_bytes();
        let mut open = self.lock();
        life::follow(&mut open, &entry);
        let entries = open.entry(key).or_default();
        entries.push(entry);
        entries.sort_by_key(|entry| Reverse((entry.dialled == own_is_lower, entry.since)));
        drop(open);
        self.registered.notify_waiters();
        self.metrics.links.connections.with_label_values(&[alpn.as_str()]).inc();
        let (connections, connection) = (self.clone(), connection.clone());
        self.tasks.spawn(async move {
            accept::serve(&connections, alpn, &peer, &connection, &usage).await;
            connections.unregister(&key, &connection);
        });
    }

    fn unregister(&self, key: &Key, connection: &quinn::Connection) {
        let mut open = self.lock();
        let Some(entries) = open.get_mut(key) else { return };
        let before = entries.len();
        entries.retain(|entry| entry.connection.stable_id() != connection.stable_id());
        let gone = before - entries.len();
        if entries.is_empty() {
            open.remove(key);
        }
        self.metrics.links.connections.with_label_values(&[key.1.as_str()]).sub(gone as i64);
    }

    /// Connections of this protocol that `peer` made.
    fn accepted(&self, peer: &PeerId, alpn: Alpn) -> usize {
        self.lock().get(&(*peer, alpn)).map_or(0, |entries| entries.iter().filter(|e| !e.dialled).count())
    }

    fn close_if(&self, reason: &str, void: impl Fn(&Key, &Entry) -> bool) {
        for (key, entries) in self.lock().iter() {
            for entry in entries.iter().filter(|entry| void(key, entry)) {
                tracing::debug!(peer = %key.0, alpn = %key.1, reason, "connection closed");
                entry.connection.close(code::VOID, reason.as_bytes());
            }
        }
    }

    /// Closes the connections of `peer` that were made before `since`.
    pub(crate) fn close_peer(&self, peer: &PeerId, since: Instant, reason: &str) {
        self.close_if(reason, |key, entry| key.0 == *peer && entry.since < since);
        self.lan.cut_peer(peer, since);
    }

    /// Closes the connections of peers that `trust` would no longer take.
    pub(crate) fn recheck(&self, trust: &Trust, now: SystemTime) {
        self.close_if("no longer trusted", |_, entry| trust.recheck(&entry.peer, now).is_err());
        self.lan.recheck(|peer| {
            // Who renewed has shown that on the connections beside.
            let newer = self.verified(&peer.peer).filter(|newer| newer.is_same_member(peer));
            trust.recheck(newer.as_ref().unwrap_or(peer), now).is_ok()
        });
    }

    /// What the congestion controllers of `peer` are told.
    pub(crate) fn path_state(&self, peer: &PeerId) -> Arc<PathState> {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let choice = self.config.congestion();
        paths.entry(*peer).or_insert_with(|| PathState::new(choice)).clone()
    }

    /// Traffic of `peer` moved: its connections send at once.
    pub(crate) fn path_changed(&self, peer: &PeerId, lan: bool, rtt: Option<Duration>) {
        self.path_state(peer).moved(lan, rtt);
        self.stir(peer);
    }

    /// The connections of `peer` send at once, and learn by the acknowledgements what was lost. By themselves they
    /// wait twice as long with each packet that is (RFC 9002, section 6.2.1): as long again as an outage lasted.
    pub(crate) fn stir(&self, peer: &PeerId) {
        let open = self.lock();
        let entries = Alpn::ALL.iter().filter_map(|alpn| open.get(&(*peer, *alpn))).flatten();
        for entry in entries {
            // An empty datagram asks for an acknowledgement; the other end passes it over.
            let _ = entry.connection.send_datagram(Bytes::new());
        }
    }

    /// Forgets a peer.
    pub(crate) fn forget(&self, peer: &PeerId) {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner).remove(peer);
    }

    /// Who `peer` is, by its open connections.
    pub(crate) fn verified(&self, peer: &PeerId) -> Option<Arc<Verified>> {
        let open = self.lock();
        let mut entries = Alpn::ALL.iter().filter_map(|alpn| open.get(&(*peer, *alpn))).flatten();
        entries.next().map(|entry| entry.peer.clone())
    }

    /// Largest UDP payload that an open connection to `peer` found to pass, in bytes.
    pub(crate) fn datagram(&self, peer: &PeerId) -> Option<u16> {
        let open = self.lock();
        let entries = Alpn::ALL.iter().filter_map(|alpn| open.get(&(*peer, *alpn))).flatten();
        entries.map(|entry| entry.connection.stats().path.current_mtu).max()
    }

    /// Hands on a connection over TCP whose peer was admitted.
    pub(crate) async fn take_lan(
        &self,
        tls: TlsStream<Buffered>,
        peer: Verified,
        slot: Option<Arc<PeerSlot>>,
    ) {
        let from = Arc::new(peer);
        match lan::admit(tls, &from, self.lan_origin(slot)) {
            Some(stream) => {
                self.metrics.links.handshakes.with_label_values(&["accepted"]).inc();
                // It fails only where nobody takes anything any more.
                let _ = self.incoming.send(Accepted::Lan { from, stream }).await;
            }
            None => self.metrics.links.refused.with_label_values(&["connections"]).inc(),
        }
    }

    /// What a connection over TCP with a peer, whose slot is `slot`, is entered into.
    pub(crate) fn lan_origin(&self, slot: Option<Arc<PeerSlot>>) -> lan::Origin {
        lan::Origin { register: self.lan.clone(), account: self.metrics.account(slot, self.budget.clone()) }
    }

    /// Closes everything.
    pub(crate) fn close_all(&self, code: VarInt, reason: &str) {
        self.lan.cut_all();
        for entry in self.lock().values().flatten() {
            entry.connection.close(code, reason.as_bytes());
        }
    }
}
