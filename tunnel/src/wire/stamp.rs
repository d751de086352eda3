//! Frames are good once: what tells one that comes again from one that is new.
//!
//! A frame's nonce begins with a stamp, the sender's clock in microseconds, larger in each frame than in the one
//! before. The receiver of authentic frames remembers the stamps of the last seconds, and takes none that is older.
//! Whoever recorded a frame and sends it again, from wherever, is neither answered nor believed.
//!
//! Clocks may be wrong: stamps are compared with those of the same sender, never with the receiver's clock, which
//! bounds only how far ahead a sender can push what it is held to. A node that starts again with its clock set back
//! is late to those who heard it before; they ask it by a probe of their own, whose answer is good for its number and
//! makes them start over ([`Window::restart`]). A node that starts again has heard nobody, so the first frame of each
//! peer is taken as it is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// How far apart, in microseconds, two frames of a sender may overtake each other on their ways.
const SPAN: u64 = 10_000_000;
/// Stamps that are remembered of one sender: a burst of probes over every way is a few dozen.
const REMEMBERED: usize = 512;

/// Microseconds of a clock, as in stamps.
pub fn micros(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Gives stamps.
#[derive(Debug, Default)]
pub(crate) struct Stamps(AtomicU64);

impl Stamps {
    /// The next stamp at `clock`.
    pub(crate) fn next(&self, clock: u64) -> u64 {
        let next = |last: u64| clock.max(last.saturating_add(1));
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last))).map_or(clock, next)
    }
}

/// What a stamp says of its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Novelty {
    /// It is new.
    New,
    /// It came before.
    Again,
    /// It is older than what is remembered.
    Late,
}

/// The stamps that came from one sender.
#[derive(Debug, Default)]
pub(crate) struct Window {
    newest: u64,
    /// Stamps up to this one are late.
    floor: u64,
    seen: VecDeque<u64>,
}

impl Window {
    /// Takes a stamp up, at the receiver's `clock`.
    pub(crate) fn take(&mut self, stamp: u64, clock: u64) -> Novelty {
        if self.seen.contains(&stamp) {
            return Novelty::Again;
        }
        if stamp <= self.floor {
            return Novelty::Late;
        }
        self.newest = self.newest.max(stamp);
        self.floor = self.floor.max(self.newest.min(clock).saturating_sub(SPAN));
        self.seen.retain(|seen| *seen > self.floor);
        if self.seen.len() == REMEMBERED
            && let Some(forgotten) = self.seen.pop_front()
        {
            self.floor = self.floor.max(forgotten.min(clock));
        }
        self.seen.push_back(stamp);
        Novelty::New
    }

    /// The sender's clock is at `stamp` now, whatever it was: known for certain.
    pub(crate) fn restart(&mut self, stamp: u64) {
        if stamp <= self.floor {
            *self = Self { newest: stamp, floor: stamp, seen: VecDeque::new() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock of today.
    const NOW: u64 = 1_800_000_000_000_000;

    #[test]
    fn a_frame_is_new_once() {
        let mut window = Window::default();
        for stamp in [NOW, NOW + 5, NOW + 3] {
            assert_eq!(window.take(stamp, NOW), Novelty::New);
            assert_eq!(window.take(stamp, NOW), Novelty::Again);
        }
        let later = NOW + 2 * SPAN;
        assert_eq!(window.take(later, later), Novelty::New);
        assert_eq!(window.take(NOW + 4, later), Novelty::Late, "it never came, but it might have");
        assert_eq!(window.take(NOW, later), Novelty::Late);
        assert!(window.seen.len() <= 2);
    }

    #[test]
    fn a_burst_costs_bounded_memory_and_nothing_comes_again() {
        let mut window = Window::default();
        let stamps = || (0..4 * REMEMBERED as u64).map(|index| NOW + index);
        assert!(stamps().all(|stamp| window.take(stamp, NOW + SPAN / 2) == Novelty::New));
        assert_eq!(window.seen.len(), REMEMBERED);
        assert!(stamps().all(|stamp| window.take(stamp, NOW + SPAN / 2) != Novelty::New));
    }

    #[test]
    fn a_clock_that_was_ahead_and_was_set_right_is_no_reason_to_be_deaf() {
        let year = 365 * 86_400 * 1_000_000;
        let mut window = Window::default();
        assert_eq!(window.take(NOW + year, NOW), Novelty::New);
        assert_eq!(window.take(NOW + 1, NOW + 1), Novelty::New);
    }

    #[test]
    fn a_clock_that_was_set_back_is_followed_once_it_is_certain() {
        let hour = 3_600_000_000;
        let mut window = Window::default();
        window.take(NOW, NOW);
        assert_eq!(window.take(NOW - hour, NOW), Novelty::Late);
        window.restart(NOW - hour + 1);
        assert_eq!(window.take(NOW - hour, NOW), Novelty::Late, "what came before that is no newer for it");
        assert_eq!(window.take(NOW - hour + 2, NOW), Novelty::New);
        // An answer that overtook others changes nothing.
        window.restart(NOW - hour + 2);
        assert_eq!(window.take(NOW - hour + 2, NOW), Novelty::Again);
    }

    #[test]
    fn stamps_only_grow() {
        let stamps = Stamps::default();
        let given: Vec<u64> = [5, 5, 9, 2, 10].map(|clock| stamps.next(clock)).to_vec();
        assert_eq!(given, [5, 6, 9, 10, 11]);
    }
}
