//! How much a way to a peer loses, as its probes tell, and when that is reason to go by another.
//!
//! A probe that no answer comes to is a round trip lost, whichever of the two packets it was: where 10 % are lost each
//! way, that is 19 %. All shares here are of round trips.
//!
//! The counters of the connections on the path are not looked at. They count what a flow loses by its own haste too,
//! there are none for the paths that are not in use, and so they cannot be held against each other; probes that are
//! sent by both paths at the same time meet the same queues and can.

use std::time::{Duration, Instant};

/// A path that loses a smaller share than this is never left for it. BBR fills a link that loses 2 % each way, which is
/// 4 % here, and a relay costs whoever runs it; at a fifth, every other call of a few packets waits for a time-out.
const MUCH: f64 = 0.2;
/// The path that is gone by instead loses a third of that at most, and so does the one that is left when it is gone
/// back to: in between nothing moves.
const THIRD: f64 = 3.0;
/// So many probes, the latest with the weight of one, tell a fifth from the few percent that are borne: with 31 in fact,
/// a path of 4 % seems to lose a fifth once in some thousand times.
const ENOUGH: f64 = 20.0;
/// Fewer than this tell nothing at all.
const FEW: f64 = 5.0;
/// The weight of a probe falls by this share with each one that follows: some 60 make up the estimate.
const FORGOTTEN: f64 = 1.0 / 32.0;
/// It falls with time too, to 1/e in this: a keep-alive every 25 s is still enough.
const MEMORY: Duration = Duration::from_secs(1800);
/// Probes sent closer to each other than this count once. After a lost one more follow in haste, and would tell of the
/// same moment.
const APART: Duration = Duration::from_millis(200);
/// What a lost round trip costs: QUIC sends again after three round trips or more, and twice as long after the next
/// (RFC 9002, section 6.2), and TCP within it a second. A path that is slower by more than what is so saved is no way
/// out.
const REPEATED: Duration = Duration::from_secs(1);
/// By how much more it must cost, itself losing little, for the other to be gone back to that still loses.
const MARGIN: Duration = Duration::from_millis(100);
/// How long a path that was left is left at least. It may have lost by what was sent over it and be good as soon as
/// nothing is: so the time doubles whenever it has to be left again, up to half an hour.
const LEFT: Duration = Duration::from_secs(60);
const DOUBLINGS: u32 = 5;
/// A path that was gone back to and held for this long starts anew.
const FORGIVEN: Duration = Duration::from_secs(1800);

/// A path beside which others are held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rival {
    /// Share of round trips that are lost.
    pub(super) share: f64,
    /// What a round trip takes, with what it waits for those that are lost.
    pub(super) cost: Duration,
}

impl Rival {
    /// Whether nothing speaks for it any more beside `other`, which was left for it.
    fn is_no_better_than(self, other: Rival) -> bool {
        let margin = if self.share >= MUCH { Duration::ZERO } else { MARGIN };
        self.cost >= other.cost.saturating_add(margin)
    }
}

/// What the probes of one path say of its loss, and whether it is shunned for it.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Weights of the probes that count, and of those of them that were lost.
    probes: f64,
    lost: f64,
    /// When the last of them was told of.
    told: Option<Instant>,
    /// When the last that counts was sent.
    counted: Option<Instant>,
    /// How many were lost since one was answered.
    run: u32,
    shunned_since: Option<Instant>,
    taken_back: Option<Instant>,
    /// How often in succession it was shunned.
    times: u32,
}

impl Losses {
    /// Whether a probe that goes out now counts.
    pub(super) fn takes(&mut self, now: Instant) -> bool {
        let apart = self.counted.is_none_or(|at| now.saturating_duration_since(at) >= APART);
        if apart {
            self.counted = Some(now);
        }
        apart
    }

    /// A probe that counts was answered.
    pub(super) fn answered(&mut self, now: Instant) {
        self.count(now);
        self.run = 0;
    }

    /// A probe that counts was lost.
    pub(super) fn missed(&mut self, now: Instant) {
        self.count(now);
        self.lost += 1.0;
        self.run += 1;
    }

    fn count(&mut self, now: Instant) {
        let kept = self.faded(now) * (1.0 - FORGOTTEN);
        (self.probes, self.lost) = (self.probes * kept + 1.0, self.lost * kept);
        self.told = Some(now);
    }

    /// What time leaves of the weights.
    fn faded(&self, now: Instant) -> f64 {
        let since = self.told.map_or(Duration::ZERO, |told| now.saturating_duration_since(told));
        (-since.as_secs_f64() / MEMORY.as_secs_f64()).exp()
    }

    /// The answer to one that was counted as lost came late.
    pub(super) fn came_late(&mut self) {
        self.lost = (self.lost - 1.0).max(0.0);
        self.run = 0;
    }

    /// The path died. An outage is dealt with as one, and leaves no more of a mark than one lost probe, or a path that
    /// was cut once would be held to lose much after it.
    pub(super) fn outage(&mut self) {
        let surplus = f64::from(self.run.saturating_sub(1));
        self.probes = (self.probes - surplus).max(0.0);
        self.lost = (self.lost - surplus).max(0.0);
        self.run = 0;
    }

    /// The path answered for the first time: what was lost before, a NAT that was not open yet kept out.
    pub(super) fn begin(&mut self) {
        (self.probes, self.lost, self.run) = (0.0, 0.0, 0);
    }

    /// Share of round trips that are lost, 0 to 1.
    pub(super) fn share(&self) -> f64 {
        if self.probes > 0.0 { (self.lost / self.probes).clamp(0.0, 1.0) } else { 0.0 }
    }

    /// Whether enough probes tell of it.
    pub(super) fn is_known(&self, now: Instant) -> bool {
        self.probes * self.faded(now) >= ENOUGH
    }

    /// Whether it surely loses so much that it is left if there is a better.
    pub(super) fn is_much(&self, now: Instant) -> bool {
        self.is_known(now) && self.share() >= MUCH
    }

    /// Whether it seems to lose so much that it is worth to find out, and what other paths do.
    pub(super) fn is_suspect(&self, now: Instant) -> bool {
        self.probes * self.faded(now) >= FEW && self.share() >= MUCH / 2.0
    }

    /// The path as others see it, if a round trip by it takes `rtt`: the next two probes may lose one.
    pub(super) fn rival(&self, rtt: Duration) -> Rival {
        Rival { share: (self.lost + 1.0) / (self.probes + 2.0), cost: self.cost(rtt) }
    }

    fn cost(&self, rtt: Duration) -> Duration {
        rtt.saturating_add(REPEATED.mul_f64(self.share()))
    }

    /// Whether another path is gone by if there is one, since this loses much more.
    pub(super) fn is_shunned(&self) -> bool {
        self.shunned_since.is_some()
    }

    /// Whether `other` is clearly the cleaner, and not so much slower that it does not matter.
    pub(super) fn yields_to(&self, rtt: Duration, other: Rival) -> bool {
        self.share() >= other.share * THIRD && other.cost < self.cost(rtt)
    }

    /// Takes up or drops that the path is shunned, as the other paths now are.
    pub(super) fn judge(&mut self, now: Instant, rtt: Duration, mut others: impl Iterator<Item = Rival>) {
        let own = self.rival(rtt);
        let Some(since) = self.shunned_since else {
            if self.is_much(now) && others.any(|other| self.yields_to(rtt, other)) {
                self.shun(now);
            }
            return;
        };
        let least = others.min_by_key(|other| other.cost);
        let none_better = least.is_some_and(|least| least.is_no_better_than(own));
        let clean = self.is_known(now) && self.share() <= MUCH / THIRD;
        let forgotten = self.probes * self.faded(now) < FEW;
        if (clean || forgotten || none_better) && now.saturating_duration_since(since) >= self.sentence() {
            (self.shunned_since, self.taken_back) = (None, Some(now));
        }
    }

    fn shun(&mut self, now: Instant) {
        let held = self.taken_back.is_none_or(|at| now.saturating_duration_since(at) >= FORGIVEN);
        self.times = if held { 1 } else { self.times.saturating_add(1) };
        self.shunned_since = Some(now);
    }

    fn sentence(&self) -> Duration {
        LEFT * 2u32.pow(self.times.saturating_sub(1).min(DOUBLINGS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(20);
    const SECOND: Duration = Duration::from_secs(1);

    /// A path of which every probe, one a second, is lost whose number `lost` says it of.
    fn path(probes: u32, lost: impl Fn(u32) -> bool) -> (Losses, Instant) {
        let (mut losses, mut now) = (Losses::default(), Instant::now());
        for probe in 0..probes {
            now += SECOND;
            if lost(probe) { losses.missed(now) } else { losses.answered(now) }
        }
        (losses, now)
    }

    fn clean() -> Rival {
        Rival { share: 0.03, cost: RTT * 2 }
    }

    #[test]
    fn what_is_shunned_for_what() {
        let ms = Duration::from_millis;
        // Each so many-th probe is lost, of so many; beside a path that loses such a share and takes so long.
        for (every, probes, share, rtt, shunned) in [
            (2, 40, 0.0, ms(40), true),
            (4, 40, 0.0, ms(40), true),
            (4, 40, 0.08, ms(40), true),
            (4, 25, 0.0, ms(40), false),   // too few probes
            (7, 400, 0.0, ms(40), false),  // it is borne
            (25, 400, 0.0, ms(40), false), // 2 % each way
            (4, 40, 0.1, ms(40), false),   // not much better
            (4, 40, 0.0, ms(240), true),
            (4, 40, 0.0, ms(400), false), // so slow that nothing is gained
            (2, 40, 0.0, ms(400), true),
        ] {
            let (mut losses, now) = path(probes, |probe| probe % every == every - 1);
            let other = Rival { share, cost: rtt + REPEATED.mul_f64(share) };
            losses.judge(now, RTT, [other].into_iter());
            assert_eq!(losses.is_shunned(), shunned, "1 of {every}, {probes} probes, {share}, {rtt:?}");
        }
    }

    #[test]
    fn it_is_taken_back_when_it_is_clean_and_after_a_minute() {
        let (mut losses, mut now) = path(40, |probe| probe % 2 == 0);
        losses.judge(now, RTT, [clean()].into_iter());
        let (left, mut taken_back) = (now, None);
        while taken_back.is_none() {
            now += SECOND;
            losses.answered(now);
            losses.judge(now, RTT, [clean()].into_iter());
            taken_back = (!losses.is_shunned()).then_some(now);
        }
        assert!((60..=90).contains(&(now - left).as_secs()), "{:?}", now - left);
        // Left again soon, it is left for twice as long.
        (0..40).for_each(|_| {
            now += SECOND;
            losses.missed(now);
        });
        losses.judge(now, RTT, [clean()].into_iter());
        assert_eq!((losses.is_shunned(), losses.sentence()), (true, LEFT * 2));
    }

    #[test]
    fn it_is_taken_back_when_the_other_has_become_as_bad() {
        let (mut losses, now) = path(40, |probe| probe % 2 == 0);
        losses.judge(now, RTT, [clean()].into_iter());
        let bad = Rival { share: 0.6, cost: RTT + REPEATED.mul_f64(0.6) };
        losses.judge(now + LEFT / 2, RTT, [bad].into_iter());
        assert!(losses.is_shunned(), "not at once");
        losses.judge(now + LEFT, RTT, [clean(), bad].into_iter());
        assert!(losses.is_shunned(), "there is a clean one");
        losses.judge(now + LEFT, RTT, [bad].into_iter());
        assert!(!losses.is_shunned());
    }

    #[test]
    fn an_outage_and_what_comes_late_are_no_loss() {
        let (mut losses, now) = path(40, |probe| probe >= 30);
        losses.outage();
        assert!(losses.share() < 0.05, "{}", losses.share());
        losses.missed(now);
        losses.missed(now);
        losses.came_late();
        losses.came_late();
        assert!(losses.share() < 0.05, "{}", losses.share());
    }

    #[test]
    fn what_was_long_ago_is_not_known() {
        let (losses, now) = path(40, |_| false);
        assert!(losses.is_known(now));
        assert!(!losses.is_known(now + MEMORY));
        // One every 25 s is enough.
        let (mut losses, mut now) = (Losses::default(), Instant::now());
        (0..100).for_each(|_| {
            now += Duration::from_secs(25);
            losses.answered(now);
        });
        assert!(losses.is_known(now + Duration::from_secs(25)));
    }

    #[test]
    fn probes_in_haste_count_once() {
        let (mut losses, now) = (Losses::default(), Instant::now());
        let counted = (0..100).filter(|step| losses.takes(now + Duration::from_millis(step * 40))).count();
        assert_eq!(counted, 20);
    }
}
