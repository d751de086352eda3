//! Whether flows to a peer go over TCP, and what is to be done for it: pure. Events and `now` go in.
//!
//! A peer is measured once its flows have carried enough for it to be worth while; what came of it holds for hours, or
//! until the peer is at another address. Where TCP is clearly faster, a few connections are kept ready while flows go
//! there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use edgeloom_tunnel::LanPeer;

/// Bytes that pass between the two nodes before the ways are compared: what that costs is nothing beside it.
const WORTH: u64 = 32 << 20;
/// How much faster TCP must be to be taken, and to be kept where it was taken before.
const CLEARLY: f64 = 1.2;
const STILL: f64 = 1.05;
/// How long what was measured holds.
const HOLDS: Duration = Duration::from_secs(6 * 3600);
/// How long until a measurement that failed is tried again.
const RETRY: Duration = Duration::from_secs(600);
/// A peer to which no flow went for so long needs nothing ready.
const IDLE: Duration = Duration::from_secs(60);
/// How long flows go by QUIC after a connection that was ready turned out dead; twice as long each time.
const REST: Duration = Duration::from_secs(10);
const LONGEST_REST: Duration = Duration::from_secs(600);
/// Connections that are kept ready: at least and at most.
const LEAST_READY: usize = 2;
const MOST_READY: usize = 8;
/// How long nothing was missing before fewer are kept ready.
const PLENTY: Duration = Duration::from_secs(10);
/// Handshakes: so many at once, and one more each time this has passed. Each costs both ends a signature; flows that
/// come faster go by QUIC, which needs none.
const BURST: u32 = 8;
const PACE: Duration = Duration::from_millis(200);

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Verdict {
    /// When.
    pub(super) at: Instant,
    /// Where the peer was.
    pub(super) address: SocketAddr,
    /// Bytes a second by either way.
    pub(super) quic: f64,
    pub(super) tcp: f64,
    /// Whether flows go over TCP.
    pub(super) faster: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing; what is ready stays.
    Nothing,
    /// Compare the two ways.
    Measure,
    /// Have so many more connections ready.
    Dial(usize),
    /// Close what is ready.
    Close,
}

/// What is known and decided of one peer.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Where it is on the LAN, and the count of its bytes from which on those that pass are reckoned.
    lan: Option<(SocketAddr, u64)>,
    verdict: Option<Verdict>,
    measuring: bool,
    not_before: Option<Instant>,
    flow_at: Option<Instant>,
    rest: Duration,
    rests_until: Option<Instant>,
    ready: usize,
    missed_at: Option<Instant>,
    dials: Dials,
}

/// How many handshakes may be begun.
#[derive(Debug, Default)]
struct Dials {
    spent: u32,
    since: Option<Instant>,
}

impl Dials {
    fn take(&mut self, now: Instant, wanted: usize) -> usize {
        let since = *self.since.get_or_insert(now);
        let earned = now.saturating_duration_since(since).as_nanos() / PACE.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        self.spent = self.spent.saturating_sub(earned);
        self.since = Some(if self.spent == 0 { now } else { since + PACE * earned });
        let taken = u32::try_from(wanted).unwrap_or(u32::MAX).min(BURST - self.spent);
        self.spent += taken;
        taken as usize
    }
}

impl Choice {
    /// A flow goes to the peer, which is there on the LAN, or is not; whatever carries it. What it carries counts from
    /// its first byte.
    pub(super) fn flow(&mut self, now: Instant, lan: Option<LanPeer>) {
        self.flow_at = Some(now);
        self.lan = self.lan.or(lan.map(|lan| (lan.address, lan.bytes)));
    }

    /// A flow would have gone over TCP, and nothing was ready.
    pub(super) fn missed(&mut self, now: Instant) {
        self.missed_at = Some(now);
        self.ready = (self.ready * 2).clamp(LEAST_READY, MOST_READY);
    }

    /// A flow reached its endpoint over TCP.
    pub(super) fn proved(&mut self) {
        self.rest = Duration::ZERO;
    }

    /// A connection that was ready turned out dead, or none could be made.
    pub(super) fn dead(&mut self, now: Instant) {
        // Those that were made together die together.
        if self.rests_until.is_some_and(|until| until > now) {
            return;
        }
        self.rest = (self.rest * 2).clamp(REST, LONGEST_REST);
        self.rests_until = Some(now + self.rest);
    }

    /// Where flows over TCP go now, if they do.
    pub(super) fn goes_to(&self, now: Instant) -> Option<SocketAddr> {
        let (address, _) = self.lan?;
        let verdict = self.verdict.filter(|verdict| verdict.faster && verdict.address == address);
        verdict.filter(|_| self.rests_until.is_none_or(|until| until <= now))?;
        Some(address)
    }

    /// What was measured last, of where the peer is now.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        let (address, _) = self.lan?;
        self.verdict.filter(|verdict| verdict.address == address)
    }

    /// Whether nothing would be lost if it were forgotten.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        let old = |at: Option<Instant>| at.is_none_or(|at| now.saturating_duration_since(at) >= HOLDS);
        old(self.flow_at) && !self.measuring
    }

    /// What is to be done now that the peer is there on the LAN, or is not, and so many connections are ready or about
    /// to be.
    pub(super) fn look(&mut self, now: Instant, lan: Option<LanPeer>, ready: usize) -> Step {
        let Some(LanPeer { address, bytes }) = lan else {
            self.lan = None;
            return Step::Close;
        };
        let from = match self.lan {
            Some((known, from)) if known == address => from.min(bytes),
            _ => {
                // What is ready leads to another address, or to one that was left meanwhile.
                self.lan = Some((address, bytes));
                return Step::Close;
            }
        };
        if self.flow_at.is_none_or(|at| now.saturating_duration_since(at) >= IDLE) {
            return Step::Close;
        }
        if self.is_worth_measuring(now, address, bytes.saturating_sub(from)) {
            self.measuring = true;
            // The next comparison is to be worth its bytes again.
            self.lan = Some((address, bytes));
            return Step::Measure;
        }
        if self.goes_to(now).is_none() {
            return Step::Close;
        }
        if self.missed_at.is_some_and(|at| now.saturating_duration_since(at) >= PLENTY) {
            self.missed_at = Some(now);
            self.ready -= 1;
        }
        self.ready = self.ready.clamp(LEAST_READY, MOST_READY);
        match self.dials.take(now, self.ready.saturating_sub(ready)) {
            0 => Step::Nothing,
            count => Step::Dial(count),
        }
    }

    fn is_worth_measuring(&self, now: Instant, address: SocketAddr, bytes: u64) -> bool {
        let holds = self.verdict.is_some_and(|verdict| {
            verdict.address == address && now.saturating_duration_since(verdict.at) < HOLDS
        });
        bytes >= WORTH && !holds && !self.measuring && self.not_before.is_none_or(|at| at <= now)
    }

    /// The ways to the peer at `address` were compared, in bytes a second.
    pub(super) fn measured(&mut self, now: Instant, address: SocketAddr, quic: f64, tcp: f64) {
        self.measuring = false;
        let before = self.verdict.is_some_and(|verdict| verdict.address == address && verdict.faster);
        let faster = tcp >= quic * if before { STILL } else { CLEARLY };
        self.verdict = Some(Verdict { at: now, address, quic, tcp, faster });
    }

    /// They could not be: the peer takes no TCP, or went.
    pub(super) fn failed(&mut self, now: Instant) {
        self.measuring = false;
        self.not_before = Some(now + RETRY);
    }
}

#[cfg(test)]
mod tests;
