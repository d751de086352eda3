//! Congestion control by the bandwidth and the round trip time of the path, after BBR (draft-ietf-ccwg-bbr).
//!
//! Losses by chance do not slow it down, and it keeps little more on its way than the path holds. quinn's own BBR
//! takes the time between two acknowledgements for the path's rate and never forgets the highest, so that its window
//! grows to many times what the path holds: every second packet is lost then. quinn paces by the window
//! (1.25 windows a round trip), so there is no rate of sending here beside it.
//!
//! It doubles each round until the rate rises no more, a queue builds up or packets are lost. From then on the window
//! is what the path holds and a little more: the rate follows it up where there is room, and it follows the highest
//! rate of the last rounds down where there is less. Where that little more is lost it is given up.

use std::any::Any;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerMetrics};
use quinn_proto::RttEstimator;

use super::rate::Delivery;

/// Packets of the first and of the smallest window.
const INITIAL: u64 = 32;
const LEAST: u64 = 4;
/// Share of what the path holds that is sent: while it doubles, later, and where more is lost.
const STARTUP_GAIN: f64 = 2.0;
const GAIN: f64 = 1.25;
const LEAST_GAIN: f64 = 1.1;
/// What comes on top: hosts and radios hold packets back for so long now and then.
const SLACK: Duration = Duration::from_millis(5);
/// Packets that may be on their way beyond what the path holds: if all of them are lost, the gaps are half of those
/// (1,024) upon which quinn's receiver ends the connection.
const EXCESS: u64 = 512;
/// The same where so much is lost all the time: each round loses them anew before the last round's are sent again.
const LEAST_EXCESS: u64 = 192;
/// Rounds whose highest rate counts.
const ROUNDS: u64 = 10;
/// Growth below which so many rounds end the doubling.
const GROWTH: f64 = 1.25;
const FLAT_ROUNDS: u32 = 3;
/// Delay from which a queue has built up, beside a quarter of the round trip: HyStart++ (RFC 9406) has 4 to 16 ms.
const QUEUE: Duration = Duration::from_millis(8);
/// Batches of acknowledgements in a row that must show it, as HyStart++ has it.
const WAITED: u32 = 8;
/// Share of a round, and least number of its packets, whose loss is not chance.
const LOSS: f64 = 0.05;
const LEAST_LOST: u64 = 8;
/// What becomes of the bound after a round with, and one without such loss.
const SHRINK: f64 = 0.85;
const STRETCH: f64 = 1.05;
/// How long the shortest round trip counts, and how long the window is small to see it again.
const RTT_AGE: Duration = Duration::from_secs(10);
const RTT_PROBE: Duration = Duration::from_millis(200);
const RTT_PROBE_GAIN: f64 = 0.5;

/// The highest value of the last rounds.
#[derive(Clone, Debug, Default)]
struct Highest(VecDeque<(u64, f64)>);

impl Highest {
    fn update(&mut self, round: u64, value: f64) {
        while self.0.back().is_some_and(|(_, other)| *other <= value) {
            self.0.pop_back();
        }
        self.0.push_back((round, value));
        while self.0.front().is_some_and(|(at, _)| at + ROUNDS < round) {
            self.0.pop_front();
        }
    }

    fn get(&self) -> f64 {
        self.0.front().map_or(0.0, |(_, value)| *value)
    }
}

/// What comes in heaps, because something on the way collects acknowledgements.
#[derive(Clone, Debug)]
struct Heaps {
    since: Instant,
    acked: f64,
    highest: Highest,
}

impl Heaps {
    /// Takes `acked` more bytes on a path of `rate`.
    fn update(&mut self, now: Instant, round: u64, acked: u64, rate: f64) {
        if self.acked <= rate * (now - self.since).as_secs_f64() {
            (self.since, self.acked) = (now, 0.0);
        }
        self.acked += acked as f64;
        self.highest.update(round, self.acked - rate * (now - self.since).as_secs_f64());
    }
}

/// The controller of one connection on one path.
#[derive(Clone, Debug)]
pub(super) struct Bbr {
    born: Instant,
    mtu: u64,
    window: u64,
    delivery: Delivery,
    in_flight: u64,
    acked: u64,
    /// Bytes a second.
    rate: Highest,
    heaps: Heaps,
    round: u64,
    /// The round ends when a packet arrives that was sent after so much had arrived.
    round_end: u64,
    round_began: u64,
    round_lost: u64,
    /// While it doubles: the rate that it is to exceed, and the rounds in which it did not.
    doubling: Option<(f64, u32)>,
    /// Batches in a row whose packets waited in a queue.
    waited: u32,
    /// Most that may be on its way without being lost.
    bound: Option<f64>,
    rtt: Option<(Duration, Instant)>,
    /// Until when the window is small.
    small_until: Option<Instant>,
}

impl Bbr {
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        let mtu = u64::from(mtu);
        Self {
            born: now,
            mtu,
            window: INITIAL * mtu,
            delivery: Delivery::new(now),
            in_flight: 0,
            acked: 0,
            rate: Highest::default(),
            heaps: Heaps { since: now, acked: 0.0, highest: Highest::default() },
            round: 0,
            round_end: 0,
            round_began: 0,
            round_lost: 0,
            doubling: Some((0.0, 0)),
            waited: 0,
            bound: None,
            rtt: None,
            small_until: None,
        }
    }

    fn acked(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivery.acked(now, sent, bytes);
        self.acked += bytes;
    }

    /// Bytes that the path holds for `share` of its round trip.
    fn holds(&self, share: f64) -> f64 {
        self.rtt.map_or(0.0, |(rtt, _)| self.rate.get() * rtt.as_secs_f64() * share)
    }

    /// What may be on its way; `None` before anything was measured.
    fn target(&self) -> Option<f64> {
        let slack = self.rate.get() * SLACK.as_secs_f64();
        let target = match self.doubling {
            Some(_) => self.holds(STARTUP_GAIN),
            None => self.holds(GAIN) + slack + self.heaps.highest.get(),
        };
        let most = self.holds(1.0) + (EXCESS * self.mtu) as f64;
        (target > 0.0).then_some(target.min(most))
    }

    fn measure_rtt(&mut self, now: Instant, rtt: Duration, limited: bool) {
        let known = self.rtt.filter(|(least, at)| rtt > *least && (now - *at <= RTT_AGE || !limited));
        let Some((_, at)) = known else {
            (self.rtt, self.small_until) = (Some((rtt, now)), None);
            return;
        };
        if now - at <= RTT_AGE {
            return;
        }
        // A queue of our own may stand on the path: it is let run out before what is measured counts.
        match self.small_until {
            None => self.small_until = Some(now + RTT_PROBE.max(rtt * 2)),
            Some(until) if now >= until => (self.rtt, self.small_until) = (Some((rtt, now)), None),
            Some(_) => {}
        }
    }

    fn end_round(&mut self, limited: bool) {
        let arrived = self.delivery.delivered() - self.round_began;
        let lossy = self.is_lossy(self.round_lost + arrived);
        if let Some((before, flat)) = self.doubling {
            let rate = self.rate.get();
            let grew = rate >= before * GROWTH;
            let flat = if grew || limited { 0 } else { flat + 1 };
            self.doubling = (flat < FLAT_ROUNDS).then_some((if grew { rate } else { before }, flat));
        }
        let least = self.holds(LEAST_GAIN).min(self.holds(1.0) + (LEAST_EXCESS * self.mtu) as f64);
        self.bound = match self.bound {
            _ if lossy => Some((self.window as f64 * SHRINK).max(least)),
            Some(bound) => {
                let bound = (bound * STRETCH).max(least);
                self.target().is_some_and(|target| bound < target).then_some(bound)
            }
            None => None,
        };
        (self.round_began, self.round_lost) = (self.delivery.delivered(), 0);
        self.round_end = self.delivery.delivered();
        self.round += 1;
    }

    /// Ends the doubling when packets wait in a queue, or fall out of it: not at the round's end, for by then twice as
    /// much is on its way.
    fn watch_doubling(&mut self, rtt: Duration) {
        let waited = self.rtt.is_some_and(|(least, _)| rtt > least + (least / 4).max(QUEUE));
        self.waited = if waited { self.waited + 1 } else { 0 };
        if self.waited >= WAITED || self.is_lossy(self.window) {
            self.doubling = None;
        }
    }

    /// Whether more than chance was lost of so much.
    fn is_lossy(&self, of: u64) -> bool {
        self.round_lost >= LEAST_LOST * self.mtu && self.round_lost as f64 > LOSS * of as f64
    }

    fn resize(&mut self, acked: u64) {
        let Some(target) = self.target() else {
            self.window += acked;
            return;
        };
        let target = self.bound.map_or(target, |bound| bound.min(target)) as u64;
        let grown = self.window + acked;
        let least = if self.doubling.is_some() { self.window } else { LEAST * self.mtu };
        self.window = grown.min(target).max(least);
    }
}

impl Controller for Bbr {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.delivery.sent(now, bytes, self.in_flight);
        self.in_flight += bytes;
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        self.acked(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest: Option<u64>) {
        self.in_flight = in_flight;
        let Some(sample) = self.delivery.sample(now, in_flight, app_limited) else { return };
        let acked = std::mem::take(&mut self.acked);
        self.measure_rtt(now, sample.rtt, sample.limited);
        if !sample.limited || sample.rate > self.rate.get() {
            self.rate.update(self.round, sample.rate);
        }
        self.heaps.update(now, self.round, acked, self.rate.get());
        if self.doubling.is_some() {
            self.watch_doubling(sample.rtt);
        }
        if sample.prior >= self.round_end {
            self.end_round(sample.limited);
        }
        self.resize(acked);
    }

    fn on_congestion_event(&mut self, _now: Instant, sent: Instant, _persistent: bool, lost_bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(lost_bytes);
        // What was sent before is the loss of another path.
        if sent >= self.born {
            self.round_lost += lost_bytes;
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
        self.window = self.window.max(LEAST * self.mtu);
    }

    fn window(&self) -> u64 {
        if self.small_until.is_none() {
            return self.window;
        }
        self.window.min(self.holds(RTT_PROBE_GAIN) as u64).max(LEAST * self.mtu)
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics.pacing_rate = Some((self.rate.get() * 8.0) as u64);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests;
