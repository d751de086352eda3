//! How many frames are taken of one address: whoever floods is passed over before the engine is asked.
//!
//! A fixed table of buckets, by a keyed hash of the address, so that many addresses cost no memory. Two that share a
//! bucket share its rate.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets, of 8 bytes each.
const BUCKETS: usize = 1 << 14;
/// Milliseconds of the rate that may come at once.
const BURST: u64 = 1_000;

/// Counts what comes. Times are of one clock in milliseconds.
#[derive(Debug)]
pub(super) struct Throttle {
    hasher: RandomState,
    /// By how many microseconds of the rate what came is ahead of the clock's start (the virtual scheduling algorithm
    /// of ITU-T I.371): one number says it all.
    due: Vec<AtomicU64>,
    /// Microseconds that one frame stands for.
    each: u64,
}

impl Throttle {
    /// So many frames a second of one address.
    pub(super) fn new(per_second: u32) -> Self {
        let due = std::iter::repeat_with(AtomicU64::default).take(BUCKETS).collect();
        Self { hasher: RandomState::new(), due, each: 1_000_000 / u64::from(per_second.clamp(1, 1_000_000)) }
    }

    /// Frames by which the busiest address is ahead of its rate at `clock`: none of more than a second's is taken.
    pub(super) fn most(&self, clock: u64) -> u64 {
        let due = self.due.iter().map(|due| due.load(Ordering::Relaxed)).max().unwrap_or_default();
        due.saturating_sub(clock * 1_000).div_ceil(self.each)
    }

    /// Whether another frame of `from` is taken at `clock`.
    #[allow(deprecated, reason = "`try_update`, its new name, is younger than our rust-version")]
    pub(super) fn takes(&self, from: &SocketAddr, clock: u64) -> bool {
        let bucket = &self.due[self.hasher.hash_one(from) as usize % BUCKETS];
        let now = clock * 1_000;
        let next = |due: u64| {
            let due = due.max(now) + self.each;
            (due <= now + BURST * 1_000).then_some(due)
        };
        bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_floods_is_passed_over_and_the_others_are_not() {
        let throttle = Throttle::new(100);
        let [flood, other]: [SocketAddr; 2] =
            ["192.0.2.1:1", "192.0.2.2:1"].map(|address| address.parse().unwrap());
        let taken = |from, clocks: std::ops::Range<u64>| {
            clocks.flat_map(|clock| [clock; 10]).filter(|clock| throttle.takes(from, *clock)).count()
        };
        // Ten a millisecond: a burst of a second, then the rate.
        assert_eq!(throttle.most(0), 0);
        let first = taken(&flood, 0..1_000);
        assert!((99..=100).contains(&throttle.most(999)), "as far as it may be: {}", throttle.most(999));
        assert!((195..=205).contains(&first), "{first}");
        assert!(throttle.takes(&other, 1_000));
        let second = taken(&flood, 1_000..2_000);
        assert!((95..=105).contains(&second), "{second}");
        // After a rest it is as anybody.
        assert_eq!(throttle.most(10_000), 0);
        assert_eq!(taken(&flood, 10_000..10_001), 10);
    }
}
