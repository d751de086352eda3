//! Which path leads to a peer: pure. Events and `now` go in, [`Action`]s come out.
//!
//! Each peer has one [`Paths`]. Candidates come from the configuration, the disk, relays, the peer itself and
//! from where its probes arrive; each is probed, first in a burst (both ends at the same time, which is what opens
//! their NATs), then with back-off. A path that answered is alive until three probes in a row are lost. Traffic
//! moves only to a clearly better path, or away from a dead one or one that loses much. When a candidate is probed,
//! `timing` says; which of them traffic uses, `choice`; what is much, `loss`.

mod candidate;
mod choice;
mod kind;
mod loss;
mod size;
mod timing;

use std::time::{Duration, Instant};

use libp2p::PeerId;

pub(crate) use candidate::Candidate;
pub(crate) use kind::{Kind, Origin};
pub(crate) use size::Envelope;
pub(crate) use timing::Flow;

/// Most candidates of one peer; the least promising goes when another comes.
const MAX_CANDIDATES: usize = 24;
/// Silence below which packets that come in speak for the path in use.
const LIVELY: Duration = Duration::from_millis(150);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Longest back-off of a relay's addresses.
const RELAY_RETRY: Duration = Duration::from_secs(3);
/// A candidate that somebody told of and that never answered goes after this.
const EXPIRY: Duration = Duration::from_secs(600);
/// Least time between two probes that answer a probe.
const RETURN_PROBE: Duration = Duration::from_millis(200);
/// A path proven this recently need not be proven again when the peer probes it.
const PROVEN: Duration = Duration::from_secs(300);
/// By which way a packet reaches the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RouteKey {
    /// At this address.
    Direct(std::net::SocketAddr),
    /// In our session at this relay.
    Relayed(PeerId),
}

/// How much the peer is needed here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Demand {
    /// Not at all: only what the peer starts is answered.
    #[default]
    None,
    /// Its path is to be kept.
    Keep,
    /// Somebody waits for a path, or packets flow.
    Active,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send a probe.
    Probe {
        /// By this way.
        route: RouteKey,
        /// With this id.
        id: u64,
        /// Whether traffic uses the path.
        in_use: bool,
        /// Whether it would, were it not for what the path loses.
        shunned: bool,
    },
    /// Traffic moves.
    Use(RouteKey),
    /// A path answered for the first time: worth remembering.
    Proven(RouteKey),
    /// A candidate is given up.
    Forget(RouteKey),
    /// The peer restarted; what was connected before `since` is void.
    Restarted {
        /// When its new epoch was first heard.
        since: Instant,
    },
}

/// The paths to one peer.
#[derive(Debug)]
pub(crate) struct Paths {
    /// Whether this end leads: of two ends exactly one does.
    leads: bool,
    candidates: Vec<Candidate>,
    active: Option<RouteKey>,
    demand: Demand,
    /// Since when packets flow.
    flows_since: Option<Instant>,
    /// Since when no path works.
    cut_off_since: Option<Instant>,
    epoch: Option<u64>,
    other_epoch: Option<(u64, Instant)>,
    next_id: u64,
    /// Longest back-off.
    last_retry: Duration,
    actions: Vec<Action>,
}

impl Paths {
    /// No path yet. `first_id` starts the probes' numbers.
    pub(crate) fn new(leads: bool, first_id: u64) -> Self {
        Self {
            leads,
            candidates: Vec::new(),
            active: None,
            demand: Demand::None,
            flows_since: None,
            cut_off_since: None,
            epoch: None,
            other_epoch: None,
            next_id: first_id,
            last_retry: LAST_RETRY,
            actions: Vec::new(),
        }
    }

    /// The peer is a relay: it is tried often, for all else depends on it.
    pub(crate) fn expect_back_soon(&mut self) {
        self.last_retry = RELAY_RETRY;
    }

    pub(crate) fn demand(&self) -> Demand {
        self.demand
    }

    /// Changes how much the peer is needed. Rising to [`Demand::Active`] tries every candidate at once.
    pub(crate) fn set_demand(&mut self, now: Instant, demand: Demand) {
        let rises = demand == Demand::Active && self.demand != Demand::Active;
        self.demand = demand;
        if rises && !self.is_direct(now) {
            self.urge(now);
        }
    }

    /// Tries every candidate that does not answer from the start of its back-off.
    pub(crate) fn urge(&mut self, now: Instant) {
        for candidate in self.candidates.iter_mut().filter(|candidate| !candidate.alive(now)) {
            candidate.restart();
        }
    }

    /// Tries every candidate at once, whatever its back-off.
    pub(crate) fn urge_now(&mut self, now: Instant) {
        for candidate in &mut self.candidates {
            if candidate.may_probe(now, RETURN_PROBE) {
                candidate.restart();
                candidate.hurry();
            }
        }
    }

    /// Probes every candidate at once, those that work too.
    pub(crate) fn probe_all(&mut self, now: Instant) {
        for candidate in &mut self.candidates {
            if candidate.may_probe(now, RETURN_PROBE) {
                candidate.hurry();
            }
        }
    }

    /// What is to be sent to find how large packets may be: by which ways that answer, and with how many bytes.
    pub(crate) fn try_sizes(
        &mut self,
        now: Instant,
        trial: u64,
        envelope: impl Fn(RouteKey) -> Envelope,
    ) -> Vec<(RouteKey, u16)> {
        let mut due = Vec::new();
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.answers_now(now)) {
            let (route, wait) = (candidate.route, candidate.wait());
            let sizes = candidate.sizes.due(now, trial, wait, envelope(route));
            due.extend(sizes.into_iter().map(|bytes| (route, bytes)));
        }
        due
    }

    /// A packet of a trial came back by `route`.
    pub(crate) fn came_back(&mut self, route: RouteKey, trial: u64, bytes: u16) {
        if let Some(candidate) = self.get_mut(route) {
            candidate.sizes.came_back(trial, bytes);
        }
    }

    /// Whether the peer answered by `route`: it is there, whoever else may be.
    pub(crate) fn answers_by(&self, now: Instant, route: RouteKey) -> bool {
        self.get(route).is_some_and(|candidate| candidate.answers_now(now))
    }

    /// Adds a candidate, or refreshes it.
    pub(crate) fn add(&mut self, now: Instant, route: RouteKey, kind: Kind, origin: Origin) {
        if let Some(known) = self.get_mut(route) {
            known.refresh(now, kind, origin);
            return;
        }
        if self.candidates.len() >= MAX_CANDIDATES && !self.make_room(now) {
            return;
        }
        self.candidates.push(Candidate::new(now, route, kind, origin));
        self.choose(now);
    }

    fn make_room(&mut self, now: Instant) -> bool {
        let least = self
            .candidates
            .iter()
            .filter(|candidate| !candidate.alive(now) && candidate.origin != Origin::Configured)
            .filter(|candidate| Some(candidate.route) != self.active)
            .min_by_key(|candidate| (candidate.answered_at(), candidate.added))
            .map(|candidate| candidate.route);
        least.map(|route| self.remove(route)).is_some()
    }

    /// Drops a candidate: its address is gone, or its session ended.
    pub(crate) fn remove(&mut self, route: RouteKey) {
        self.candidates.retain(|candidate| candidate.route != route);
        self.actions.push(Action::Forget(route));
        if self.active == Some(route) {
            self.active = None;
        }
    }

    /// A probe came in, which is proof that the peer is at the other end of `route`.
    pub(crate) fn heard(&mut self, now: Instant, route: RouteKey, kind: Kind, epoch: u64, in_use: bool) {
        self.add(now, route, kind, Origin::Heard);
        let news = self.epoch != Some(epoch);
        if news && self.other_epoch.is_none_or(|(other, _)| other != epoch) {
            self.other_epoch = Some((epoch, now));
        }
        let Some(candidate) = self.get_mut(route) else { return };
        candidate.heard(now);
        let stale = candidate.answered_at().is_none_or(|at| now.saturating_duration_since(at) > PROVEN);
        let back = candidate.lost() > 0;
        if (stale || news || back) && candidate.may_probe(now, RETURN_PROBE) {
            self.probe(now, route);
        }
        if in_use {
            self.desert(route);
            self.candidates.iter_mut().for_each(|candidate| candidate.peer_uses(route));
            self.follow(now, route);
        }
        self.choose(now);
    }

    /// The candidate is probed at once.
    pub(crate) fn hurry(&mut self, route: RouteKey) {
        if let Some(candidate) = self.get_mut(route) {
            candidate.hurry();
        }
    }

    /// Whether the probes by `route` were lost.
    pub(crate) fn is_dead(&self, route: RouteKey) -> bool {
        self.get(route).is_some_and(Candidate::is_dead)
    }

    /// Whether UDP leads to the peer without losing much.
    pub(crate) fn works_by_udp(&self, now: Instant) -> bool {
        self.candidates
            .iter()
            .filter(|candidate| !candidate.kind.is_carrier() && candidate.kind != Kind::Relayed)
            .any(|candidate| {
                candidate.alive(now) && candidate.answered_at().is_some() && !candidate.is_poor()
            })
    }

    /// Addresses of the configuration.
    pub(crate) fn configured(&self) -> impl Iterator<Item = std::net::SocketAddr> {
        let configured = self.candidates.iter().filter(|candidate| candidate.origin == Origin::Configured);
        configured.filter_map(|candidate| match candidate.route {
            RouteKey::Direct(address) => Some(address),
            RouteKey::Relayed(_) => None,
        })
    }

    /// Whether a carrier works.
    fn carried(&self, now: Instant) -> bool {
        self.candidates.iter().any(|candidate| candidate.kind.is_carrier() && candidate.alive(now))
    }

    /// An answer came in. Returns the round trip time if it answers a probe of ours.
    pub(crate) fn answered(
        &mut self,
        now: Instant,
        route: RouteKey,
        id: u64,
        epoch: u64,
    ) -> Option<Duration> {
        let candidate = self.get_mut(route)?;
        let (rtt, first) = candidate.answered(now, id)?;
        if first {
            self.actions.push(Action::Proven(route));
        }
        if self.epoch.is_some_and(|known| known != epoch) {
            let since = self.other_epoch.filter(|(other, _)| *other == epoch).map_or(now, |(_, since)| since);
            self.actions.push(Action::Restarted { since });
        }
        self.epoch = Some(epoch);
        self.other_epoch = None;
        self.choose(now);
        Some(rtt)
    }

    /// Does what is due and hands out what is to be done.
    pub(crate) fn poll(&mut self, now: Instant, flow: Flow) -> Vec<Action> {
        self.flows_since = flow.sending.then(|| self.flows_since.unwrap_or(now));
        let mut died = false;
        for candidate in &mut self.candidates {
            // Packets that come in are life, however late the answers to probes are.
            let lively = self.active == Some(candidate.route) && flow.sending && flow.unanswered < LIVELY;
            died |= candidate.expire_probes(now, lively);
        }
        if died || self.active.is_none() {
            self.choose(now);
        }
        let cut_off = self.working(now).is_none();
        self.cut_off_since = cut_off.then(|| self.cut_off_since.unwrap_or(now));
        let given_up: Vec<RouteKey> = self
            .candidates
            .iter()
            .filter(|candidate| candidate.expired(now, EXPIRY) && Some(candidate.route) != self.active)
            .map(|candidate| candidate.route)
            .collect();
        for route in given_up {
            self.remove(route);
        }
        let due: Vec<RouteKey> = self
            .candidates
            .iter()
            .filter(|candidate| self.due(candidate, now, flow).is_some_and(|due| due <= now))
            .map(|candidate| candidate.route)
            .collect();
        for route in due {
            self.probe(now, route);
        }
        std::mem::take(&mut self.actions)
    }

    fn on_carrier(&self) -> bool {
        self.current().is_some_and(|current| current.kind.is_carrier())
    }

    /// Sends a probe by the path in use, for somebody who wants to know. Returns its id.
    pub(crate) fn ping(&mut self, now: Instant) -> Option<u64> {
        let route = self.active?;
        Some(self.probe(now, route))
    }

    fn probe(&mut self, now: Instant, route: RouteKey) -> u64 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let (in_use, mut shunned) = (self.active == Some(route), false);
        if let Some(candidate) = self.get_mut(route) {
            candidate.probed(now, id);
            shunned = candidate.shuns();
        }
        self.actions.push(Action::Probe { route, id, in_use, shunned });
        id
    }

    fn get(&self, route: RouteKey) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.route == route)
    }

    fn get_mut(&mut self, route: RouteKey) -> Option<&mut Candidate> {
        self.candidates.iter_mut().find(|candidate| candidate.route == route)
    }

    /// The candidate that traffic uses, alive or not.
    pub(crate) fn current(&self) -> Option<&Candidate> {
        self.active.and_then(|route| self.get(route))
    }

    /// The candidate that traffic uses, if it is believed to work.
    pub(crate) fn working(&self, now: Instant) -> Option<&Candidate> {
        self.current().filter(|candidate| candidate.alive(now))
    }

    /// Whether traffic goes straight to the peer.
    pub(crate) fn is_direct(&self, now: Instant) -> bool {
        self.working(now).is_some_and(|candidate| candidate.kind != Kind::Relayed)
    }

    /// Every candidate, for status and disk.
    pub(crate) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }
}

#[cfg(test)]
mod carrier_tests;
#[cfg(test)]
mod loss_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod two_tests;
