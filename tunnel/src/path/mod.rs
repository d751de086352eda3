//! Which path leads to a peer: pure. Events and `now` go in, [`Action`]s come out.
//!
//! Each peer has one [`Paths`]. Candidates come from the configuration, the disk, relays, the peer itself and
//! from where its probes arrive; each is probed, first in a burst (both ends at the same time, which is what opens
//! their NATs), then with back-off. A path that answered is alive until three probes in a row are lost. Traffic
//! moves only to a clearly better path, or away from a dead one.

mod candidate;

use std::time::{Duration, Instant};

use libp2p::PeerId;

pub(crate) use candidate::{Candidate, Kind, Origin};

/// Most candidates of one peer; the least promising goes when another comes.
const MAX_CANDIDATES: usize = 24;
/// Probe interval of the path in use while packets flow.
const FLOWING: Duration = Duration::from_secs(1);
/// Packets that flow for less than this are an exchange, over by then: it proves the path by itself.
const EXCHANGE: Duration = Duration::from_secs(3);
/// What goes out this soon after what came in, and last, acknowledges it (RFC 9000, section 18.2: 25 ms, and some for
/// the timer). What wants an answer and gets none goes out again later than that (RFC 9002, section 6.2.1).
const ACKNOWLEDGES: Duration = Duration::from_millis(40);
/// Silence below which packets that come in speak for the path in use.
const LIVELY: Duration = Duration::from_millis(150);
/// Probe interval of a path that is kept: below the 30 s after which NATs forget a flow.
const KEEP: Duration = Duration::from_secs(25);
/// Probe interval of a path that packets of both ends keep open: it is proven before its peer counts as silent.
const PROOF: Duration = Duration::from_secs(75);
/// What the end that does not lead waits longer, so that one probe keeps the path for both.
const FOLLOWER: Duration = Duration::from_secs(3);
/// Probe interval of a path that would be used if its first round trip time were not that long.
const SETTLING: Duration = Duration::from_millis(200);
/// Back-off of candidates that do not answer: first and longest interval.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Longest back-off of a path that worked: it must stay open in the NATs for a peer that comes back.
const LAST_RETRY_PROVEN: Duration = KEEP;
/// Longest back-off of a relay's addresses.
const RELAY_RETRY: Duration = Duration::from_secs(3);
/// Longest back-off while no path works, of one that did: as long as packets wait, and for so long without them. A
/// flow that was cut off sends ever more seldom, and so hardly tells that it is there.
const NOTHING_RETRY: Duration = Duration::from_secs(1);
const CUT_OFF: Duration = Duration::from_secs(120);
/// Longest back-off of UDP while a carrier works.
const CARRIED_RETRY: Duration = Duration::from_secs(30);
/// Probe interval of UDP that answered and may take a carrier's place, and of UDP that loses too much for it.
const PROVING: Duration = Duration::from_millis(200);
const RECOVERING: Duration = Duration::from_secs(5);
/// A candidate that somebody told of and that never answered goes after this.
const EXPIRY: Duration = Duration::from_secs(600);
/// Least time between two probes that answer a probe.
const RETURN_PROBE: Duration = Duration::from_millis(200);
/// A path proven this recently need not be proven again when the peer probes it.
const PROVEN: Duration = Duration::from_secs(300);
/// A gain below this is not worth a move.
const LEAST_GAIN: Duration = Duration::from_millis(3);
/// By how much a direct path may be slower than a relayed one and still be taken.
const DIRECT_BONUS: Duration = Duration::from_millis(30);

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

/// What the hot path saw of a peer's traffic.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flow {
    /// Packets went out within the last seconds.
    pub(crate) sending: bool,
    /// Since when nothing came in although packets went out.
    pub(crate) unanswered: Duration,
    /// Since when none went out.
    pub(crate) sent: Duration,
    /// Since when none came in.
    pub(crate) received: Duration,
}

impl Flow {
    /// Since when packets that went out by `candidate` got nothing back. Where the last packet came in, nothing is
    /// due; where an acknowledgement went out last, which gets none, a probe that was answered since has settled
    /// it.
    fn unanswered_by(&self, candidate: &Candidate, now: Instant) -> Duration {
        let proven = candidate.answered_at().map(|at| now.saturating_duration_since(at));
        let settled = self.unanswered <= self.sent || proven.is_some_and(|proven| proven <= self.sent);
        if settled { Duration::ZERO } else { self.unanswered }
    }
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

    /// The peer's traffic uses `route`. If it left ours for one that is no better, ours is most likely dead: one more
    /// lost probe proves it.
    fn desert(&mut self, route: RouteKey) {
        let Some(rank) = self.get(route).map(|candidate| candidate.kind.rank()) else { return };
        let Some(current) =
            self.active.filter(|active| *active != route).and_then(|active| self.get_mut(active))
        else {
            return;
        };
        if current.is_used_by_peer() && current.kind.rank() <= rank {
            current.suspect();
        }
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

    /// The peer's traffic uses `route`: where nothing speaks against it, ours follows.
    fn follow(&mut self, now: Instant, route: RouteKey) {
        let dialled_by_peer = |candidate: &Candidate| {
            candidate.kind.is_carrier() && candidate.origin == Origin::Heard && candidate.alive(now)
        };
        if self.active != Some(route) && self.get(route).is_some_and(dialled_by_peer) {
            // Who dials a carrier found that UDP is blocked, perhaps in one direction only.
            self.candidates.iter_mut().for_each(Candidate::mistrust);
            return self.take(route);
        }
        if self.meets(now, route) {
            return self.take(route);
        }
        if self.active == Some(route)
            || self.demand == Demand::Active
            || (self.leads && self.demand == Demand::Keep)
        {
            return;
        }
        let Some(candidate) = self.get(route) else { return };
        let rank = candidate.kind.rank();
        let worse = self.current().is_some_and(|current| current.alive(now) && current.kind.rank() < rank);
        if candidate.alive(now) && !worse {
            self.take(route);
        }
    }

    /// Whether `route`, which the other end uses, is as good as the own: then the end that does not lead goes by it too.
    /// Packets that come by another way than the own say nothing of that.
    fn meets(&self, now: Instant, route: RouteKey) -> bool {
        let (Some(current), Some(other)) = (self.working(now), self.get(route)) else { return false };
        let equal = current.kind.rank() == other.kind.rank() && !current.kind.is_carrier();
        let worse = || clearly_better(current, other, self.carried(now));
        !self.leads && current.route != route && equal && other.alive(now) && !worse()
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

    /// When [`Paths::poll`] is to be called next, should nothing happen before.
    pub(crate) fn next_poll(&self, now: Instant, flow: Flow) -> Option<Instant> {
        let candidates = self.candidates.iter();
        candidates
            .flat_map(|candidate| [self.due(candidate, now, flow), candidate.next_expiry()])
            .flatten()
            .min()
    }

    /// When `candidate` is to be probed.
    fn due(&self, candidate: &Candidate, now: Instant, flow: Flow) -> Option<Instant> {
        if candidate.is_urgent() {
            return Some(now);
        }
        if self.demand == Demand::None {
            return None;
        }
        let active = self.active == Some(candidate.route);
        if candidate.alive(now) && candidate.answered_at().is_some() {
            let (probed, kept) =
                (candidate.last_probe()?, self.kept(candidate, now, active.then_some(flow))?);
            let unanswered = flow.unanswered_by(candidate, now);
            let settled = self.is_over(now, flow) || self.is_early(candidate, now, flow);
            let unanswered = if settled { Duration::ZERO } else { unanswered };
            let doubt = candidate.doubt(now, unanswered);
            return match (active, flow.sending) {
                (true, true) => Some(match doubt {
                    Some(doubt) => probed + doubt,
                    None => (probed + FLOWING).max(self.flows_since.unwrap_or(now) + EXCHANGE),
                }),
                (true, false) if candidate.lost() > 0 => Some(probed + doubt.unwrap_or(FLOWING) * 4),
                // A standby direct path stays open; a relayed one is the relay's to keep.
                (false, _) if candidate.kind == Kind::Relayed => None,
                (false, _) if !candidate.is_settled() && self.outranks(candidate, now) => {
                    Some(probed + SETTLING)
                }
                (false, _) if candidate.is_poor() && self.on_carrier() => Some(probed + RECOVERING),
                (false, _) if !candidate.is_believed() && self.on_carrier() => Some(probed + PROVING),
                _ => Some(kept),
            };
        }
        let carried = self.carried(now);
        let wanted = active
            || !self
                .current()
                .is_some_and(|current| current.alive(now) && !current.worse_than(candidate, carried));
        let last = match self.working(now) {
            None if candidate.may_come_back() && self.is_urgent(now) => NOTHING_RETRY,
            _ if carried => CARRIED_RETRY,
            _ => self.last_retry,
        };
        wanted.then(|| candidate.retry_at(FIRST_RETRY, last, LAST_RETRY_PROVEN.min(last)))
    }

    /// When a path that works is to be probed to stay open. Packets that go and come by the path in use keep it
    /// open as well, and prove less.
    fn kept(&self, candidate: &Candidate, now: Instant, flow: Option<Flow>) -> Option<Instant> {
        let contact = candidate.last_contact()? + self.lag();
        let exchanged = flow.and_then(|flow| now.checked_sub(flow.sent.max(flow.received)));
        let open = exchanged
            .map_or(contact + KEEP, |exchanged| (exchanged + KEEP + self.lag()).min(contact + PROOF));
        Some(open.max(contact + KEEP))
    }

    /// Whether packets have gone out for less time than an answer takes: none is missing yet.
    fn is_early(&self, candidate: &Candidate, now: Instant, flow: Flow) -> bool {
        let wait = candidate.wait();
        flow.sent < wait && self.flows_since.is_none_or(|since| now.saturating_duration_since(since) < wait)
    }

    /// Whether an exchange ended with this end's acknowledgement, which gets nothing back. In a longer flow the
    /// other end may have stopped because its path died.
    fn is_over(&self, now: Instant, flow: Flow) -> bool {
        let brief = self.flows_since.is_none_or(|since| now.saturating_duration_since(since) < EXCHANGE);
        brief && flow.unanswered.saturating_sub(flow.sent) <= ACKNOWLEDGES
    }

    /// Whether a path is needed while none works.
    fn is_urgent(&self, now: Instant) -> bool {
        let lately = self.cut_off_since.is_some_and(|since| now.saturating_duration_since(since) < CUT_OFF);
        lately || self.demand == Demand::Active
    }

    /// Whether `candidate` would be used but for its round trip time.
    fn outranks(&self, candidate: &Candidate, now: Instant) -> bool {
        let carried = self.carried(now);
        self.current().is_some_and(|current| current.worse_than(candidate, carried))
    }

    fn on_carrier(&self) -> bool {
        self.current().is_some_and(|current| current.kind.is_carrier())
    }

    fn lag(&self) -> Duration {
        if self.leads { Duration::ZERO } else { FOLLOWER }
    }

    /// Sends a probe by the path in use, for somebody who wants to know. Returns its id.
    pub(crate) fn ping(&mut self, now: Instant) -> Option<u64> {
        let route = self.active?;
        Some(self.probe(now, route))
    }

    fn probe(&mut self, now: Instant, route: RouteKey) -> u64 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let in_use = self.active == Some(route);
        if let Some(candidate) = self.get_mut(route) {
            candidate.probed(now, id);
        }
        self.actions.push(Action::Probe { route, id, in_use });
        id
    }

    fn choose(&mut self, now: Instant) {
        let alive = self.candidates.iter().filter(|candidate| candidate.alive(now));
        let carried = self.carried(now);
        let Some(best) = alive.min_by_key(|candidate| candidate.preference(carried)) else { return };
        let route = best.route;
        let moves = match self.current() {
            None => true,
            Some(current) if current.route == route => false,
            Some(current) if !current.alive(now) => true,
            Some(current) => clearly_better(best, current, carried),
        };
        if moves {
            self.take(route);
        }
    }

    fn take(&mut self, route: RouteKey) {
        let from_carrier = self.on_carrier();
        self.active = Some(route);
        if from_carrier || self.on_carrier() {
            // The other end follows what it is told, at once.
            self.hurry(route);
        }
        self.actions.push(Action::Use(route));
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

/// Whether traffic should leave `current`, which works, for `best`.
fn clearly_better(best: &Candidate, current: &Candidate, carried: bool) -> bool {
    let (Some(best_rtt), answers) = (best.rtt(), best.answers()) else { return false };
    let current_rtt = current.rtt().unwrap_or(Duration::MAX);
    if current.kind.is_carrier() && (!best.is_believed() || current.is_followed()) {
        return false;
    }
    let (best_rank, current_rank) = (best.rank(carried), current.rank(carried));
    if best_rank < current_rank {
        return best_rtt <= current_rtt.saturating_add(current_rtt / 2).saturating_add(DIRECT_BONUS);
    }
    best_rank == current_rank
        && answers >= 3
        && best_rtt * 4 < current_rtt.saturating_mul(3)
        && current_rtt - best_rtt > LEAST_GAIN
}

#[cfg(test)]
mod carrier_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod two_tests;
