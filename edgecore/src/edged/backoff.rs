//! Back-off as kubelet counts it: doubling from 10 s to 5 min, forgotten after twice the longest.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// The first delay.
pub const INITIAL: Duration = Duration::from_secs(10);
/// The longest delay.
pub const MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    updated: SystemTime,
}

/// Delays by key, such as a container's name. Reads no clock.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    entries: HashMap<String, Entry>,
}

impl Backoff {
    /// How long to wait still after a failure at `failed`, and the delay in force; `None` for not at all.
    pub fn waiting(&self, key: &str, failed: SystemTime, now: SystemTime) -> Option<(Duration, Duration)> {
        let entry = self.entries.get(key).filter(|entry| !expired(entry, failed))?;
        let since = now.duration_since(failed).unwrap_or_default();
        (since < entry.delay).then(|| (entry.delay - since, entry.delay))
    }

    /// Notes that it is tried again now, after a failure at `failed`: the next delay is longer.
    pub fn next(&mut self, key: &str, failed: SystemTime, now: SystemTime) {
        let delay = match self.entries.get(key).filter(|entry| !expired(entry, failed)) {
            Some(entry) => (entry.delay * 2).min(MAX),
            None => INITIAL,
        };
        self.entries.insert(key.to_owned(), Entry { delay, updated: now });
    }

    /// Forgets a key, after a success.
    pub fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

/// What ran well for long enough starts from the beginning again.
fn expired(entry: &Entry, event: SystemTime) -> bool {
    event.duration_since(entry.updated).is_ok_and(|since| since > MAX * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn doubles_to_the_longest() {
        let mut backoff = Backoff::default();
        let mut now = 1000;
        assert_eq!(backoff.waiting("c", at(now), at(now)), None, "the first failure restarts at once");
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            backoff.next("c", at(now), at(now));
            now += 1;
            let delay = Duration::from_secs(expected);
            assert_eq!(backoff.waiting("c", at(now), at(now)), Some((delay, delay)));
            assert_eq!(backoff.waiting("c", at(now), at(now + expected)), None);
            now += expected;
        }
    }

    #[test]
    fn forgets_after_a_long_run() {
        let mut backoff = Backoff::default();
        backoff.next("c", at(0), at(0));
        backoff.next("c", at(20), at(20));
        assert!(backoff.waiting("c", at(600), at(601)).is_some());
        assert_eq!(backoff.waiting("c", at(700), at(701)), None);
        backoff.next("c", at(700), at(701));
        assert_eq!(backoff.waiting("c", at(702), at(702)).unwrap().1, INITIAL);
        backoff.reset("c");
        assert_eq!(backoff.waiting("c", at(702), at(702)), None);
    }

    #[test]
    fn a_clock_set_back_does_not_panic() {
        let mut backoff = Backoff::default();
        backoff.next("c", at(1000), at(1000));
        assert_eq!(backoff.waiting("c", at(1000), at(10)), Some((INITIAL, INITIAL)));
    }
}
