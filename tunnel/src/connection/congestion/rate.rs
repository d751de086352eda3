//! How fast packets arrive: delivery rate estimation after draft-cheng-iccrg-delivery-rate-estimation.
//!
//! Each sending remembers how much had arrived when it went out; its acknowledgement tells what arrived since, and in
//! what time. The longer of the times between the sendings and between the acknowledgements counts, so that neither
//! acknowledgements that come in one heap nor packets that left in one make the path look faster than it is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Sendings that are remembered: so many of what is on its way, and so many at most. Acknowledgements alone are
/// sendings too, of which nothing is heard again.
const REMEMBERED: u64 = 128;
const MOST_SENT: usize = 512;

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    /// What had arrived by then, and when that was known.
    delivered: u64,
    delivered_at: Instant,
    /// When the newest packet that had arrived by then was sent.
    first: Instant,
    limited: bool,
}

/// What one batch of acknowledgements says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Bytes a second.
    pub(super) rate: f64,
    /// Whether the application had nothing more to send, so that the path may be faster.
    pub(super) limited: bool,
    /// Bytes that had arrived when the newest acknowledged packet was sent.
    pub(super) prior: u64,
    /// Time since that packet was sent.
    pub(super) rtt: Duration,
}

/// Follows what was sent and what arrived.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    sent: VecDeque<Sent>,
    /// Bytes that went out since the last sending that is remembered.
    passed_over: u64,
    delivered: u64,
    delivered_at: Instant,
    first: Instant,
    /// What is sent before so much arrived was limited by the application.
    limited_until: u64,
    /// The newest acknowledged sending of the batch.
    newest: Option<Sent>,
}

impl Delivery {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            sent: VecDeque::new(),
            passed_over: 0,
            delivered: 0,
            delivered_at: now,
            first: now,
            limited_until: 0,
            newest: None,
        }
    }

    /// Bytes that arrived.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.sent.len()
    }

    /// So many bytes go out beside those that are on their way.
    pub(super) fn sent(&mut self, now: Instant, bytes: u64, in_flight: u64) {
        if in_flight == 0 {
            (self.first, self.delivered_at) = (now, now);
        }
        self.passed_over += bytes;
        let known = self.sent.back().is_some_and(|last| last.at == now);
        if known || self.passed_over < in_flight / REMEMBERED {
            return;
        }
        self.passed_over = 0;
        if self.sent.len() == MOST_SENT {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent {
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first: self.first,
            limited: self.delivered < self.limited_until,
        });
    }

    /// A packet that was sent at `sent` arrived.
    pub(super) fn acked(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.delivered_at = now;
        let index = self.sent.partition_point(|other| other.at < sent);
        let Some(found) = self.sent.get(index).filter(|other| other.at == sent) else { return };
        if self.newest.is_none_or(|newest| newest.at <= sent) {
            self.newest = Some(*found);
        }
    }

    /// The batch is complete: what it says, unless none of its sendings is remembered.
    pub(super) fn sample(&mut self, now: Instant, in_flight: u64, limited: bool) -> Option<Sample> {
        if limited {
            self.limited_until = self.delivered + in_flight;
        }
        let newest = self.newest.take()?;
        self.first = newest.at;
        // What is older arrived already, or never will.
        let gone = self.sent.partition_point(|other| other.at < newest.first);
        self.sent.drain(..gone);
        let took = (newest.at - newest.first).max(now - newest.delivered_at).max(Duration::from_micros(1));
        Some(Sample {
            rate: (self.delivered - newest.delivered) as f64 / took.as_secs_f64(),
            limited: newest.limited,
            prior: newest.delivered,
            rtt: now - newest.at,
        })
    }
}
