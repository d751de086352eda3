//! Which path traffic uses: the best that works, with hysteresis, and the one that the other end uses where neither is
//! better.
//!
//! Of paths that lose little the kind decides, and of two of a kind the round trip time. One that loses much beside
//! another is shunned, whatever its kind: it comes behind those that are not, until it is clean. What is much, `loss`
//! says.

use std::time::{Duration, Instant};

use super::{Action, Candidate, Demand, Origin, Paths, RouteKey};

/// A gain below this is not worth a move.
const LEAST_GAIN: Duration = Duration::from_millis(3);
/// So many answers tell what a round trip takes.
pub(super) const MEASURED: u32 = 3;
/// By how much a direct path may be slower than a relayed one and still be taken.
const DIRECT_BONUS: Duration = Duration::from_millis(30);

impl Paths {
    pub(super) fn choose(&mut self, now: Instant) {
        self.judge(now);
        // What is left for its loss is left for what is known to lose less, not for the next that may be as bad.
        let left = self.working(now).filter(|current| current.is_shunned());
        let alive = self.candidates.iter().filter(|candidate| {
            let carries = candidate.kind.is_carrier();
            let better = |left: &Candidate| {
                left.route == candidate.route || left.yields_to(now, candidate) || (carries && left.is_poor())
            };
            candidate.alive(now) && left.is_none_or(better)
        });
        let carried = self.carried(now);
        let Some(best) = alive.min_by_key(|candidate| candidate.preference(carried)) else { return };
        let route = best.route;
        let moves = match self.current() {
            None => true,
            Some(current) if current.route == route => false,
            Some(current) if !current.alive(now) => true,
            Some(current) => {
                let nearer_only = best.rank(carried) == current.rank(carried);
                clearly_better(best, current, carried) && (!nearer_only || best.is_fresh(now))
            }
        };
        if moves {
            self.take(route);
        }
    }

    /// Says of each path whether it is shunned for what it loses.
    fn judge(&mut self, now: Instant) {
        if self.candidates.iter().any(|candidate| candidate.is_accused(now)) {
            let rival = |candidate: &Candidate| Some((candidate.route, candidate.rival(now)?));
            let rivals: Vec<_> = self.candidates.iter().filter_map(rival).collect();
            self.candidates.iter_mut().for_each(|candidate| candidate.judge(now, &rivals));
        }
    }

    /// The peer's probe says whether it goes by another path since `route` loses much more. Both ends measure the same
    /// round trips, and what one of them has found the other need not find again.
    pub(crate) fn peer_shuns(&mut self, route: RouteKey, shunned: bool) {
        if let Some(candidate) = self.get_mut(route) {
            candidate.peer_shuns(shunned);
        }
    }

    /// The path that would be used, were it not for what it loses.
    pub(crate) fn passed_over(&self, now: Instant) -> Option<&Candidate> {
        let current = self.working(now).filter(|current| !current.is_shunned())?;
        let shunned = |candidate: &&Candidate| candidate.is_shunned() && candidate.alive(now);
        let left = self.candidates.iter().filter(shunned).min_by_key(|candidate| candidate.kind.rank());
        left.filter(|candidate| candidate.kind.rank() <= current.kind.rank())
    }

    pub(super) fn take(&mut self, route: RouteKey) {
        let from_carrier = self.on_carrier();
        self.active = Some(route);
        if from_carrier || self.on_carrier() {
            // The other end follows what it is told, at once.
            self.hurry(route);
        }
        self.actions.push(Action::Use(route));
    }

    /// The peer's traffic uses `route`. If it left ours for one that is no better, ours is most likely dead: one more
    /// lost probe proves it.
    pub(super) fn desert(&mut self, route: RouteKey) {
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

    /// The peer's traffic uses `route`: where nothing speaks against it, ours follows.
    pub(super) fn follow(&mut self, now: Instant, route: RouteKey) {
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
        let order = |candidate: &Candidate| (candidate.is_shunned(), candidate.kind.rank());
        let worse =
            self.current().is_some_and(|current| current.alive(now) && order(current) < order(candidate));
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
}

/// Whether traffic should leave `current`, which works, for `best`.
fn clearly_better(best: &Candidate, current: &Candidate, carried: bool) -> bool {
    let (Some(best_rtt), answers) = (best.rtt(), best.answers()) else { return false };
    if best.is_shunned() != current.is_shunned() {
        return current.is_shunned();
    }
    let current_rtt = current.rtt().unwrap_or(Duration::MAX);
    if current.kind.is_carrier() && (!best.is_believed() || current.is_followed()) {
        return false;
    }
    let (best_rank, current_rank) = (best.rank(carried), current.rank(carried));
    if best_rank < current_rank {
        return best_rtt <= current_rtt.saturating_add(current_rtt / 2).saturating_add(DIRECT_BONUS);
    }
    best_rank == current_rank && answers >= MEASURED && is_nearer(best, current)
}

/// Whether a packet takes clearly less time by `other` than by `current`, as far as answers tell.
pub(super) fn is_nearer(other: &Candidate, current: &Candidate) -> bool {
    let (Some(rtt), current) = (other.cautious_rtt(), current.rtt().unwrap_or(Duration::MAX)) else {
        return false;
    };
    rtt * 4 < current.saturating_mul(3) && current - rtt > LEAST_GAIN
}
