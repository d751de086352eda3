//! What waits for a carrier: bounded in time, so that QUIC above sees loss, not delay.
//!
//! Frames collect in one buffer while the other is being written. Each holds what the carrier moved lately within
//! half of the bound, and takes nothing more once its first frame has waited that long.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::record;

/// How long frames may collect: with the buffer that is being written, 50 ms wait at most.
const HALF: Duration = Duration::from_millis(25);
/// Bounds of one buffer, in bytes.
const LEAST: usize = 32 << 10;
const MOST: usize = 2 << 20;
/// What only frames of the engine may use: probes must tell that a full carrier works.
const RESERVE: usize = 16 << 10;
/// A buffer that took less to write says nothing about the carrier's rate.
const TELLING: Duration = Duration::from_millis(2);

#[derive(Debug)]
struct Collecting {
    bytes: Vec<u8>,
    /// When the first of them came.
    since: Option<Instant>,
    /// How many there may be.
    limit: usize,
}

/// Frames on their way out.
#[derive(Debug)]
pub(crate) struct Queue {
    collecting: Mutex<Collecting>,
    filled: Notify,
}

impl Default for Queue {
    fn default() -> Self {
        let collecting = Collecting { bytes: Vec::new(), since: None, limit: MOST };
        Self { collecting: Mutex::new(collecting), filled: Notify::new() }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Collecting> {
        self.collecting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues the frames of `contents`, each `stride` long but the last. Returns how many were dropped.
    pub(crate) fn push(&self, now: Instant, contents: &[u8], stride: usize, urgent: bool) -> usize {
        let mut dropped = 0;
        let mut collecting = self.lock();
        for frame in contents.chunks(stride.max(1)) {
            let late = collecting.since.is_some_and(|since| now.saturating_duration_since(since) >= HALF);
            let full = collecting.bytes.len() + frame.len() > collecting.limit;
            let reserve = urgent && collecting.bytes.len() + frame.len() <= collecting.limit + RESERVE;
            if (late || full) && !reserve || !record::put(&mut collecting.bytes, frame) {
                dropped += 1;
                continue;
            }
            collecting.since.get_or_insert(now);
        }
        drop(collecting);
        self.filled.notify_one();
        dropped
    }

    /// Waits for frames and takes them all, in exchange for `batch`, which must be empty.
    pub(crate) async fn take(&self, batch: &mut Vec<u8>) {
        loop {
            {
                let mut collecting = self.lock();
                if !collecting.bytes.is_empty() {
                    std::mem::swap(&mut collecting.bytes, batch);
                    collecting.since = None;
                    return;
                }
            }
            self.filled.notified().await;
        }
    }

    /// So many bytes took so long to write: the next buffer is as large as the carrier moves in its time.
    pub(crate) fn wrote(&self, bytes: usize, took: Duration) {
        let mut collecting = self.lock();
        let limit = if took < TELLING {
            collecting.limit.saturating_mul(2)
        } else {
            (bytes as f64 * HALF.as_secs_f64() / took.as_secs_f64()) as usize
        };
        collecting.limit = limit.clamp(LEAST, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(queue: &Queue) -> usize {
        let mut batch = Vec::new();
        let mut take = Box::pin(queue.take(&mut batch));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let ready = take.as_mut().poll(&mut context).is_ready();
        drop(take);
        if ready { batch.len() } else { 0 }
    }

    #[test]
    fn what_waited_too_long_keeps_others_out() {
        let queue = Queue::default();
        let start = Instant::now();
        assert_eq!(queue.push(start, &[1; 250], 100, false), 0);
        assert_eq!(queue.push(start + HALF / 2, &[1; 100], 100, false), 0);
        assert_eq!(queue.push(start + HALF, &[1; 250], 100, false), 3);
        assert_eq!(queue.push(start + HALF, &[1; 100], 100, true), 0, "a probe still goes");
        assert_eq!(drained(&queue), 250 + 100 + 100 + 5 * 2);
        assert_eq!(queue.push(start + HALF * 2, &[1; 100], 100, false), 0);
        assert_eq!(drained(&queue), 102);
        assert_eq!(drained(&queue), 0);
    }

    #[test]
    fn a_slow_carrier_gets_a_short_queue_and_a_fast_one_a_long_one() {
        let queue = Queue::default();
        let now = Instant::now();
        let fits = |queue: &Queue| {
            let frames = vec![0; MOST + (1 << 20)];
            let dropped = queue.push(now, &frames, 1000, false);
            let _ = drained(queue);
            frames.len().div_ceil(1000) - dropped
        };
        assert!((2000..=2100).contains(&fits(&queue)));
        // 10 Mbit/s: 31 KB in 25 ms, which is below the least.
        queue.wrote(1_250_000, Duration::from_secs(1));
        assert!((32..=33).contains(&fits(&queue)));
        // 100 Mbit/s.
        queue.wrote(12_500_000, Duration::from_secs(1));
        assert!((300..=313).contains(&fits(&queue)));
        queue.wrote(100_000, Duration::from_millis(1));
        assert!((600..=625).contains(&fits(&queue)));
        // Even a flood of probes is bounded.
        let frames = vec![0; 4 * MOST];
        assert!(queue.push(now, &frames, 1000, true) > 7000);
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let queue = std::sync::Arc::new(Queue::default());
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move {
                let mut batch = Vec::new();
                queue.take(&mut batch).await;
                batch.len()
            }
        });
        tokio::task::yield_now().await;
        queue.push(Instant::now(), &[1; 10], 10, false);
        assert_eq!(waiting.await.unwrap(), 12);
    }
}
