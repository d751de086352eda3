//! The book of what connections may hold: nothing is offered to a peer, taken to be sent or kept of datagrams that was
//! not entered here before, so all of it together stays below one bound.
//!
//! A connection has a [`Lease`] from before its handshake until its last stream is gone. What a peer was offered cannot
//! be taken back in QUIC; it comes free as it is used up, or with the connection.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::PeerId;

use super::windows::{Buffers, First};
use crate::alpn::Alpn;

/// Least that is kept in all, in bytes: some connections.
const LEAST: u64 = 1 << 20;

/// What all connections hold.
#[derive(Debug)]
pub(crate) struct Ledger {
    buffers: Buffers,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    leases: usize,
    held: u64,
    /// By members.
    peers: HashMap<PeerId, u64>,
}

/// What one connection holds, until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    ledger: Arc<Ledger>,
    peer: Option<PeerId>,
    first: First,
    held: Mutex<u64>,
}

impl Ledger {
    /// Of so many bytes.
    pub(super) fn new(buffers: Buffers) -> Arc<Self> {
        Arc::new(Self { buffers: Buffers(buffers.0.max(LEAST)), books: Mutex::default() })
    }

    /// What one more connection starts with, or `None` where there is not enough left for it. A stranger has no peer
    /// id yet.
    pub(super) fn lease(self: &Arc<Self>, alpn: Alpn, peer: Option<PeerId>) -> Option<Lease> {
        let mut books = self.lock();
        let left = self.buffers.0 - books.held;
        let first = Buffers::first(alpn, books.leases, left);
        if first.total() > left {
            return None;
        }
        books.leases += 1;
        books.add(peer, first.total());
        Some(Lease { ledger: self.clone(), peer, first, held: Mutex::new(first.total()) })
    }

    pub(super) fn buffers(&self) -> Buffers {
        self.buffers
    }

    /// Bytes that may be held now, at most.
    pub(super) fn held(&self) -> u64 {
        self.lock().held
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn add(&mut self, peer: Option<PeerId>, bytes: u64) {
        self.held += bytes;
        if let Some(peer) = peer {
            *self.peers.entry(peer).or_default() += bytes;
        }
    }

    fn sub(&mut self, peer: Option<PeerId>, bytes: u64) {
        self.held -= bytes;
        let Some(Entry::Occupied(mut of_peer)) = peer.map(|peer| self.peers.entry(peer)) else { return };
        *of_peer.get_mut() -= bytes;
        if *of_peer.get() == 0 {
            of_peer.remove();
        }
    }

    /// How much more a peer may take: no more in all than it leaves to the others.
    fn room(&self, growing: u64, peer: Option<PeerId>) -> u64 {
        let own = peer.and_then(|peer| self.peers.get(&peer)).copied().unwrap_or_default();
        growing.saturating_sub(self.held).saturating_sub(own) / 2
    }
}

impl Lease {
    /// What the connection starts with.
    pub(super) fn first(&self) -> First {
        self.first
    }

    /// Has `change` say what the connection holds from now on, told by how much that may be more than before.
    pub(super) fn change(&self, change: impl FnOnce(u64) -> u64) {
        let mut books = self.ledger.lock();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let room = books.room(self.ledger.buffers.growing(), self.peer);
        let now = change(room);
        debug_assert!(now <= *held + room, "{now} of {held} and {room}");
        books.add(self.peer, now);
        books.sub(self.peer, *held);
        *held = now;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let held = *self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut books = self.ledger.lock();
        books.leases -= 1;
        books.sub(self.peer, held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn ledger(mebibytes: u64) -> Arc<Ledger> {
        Ledger::new(Buffers(mebibytes * MIB))
    }

    /// Takes all the room that there is for the peer of `lease`, in steps as large as there are.
    fn take_all(lease: &Lease) -> u64 {
        let (mut held, mut before) = (lease.first().total(), 0);
        while held - before > MIB / 64 || before == 0 {
            before = held;
            lease.change(|room| {
                held += room;
                held
            });
        }
        held
    }

    #[test]
    fn no_number_of_connections_holds_more_than_all_may() {
        // Of hosts with eight times as much, but for the first two.
        for (mebibytes, least) in [(0, 10), (1, 10), (32, 300), (256, 2_300), (1024, 8_000)] {
            let ledger = ledger(mebibytes);
            let leases: Vec<Lease> = std::iter::from_fn(|| ledger.lease(Alpn::Mesh, Some(PeerId::random())))
                .take(20_000)
                .collect();
            assert!(leases.len() >= least, "{mebibytes} MiB: {} connections", leases.len());
            for lease in &leases {
                lease.change(|room| lease.first().total() + room);
            }
            assert!(ledger.held() <= ledger.buffers().0);
            drop(leases);
            assert_eq!(ledger.held(), 0);
            assert!(ledger.lock().peers.is_empty() && ledger.lock().leases == 0);
        }
    }

    #[test]
    fn a_peer_takes_no_more_than_it_leaves_on_however_many_connections() {
        let ledger = ledger(64);
        let greedy = PeerId::random();
        let leases: Vec<Lease> =
            std::iter::from_fn(|| ledger.lease(Alpn::Mesh, Some(greedy))).take(16).collect();
        let taken: u64 = leases.iter().map(take_all).sum();
        assert!(taken <= 29 * MIB, "{taken}");
        let another = ledger.lease(Alpn::Mesh, Some(PeerId::random())).unwrap();
        assert!(take_all(&another) > 12 * MIB);
        drop(leases);
        assert!(take_all(&another) > 26 * MIB);
    }

    #[test]
    fn whoever_takes_all_leaves_room_to_begin() {
        let ledger = ledger(256);
        let mut leases = Vec::new();
        for _ in 0..64 {
            let greedy = ledger.lease(Alpn::Mesh, Some(PeerId::random())).unwrap();
            take_all(&greedy);
            leases.push(greedy);
        }
        let more = std::iter::from_fn(|| ledger.lease(Alpn::Mesh, Some(PeerId::random())));
        assert!(more.take(200).collect::<Vec<_>>().len() == 200);
        assert!(ledger.lease(Alpn::Join, None).is_some());
    }

    #[test]
    fn strangers_get_little() {
        let ledger = ledger(256);
        let lease = ledger.lease(Alpn::Join, None).unwrap();
        assert!(lease.first().total() < MIB / 4);
    }
}
