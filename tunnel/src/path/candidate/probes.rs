//! The probes of a candidate: what is out, what was answered and what was lost.

use std::time::{Duration, Instant};

use super::{Candidate, DEAD};

/// Unanswered probes that are remembered.
const OUTSTANDING: usize = 8;
/// Loss of the last dozen probes from which UDP is worse than TCP, and below which it is trusted again.
const POOR: f64 = 0.3;
const FAIR: f64 = 0.1;
/// How long a round trip time is of now.
const OLD: Duration = Duration::from_secs(10);
/// How long an answer may take: bounds, and the value before a round trip was measured.
pub(super) const LEAST_WAIT: Duration = Duration::from_millis(60);
const MOST_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Sent {
    id: u64,
    at: Instant,
    /// Counted as lost already; an answer that comes late still counts as life.
    lost: bool,
    /// One that was sent later was answered: that it is lost is nothing against the path's life.
    settled: bool,
    /// Whether it tells of the path's loss.
    counts: bool,
}

impl Candidate {
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
        let counts = self.losses.takes(now);
        self.sent.push_back(Sent { id, at: now, lost: false, settled: false, counts });
        self.last_probe = Some(now);
        self.urgent = false;
        self.attempts = self.attempts.saturating_add(1);
    }

    /// Takes an answer. Returns the round trip time and whether it is the first, or `None` if it answers nothing.
    pub(crate) fn answered(&mut self, now: Instant, id: u64) -> Option<(Duration, bool)> {
        let index = self.sent.iter().position(|sent| sent.id == id)?;
        let sent = self.sent.remove(index)?;
        let first = self.answered_at.is_none();
        self.settle(&sent, first);
        let rtt = now.saturating_duration_since(sent.at);
        self.measure(now, rtt);
        if self.lost >= DEAD {
            // It comes back from the dead: what it lost meanwhile is the outage's, not its own.
            (self.answers, self.lately, self.poor) = (0, 0.0, false);
        }
        match sent {
            _ if first => self.losses.begin(),
            Sent { lost: true, counts: true, .. } if self.lost < DEAD => self.losses.came_late(),
            _ => {}
        }
        if sent.counts && !sent.lost {
            self.losses.answered(now);
        }
        (self.answered_at, self.lost, self.attempts) = (Some(now), 0, 0);
        self.answers = self.answers.saturating_add(1);
        self.lately *= 0.9;
        self.poor &= self.lately > FAIR;
        Some((rtt, first))
    }

    /// Whatever was sent before `answered` is answered for as well: the path lives. What of it gets no answer yet was
    /// lost all the same, unless by an outage that is over.
    fn settle(&mut self, answered: &Sent, first: bool) {
        let over = first || self.lost >= DEAD;
        self.sent.retain(|other| other.at > answered.at || !(other.lost || over));
        self.sent.iter_mut().filter(|other| other.at <= answered.at).for_each(|other| other.settled = true);
    }

    fn measure(&mut self, now: Instant, rtt: Duration) {
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
    }

    /// Counts the probes that were not answered in time. Returns whether the path died of it; one that is
    /// `lively` does not.
    pub(crate) fn expire_probes(&mut self, now: Instant, lively: bool) -> bool {
        let wait = self.wait();
        let (before, mut lost) = (self.lost, 0);
        for sent in self.sent.iter_mut().filter(|sent| !sent.lost && sent.at + wait <= now) {
            sent.lost = true;
            lost += u32::from(!sent.settled);
            if sent.counts && before < DEAD {
                self.losses.missed(now);
            }
        }
        self.lost = self.lost.saturating_add(lost);
        if lively {
            self.lost = self.lost.min(DEAD - 1);
        }
        for _ in 0..lost {
            self.lately = self.lately * 0.9 + 0.1;
        }
        self.poor |= self.lately > POOR && !self.kind.is_carrier();
        let died = before < DEAD && self.lost >= DEAD;
        if died {
            self.attempts = 0;
            self.losses.outage();
        }
        died
    }

    /// When the next probe counts as lost.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let wait = self.wait();
        self.sent.iter().find(|sent| !(sent.lost || sent.settled)).map(|sent| sent.at + wait)
    }

    /// Whether what was measured is of another time.
    fn is_old(&self, now: Instant) -> bool {
        self.answered_at.is_none_or(|at| now.saturating_duration_since(at) > OLD)
    }
}
