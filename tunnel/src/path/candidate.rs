//! One way to a peer, and what its probes say about it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::RouteKey;
use super::size::Sizes;
use crate::status::DirectKind;

/// Probes in a row without an answer after which a path is dead.
const DEAD: u32 = 3;
/// A direct path of which nothing was heard for this long is not believed in: three keep-alives.
const SILENT: Duration = Duration::from_secs(90);
/// Unanswered probes that are remembered.
const OUTSTANDING: usize = 8;
/// Loss from which UDP is worse than TCP, and below which it is trusted again.
const POOR: f64 = 0.3;
const FAIR: f64 = 0.1;
/// Order of such a path: behind every carrier.
const POOR_RANK: u8 = 5;
/// Answers after which a path that is to take the place of a carrier is believed in.
const BELIEVED: u32 = 3;
/// Answers before which a round trip time may be the first packet's, not the path's.
const SETTLED: u32 = 4;
/// How long a round trip time is of now.
const OLD: Duration = Duration::from_secs(10);
/// How long it may be held against the path in use: a keep-alive of either end.
const FRESH: Duration = Duration::from_secs(30);
/// How long an answer may take: bounds, and the value before a round trip was measured.
const LEAST_WAIT: Duration = Duration::from_millis(60);
const MOST_WAIT: Duration = Duration::from_secs(1);
/// How long an answered probe speaks for a path on which packets get nothing back.
const CONFIRMED: Duration = Duration::from_millis(150);
/// Least time between the probes of a path in doubt.
const DOUBTED: Duration = Duration::from_millis(40);

/// What kind of path a candidate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Direct(DirectKind),
    Relayed,
}

impl Kind {
    /// Lower is preferred whatever the round trip time says within reason.
    pub(crate) fn rank(self) -> u8 {
        match self {
            Kind::Direct(DirectKind::Lan) => 0,
            Kind::Direct(DirectKind::Public | DirectKind::Punched) => 1,
            Kind::Relayed => 2,
            Kind::Direct(DirectKind::Tcp) => 3,
            Kind::Direct(DirectKind::Wss) => 4,
        }
    }

    /// Whether packets go over TCP.
    pub(crate) fn is_carrier(self) -> bool {
        matches!(self, Kind::Direct(kind) if kind.is_carrier())
    }
}

/// Who told of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The membership: never given up.
    Configured,
    /// It worked before a restart.
    Remembered,
    /// A relay or the peer itself.
    Told,
    /// A probe came from there.
    Heard,
}

#[derive(Debug)]
struct Sent {
    id: u64,
    at: Instant,
    /// Counted as lost already; an answer that comes late still counts as life.
    lost: bool,
}

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
    loss: f64,
    poor: bool,
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
            loss: 0.0,
            poor: false,
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

    pub(crate) fn loss(&self) -> f64 {
        self.loss
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

    /// Whether what was measured is of another time.
    fn is_old(&self, now: Instant) -> bool {
        self.answered_at.is_none_or(|at| now.saturating_duration_since(at) > OLD)
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
    pub(crate) fn preference(&self, carried: bool) -> (u8, bool, Duration) {
        (self.rank(carried), self.answers == 0, self.rtt().unwrap_or(Duration::MAX))
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

    /// How long an answer may take.
    pub(crate) fn wait(&self) -> Duration {
        self.smoothed.map_or(MOST_WAIT, |(rtt, variance)| {
            (rtt + variance * 4 + LEAST_WAIT / 2).clamp(LEAST_WAIT, MOST_WAIT)
        })
    }

    pub(crate) fn may_probe(&self, now: Instant, least: Duration) -> bool {
        self.last_probe.is_none_or(|at| now.saturating_duration_since(at) >= least)
    }

    pub(crate) fn probed(&mut self, now: Instant, id: u64) {
        if self.sent.len() == OUTSTANDING {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { id, at: now, lost: false });
        self.last_probe = Some(now);
        self.urgent = false;
        self.attempts = self.attempts.saturating_add(1);
    }

    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard_at = Some(now);
        self.added = now;
    }

    /// Takes an answer. Returns the round trip time and whether it is the first, or `None` if it answers nothing.
    pub(crate) fn answered(&mut self, now: Instant, id: u64) -> Option<(Duration, bool)> {
        let index = self.sent.iter().position(|sent| sent.id == id)?;
        let sent = self.sent.remove(index)?;
        // Whatever was sent before it is answered for as well.
        self.sent.retain(|other| other.at > sent.at);
        let rtt = now.saturating_duration_since(sent.at);
        self.latest = Some(rtt);
        self.smoothed = Some(match self.smoothed {
            None => (rtt, rtt / 2),
            // A first packet may have waited for a neighbour's address or behind a queue, and a path that is probed
            // seldom would show the queue of long ago: that is not the path's.
            Some((smoothed, _)) if (!self.is_settled() || self.is_old(now)) && rtt * 2 < smoothed => {
                (rtt, rtt / 2)
            }
            // RFC 9002, section 5.3.
            Some((smoothed, variance)) => {
                ((smoothed * 7 + rtt) / 8, (variance * 3 + smoothed.abs_diff(rtt)) / 4)
            }
        });
        let first = self.answered_at.is_none();
        if self.lost >= DEAD {
            // It comes back from the dead: what it lost meanwhile is the outage's, not its own.
            (self.answers, self.loss, self.poor) = (0, 0.0, false);
        }
        (self.answered_at, self.lost, self.attempts) = (Some(now), 0, 0);
        self.answers = self.answers.saturating_add(1);
        self.loss *= 0.9;
        self.poor &= self.loss > FAIR;
        Some((rtt, first))
    }

    /// Counts the probes that were not answered in time. Returns whether the path died of it; one that is
    /// `lively` does not.
    pub(crate) fn expire_probes(&mut self, now: Instant, lively: bool) -> bool {
        let wait = self.wait();
        let mut lost = 0;
        for sent in self.sent.iter_mut().filter(|sent| !sent.lost && sent.at + wait <= now) {
            sent.lost = true;
            lost += 1;
        }
        let before = self.lost;
        self.lost = self.lost.saturating_add(lost);
        if lively {
            self.lost = self.lost.min(DEAD - 1);
        }
        for _ in 0..lost {
            self.loss = self.loss * 0.9 + 0.1;
        }
        self.poor |= self.loss > POOR && !self.kind.is_carrier();
        let died = before < DEAD && self.lost >= DEAD;
        if died {
            self.attempts = 0;
        }
        died
    }

    /// When the next probe counts as lost.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let wait = self.wait();
        self.sent.iter().find(|sent| !sent.lost).map(|sent| sent.at + wait)
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
