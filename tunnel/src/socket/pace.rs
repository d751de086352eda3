//! No more than a rate: a token bucket (RFC 2698, section 1) whose debt is paid before the next bulk goes.
//!
//! [`Pace`] is the bucket, pure. [`Budget`] is the one of all that a node sends, by whatever socket.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What may go at once after a rest, as the time that it takes at the rate.
const BURST: Duration = Duration::from_millis(10);
/// What may go at once at the lowest rates: two packets, or nothing would ever fit.
const LEAST_BURST: f64 = 3_000.0;

/// A rate, and what was sent lately.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes a second.
    rate: f64,
    burst: f64,
    /// Bytes that may go now; below zero, what went ahead.
    tokens: f64,
    filled: Instant,
}

impl Pace {
    /// So many bytes a second.
    pub(crate) fn new(now: Instant, rate: u64) -> Self {
        let rate = rate.max(1) as f64;
        let burst = (rate * BURST.as_secs_f64()).max(LEAST_BURST);
        Self { rate, burst, tokens: burst, filled: now }
    }

    /// Bytes that one batch should not exceed.
    pub(crate) fn batch(&self) -> usize {
        self.burst as usize
    }

    fn fill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.filled = self.filled.max(now);
    }

    /// Whether these bytes may go now. Where there is anything left they may, and what follows waits for it.
    pub(crate) fn take(&mut self, now: Instant, bytes: usize) -> bool {
        self.fill(now);
        let may = self.tokens > 0.0;
        if may {
            self.tokens -= bytes as f64;
        }
        may
    }

    /// These bytes go ahead of all others, which wait for it.
    pub(crate) fn go_ahead(&mut self, now: Instant, bytes: usize) {
        self.fill(now);
        // Whoever goes ahead all the time does not stop the others for good.
        self.tokens = (self.tokens - bytes as f64).max(-self.burst);
    }

    /// What was taken did not go.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        self.tokens = (self.tokens + bytes as f64).min(self.burst);
    }

    /// When something may go again; `None` if it may now.
    pub(crate) fn ready_at(&mut self, now: Instant) -> Option<Instant> {
        self.fill(now);
        // One byte more than nothing.
        (self.tokens <= 0.0).then(|| now + Duration::from_secs_f64((1.0 - self.tokens) / self.rate))
    }
}

/// What a node may send, all in all, which may change at any time; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Whether there is a bound: where there is none nobody waits for the lock.
    is_paced: AtomicBool,
    pace: Mutex<Pace>,
}

impl Budget {
    /// So many bytes a second; as many as go if it is `None`.
    pub(crate) fn new(now: Instant, rate: Option<u64>) -> Self {
        let pace = Mutex::new(Pace::new(now, rate.unwrap_or(u64::MAX)));
        Self(Arc::new(Inner { is_paced: AtomicBool::new(rate.is_some()), pace }))
    }

    /// From now on no more than so many bytes a second, or as many as go.
    pub(crate) fn set(&self, now: Instant, rate: Option<u64>) {
        if let Some(rate) = rate {
            *self.lock() = Pace::new(now, rate);
        }
        self.0.is_paced.store(rate.is_some(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Pace> {
        self.0.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is left, where there is a bound.
    pub(crate) fn paced(&self) -> Option<MutexGuard<'_, Pace>> {
        self.0.is_paced.load(Ordering::Relaxed).then(|| self.lock())
    }

    /// Waits until some of so many bytes may go, and takes them; how many.
    pub(crate) async fn take(&self, wanted: usize) -> usize {
        loop {
            match self.try_take(tokio::time::Instant::now().into(), wanted) {
                Ok(bytes) => return bytes,
                Err(at) => tokio::time::sleep_until(at.into()).await,
            }
        }
    }

    fn try_take(&self, now: Instant, wanted: usize) -> Result<usize, Instant> {
        let Some(mut pace) = self.paced() else { return Ok(wanted) };
        let bytes = wanted.min(pace.batch());
        if pace.take(now, bytes) { Ok(bytes) } else { Err(pace.ready_at(now).unwrap_or(now)) }
    }

    /// What was taken did not go.
    pub(crate) fn give_back(&self, bytes: usize) {
        if let Some(mut pace) = self.paced() {
            pace.give_back(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEGABIT: u64 = 125_000;

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_one_for_all_and_may_change() {
        let now = || Instant::from(tokio::time::Instant::now());
        let budget = Budget::new(now(), None);
        assert_eq!(budget.take(1 << 30).await, 1 << 30, "as many as go");
        budget.set(now(), Some(8 * MEGABIT));
        let send = |budget: Budget| async move {
            let mut left = 1_000_000;
            while left > 0 {
                left -= budget.take(left).await;
            }
        };
        let before = now();
        tokio::join!(send(budget.clone()), send(budget.clone()));
        let took = (now() - before).as_secs_f64();
        assert!((1.9..2.1).contains(&took), "2 MB at 1 MB a second took {took} s");
        budget.set(now(), None);
        assert_eq!(budget.take(1 << 30).await, 1 << 30);
    }

    /// Sends batches as soon as they may go, for two seconds; how many bytes went.
    fn sent(rate: u64, batch: usize, ahead: usize) -> usize {
        let start = Instant::now();
        let mut pace = Pace::new(start, rate);
        let (mut now, mut sent) = (start, 0);
        let mut next_ahead = start;
        while now < start + Duration::from_secs(2) {
            if ahead > 0 && now >= next_ahead {
                pace.go_ahead(now, ahead);
                next_ahead += Duration::from_millis(100);
            }
            if pace.take(now, batch) {
                sent += batch;
            } else {
                now = pace.ready_at(now).unwrap();
            }
        }
        sent
    }

    #[test]
    fn no_more_than_the_rate_goes_and_not_much_less() {
        for (rate, batch) in
            [(50 * MEGABIT, 60_000), (50 * MEGABIT, 1_400), (MEGABIT, 1_400), (MEGABIT / 10, 1_400)]
        {
            let (went, whole) = (sent(rate, batch, 0), 2 * rate as usize);
            assert!(went <= whole + whole / 50 + batch + 3_000, "{went} of {whole}");
            assert!(went >= whole - whole / 50, "{went} of {whole}");
        }
    }

    #[test]
    fn what_goes_ahead_is_taken_from_the_bulk() {
        let (without, with) = (sent(MEGABIT, 1_400, 0), sent(MEGABIT, 1_400, 1_000));
        let less = without - with;
        assert!(
            (17_000..=23_000).contains(&less),
            "twenty times 1,000 bytes went ahead, the bulk lost {less}"
        );
    }

    #[test]
    fn what_did_not_go_may_go_later_and_a_rest_saves_no_more_than_a_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 50 * MEGABIT);
        assert!(pace.take(start, 1 << 20));
        assert!(!pace.take(start, 1) && pace.ready_at(start).is_some());
        pace.give_back(1 << 20);
        assert_eq!(pace.ready_at(start), None);
        let later = start + Duration::from_secs(3_600);
        assert!(pace.take(later, pace.batch()) && !pace.take(later, 1));
    }
}
