//! One way to a peer, and what its probes say about it.

mod probes;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::probes::{LEAST_WAIT, Sent};
use super::loss::{Losses, Rival};
use super::size::Sizes;
use super::{Kind, Origin, RouteKey};

/// Probes in a row without an answer after which a path is dead.
const DEAD: u32 = 3;
/// A direct path of which nothing was heard for this long is not believed in: three keep-alives.
const SILENT: Duration = Duration::from_secs(90);
/// The same from which it is asked whether another path loses less: two of the last six are lost.
const SUSPECT: f64 = 0.15;
/// Order of such a path: behind every carrier.
const POOR_RANK: u8 = 5;
/// Answers after which a path that is to take the place of a carrier is believed in.
const BELIEVED: u32 = 3;
/// Answers before which a round trip time may be the first packet's, not the path's.
const SETTLED: u32 = 4;
/// How long it may be held against the path in use: a keep-alive of either end.
const FRESH: Duration = Duration::from_secs(30);
/// How long an answered probe speaks for a path on which packets get nothing back.
const CONFIRMED: Duration = Duration::from_millis(150);
/// Least time between the probes of a path in doubt.
const DOUBTED: Duration = Duration::from_millis(40);

/// One way to a peer.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) route: RouteKey,
    pub(crate) kind: Kind,
    pub(crate) origin: Origin,
    pub(crate) added: Instant,
    sent: VecDeque<Sent>,
    last_probe: Option<Instant>,
    answered_at: Option<Instant>,
    heard_at: Option<Instant>,
    answers: u32,
    lost: u32,
    attempts: u32,
    urgent: bool,
    smoothed: Option<(Duration, Duration)>,
    latest: Option<Duration>,
    /// Share of the last dozen probes that were lost, at once and roughly.
    lately: f64,
    poor: bool,
    losses: Losses,
    shunned_by_peer: bool,
    used_by_peer: bool,
    pub(super) sizes: Sizes,
}

impl Candidate {
    pub(crate) fn new(now: Instant, route: RouteKey, kind: Kind, origin: Origin) -> Self {
        Self {
            route,
            kind,
            origin,
            added: now,
            sent: VecDeque::new(),
            last_probe: None,
            answered_at: None,
            heard_at: None,
            answers: 0,
            lost: 0,
            attempts: 0,
            urgent: false,
            smoothed: None,
            latest: None,
            lately: 0.0,
            poor: false,
            losses: Losses::default(),
            shunned_by_peer: false,
            used_by_peer: false,
            sizes: Sizes::default(),
        }
    }

    /// It was told of again.
    pub(crate) fn refresh(&mut self, now: Instant, kind: Kind, origin: Origin) {
        self.added = now;
        if origin == Origin::Configured {
            (self.origin, self.kind) = (origin, kind);
        }
    }

    /// Starts the back-off anew.
    pub(crate) fn restart(&mut self) {
        self.attempts = 0;
    }

    /// The next probe is due at once.
    pub(crate) fn hurry(&mut self) {
        self.urgent = true;
    }

    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Whether traffic may use it: it answered or was heard of lately, and its probes are not all lost. A session
    /// at a relay is believed in until its probes say otherwise.
    pub(crate) fn alive(&self, now: Instant) -> bool {
        self.lost < DEAD
            && match self.kind {
                Kind::Relayed => true,
                Kind::Direct(_) => self
                    .answered_at
                    .max(self.heard_at)
                    .is_some_and(|at| now.saturating_duration_since(at) < SILENT),
            }
    }

    /// Whether it answered, and not too long ago.
    pub(crate) fn answers_now(&self, now: Instant) -> bool {
        self.answered_at.is_some() && self.alive(now)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.lost >= DEAD
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.smoothed.map(|(rtt, _)| rtt)
    }

    /// Round trip time as it may be now: one that is probed seldom may have become slower since most of its answers.
    pub(crate) fn cautious_rtt(&self) -> Option<Duration> {
        self.rtt().max(self.latest)
    }

    /// Whether it was measured lately enough to be compared with the path in use.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        self.answered_at.is_some_and(|at| now.saturating_duration_since(at) < FRESH)
    }

    /// Share of the probes of late that were lost, 0 to 1.
    pub(crate) fn loss(&self) -> f64 {
        self.losses.share()
    }

    /// Whether another path is gone by if there is one, since this loses much more, as this end or the other found.
    pub(crate) fn is_shunned(&self) -> bool {
        self.losses.is_shunned() || self.shunned_by_peer
    }

    /// Whether this end found so. Only that is told the other, or neither would take the path again.
    pub(super) fn shuns(&self) -> bool {
        self.losses.is_shunned()
    }

    pub(super) fn peer_shuns(&mut self, shunned: bool) {
        self.shunned_by_peer = shunned && !self.kind.is_carrier();
    }

    /// Whether it may lose so much that others should be looked at.
    pub(super) fn is_suspect(&self, now: Instant) -> bool {
        !self.kind.is_carrier() && (self.lately > SUSPECT || self.losses.is_suspect(now))
    }

    /// Whether enough is known of its loss, and of late, to hold it against others. What a carrier loses, TCP sent
    /// again: its probes are slow instead.
    pub(super) fn is_weighed(&self, now: Instant) -> bool {
        !self.kind.is_carrier() && self.losses.is_known(now) && self.is_fresh(now)
    }

    /// It as others see it that may be left for it.
    pub(super) fn rival(&self, now: Instant) -> Option<Rival> {
        let weighed = self.alive(now) && self.is_weighed(now);
        self.cautious_rtt().filter(|_| weighed).map(|rtt| self.losses.rival(rtt))
    }

    /// Whether `other` is clearly the cleaner, or the peer found so.
    pub(super) fn yields_to(&self, now: Instant, other: &Candidate) -> bool {
        if self.shunned_by_peer && other.used_by_peer {
            return true;
        }
        let (Some(rtt), Some(other)) = (self.rtt(), other.rival(now)) else { return false };
        self.losses.yields_to(rtt, other)
    }

    /// Whether its loss is, or may become, a matter of choice.
    pub(super) fn is_accused(&self, now: Instant) -> bool {
        !self.kind.is_carrier() && (self.is_shunned() || self.losses.is_much(now))
    }

    /// Takes up or drops that it is shunned, as the other paths now are.
    pub(super) fn judge(&mut self, now: Instant, others: &[(RouteKey, Rival)]) {
        // Of a peer that is no longer heard by it nothing is known.
        self.shunned_by_peer &= self.heard_at.is_some_and(|at| now.saturating_duration_since(at) < SILENT);
        if let (true, Some(rtt)) = (self.is_accused(now), self.rtt()) {
            let others = others.iter().filter(|(route, _)| *route != self.route).map(|(_, rival)| *rival);
            let before = self.losses.is_shunned();
            self.losses.judge(now, rtt, others);
            // The other end is told at once.
            self.urgent |= before != self.losses.is_shunned();
        }
    }

    pub(crate) fn lost(&self) -> u32 {
        self.lost
    }

    pub(crate) fn answers(&self) -> u32 {
        self.answers
    }

    /// Largest packet that came back in the last trial of sizes, in bytes.
    pub(crate) fn largest(&self) -> Option<u16> {
        self.sizes.largest()
    }

    pub(crate) fn answered_at(&self) -> Option<Instant> {
        self.answered_at
    }

    pub(crate) fn last_probe(&self) -> Option<Instant> {
        self.last_probe
    }

    /// When a packet of ours last went out or one of the peer's came in: each keeps the NATs open.
    pub(crate) fn last_contact(&self) -> Option<Instant> {
        self.last_probe.max(self.heard_at)
    }

    /// Order of its kind; where TCP could do it instead, UDP that loses much comes last.
    pub(crate) fn rank(&self, carried: bool) -> u8 {
        if carried && self.is_poor() { POOR_RANK } else { self.kind.rank() }
    }

    /// Whether it works and loses much.
    pub(crate) fn is_poor(&self) -> bool {
        self.poor && self.lost < DEAD
    }

    /// Whether it answered often enough for its round trip time to be the path's.
    pub(crate) fn is_settled(&self) -> bool {
        self.answers >= SETTLED
    }

    /// Whether it answered often enough to take the place of a carrier, or did so at the other end.
    pub(crate) fn is_believed(&self) -> bool {
        self.answers >= BELIEVED || self.used_by_peer
    }

    /// Whether it worked, or a relay says that it would.
    pub(crate) fn may_come_back(&self) -> bool {
        self.answered_at.is_some() || self.kind == Kind::Relayed
    }

    /// Whether the peer dialled it as a carrier and uses it. Who dials knows what UDP loses on its way: the other end
    /// goes back to UDP with it and not before, lest each draws the other after it for ever.
    pub(crate) fn is_followed(&self) -> bool {
        self.kind.is_carrier() && self.origin == Origin::Heard && self.used_by_peer
    }

    /// The peer's traffic uses `route`.
    pub(crate) fn peer_uses(&mut self, route: RouteKey) {
        self.used_by_peer = self.route == route;
    }

    pub(crate) fn is_used_by_peer(&self) -> bool {
        self.used_by_peer
    }

    /// Something speaks against it as much as lost probes do: the next that is lost is the last. It goes out at once.
    pub(crate) fn suspect(&mut self) {
        self.lost = self.lost.max(DEAD - 1);
        self.urgent = true;
    }

    /// The other end left it for a carrier: what it answered before says nothing now.
    pub(crate) fn mistrust(&mut self) {
        self.answers = 0;
    }

    /// Order in which candidates that work are preferred.
    pub(crate) fn preference(&self, carried: bool) -> (bool, u8, bool, Duration) {
        (self.is_shunned(), self.rank(carried), self.answers == 0, self.rtt().unwrap_or(Duration::MAX))
    }

    /// Whether `other` would be worth a try while this one works.
    pub(crate) fn worse_than(&self, other: &Candidate, carried: bool) -> bool {
        other.rank(carried) < self.rank(carried)
    }

    /// How soon the path in use is to be probed again because it may have died: probes are missing, or packets
    /// get nothing back and no probe was answered lately. `None` while nothing speaks against it.
    ///
    /// A slow or crowded path must not be crowded further, so probes go out no faster than a quarter of what an
    /// answer takes, and slower with each that is lost.
    pub(crate) fn doubt(&self, now: Instant, unanswered: Duration) -> Option<Duration> {
        let answered = self.answered_at.is_some_and(|at| now.saturating_duration_since(at) < CONFIRMED);
        let silent = unanswered > self.wait().max(LEAST_WAIT * 2) && !answered;
        let interval = DOUBTED.max(self.wait() / 4);
        (self.lost > 0 || silent).then(|| interval * 2u32.pow(self.lost.saturating_sub(1).min(3)))
    }

    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard_at = Some(now);
        self.added = now;
    }

    /// When a candidate that does not answer is tried again.
    pub(crate) fn retry_at(&self, first: Duration, last: Duration, last_proven: Duration) -> Instant {
        let Some(at) = self.last_probe else { return self.added };
        let last =
            if self.answered_at.is_some() || self.origin == Origin::Remembered { last_proven } else { last };
        // Half as long again each time: a good dozen probes in the first three seconds.
        let factor = 1.5f64.powi(self.attempts.saturating_sub(1).min(40) as i32);
        at + first.mul_f64(factor).min(last)
    }

    /// Whether it never answered, or not for long, and nobody tells of it any more.
    pub(crate) fn expired(&self, now: Instant, expiry: Duration) -> bool {
        matches!(self.origin, Origin::Told | Origin::Heard)
            && self.answered_at.is_none()
            && now.saturating_duration_since(self.added) >= expiry
            && self.kind != Kind::Relayed
    }
}
