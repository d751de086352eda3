//! Frames are good once: what tells one that comes again from one that is new.
//!
//! A frame's nonce begins with a stamp, the sender's clock in microseconds, larger in each frame than in the one
//! before. The receiver of authentic frames remembers the stamps of the last seconds, and takes none that is older.
//! Whoever recorded a frame and sends it again, from wherever, is neither answered nor believed.
//!
//! Clocks may be wrong: stamps are compared with those of the same sender, never with the receiver's clock. Between two
//! frames the sender's clock is taken to go on as the receiver's does, so that a frame that was held back is late as
//! well. A node that starts again with its clock set back is late to those who heard it before. It is believed again
//! when it answers a probe of theirs, whose number nobody else knows, or when it comes by a carrier, in whose handshake
//! it proved that it is there ([`Window::restart`]). A node that starts again has heard nobody, so the first frame of
//! each peer is taken as it is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

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
    #[allow(deprecated, reason = "`try_update`, its new name, is younger than our rust-version")]
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
    /// The newest, and when it came.
    newest: Option<(u64, Instant)>,
    /// Stamps up to this one are late in any case.
    floor: u64,
    seen: VecDeque<u64>,
}

impl Window {
    /// Takes a stamp up that came at `now`.
    pub(crate) fn take(&mut self, stamp: u64, now: Instant) -> Novelty {
        if self.seen.contains(&stamp) {
            return Novelty::Again;
        }
        if self.is_late(stamp, now) {
            return Novelty::Late;
        }
        if self.newest.is_none_or(|(newest, _)| stamp > newest) {
            self.newest = Some((stamp, now));
            self.floor = self.floor.max(stamp.saturating_sub(SPAN));
            self.seen.retain(|seen| *seen > self.floor);
        }
        if self.seen.len() == REMEMBERED
            && let Some(forgotten) = self.seen.pop_front()
        {
            self.floor = self.floor.max(forgotten);
        }
        self.seen.push_back(stamp);
        Novelty::New
    }

    fn is_late(&self, stamp: u64, now: Instant) -> bool {
        let expected = self.newest.map_or(0, |(newest, at)| {
            let passed = now.saturating_duration_since(at).as_micros();
            newest.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
        });
        stamp <= self.floor.max(expected.saturating_sub(SPAN))
    }

    /// At `now` the sender's clock is at `stamp`, whatever it was: that is certain.
    pub(crate) fn restart(&mut self, stamp: u64, now: Instant) {
        if self.newest.is_none() || self.is_late(stamp, now) {
            *self = Self { newest: Some((stamp, now)), floor: stamp, seen: VecDeque::new() };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A clock of today.
    const TODAY: u64 = 1_800_000_000_000_000;
    const HOUR: u64 = 3_600_000_000;

    fn span() -> Duration {
        Duration::from_micros(SPAN)
    }

    #[test]
    fn a_frame_is_new_once() {
        let (mut window, now) = (Window::default(), Instant::now());
        for stamp in [TODAY, TODAY + 5, TODAY + 3] {
            assert_eq!(window.take(stamp, now), Novelty::New);
            assert_eq!(window.take(stamp, now), Novelty::Again);
        }
        let (later, now) = (TODAY + 2 * SPAN, now + 2 * span());
        assert_eq!(window.take(later, now), Novelty::New);
        assert_eq!(window.take(TODAY + 4, now), Novelty::Late, "it never came, but it might have");
        assert_eq!(window.take(TODAY, now), Novelty::Late);
        assert!(window.seen.len() <= 2);
    }

    #[test]
    fn a_frame_that_was_held_back_is_late_though_nothing_came_since() {
        let (mut window, now) = (Window::default(), Instant::now());
        window.take(TODAY, now);
        assert_eq!(window.take(TODAY + 1, now + span() / 2), Novelty::New);
        assert_eq!(window.take(TODAY + 2, now + 2 * span()), Novelty::Late);
        // One whose clock goes as it should is not.
        assert_eq!(window.take(TODAY + 360 * SPAN, now + 360 * span()), Novelty::New);
    }

    #[test]
    fn a_burst_costs_bounded_memory_and_nothing_comes_again() {
        let (mut window, now) = (Window::default(), Instant::now());
        let stamps = || (0..4 * REMEMBERED as u64).map(|index| TODAY + index);
        assert!(stamps().all(|stamp| window.take(stamp, now) == Novelty::New));
        assert_eq!(window.seen.len(), REMEMBERED);
        assert!(stamps().all(|stamp| window.take(stamp, now) != Novelty::New));
    }

    #[test]
    fn a_clock_that_was_set_back_is_followed_once_it_is_certain() {
        let (mut window, now) = (Window::default(), Instant::now());
        window.take(TODAY, now);
        assert_eq!(window.take(TODAY - HOUR, now), Novelty::Late);
        window.restart(TODAY - HOUR + 1, now);
        assert_eq!(window.take(TODAY - HOUR, now), Novelty::Late, "what came before that is no newer for it");
        assert_eq!(window.take(TODAY - HOUR + 2, now), Novelty::New);
        // Set back by less than a minute that passed in silence.
        let (mut window, later) = (Window::default(), now + 6 * span());
        window.take(TODAY, now);
        assert_eq!(window.take(TODAY - SPAN / 2, later), Novelty::Late);
        window.restart(TODAY - SPAN / 2, later);
        assert_eq!(window.take(TODAY - SPAN / 2 + 1, later), Novelty::New);
        window.take(TODAY - SPAN / 2 + 2, later);
        // An answer that overtook others changes nothing.
        window.restart(TODAY - SPAN / 2 + 2, later);
        assert_eq!(window.take(TODAY - SPAN / 2 + 2, later), Novelty::Again);
    }

    #[test]
    fn stamps_only_grow() {
        let stamps = Stamps::default();
        let given: Vec<u64> = [5, 5, 9, 2, 10].map(|clock| stamps.next(clock)).to_vec();
        assert_eq!(given, [5, 6, 9, 10, 11]);
    }
}
