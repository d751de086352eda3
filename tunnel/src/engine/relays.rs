//! Both sides of a relay: asking one for a session, and giving sessions as one.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::PeerId;

use super::Engine;
use super::messages::usable;
use crate::carrier::address::is_carrier;
use crate::forwarder::{Forward, Opened};
use crate::path::{Demand, Kind, Origin, RouteKey};
use crate::socket::{Session, Source};
use crate::status::DirectKind;
use crate::wire::message::{Message, PublicKey, Refusal};
use crate::wire::seal::{peer_id, public_key};

/// Nodes that have a figure of their own in a relay's metrics; the others share one.
const ACCOUNTS: usize = 128;
const OTHERS: &str = "others";
/// Back-off of asking a relay for a session.
const FIRST_ASK: Duration = Duration::from_millis(150);
const LAST_ASK: Duration = Duration::from_secs(5);
/// The same while nobody waits: a peer that is away for days must cost the uplink next to nothing. It is back
/// sooner when a call needs it, or when it asks by itself.
const LAST_ASK_UNHURRIED: Duration = Duration::from_secs(150);

/// How long after the last of so many attempts a relay is asked again.
fn ask_again(attempts: u32, demand: Demand) -> Duration {
    let last = if demand == Demand::Active { LAST_ASK } else { LAST_ASK_UNHURRIED };
    FIRST_ASK.saturating_mul(2u32.saturating_pow(attempts.min(16).saturating_sub(1))).min(last)
}

impl Engine {
    /// Asks relays for a session with `peer` where it is needed, and tells the peer own addresses over one.
    pub(super) fn ask_relays(&mut self, now: Instant, peer: PeerId) {
        let Some(state) = self.peers.get(&peer) else { return };
        let direct = state.paths.is_direct(now);
        // A direct path that loses much is held against a relay, which takes a session.
        let content = direct && !state.paths.is_in_question(now);
        if self.relays.contains(&peer) || content || state.paths.demand() == Demand::None {
            return;
        }
        let Some(key) = public_key(&peer) else { return };
        let due: Vec<PeerId> =
            self.relays.iter().filter(|relay| self.ask_due(now, &peer, relay)).copied().collect();
        for relay in due {
            let Some(at) = self.peers.get(&relay).and_then(|state| state.slot.direct()) else { continue };
            if let Some(state) = self.peers.get_mut(&peer) {
                let asked = state.asked.entry(relay).or_default();
                (asked.at, asked.attempts) = (Some(now), asked.attempts.saturating_add(1));
            }
            self.send(&relay, &Source::Direct(at), &Message::Open { peer: key });
        }
        let tells =
            |state: &super::PeerState| !direct && !state.sessions.is_empty() && Self::tell_due(state, now);
        if self.peers.get(&peer).is_some_and(tells) {
            self.tell(now, peer, false);
        }
    }

    fn ask_due(&self, now: Instant, peer: &PeerId, relay: &PeerId) -> bool {
        let (Some(state), Some(relay_state)) = (self.peers.get(peer), self.peers.get(relay)) else {
            return false;
        };
        if relay_state.paths.working(now).is_none() {
            return false;
        }
        // A session that stands and works need not be asked for; one whose probes are lost must be.
        let route = RouteKey::Relayed(*relay);
        let works = state.paths.candidates().iter().any(|c| c.route == route && c.alive(now));
        if works || (state.paths.demand() == Demand::Keep && state.sessions.contains_key(relay)) {
            return false;
        }
        state.asked.get(relay).and_then(|asked| asked.at.map(|at| (at, asked.attempts))).is_none_or(
            |(at, attempts)| now.saturating_duration_since(at) >= ask_again(attempts, state.paths.demand()),
        )
    }

    /// A relay forwards between this node and another.
    #[expect(clippy::too_many_arguments, reason = "the fields of one message, taken apart by its reader")]
    pub(super) fn session_given(
        &mut self,
        now: Instant,
        relay: PeerId,
        id: u32,
        side: u8,
        key: &[u8; 16],
        other: &PublicKey,
        observed: SocketAddr,
    ) {
        if !self.relays.contains(&relay) {
            return self.metrics.dropped("session of no relay of ours");
        }
        let (Some(relay_slot), Some(peer)) = (self.peers.get(&relay).map(|s| s.slot.clone()), peer_id(other))
        else {
            return;
        };
        let direct = self.config.allows_direct();
        let table = self.mux.clone();
        let Some(state) = self.ensure_peer(peer) else { return };
        let known = state.sessions.get(&relay).filter(|session| session.is(id, side, key)).is_some();
        if !known {
            let session = Arc::new(Session::new(id, side, key, relay_slot, state.slot.clone()));
            if let Some(old) = state.sessions.insert(relay, session.clone()) {
                table.table.remove_session(&old);
            }
            table.add_session(&session);
            // What the old session's probes said does not count against the new one.
            state.paths.remove(RouteKey::Relayed(relay));
        }
        state.asked.remove(&relay);
        let route = RouteKey::Relayed(relay);
        state.paths.add(now, route, Kind::Relayed, Origin::Told);
        if state.paths.is_dead(route) {
            // The relay still has the session, or again.
            state.paths.hurry(route);
        }
        if direct && usable(&observed) {
            let kind = Kind::Direct(DirectKind::Punched);
            state.paths.add(now, RouteKey::Direct(observed), kind, Origin::Told);
        }
        if direct && !known {
            state.paths.urge(now);
        }
        // Whoever asked a relay for this node is about to talk to it.
        state.keep_until = state.keep_until.max(now + super::KEEP_AFTER_USE);
        self.service(now, peer);
    }

    pub(super) fn session_refused(&mut self, relay: PeerId, other: &PublicKey, reason: Refusal) {
        let Some(peer) = peer_id(other) else { return };
        if let Some(asked) = self.peers.get_mut(&peer).and_then(|state| state.asked.get_mut(&relay)) {
            asked.refused = Some(reason);
        }
    }

    /// A relay can be asked: whoever waits for a path asks it now.
    pub(super) fn relay_works(&mut self, now: Instant) {
        let waiting = self.peers.iter().filter(|(_, state)| !state.waiters.is_empty());
        for peer in waiting.map(|(peer, _)| *peer).collect::<Vec<_>>() {
            self.ask_relays(now, peer);
        }
    }

    /// Traffic to a relay moved, and with it all that goes through it.
    pub(super) fn relay_moved(&self, now: Instant, relay: PeerId) {
        let through = |state: &&super::PeerState| {
            state.paths.working(now).is_some_and(|path| path.route == RouteKey::Relayed(relay))
        };
        for state in self.peers.values().filter(through) {
            let rtt = state.paths.current().and_then(|path| path.rtt());
            self.connections.path_changed(&state.slot.peer, false, rtt);
        }
    }

    /// A relay restarted: its sessions are gone. What needs one asks again.
    pub(super) fn relay_lost(&mut self, now: Instant, relay: PeerId) {
        let affected: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, state)| state.sessions.contains_key(&relay))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in affected {
            self.drop_session(now, &peer, &relay);
        }
    }

    fn drop_session(&mut self, now: Instant, peer: &PeerId, relay: &PeerId) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        if let Some(session) = state.sessions.remove(relay) {
            self.mux.table.remove_session(&session);
        }
        state.asked.remove(relay);
        state.paths.remove(RouteKey::Relayed(*relay));
        self.service(now, *peer);
    }

    /// The other side of a data frame does not know its session.
    pub(super) fn unknown_session(&mut self, now: Instant, source: &Source, id: u32) {
        let Source::Direct(address) = source else { return };
        let Some(other) = self.mux.peer_at(address) else { return };
        if self.relays.contains(&other) {
            // Nobody vouches for this frame, so the session stays until the relay gives another.
            let ended =
                |state: &super::PeerState| state.sessions.get(&other).is_some_and(|session| session.id == id);
            let Some(peer) = self.peers.iter().find(|(_, state)| ended(state)).map(|(peer, _)| *peer) else {
                return;
            };
            let (Some(key), Some(state)) = (public_key(&peer), self.peers.get_mut(&peer)) else { return };
            let asked = state.asked.entry(other).or_default();
            if asked.at.is_none_or(|at| now.saturating_duration_since(at) >= FIRST_ASK) {
                asked.at = Some(now);
                self.send(&other, source, &Message::Open { peer: key });
            }
        } else if self.config.relay
            && let Some(opened) = self.sessions.get(id).filter(|opened| opened.ends.contains(&other))
        {
            self.give(&opened, &other);
        }
    }

    /// As a relay: `from` wants packets forwarded between itself and `to`.
    pub(super) fn open_session(&mut self, now: Instant, from: PeerId, source: &Source, to: &PublicKey) {
        if let Err(reason) = self.try_open(now, from, to) {
            self.send(&from, source, &Message::Refused { peer: *to, reason });
        }
    }

    fn try_open(&mut self, now: Instant, from: PeerId, to: &PublicKey) -> Result<(), Refusal> {
        if !self.config.relay {
            return Err(Refusal::NoRelay);
        }
        let to = peer_id(to).ok_or(Refusal::Absent)?;
        let slot = |peer: &PeerId| {
            let state = self.peers.get(peer)?;
            state.paths.is_direct(now).then(|| state.slot.clone())
        };
        let (Some(_), Some(_)) = (slot(&from), slot(&to)) else { return Err(Refusal::Absent) };
        let opened = self.sessions.open(now, from, to, rand::random)?;
        if opened.new {
            let [Some(a), Some(b)] = opened.ends.each_ref().map(slot) else { return Err(Refusal::Absent) };
            let forward = Forward::new([a, b], &opened.keys, self.mux.table.clock());
            self.mux.table.forwards.insert(opened.id, Arc::new(forward));
            self.metrics.relay.sessions.set(self.sessions.len() as i64);
        }
        // The other end first: it must know the session when the first packet comes.
        self.give(&opened, &to);
        self.give(&opened, &from);
        Ok(())
    }

    /// Tells one end of a session what it needs.
    fn give(&self, opened: &Opened, end: &PeerId) {
        let side = opened.side(end);
        let other = opened.ends[usize::from(side ^ 1)];
        let at = |peer: &PeerId| self.peers.get(peer).and_then(|state| state.slot.direct());
        let (Some(to), Some(observed), Some(key)) = (at(end), at(&other), public_key(&other)) else { return };
        // Who comes by a carrier is seen nowhere that a packet could be sent to.
        let nowhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let observed = if is_carrier(&observed) { nowhere } else { observed };
        let message = Message::Session {
            session: opened.id,
            side,
            key: opened.keys[usize::from(side)],
            peer: key,
            observed,
        };
        self.send(end, &Source::Direct(to), &message);
    }

    /// As a relay, counts what each peer had forwarded since the last time.
    pub(super) fn account(&mut self, now: Instant) {
        if !self.config.relay {
            return;
        }
        let since = now.saturating_duration_since(std::mem::replace(&mut self.accounted, now));
        let mut dropped = self.mux.dropped_of_peers();
        let mut sent: HashMap<PeerId, u64> = HashMap::new();
        for id in self.sessions.ids() {
            let Some(forward) = self.mux.table.forwards.get(&id) else { continue };
            for (peer, bytes) in forward.take_bytes() {
                *sent.entry(peer).or_default() += bytes;
            }
        }
        for peer in dropped.keys() {
            sent.entry(*peer).or_default();
        }
        self.tell_relay_use(sent.values().sum(), since);
        for (peer, bytes) in sent {
            let lost = dropped.remove(&peer).unwrap_or(0);
            if bytes == 0 && lost == 0 {
                continue;
            }
            if self.accounts.len() < ACCOUNTS {
                self.accounts.insert(peer);
            }
            let known = self.accounts.contains(&peer);
            let node = if known { self.name(&peer) } else { OTHERS.to_owned() };
            self.metrics.relayed(&node, bytes, lost);
        }
    }

    /// Tells what a relay's bounds were used of, with the bytes that it took within `since`.
    fn tell_relay_use(&self, bytes: u64, since: Duration) {
        let most = self.sessions.most_of_a_peer();
        let (waited, waited_of_peer) = self.mux.most_waiting();
        let rate = bytes as f64 / since.as_secs_f64().max(1e-3);
        self.metrics.in_use("relay_sessions", self.sessions.len() as u64);
        self.metrics.in_use("relay_sessions_per_peer", most as u64);
        self.metrics.in_use("relay_bytes_per_second", rate as u64);
        self.metrics.in_use("relay_queue_bytes", waited as u64);
        self.metrics.in_use("relay_queue_bytes_per_peer", waited_of_peer as u64);
    }

    /// Ends forwarded sessions that nobody uses.
    pub(super) fn expire_sessions(&mut self, now: Instant) {
        let table = &self.mux.table;
        let clock = table.clock();
        let used = |id| {
            let silence = clock.saturating_sub(table.forwards.get(&id)?.last_used());
            now.checked_sub(Duration::from_millis(silence))
        };
        let mut ended = self.sessions.expire(now, used);
        // Whose credential ran out, and who shows no other, is no longer forwarded for.
        let lapsed: Vec<PeerId> = self.sessions.peers().filter(|peer| !self.vouched(peer)).copied().collect();
        ended.extend(lapsed.iter().flat_map(|peer| self.sessions.remove_peer(peer)).collect::<Vec<_>>());
        let table = &self.mux.table;
        for id in ended {
            if let Some(forward) = table.forwards.get(&id) {
                tracing::debug!(session = id, ?forward, "session ended");
            }
            table.forwards.remove(&id);
        }
        self.metrics.relay.sessions.set(self.sessions.len() as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_away_costs_little_where_nobody_waits() {
        let asks = |demand, span: Duration| {
            let mut at = Duration::ZERO;
            (1..)
                .take_while(|attempts| {
                    at += ask_again(*attempts, demand);
                    at < span
                })
                .count()
        };
        let (minute, day) = (Duration::from_secs(60), Duration::from_secs(86_400));
        assert!(asks(Demand::Active, minute) >= 15);
        assert!(asks(Demand::Keep, day) <= 600, "{}", asks(Demand::Keep, day));
    }
}
