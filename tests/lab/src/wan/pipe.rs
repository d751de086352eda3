//! What becomes of a packet on one direction of a WAN, and when: packets and `now` in, packets out.
//!
//! A packet waits for the transmitter, which sends one after the other at the rate; then it may be lost, and
//! is under way for the delay. What is under way keeps its time when the conditions change.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::{Conditions, control::Count, milliseconds};

/// Bytes under way at most, whatever the rate: 10 Gbit/s for 100 ms.
const MOST_BYTES: usize = 128 << 20;
/// Bytes of a frame before the IP packet.
const ETHERNET: usize = 14;

/// One direction. `P` is a packet, or what stands for one.
#[derive(Debug)]
pub(super) struct Pipe<P> {
    conditions: Conditions,
    random: SmallRng,
    /// When the transmitter has sent what it was given.
    free_at: Option<Instant>,
    /// When the last packet that keeps its order arrives.
    last_due: Option<Instant>,
    under_way: BinaryHeap<Reverse<UnderWay<P>>>,
    bytes: usize,
    sequence: u64,
    count: Count,
}

#[derive(Debug)]
struct UnderWay<P> {
    due: Instant,
    sequence: u64,
    size: usize,
    packet: P,
}

impl<P> Pipe<P> {
    /// An empty one.
    pub(super) fn new(conditions: Conditions, seed: u64) -> Self {
        Self {
            conditions,
            random: SmallRng::seed_from_u64(seed),
            free_at: None,
            last_due: None,
            under_way: BinaryHeap::new(),
            bytes: 0,
            sequence: 0,
            count: Count::default(),
        }
    }

    /// From now on packets find these conditions.
    pub(super) fn set(&mut self, conditions: Conditions) {
        self.conditions = conditions;
    }

    /// What passed and what did not.
    pub(super) fn count(&self) -> Count {
        Count { under_way: self.under_way.len() as u64, ..self.count }
    }

    /// Takes a frame of `size` bytes. One that does not pass is given back.
    pub(super) fn offer(&mut self, now: Instant, packet: P, size: usize) -> Result<(), P> {
        if self.conditions.mtu.is_some_and(|mtu| size > usize::from(mtu) + ETHERNET) {
            self.count.too_big += 1;
            return Err(packet);
        }
        let begin = self.free_at.map_or(now, |free| free.max(now));
        let waits = begin.saturating_duration_since(now);
        if self.bytes + size > MOST_BYTES || waits > self.conditions.queue() {
            self.count.overflowed += 1;
            return Err(packet);
        }
        let sent = begin + self.sending(size);
        self.free_at = Some(sent);
        if self.chance(self.conditions.loss) {
            self.count.lost += 1;
            return Err(packet);
        }
        let due = self.arrival(sent);
        self.sequence += 1;
        self.bytes += size;
        self.under_way.push(Reverse(UnderWay { due, sequence: self.sequence, size, packet }));
        Ok(())
    }

    /// How long the transmitter takes for a frame.
    fn sending(&self, size: usize) -> Duration {
        self.conditions.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(size as f64 * 8e-6 / rate))
    }

    /// When a packet arrives that the transmitter has sent.
    fn arrival(&mut self, sent: Instant) -> Instant {
        let Conditions { jitter, reorder, .. } = self.conditions;
        let mut due = sent + self.conditions.delay();
        if jitter > 0.0 {
            due += milliseconds(jitter).mul_f64(self.random.random::<f64>());
        }
        due = self.last_due.map_or(due, |last| last.max(due));
        if self.chance(reorder) {
            // Not remembered as the last: others pass.
            return due + milliseconds(if jitter > 0.0 { jitter } else { 1.0 });
        }
        self.last_due = Some(due);
        due
    }

    fn chance(&mut self, percent: f64) -> bool {
        percent > 0.0 && self.random.random::<f64>() * 100.0 < percent
    }

    /// The next packet that has arrived.
    pub(super) fn pop(&mut self, now: Instant) -> Option<P> {
        if self.under_way.peek()?.0.due > now {
            return None;
        }
        let Reverse(arrived) = self.under_way.pop()?;
        self.bytes -= arrived.size;
        self.count.passed += 1;
        self.count.passed_bytes += arrived.size as u64;
        Some(arrived.packet)
    }

    /// When the next one arrives.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.under_way.peek().map(|next| next.0.due)
    }
}

impl<P> Ord for UnderWay<P> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.sequence).cmp(&(other.due, other.sequence))
    }
}

impl<P> PartialOrd for UnderWay<P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P> PartialEq for UnderWay<P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<P> Eq for UnderWay<P> {}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: usize = 1514;

    fn pipe(text: &str) -> Pipe<u32> {
        Pipe::new(text.parse().unwrap(), 7)
    }

    /// What comes out, with the time since `start` in milliseconds.
    fn drain(pipe: &mut Pipe<u32>, start: Instant) -> Vec<(u32, f64)> {
        let mut out = Vec::new();
        while let Some(due) = pipe.next_due() {
            assert_eq!(pipe.pop(due.checked_sub(Duration::from_nanos(1)).unwrap()), None);
            out.push((pipe.pop(due).unwrap(), (due - start).as_secs_f64() * 1000.0));
        }
        out
    }

    fn offer_all(pipe: &mut Pipe<u32>, start: Instant, count: u32, every: Duration) -> u32 {
        (0..count).filter(|n| pipe.offer(start + every * *n, *n, FRAME).is_ok()).count() as u32
    }

    #[test]
    fn nothing_is_done_where_nothing_is_said() {
        let (mut pipe, now) = (pipe(""), Instant::now());
        pipe.offer(now, 1, FRAME).unwrap();
        assert_eq!(pipe.pop(now), Some(1));
        assert_eq!(pipe.next_due(), None);
    }

    #[test]
    fn a_delay_is_kept_to_the_nanosecond() {
        let (mut pipe, now) = (pipe("delay=10"), Instant::now());
        pipe.offer(now, 1, FRAME).unwrap();
        assert_eq!(pipe.next_due(), Some(now + Duration::from_millis(10)));
        assert_eq!(drain(&mut pipe, now), [(1, 10.0)]);
    }

    #[test]
    fn a_rate_sends_one_after_the_other_and_its_queue_is_bounded() {
        // 1514 bytes take 1.2112 ms at 10 Mbit/s: the queue of 12 ms takes ten and the one being sent.
        let (mut pipe, now) = (pipe("delay=5,rate=10,queue=12"), Instant::now());
        assert_eq!(offer_all(&mut pipe, now, 50, Duration::ZERO), 10);
        assert_eq!(pipe.count().overflowed, 40);
        let out = drain(&mut pipe, now);
        assert!((out[0].1 - 6.2112).abs() < 1e-3, "{out:?}");
        assert!((out[9].1 - 17.112).abs() < 1e-3, "{out:?}");
        // Once it is empty the transmitter is free again.
        let later = now + Duration::from_secs(1);
        pipe.offer(later, 99, FRAME).unwrap();
        assert!((drain(&mut pipe, later)[0].1 - 6.2112).abs() < 1e-3);
    }

    #[test]
    fn loss_is_its_share_and_the_same_for_a_seed() {
        let now = Instant::now();
        let run = || {
            let mut pipe = pipe("loss=2");
            let lost = |n: &u32| pipe.offer(now, *n, FRAME).is_err() || pipe.pop(now) != Some(*n);
            (0..100_000).filter(lost).collect::<Vec<_>>()
        };
        let lost = run();
        assert!((1_850..2_150).contains(&lost.len()), "{}", lost.len());
        assert_eq!(lost, run());
        let mut all = pipe("loss=100");
        assert!(all.offer(now, 1, FRAME).is_err());
    }

    #[test]
    fn jitter_keeps_the_order_and_stays_within_its_bound() {
        let (mut pipe, now) = (pipe("delay=10,jitter=4"), Instant::now());
        let every = Duration::from_micros(100);
        offer_all(&mut pipe, now, 1000, every);
        let out = drain(&mut pipe, now);
        assert!(out.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
        assert!(out.iter().all(|(n, at)| (10.0..=14.001).contains(&(at - f64::from(*n) / 10.0))));
    }

    #[test]
    fn what_is_reordered_is_overtaken() {
        let (mut pipe, now) = (pipe("delay=10,reorder=5"), Instant::now());
        offer_all(&mut pipe, now, 1000, Duration::from_micros(100));
        let out = drain(&mut pipe, now);
        let late = out.windows(2).filter(|pair| pair[0].0 > pair[1].0).count();
        assert!((20..90).contains(&late), "{late}");
        assert_eq!(out.len(), 1000);
    }

    #[test]
    fn what_is_larger_than_the_mtu_vanishes() {
        let (mut pipe, now) = (pipe("mtu=1280"), Instant::now());
        assert_eq!(pipe.offer(now, 1, 1294), Ok(()));
        assert_eq!(pipe.offer(now, 2, 1295), Err(2));
        assert_eq!(pipe.count().too_big, 1);
    }

    #[test]
    fn a_change_leaves_what_is_under_way_alone() {
        let (mut pipe, now) = (pipe("delay=10"), Instant::now());
        pipe.offer(now, 1, FRAME).unwrap();
        pipe.set("delay=50".parse().unwrap());
        pipe.offer(now, 2, FRAME).unwrap();
        assert_eq!(drain(&mut pipe, now), [(1, 10.0), (2, 50.0)]);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut pipe, now) = (pipe("delay=60000"), Instant::now());
        let taken = (0..100_000).take_while(|n| pipe.offer(now, *n, FRAME).is_ok()).count();
        assert!(taken * FRAME <= MOST_BYTES && taken > 80_000, "{taken}");
    }
}
