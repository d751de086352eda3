//! What a connection's counters say about it, looked at now and then.

use std::time::{Duration, Instant};

use quinn::ConnectionStats;

/// How long a peer takes nothing more before new streams evade the connection.
const BLOCKED: Duration = Duration::from_secs(1);
/// STREAM frames between two looks, more than are sent again, that show that the peer takes something.
const FLOWING: u64 = 8;
/// Bytes a second, both ways, that keep about half a processor busy.
const BUSY: f64 = 125e6;

/// What is left of a rate at each look, where it is less by then.
const FADES: f64 = 0.75;

/// Counters of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// UDP payloads, both ways, and those sent.
    bytes: u64,
    sent: u64,
    /// DATA_BLOCKED frames sent, and received.
    blocked: u64,
    peer_blocked: u64,
    /// MAX_DATA frames received.
    raised: u64,
    /// STREAM frames sent.
    frames: u64,
}

impl From<ConnectionStats> for Counters {
    fn from(stats: ConnectionStats) -> Self {
        Self {
            bytes: stats.udp_tx.bytes + stats.udp_rx.bytes,
            sent: stats.udp_tx.bytes,
            blocked: stats.frame_tx.data_blocked,
            peer_blocked: stats.frame_rx.data_blocked,
            raised: stats.frame_rx.max_data,
            frames: stats.frame_tx.stream,
        }
    }
}

/// What was seen of a connection.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    at: Instant,
    counters: Counters,
    blocked_since: Option<Instant>,
    /// The peer has taken nothing for a while, of no stream.
    pub(super) blocked: bool,
    /// It carries what keeps a processor busy.
    pub(super) busy: bool,
    /// Bytes a second that were sent lately.
    pub(super) rate: f64,
    /// When a STREAM frame was sent last, as of the looks.
    pub(super) sent: Instant,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        let counters = Counters::default();
        Self { at: now, counters, blocked_since: None, blocked: false, busy: false, rate: 0.0, sent: now }
    }

    /// Nothing is in use on the connection, so that nothing keeps it blocked or busy, or is sent.
    pub(super) fn rest(&mut self) {
        (self.blocked_since, self.blocked, self.busy, self.rate) = (None, false, false, 0.0);
    }

    /// Takes what the counters are now, and tells whether the peer was kept from sending since the last look.
    pub(super) fn look(&mut self, now: Instant, counters: Counters) -> bool {
        let before = std::mem::replace(&mut self.counters, counters);
        let took = now.saturating_duration_since(std::mem::replace(&mut self.at, now)).as_secs_f64();
        let rate =
            |now: u64, before: u64| if took > 0.0 { now.saturating_sub(before) as f64 / took } else { 0.0 };
        if counters.frames > before.frames {
            self.sent = now;
        }
        self.busy = rate(counters.bytes, before.bytes) > BUSY;
        // A moment in which less went says little of the next.
        self.rate = rate(counters.sent, before.sent).max(self.rate * FADES);
        if counters.blocked > before.blocked {
            self.blocked_since = Some(now);
        } else if counters.raised > before.raised || counters.frames > before.frames + FLOWING {
            self.blocked_since = None;
        }
        self.blocked = self.blocked_since.is_some_and(|since| now - since >= BLOCKED);
        counters.peer_blocked > before.peer_blocked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_blocked_until_the_peer_takes_something() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let mut counters = Counters::default();
        let mut at = |watch: &mut Watch, ms, change: &dyn Fn(&mut Counters)| {
            change(&mut counters);
            let peer = watch.look(start + Duration::from_millis(ms), counters);
            (peer, watch.blocked)
        };
        assert_eq!(at(&mut watch, 200, &|_| ()), (false, false));
        assert_eq!(at(&mut watch, 400, &|c| c.blocked = 1), (false, false));
        assert_eq!(at(&mut watch, 1200, &|_| ()), (false, false), "for a moment that is nothing");
        assert_eq!(at(&mut watch, 1400, &|c| c.frames += 1), (false, true), "sent again");
        assert_eq!(at(&mut watch, 1600, &|c| c.raised = 1), (false, false));
        assert_eq!(at(&mut watch, 9000, &|c| c.peer_blocked = 1), (true, false));
        assert_eq!(at(&mut watch, 9200, &|_| ()), (false, false));
        assert_eq!(at(&mut watch, 9400, &|c| c.blocked = 2), (false, false));
        assert_eq!(at(&mut watch, 9600, &|c| c.frames += 100), (false, false));
        assert_eq!(at(&mut watch, 9800, &|c| c.blocked = 3), (false, false));
        watch.rest();
        assert_eq!(at(&mut watch, 19_600, &|_| ()), (false, false));
    }

    #[test]
    fn a_connection_is_busy_by_its_rate() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        for (ms, bytes, busy) in
            [(1000, 100_000_000, false), (1200, 140_000_000, true), (1400, 140_000_000, false)]
        {
            watch.look(start + Duration::from_millis(ms), Counters { bytes, ..Counters::default() });
            assert_eq!(watch.busy, busy, "at {ms}");
        }
    }
}
