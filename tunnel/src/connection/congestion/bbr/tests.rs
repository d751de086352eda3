//! A sender as quinn is one, on a simulated path in simulated time.

use std::collections::{BTreeMap, VecDeque};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

const MTU: u64 = 1400;
/// Packets after a lost one that prove its loss (RFC 9002, section 6.1.1).
const REORDER: u64 = 3;
const STEP: Duration = Duration::from_micros(100);

/// A path: what it carries, how long a round trip takes, how much waits before it, how much it loses by chance.
#[derive(Clone, Copy, Debug)]
struct Conditions {
    mbits: f64,
    rtt: Duration,
    queue: Duration,
    loss: f64,
}

struct Path {
    now: Instant,
    conditions: Conditions,
    bbr: Bbr,
    random: SmallRng,
    tokens: f64,
    srtt: Duration,
    next: u64,
    /// When the link has sent what it took so far.
    busy_until: Instant,
    /// Packets that arrive, as acknowledgements: when, which.
    coming: VecDeque<(Instant, u64)>,
    /// On their way as far as the sender knows: when they left.
    sent: BTreeMap<u64, Instant>,
    /// Taken for lost, and not sent again yet; and what a receiver misses.
    again: u64,
    missing: usize,
    most_missing: usize,
    arrived: u64,
    lost: u64,
}

impl Path {
    fn new(conditions: Conditions) -> Self {
        let now = Instant::now();
        Self {
            now,
            conditions,
            bbr: Bbr::new(now, MTU as u16),
            random: SmallRng::seed_from_u64(1),
            tokens: 0.0,
            srtt: conditions.rtt,
            next: 0,
            busy_until: now,
            coming: VecDeque::new(),
            sent: BTreeMap::new(),
            again: 0,
            missing: 0,
            most_missing: 0,
            arrived: 0,
            lost: 0,
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            self.take_acks();
            let window = self.bbr.window() as f64;
            self.tokens += window * 1.25 * STEP.as_secs_f64() / self.srtt.as_secs_f64();
            self.tokens = self.tokens.min(10.0 * MTU as f64);
            while self.tokens >= MTU as f64 && (self.sent.len() as u64 + 1) * MTU < self.bbr.window() {
                self.tokens -= MTU as f64;
                self.send();
            }
        }
    }

    fn send(&mut self) {
        self.bbr.on_sent(self.now, MTU, self.next);
        self.sent.insert(self.next, self.now);
        let waits = self.busy_until.saturating_duration_since(self.now);
        let lost = waits > self.conditions.queue || self.random.random::<f64>() < self.conditions.loss;
        if lost {
            self.missing += 1;
            self.lost += 1;
        } else {
            let takes = Duration::from_secs_f64(MTU as f64 * 8e-6 / self.conditions.mbits);
            self.busy_until = self.busy_until.max(self.now) + takes;
            self.coming.push_back((self.busy_until + self.conditions.rtt, self.next));
        }
        // What is sent again fills a gap, unless it is lost again.
        if self.again > 0 && !lost {
            self.again -= 1;
            self.missing = self.missing.saturating_sub(1);
        }
        self.most_missing = self.most_missing.max(self.missing);
        self.next += 1;
    }

    fn take_acks(&mut self) {
        let mut largest = None;
        while let Some((_, number)) = self.coming.pop_front_if(|(at, _)| *at <= self.now) {
            let Some(at) = self.sent.remove(&number) else { continue };
            self.srtt = (self.srtt * 7 + (self.now - at)) / 8;
            self.bbr.acked(self.now, at, MTU);
            self.arrived += 1;
            largest = Some(number);
        }
        let Some(largest) = largest else { return };
        let in_flight = self.sent.len() as u64 * MTU;
        self.bbr.on_end_acks(self.now, in_flight, false, Some(largest));
        let lost = self.sent.extract_if(..(largest + 1).saturating_sub(REORDER), |_, _| true);
        for (_, at) in lost.collect::<Vec<_>>() {
            self.bbr.on_congestion_event(self.now, at, false, MTU);
            self.again += 1;
        }
    }

    /// Share of what the path carries that arrives, and share of what is sent that is lost, in `time`.
    fn measure(&mut self, time: Duration) -> (f64, f64) {
        (self.arrived, self.lost) = (0, 0);
        self.run(time);
        let carried = self.arrived as f64 * MTU as f64 * 8e-6 / time.as_secs_f64();
        (carried / self.conditions.mbits, self.lost as f64 / (self.lost + self.arrived) as f64)
    }
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn path(mbits: f64, rtt: u64, queue: u64, loss: f64) -> Path {
    Path::new(Conditions { mbits, rtt: ms(rtt), queue: ms(queue), loss })
}

/// Gaps of which quinn's receiver bears 1,024 in a stream, and then ends the connection.
const GAPS: usize = 1024;

#[test]
fn a_path_is_filled_and_not_flooded() {
    for (mbits, rtt, queue) in [
        (50.0, 20, 50),
        (190.0, 20, 50),
        (200.0, 100, 50),
        (20.0, 40, 200),
        (200.0, 5, 10),
        (1000.0, 100, 20),
    ] {
        let mut path = path(mbits, rtt, queue, 0.0);
        path.run(ms(rtt) * 25);
        let (used, lost) = path.measure(Duration::from_secs(25));
        let conditions = path.conditions;
        assert!(used > 0.93, "{conditions:?}: {used:.3} of it used");
        assert!(lost < 0.001, "{conditions:?}: {lost:.4} lost");
        assert!(
            path.srtt < conditions.rtt * 3 / 2 + ms(10),
            "{conditions:?}: {:?} with the queue",
            path.srtt
        );
        assert!(path.most_missing < GAPS * 2 / 3, "{conditions:?}: {} gaps", path.most_missing);
    }
}

#[test]
fn where_hardly_anything_waits_little_is_lost() {
    for (mbits, rtt, queue) in
        [(200.0, 20, 5), (190.0, 40, 2), (50.0, 20, 1), (500.0, 50, 1), (500.0, 100, 1), (500.0, 100, 5)]
    {
        let mut path = path(mbits, rtt, queue, 0.0);
        path.run(ms(rtt) * 30);
        let (used, lost) = path.measure(Duration::from_secs(10));
        assert!(used > 0.9 && lost < 0.1, "{:?}: {used:.3} used, {lost:.3} lost", path.conditions);
        assert!(path.most_missing < GAPS * 2 / 3, "{:?}: {} gaps", path.conditions, path.most_missing);
    }
}

#[test]
fn losses_by_chance_do_not_slow_it_down() {
    for loss in [0.005, 0.02] {
        let mut path = path(190.0, 20, 50, loss);
        path.run(ms(500));
        let (used, lost) = path.measure(Duration::from_secs(10));
        assert!(used > 0.93 && lost < loss * 1.5, "{loss}: {used:.3} used, {lost:.3} lost");
    }
}

#[test]
fn it_follows_a_path_whose_rate_changes() {
    let mut path = path(190.0, 20, 50, 0.0);
    path.run(ms(2000));
    path.conditions.mbits = 40.0;
    path.run(ms(2000));
    assert!(path.most_missing < GAPS * 2 / 3, "{} gaps", path.most_missing);
    let (used, lost) = path.measure(ms(4000));
    assert!(used > 0.9 && lost < 0.02, "slower: {used:.3} used, {lost:.3} lost");
    path.conditions.mbits = 190.0;
    path.run(ms(1000));
    let (used, lost) = path.measure(ms(4000));
    assert!(used > 0.9 && lost < 0.02, "faster: {used:.3} used, {lost:.3} lost");
}

#[test]
fn a_longer_way_is_taken_for_what_it_is() {
    let mut path = path(100.0, 20, 50, 0.0);
    path.run(ms(2000));
    path.conditions.rtt = ms(60);
    path.run(Duration::from_secs(22));
    let (used, lost) = path.measure(ms(4000));
    assert!(used > 0.9 && lost < 0.02, "{used:.3} used, {lost:.3} lost");
}

#[test]
fn what_another_path_lost_is_not_held_against_this_one() {
    let start = Instant::now();
    let mut bbr = Bbr::new(start + ms(100), MTU as u16);
    bbr.on_congestion_event(start + ms(130), start + ms(99), false, 100 * MTU);
    assert_eq!(bbr.round_lost, 0);
    bbr.on_congestion_event(start + ms(130), start + ms(101), false, MTU);
    assert_eq!(bbr.round_lost, MTU);
}

#[test]
fn acknowledgements_alone_are_remembered_in_bounds() {
    let start = Instant::now();
    let mut delivery = Delivery::new(start);
    for packet in 0..1_000_000 {
        delivery.sent(start + Duration::from_micros(packet), 40, packet * 40);
    }
    assert!(delivery.remembered() <= 2_000, "{}", delivery.remembered());
}
