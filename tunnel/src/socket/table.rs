//! What the socket looks up for each batch of packets.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use libp2p::PeerId;

use super::guests::Guests;
use super::shards::Shards;
use crate::carrier::Carrier;
use crate::carrier::address::is_carrier;
use crate::forwarder::Forward;
use crate::status::DirectKind;
use crate::wire::frame::DataHeader;
use crate::wire::seal::DataKey;

/// Prefix of the virtual addresses: unique local (RFC 4193), never on a wire, seen by quinn only.
const VIRTUAL_PREFIX: [u8; 4] = [0xfd, 0xed, 0x6e, 0x10];
/// Port of every virtual address.
const VIRTUAL_PORT: u16 = crate::config::PORT;

/// Byte counters of a peer, by kind of path.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
    /// Milliseconds since the clock's start of the last packets, 0 for never. What came in by another route than
    /// packets leave by says nothing of that one: the peer may have left it because it is dead.
    last_sent: AtomicU64,
    last_received: AtomicU64,
}

/// How packets to a peer leave.
#[derive(Debug)]
pub(crate) enum Route {
    /// Straight to this address.
    Direct { to: SocketAddr, kind: DirectKind },
    /// In a session at a relay.
    Relayed(Arc<Session>),
}

/// A peer on the hot path.
#[derive(Debug)]
pub(crate) struct PeerSlot {
    pub(crate) peer: PeerId,
    /// The address that quinn knows the peer by, whatever the path.
    pub(crate) virtual_address: SocketAddr,
    route: ArcSwapOption<Route>,
    pub(crate) traffic: Traffic,
    /// Whether what goes to it waits for no rate.
    first: AtomicBool,
}

impl PeerSlot {
    pub(crate) fn new(peer: PeerId) -> Arc<Self> {
        let virtual_address = virtual_address(&peer);
        Arc::new(Self {
            peer,
            virtual_address,
            route: ArcSwapOption::empty(),
            traffic: Traffic::default(),
            first: AtomicBool::new(false),
        })
    }

    pub(crate) fn route_ref(&self) -> arc_swap::Guard<Option<Arc<Route>>> {
        self.route.load()
    }

    /// Has what goes to it wait for no rate, or as all does.
    pub(crate) fn set_first(&self, first: bool) {
        self.first.store(first, Ordering::Relaxed);
    }

    pub(super) fn goes_first(&self) -> bool {
        self.first.load(Ordering::Relaxed)
    }

    pub(crate) fn set_route(&self, route: Option<Route>) {
        self.route.store(route.map(Arc::new));
    }

    /// Address for a direct packet, where the path in use is a direct one.
    pub(crate) fn direct(&self) -> Option<SocketAddr> {
        match self.route.load().as_deref() {
            Some(Route::Direct { to, .. }) => Some(*to),
            _ => None,
        }
    }
}

fn virtual_address(peer: &PeerId) -> SocketAddr {
    let hash = digest::digest(&digest::SHA256, &peer.to_bytes());
    let mut octets = [0; 16];
    octets[..4].copy_from_slice(&VIRTUAL_PREFIX);
    octets[4..].copy_from_slice(&hash.as_ref()[..12]);
    SocketAddrV6::new(Ipv6Addr::from(octets), VIRTUAL_PORT, 0, 0).into()
}

/// Whether `address` stands for a peer rather than a place.
pub(crate) fn is_virtual(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.ip().octets()[..4] == VIRTUAL_PREFIX)
}

/// This node's end of a session at a relay.
pub(crate) struct Session {
    /// Number at the relay.
    pub(crate) id: u32,
    side: u8,
    key: DataKey,
    secret: [u8; 16],
    counter: AtomicU64,
    /// The relay; its own path is where the frames go.
    pub(crate) relay: Arc<PeerSlot>,
    /// Who is at the other end.
    pub(crate) peer: Arc<PeerSlot>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({} with {} by {})", self.id, self.peer.peer, self.relay.peer)
    }
}

impl Session {
    pub(crate) fn new(id: u32, side: u8, key: &[u8; 16], relay: Arc<PeerSlot>, peer: Arc<PeerSlot>) -> Self {
        // A node that restarted gets the same key again: from a random start the numbers of the two runs meet with a
        // chance of one in millions.
        let counter = AtomicU64::new(rand::random());
        Self { id, side, key: DataKey::new(key), secret: *key, counter, relay, peer }
    }

    /// Writes the header for `payload` into `out`.
    pub(crate) fn wrap(&self, payload: &[u8], out: &mut [u8]) {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let mut header = DataHeader { session: self.id, side: self.side, down: false, counter, tag: [0; 16] };
        self.key.sign(&mut header, payload);
        header.write(out);
    }

    /// Whether it is the session with this number, end and key.
    pub(crate) fn is(&self, id: u32, side: u8, key: &[u8; 16]) -> bool {
        self.id == id && self.side == side && self.secret == *key
    }

    /// Whether a frame from the relay is authentic and for this end.
    pub(crate) fn accepts(&self, header: &DataHeader, payload: &[u8]) -> bool {
        header.down && header.side == self.side && self.key.verify(header, payload)
    }
}

/// Everything the socket looks up.
#[derive(Debug)]
pub(crate) struct Table {
    start: Instant,
    by_virtual: Shards<SocketAddr, Arc<PeerSlot>>,
    by_address: Shards<SocketAddr, Arc<PeerSlot>>,
    /// Carriers by what stands for them.
    carriers: Shards<SocketAddr, Arc<Carrier>>,
    pub(crate) guests: Guests,
    /// Own sessions, by relay (its virtual address) and number.
    sessions: Shards<(SocketAddr, u32), Arc<Session>>,
    /// Sessions that this node forwards as a relay.
    pub(crate) forwards: Shards<u32, Arc<Forward>>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            by_virtual: Shards::default(),
            by_address: Shards::default(),
            carriers: Shards::default(),
            guests: Guests::default(),
            sessions: Shards::default(),
            forwards: Shards::default(),
        }
    }

    pub(crate) fn by_virtual(&self, address: &SocketAddr) -> Option<Arc<PeerSlot>> {
        self.by_virtual.get(address)
    }

    pub(crate) fn by_address(&self, address: &SocketAddr) -> Option<Arc<PeerSlot>> {
        self.by_address.get(address)
    }

    pub(crate) fn add_peer(&self, slot: &Arc<PeerSlot>) {
        self.by_virtual.insert(slot.virtual_address, slot.clone());
    }

    pub(crate) fn remove_peer(&self, slot: &PeerSlot) {
        self.by_virtual.remove(&slot.virtual_address);
    }

    /// Packets from `address` are this peer's from now on.
    pub(crate) fn bind(&self, address: SocketAddr, slot: &Arc<PeerSlot>) {
        if self.by_address.get(&address).is_none_or(|bound| !Arc::ptr_eq(&bound, slot)) {
            self.by_address.insert(address, slot.clone());
        }
    }

    /// Packets from `address` are no longer known to be this peer's.
    pub(crate) fn unbind(&self, address: SocketAddr, slot: &Arc<PeerSlot>) {
        if self.by_address.get(&address).is_some_and(|bound| Arc::ptr_eq(&bound, slot)) {
            self.by_address.remove(&address);
        }
    }

    /// The carrier that `address` stands for, while it is up.
    pub(crate) fn carrier(&self, address: &SocketAddr) -> Option<Arc<Carrier>> {
        is_carrier(address).then(|| self.carriers.get(address)).flatten()
    }

    pub(crate) fn add_carrier(&self, carrier: &Arc<Carrier>) {
        self.carriers.insert(carrier.address, carrier.clone());
    }

    pub(crate) fn remove_carrier(&self, address: &SocketAddr) {
        self.carriers.remove(address);
    }

    pub(crate) fn session(&self, relay: &PeerSlot, id: u32) -> Option<Arc<Session>> {
        self.sessions.get(&(relay.virtual_address, id))
    }

    pub(crate) fn add_session(&self, session: &Arc<Session>) {
        self.sessions.insert((session.relay.virtual_address, session.id), session.clone());
    }

    pub(crate) fn remove_session(&self, session: &Session) {
        self.sessions.remove(&(session.relay.virtual_address, session.id));
    }

    /// Milliseconds since the table was made, never 0.
    pub(crate) fn clock(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }
}

impl Traffic {
    pub(crate) fn note_sent(&self, bytes: usize, clock: u64) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last_sent.store(clock, Ordering::Relaxed);
    }

    /// Packets came in, `by_route` if they came by the route that packets to the peer leave by.
    pub(crate) fn note_received(&self, bytes: usize, by_route: bool, clock: u64) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        if by_route {
            self.last_received.store(clock, Ordering::Relaxed);
        }
    }

    /// Bytes went by a connection of their own, which says nothing of the path's packets.
    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes came by a connection of their own.
    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Packets for another peer went through this one, a relay: its path is in use all the same.
    pub(crate) fn touch_sent(&self, clock: u64) {
        self.last_sent.store(clock, Ordering::Relaxed);
    }

    /// Packets of another peer came through this one, by the route in use.
    pub(crate) fn touch_received(&self, clock: u64) {
        self.last_received.store(clock, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Milliseconds since QUIC packets last went out, and came in by the same route, at `clock`.
    pub(crate) fn silence(&self, clock: u64) -> (Option<u64>, Option<u64>) {
        let since = |last: &AtomicU64| match last.load(Ordering::Relaxed) {
            0 => None,
            last => Some(clock.saturating_sub(last)),
        };
        (since(&self.last_sent), since(&self.last_received))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_addresses_are_stable_and_told_from_real_ones() {
        let peer = PeerId::random();
        let (first, second) = (PeerSlot::new(peer), PeerSlot::new(peer));
        assert_eq!(first.virtual_address, second.virtual_address);
        assert!(is_virtual(&first.virtual_address));
        assert!(!is_virtual(&"[fd00:10:244::1]:20006".parse().unwrap()));
        assert!(!is_virtual(&"192.0.2.1:20006".parse().unwrap()));
    }

    #[test]
    fn an_address_is_only_unbound_by_its_owner() {
        let table = Table::new();
        let (a, b) = (PeerSlot::new(PeerId::random()), PeerSlot::new(PeerId::random()));
        let address = "192.0.2.1:1".parse().unwrap();
        table.bind(address, &a);
        table.bind(address, &b);
        table.unbind(address, &a);
        assert_eq!(table.by_address(&address).unwrap().peer, b.peer);
        table.unbind(address, &b);
        assert!(table.by_address(&address).is_none());
    }
}
