//! Carriers as the engine sees them: to which relays they are wanted, and what one that opens or ends means.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use libp2p::PeerId;

use super::acquaint::Acquaintance;
use super::{Engine, MAX_GUESTS};
use crate::carrier::Carrier;
use crate::identity::Verified;
use crate::path::{Demand, Kind, Origin, RouteKey};
use crate::wire::frame::Control;
use crate::wire::message::Message;
use crate::wire::stamp::micros;

/// What the keeper of carriers is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The relays, and whoever else takes carriers, to which they are wanted, with their addresses.
    pub(crate) to: HashMap<PeerId, Vec<SocketAddr>>,
    /// Changes with the node's own addresses: what failed before may work now.
    pub(crate) place: u64,
}

/// What UDP may take to answer before a carrier is dialled.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same where it worked and died: its probes waited already.
const PATIENCE_PROVEN: Duration = Duration::from_millis(100);
/// How long a carrier stays after UDP works again.
const LINGER: Duration = Duration::from_secs(30);
/// Carriers that a peer may have at once; another takes the place of the oldest.
const PER_PEER: usize = 2;

/// Whether UDP leads to a relay, and since when it does or does not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    udp: bool,
    since: Instant,
    /// Whether it ever did.
    proven: bool,
}

impl Reach {
    fn note(reach: &mut Option<Self>, now: Instant, udp: bool) -> Self {
        let known = *reach.get_or_insert(Self { udp, since: now, proven: udp });
        if known.udp != udp {
            *reach = Some(Self { udp, since: now, proven: true });
        }
        reach.unwrap_or(known)
    }

    /// When a carrier will be wanted that is not, or no longer be wanted that is.
    fn changes_at(&self, wanted: bool) -> Option<Instant> {
        match (self.udp, wanted) {
            (false, false) if self.proven => Some(self.since + PATIENCE_PROVEN),
            (false, false) => Some(self.since + PATIENCE),
            (true, true) => Some(self.since + LINGER),
            _ => None,
        }
    }
}

impl Engine {
    /// Says to whom carriers are wanted. Returns when to look again.
    pub(super) fn want_carriers(&mut self, now: Instant) -> Option<Instant> {
        if !self.config.carriers.dial {
            return None;
        }
        let (mut next, mut wanted) = (None, HashMap::new());
        for (relay, state) in &mut self.peers {
            // Relays always, and who else has addresses of its own, such as a control that does not relay, where needed.
            let has_addresses = state.member.as_ref().is_some_and(|member| !member.addresses.is_empty());
            let needed = has_addresses && state.paths.demand() != Demand::None;
            if !self.relays.contains(relay) && !needed {
                state.reach = None;
                continue;
            }
            let reach = Reach::note(&mut state.reach, now, state.paths.works_by_udp(now));
            let mut want = self.wanted.borrow().to.contains_key(relay);
            match reach.changes_at(want) {
                Some(at) if at <= now => want = !want,
                at => next = next.into_iter().chain(at).min(),
            }
            if want {
                wanted.insert(*relay, state.paths.configured().collect());
            }
        }
        self.wanted.send_if_modified(|known| {
            let news = known.to != wanted;
            if news {
                known.to = wanted;
            }
            news
        });
        next
    }

    /// Own addresses changed.
    pub(super) fn carriers_moved(&self) {
        self.wanted.send_modify(|wanted| wanted.place += 1);
    }

    /// Ends the carriers of `peer` whose probes were lost, well before TCP gives up: another is dialled then.
    pub(super) fn end_dead_carriers(&self, peer: &PeerId) {
        let Some(state) = self.peers.get(peer) else { return };
        let dead = |carrier: &&Arc<Carrier>| state.paths.is_dead(RouteKey::Direct(carrier.address));
        for carrier in state.carriers.iter().filter(dead) {
            carrier.stop.cancel();
        }
    }

    /// As a relay, takes the first frame of a node in a WebSocket. Returns who it is if its credential holds and the
    /// frame answers `challenge`.
    pub(crate) fn attach(&mut self, now: Instant, challenge: [u8; 16], frame: &[u8]) -> Option<Verified> {
        let Ok(Control::Hello { from, nonce, sealed }) = Control::parse(frame) else {
            self.metrics.dropped("malformed");
            return None;
        };
        let Acquaintance { peer, message } = self.open_hello(now, &from, nonce, sealed, true)?;
        if message != (Message::Attach { challenge }) {
            self.metrics.dropped("not authentic");
            return None;
        }
        self.peers.get(&peer)?.verified.clone()
    }

    /// The first frame of this node in a WebSocket to `relay`.
    pub(crate) fn attachment(&self, relay: &PeerId, challenge: [u8; 16]) -> Option<Vec<u8>> {
        let credential = self.guard.credential()?;
        let hello = crate::wire::message::Hello {
            credential: &credential.encode(),
            message: Message::Attach { challenge },
        };
        let stamp = self.stamps.next(micros(SystemTime::now()));
        Some(self.peers.get(relay)?.key.hello(stamp, hello.encode()))
    }

    /// A carrier is up. On the dialling side it is tried at once; on the other the dialling side's probe tells what it
    /// is for. False if there is no room for its peer.
    pub(crate) fn carrier_opened(&mut self, now: Instant, carrier: &Arc<Carrier>, by: Opened) -> bool {
        let Some(peer) = carrier.peer else {
            self.mux.table.add_carrier(carrier);
            return true;
        };
        let guests = MAX_GUESTS.max(self.members() * 2);
        if !self.peers.contains_key(&peer) && self.peers.len() >= guests {
            return false;
        }
        let mux = self.mux.clone();
        let Some(state) = self.ensure_peer(peer) else { return false };
        let dialled = matches!(by, Opened::Dialled);
        if let Opened::Accepted(verified) = by {
            state.verified = Some(*verified);
        }
        mux.table.add_carrier(carrier);
        state.carriers.push(carrier.clone());
        // The oldest is one of which the peer does not know that it is dead.
        let surplus = state.carriers.len().saturating_sub(PER_PEER);
        for old in state.carriers.drain(..surplus) {
            old.stop.cancel();
        }
        if dialled {
            let route = RouteKey::Direct(carrier.address);
            state.paths.add(now, route, Kind::Direct(carrier.kind), Origin::Told);
            state.paths.hurry(route);
            self.service(now, peer);
        }
        true
    }

    /// A carrier ended.
    pub(crate) fn carrier_ended(&mut self, now: Instant, carrier: &Carrier) {
        self.mux.table.remove_carrier(&carrier.address);
        let Some(peer) = carrier.peer else { return };
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.carriers.retain(|known| known.address != carrier.address);
        state.paths.remove(RouteKey::Direct(carrier.address));
        self.service(now, peer);
    }
}

/// By whom a carrier was opened.
pub(crate) enum Opened {
    /// By this node.
    Dialled,
    /// By the peer, which showed this.
    Accepted(Box<Verified>),
    /// By a host that may only join.
    Joining,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_carrier_is_wanted_after_patience_and_stays_a_while() {
        let start = Instant::now();
        let mut reach = None;
        let first = Reach::note(&mut reach, start, false);
        assert_eq!(first.changes_at(false), Some(start + PATIENCE));
        assert_eq!(first.changes_at(true), None);
        let back = start + PATIENCE * 5;
        let works = Reach::note(&mut reach, back, true);
        assert_eq!(works.changes_at(true), Some(back + LINGER));
        assert_eq!(works.changes_at(false), None);
        // It still does: nothing starts anew.
        assert_eq!(Reach::note(&mut reach, back + PATIENCE, true).since, back);
        let died = back + LINGER;
        let dead = Reach::note(&mut reach, died, false);
        assert_eq!(dead.changes_at(false), Some(died + PATIENCE_PROVEN));
    }
}
