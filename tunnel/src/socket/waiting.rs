//! Packets that could not go where they belong at once: out of mixed batches, or ahead of their session.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Context;

use futures::task::AtomicWaker;
use quinn::udp::{EcnCodepoint, RecvMeta};

/// Packets that wait for an endpoint; more are dropped.
const MAX_LEFT: usize = 4096;
/// Frames that wait for their session: what a dialling peer sends in the moment in which the engine takes up
/// what the relay says of it.
const MAX_EARLY: usize = 64;

#[derive(Debug)]
struct Packet {
    from: SocketAddr,
    ecn: Option<EcnCodepoint>,
    bytes: Vec<u8>,
}

/// A queue of copied packets for an endpoint, which is woken for them.
#[derive(Debug, Default)]
pub(super) struct Left {
    packets: Mutex<VecDeque<Packet>>,
    count: AtomicUsize,
    endpoint: AtomicWaker,
}

impl Left {
    /// Queues a packet; false if the queue is full.
    pub(super) fn push(&self, from: SocketAddr, ecn: Option<EcnCodepoint>, packet: &[u8]) -> bool {
        let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        if packets.len() >= MAX_LEFT {
            return false;
        }
        packets.push_back(Packet { from, ecn, bytes: packet.to_vec() });
        self.count.store(packets.len(), Ordering::Release);
        true
    }

    pub(super) fn wake(&self) {
        self.endpoint.wake();
    }

    pub(super) fn register(&self, cx: &Context<'_>) {
        self.endpoint.register(cx.waker());
    }

    /// Moves packets into `bufs`; `None` if there are none.
    pub(super) fn take(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Option<usize> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        while count < bufs.len().min(meta.len()) {
            let Some(packet) = packets.pop_front() else { break };
            let length = packet.bytes.len().min(bufs[count].len());
            bufs[count][..length].copy_from_slice(&packet.bytes[..length]);
            meta[count] =
                RecvMeta { addr: packet.from, len: length, stride: length, ecn: packet.ecn, dst_ip: None };
            count += 1;
        }
        self.count.store(packets.len(), Ordering::Release);
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
