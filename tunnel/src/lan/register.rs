//! The open connections of the LAN, by peer: their number is bounded, and who is no longer trusted loses them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use libp2p::PeerId;
use prometheus::IntGauge;

use super::socket::{Cutter, Socket};
use crate::identity::Verified;

/// What is open; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Register(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    open: Mutex<Open>,
    gauge: IntGauge,
    /// Connections that one peer may have made.
    limit: usize,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_peer: HashMap<PeerId, HashMap<u64, Held>>,
}

#[derive(Debug)]
struct Held {
    cutter: Cutter,
    /// Who is at the other end, by the credential of the handshake.
    peer: Arc<Verified>,
    accepted: bool,
    since: Instant,
}

/// A connection's place in the register, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    register: Register,
    peer: PeerId,
    number: u64,
}

impl Open {
    /// Connections that `peer` made.
    fn accepted(&self, peer: &PeerId) -> usize {
        self.by_peer.get(peer).map_or(0, |held| held.values().filter(|held| held.accepted).count())
    }
}

impl Register {
    pub(crate) fn new(gauge: IntGauge, limit: usize) -> Self {
        Self(Arc::new(Inner { open: Mutex::default(), gauge, limit }))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Every change is a single call of a map's.
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection; none if the peer has made as many as it may.
    pub(super) fn place(&self, peer: &Arc<Verified>, socket: &Socket, accepted: bool) -> Option<Place> {
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        // Looked at first: who gets no place leaves nothing here.
        if accepted && open.accepted(&peer.peer) >= self.0.limit {
            return None;
        }
        let held = Held { cutter: socket.cutter(), peer: peer.clone(), accepted, since: Instant::now() };
        open.by_peer.entry(peer.peer).or_default().insert(number, held);
        self.0.gauge.inc();
        Some(Place { register: self.clone(), peer: peer.peer, number })
    }

    /// Connections of the peer that made the most.
    pub(crate) fn most(&self) -> usize {
        let open = self.lock();
        open.by_peer.keys().map(|peer| open.accepted(peer)).max().unwrap_or_default()
    }

    /// Cuts the connections of `peer` that were made before `since`.
    pub(crate) fn cut_peer(&self, peer: &PeerId, since: Instant) {
        let open = self.lock();
        let held = open.by_peer.get(peer).into_iter().flat_map(HashMap::values);
        held.filter(|held| held.since < since).for_each(|held| held.cutter.cut());
    }

    /// Cuts the connections of whom `trusted` does not speak for.
    pub(crate) fn recheck(&self, trusted: impl Fn(&Arc<Verified>) -> bool) {
        let open = self.lock();
        let held = open.by_peer.values().flat_map(HashMap::values);
        held.filter(|held| !trusted(&held.peer)).for_each(|held| held.cutter.cut());
    }

    /// Cuts everything.
    pub(crate) fn cut_all(&self) {
        self.recheck(|_| false);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.register.lock();
        let Some(of_peer) = open.by_peer.get_mut(&self.peer) else { return };
        of_peer.remove(&self.number);
        if of_peer.is_empty() {
            open.by_peer.remove(&self.peer);
        }
        self.register.0.gauge.dec();
    }
}

#[cfg(test)]
impl Register {
    /// Peers of which anything is held.
    pub(super) fn peers(&self) -> usize {
        self.lock().by_peer.len()
    }
}
