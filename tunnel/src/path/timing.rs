//! When candidates are probed: by how much the peer is needed, what its traffic shows, and what other paths there are.
//!
//! [`Paths::poll`] asks for each candidate whether it is due; [`Paths::next_poll`] tells when the next will be. Nothing
//! is changed here.

use std::time::{Duration, Instant};

use super::choice::{MEASURED, is_nearer};
use super::{Candidate, Demand, Kind, Paths};

/// Probe interval of the path in use while packets flow.
const FLOWING: Duration = Duration::from_secs(1);
/// Packets that flow for less than this are an exchange, over by then: it proves the path by itself.
const EXCHANGE: Duration = Duration::from_secs(3);
/// What goes out this soon after what came in, and last, acknowledges it (RFC 9000, section 18.2: 25 ms, and some for
/// the timer). What wants an answer and gets none goes out again later than that (RFC 9002, section 6.2.1).
const ACKNOWLEDGES: Duration = Duration::from_millis(40);
/// Probe interval of a path that is kept: below the 30 s after which NATs forget a flow.
const KEEP: Duration = Duration::from_secs(25);
/// Probe interval of a path that packets of both ends keep open: it is proven before its peer counts as silent.
const PROOF: Duration = Duration::from_secs(75);
/// What the end that does not lead waits longer, so that one probe keeps the path for both.
const FOLLOWER: Duration = Duration::from_secs(3);
/// Probe interval of a path that would be used if its first round trip time were not that long.
const SETTLING: Duration = Duration::from_millis(200);
/// Probe interval of a relay beside the one that packets flow by: it may have become the nearer.
const COMPARED: Duration = Duration::from_secs(10);
/// Probe interval of the path in use while packets flow, and of those beside it, where it may lose more than they do and
/// too little is known of either to tell: a dozen seconds.
const WEIGHED: Duration = Duration::from_millis(400);
/// The same of those beside it once that is known, and of a path that was left for its loss: when it is clean is known
/// within a few minutes.
const WATCHED: Duration = Duration::from_secs(2);
/// Back-off of candidates that do not answer: first and longest interval.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Longest back-off of a path that worked: it must stay open in the NATs for a peer that comes back.
const LAST_RETRY_PROVEN: Duration = KEEP;
/// Longest back-off while no path works, of one that did: as long as packets wait, and for so long without them. A
/// flow that was cut off sends ever more seldom, and so hardly tells that it is there.
const NOTHING_RETRY: Duration = Duration::from_secs(1);
const CUT_OFF: Duration = Duration::from_secs(120);
/// Longest back-off of UDP while a carrier works.
const CARRIED_RETRY: Duration = Duration::from_secs(30);
/// Probe interval of UDP that answered and may take a carrier's place, and of UDP that loses too much for it.
const PROVING: Duration = Duration::from_millis(200);
const RECOVERING: Duration = Duration::from_secs(5);

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

impl Paths {
    /// When [`Paths::poll`] is to be called next, should nothing happen before.
    pub(crate) fn next_poll(&self, now: Instant, flow: Flow) -> Option<Instant> {
        let candidates = self.candidates.iter();
        candidates
            .flat_map(|candidate| [self.due(candidate, now, flow), candidate.next_expiry()])
            .flatten()
            .min()
    }

    /// When `candidate` is to be probed.
    pub(super) fn due(&self, candidate: &Candidate, now: Instant, flow: Flow) -> Option<Instant> {
        let weighed = self.weighed(candidate, now, flow);
        self.due_anyhow(candidate, now, flow).into_iter().chain(weighed).min()
    }

    /// When `candidate` is to be probed to learn what it loses beside the others. Only packets that flow are worth that:
    /// probes of an idle path keep to what holds it open.
    fn weighed(&self, candidate: &Candidate, now: Instant, flow: Flow) -> Option<Instant> {
        let current = self.current()?;
        let counts = candidate.alive(now) && !candidate.kind.is_carrier();
        if !counts || !flow.sending || self.demand == Demand::None || current.kind.is_carrier() {
            return None;
        }
        let suspect = current.is_suspect(now);
        let lasting = self.flows_since.is_some_and(|since| now.saturating_duration_since(since) >= EXCHANGE);
        let interval = match (suspect, candidate.is_weighed(now)) {
            (true, false) => WEIGHED,
            (false, _) if !candidate.is_shunned() => return None,
            _ if lasting => WATCHED,
            _ => COMPARED,
        };
        Some(candidate.last_probe().map_or(now, |probed| probed + interval))
    }

    /// Whether packets flow by a path that may lose more than another would.
    pub(crate) fn is_in_question(&self, now: Instant) -> bool {
        self.flows_since.is_some() && self.working(now).is_some_and(|current| current.is_suspect(now))
    }

    /// When `candidate` is to be probed whatever it loses.
    fn due_anyhow(&self, candidate: &Candidate, now: Instant, flow: Flow) -> Option<Instant> {
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
                (false, _) if self.is_unproven_rival(candidate, now) => Some(probed + SETTLING),
                (false, true) if candidate.kind == Kind::Relayed && self.is_relayed() => {
                    Some(probed + COMPARED)
                }
                // A standby direct path stays open; a relayed one is the relay's to keep.
                (false, _) if candidate.kind == Kind::Relayed => None,
                (false, _) if candidate.is_shunned() && !self.on_carrier() => Some(kept),
                (false, _) if !candidate.is_settled() && self.outranks(candidate, now) => {
                    Some(probed + SETTLING)
                }
                (false, _) if candidate.is_poor() && self.on_carrier() => Some(probed + RECOVERING),
                (false, _) if !candidate.is_believed() && self.on_carrier() => Some(probed + PROVING),
                _ => Some(kept),
            };
        }
        let carried = self.carried(now);
        // A relay that nobody has gone by yet is measured too: it may be the nearer.
        let unmeasured = candidate.kind == Kind::Relayed && self.is_relayed() && candidate.alive(now);
        let wanted = active
            || unmeasured
            || !self
                .current()
                .is_some_and(|current| current.alive(now) && !current.worse_than(candidate, carried));
        let last = match self.working(now) {
            None if candidate.may_come_back() && self.is_urgent(now) => NOTHING_RETRY,
            _ if carried => CARRIED_RETRY,
            _ => self.last_retry,
        };
        // What was left for its loss dies and comes back by chance, and need not be back at once while nothing flows.
        let unhurried = candidate.is_shunned() && !flow.sending && self.working(now).is_some();
        let first = if unhurried { LAST_RETRY_PROVEN } else { FIRST_RETRY };
        wanted.then(|| candidate.retry_at(first, last, LAST_RETRY_PROVEN.min(last)))
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

    /// Whether `candidate` is of the kind in use and seems nearer, by too few answers to tell.
    fn is_unproven_rival(&self, candidate: &Candidate, now: Instant) -> bool {
        let carried = self.carried(now);
        !candidate.is_shunned()
            && candidate.answers() < MEASURED
            && self.current().is_some_and(|current| {
                current.rank(carried) == candidate.rank(carried) && is_nearer(candidate, current)
            })
    }

    fn is_relayed(&self) -> bool {
        self.current().is_some_and(|current| current.kind == Kind::Relayed)
    }

    fn lag(&self) -> Duration {
        if self.leads { Duration::ZERO } else { FOLLOWER }
    }
}
