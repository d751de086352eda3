//! Packets that could not go where they belong at once: out of mixed batches, or ahead of their session.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Context;

use futures::task::AtomicWaker;
use quinn::udp::{EcnCodepoint, RecvMeta};

/// Bytes that wait for an endpoint; more are dropped.
const MAX_LEFT: usize = 6 << 20;
/// Bytes that should not be exceeded by who can wait.
const CROWDED: usize = 2 << 20;
/// Frames that wait for their session: what a dialling peer sends in the moment in which the engine takes up
/// what the relay says of it.
const MAX_EARLY: usize = 64;

/// Packets of one source and length, the last perhaps shorter.
#[derive(Debug)]
struct Batch {
    from: SocketAddr,
    ecn: Option<EcnCodepoint>,
    bytes: Vec<u8>,
    stride: usize,
}

/// A queue of copied batches for an endpoint, which is woken for them.
#[derive(Debug, Default)]
pub(crate) struct Left {
    batches: Mutex<VecDeque<Batch>>,
    /// Bytes in all of them.
    bytes: AtomicUsize,
    endpoint: AtomicWaker,
}

impl Left {
    /// Queues packets of `stride` bytes, the last perhaps shorter; false if the queue is full.
    pub(crate) fn push(
        &self,
        from: SocketAddr,
        ecn: Option<EcnCodepoint>,
        packets: &[u8],
        stride: usize,
    ) -> bool {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bytes.load(Ordering::Relaxed) + packets.len() > MAX_LEFT {
            return false;
        }
        batches.push_back(Batch { from, ecn, bytes: packets.to_vec(), stride });
        self.bytes.fetch_add(packets.len(), Ordering::Release);
        true
    }

    /// Whether whoever can wait should.
    pub(crate) fn is_crowded(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > CROWDED
    }

    pub(crate) fn wake(&self) {
        self.endpoint.wake();
    }

    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.endpoint.register(cx.waker());
    }

    /// Moves packets into `bufs`; `None` if there are none.
    pub(crate) fn take(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Option<usize> {
        if self.bytes.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        while count < bufs.len().min(meta.len()) {
            let Some(batch) = batches.pop_front() else { break };
            let length = batch.bytes.len().min(bufs[count].len());
            bufs[count][..length].copy_from_slice(&batch.bytes[..length]);
            meta[count] = RecvMeta {
                addr: batch.from,
                len: length,
                stride: batch.stride,
                ecn: batch.ecn,
                dst_ip: None,
            };
            self.bytes.fetch_sub(batch.bytes.len(), Ordering::Release);
            count += 1;
        }
        (count > 0).then_some(count)
    }
}

/// Frames from a relay whose session is not known yet, by relay and session.
#[derive(Debug, Default)]
pub(super) struct Early {
    frames: Mutex<VecDeque<(SocketAddr, u32, Vec<u8>)>>,
}

impl Early {
    pub(super) fn push(&self, relay: SocketAddr, session: u32, frame: &[u8]) {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.len() >= MAX_EARLY {
            frames.pop_front();
        }
        frames.push_back((relay, session, frame.to_vec()));
    }

    /// Takes out what came ahead of this session.
    pub(super) fn take(&self, relay: SocketAddr, session: u32) -> Vec<Vec<u8>> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let (due, rest): (VecDeque<_>, _) =
            frames.drain(..).partition(|(r, s, _)| (*r, *s) == (relay, session));
        *frames = rest;
        due.into_iter().map(|(_, _, frame)| frame).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_frames_are_bounded_and_leave_with_their_session() {
        let early = Early::default();
        let relay = "192.0.2.1:1".parse().unwrap();
        for number in 0..=MAX_EARLY as u32 {
            early.push(relay, number % 2, &[number as u8]);
        }
        assert_eq!(early.take(relay, 1).len(), MAX_EARLY / 2);
        assert_eq!(early.take(relay, 1), Vec::<Vec<u8>>::new());
        assert_eq!(early.take(relay, 0).first(), Some(&vec![2]), "the oldest went");
    }
}
