//! What waits at a relay when its way out is full: a queue for each peer, served in turn.
//!
//! Deficit round robin (Shreedhar and Varghese, 1995): each peer that has something waiting may send as many bytes a
//! turn as any other, so one that floods waits for itself, and one with a single flow has its packets through in the
//! next turn. Queues are short, in bytes and in time, since what waits longer is worth less than the loss that tells
//! the sender to slow down; what comes to a full one is dropped and counted against its sender. Pure.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// Bytes that a peer may send in one turn: a batch of packets.
const QUANTUM: usize = 16 << 10;
/// How long a packet may wait.
const STALE: Duration = Duration::from_millis(100);

/// A batch of packets on its way, whatever is needed to send it.
#[derive(Debug)]
struct Waiting<T> {
    what: T,
    bytes: usize,
    since: Instant,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<Waiting<T>>,
    bytes: usize,
    /// Bytes that it may still send in its turn.
    deficit: usize,
}

/// The queues of all peers.
#[derive(Debug)]
pub(crate) struct Fair<T> {
    queues: HashMap<PeerId, Queue<T>>,
    /// Whose turn it is, and who comes next.
    turns: VecDeque<PeerId>,
    bytes: usize,
    /// Bytes that may wait in all, and of one peer.
    limit: usize,
    per_peer: usize,
}

/// Who lost so many bytes.
pub(crate) type Dropped = (PeerId, usize);

impl<T> Fair<T> {
    /// Queues of so many bytes in all, and for each peer.
    pub(crate) fn new(limit: usize, per_peer: usize) -> Self {
        Self { queues: HashMap::new(), turns: VecDeque::new(), bytes: 0, limit, per_peer }
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of `peer` that wait.
    pub(crate) fn bytes_of(&self, peer: &PeerId) -> usize {
        self.queues.get(peer).map_or(0, |queue| queue.bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Queues what `peer` sends. Returns what was dropped for it: itself where the peer has its share waiting, else the
    /// oldest of whoever has most, where there is no room.
    pub(crate) fn push(&mut self, now: Instant, peer: PeerId, bytes: usize, what: T) -> Option<Dropped> {
        let held = self.bytes_of(&peer);
        if bytes == 0 || held + bytes > self.per_peer {
            return Some((peer, bytes));
        }
        let dropped = (self.bytes + bytes > self.limit).then(|| self.shorten_longest(held + bytes));
        if dropped == Some(None) || self.bytes + bytes > self.limit {
            return Some((peer, bytes));
        }
        let queue = self.queues.entry(peer).or_insert_with(|| {
            self.turns.push_back(peer);
            Queue { waiting: VecDeque::new(), bytes: 0, deficit: 0 }
        });
        queue.waiting.push_back(Waiting { what, bytes, since: now });
        queue.bytes += bytes;
        self.bytes += bytes;
        dropped.flatten()
    }

    /// Drops the oldest of the longest queue, if that holds more than `than`.
    fn shorten_longest(&mut self, than: usize) -> Option<Dropped> {
        let (peer, queue) = self.queues.iter_mut().max_by_key(|(_, queue)| queue.bytes)?;
        if queue.bytes <= than {
            return None;
        }
        let first = queue.waiting.pop_front()?;
        queue.bytes -= first.bytes;
        self.bytes -= first.bytes;
        let peer = *peer;
        if queue.waiting.is_empty() {
            self.leave(&peer);
        }
        Some((peer, first.bytes))
    }

    /// The next to be sent, with its sender; what waited too long is given to `late`.
    pub(crate) fn pop(&mut self, now: Instant, mut late: impl FnMut(Dropped)) -> Option<(PeerId, usize, T)> {
        loop {
            let peer = *self.turns.front()?;
            let Some(queue) = self.queues.get_mut(&peer) else {
                self.turns.pop_front();
                continue;
            };
            while let Some(first) = queue.waiting.front()
                && now.saturating_duration_since(first.since) > STALE
            {
                late((peer, first.bytes));
                queue.bytes -= first.bytes;
                self.bytes -= first.bytes;
                queue.waiting.pop_front();
            }
            let Some(first) = queue.waiting.front() else {
                self.leave(&peer);
                continue;
            };
            if first.bytes > queue.deficit {
                // The turn is over; in the next it may send more.
                queue.deficit += QUANTUM;
                self.turns.rotate_left(1);
                continue;
            }
            queue.deficit -= first.bytes;
            let sent = queue.waiting.pop_front()?;
            queue.bytes -= sent.bytes;
            self.bytes -= sent.bytes;
            if queue.waiting.is_empty() {
                self.leave(&peer);
            }
            return Some((peer, sent.bytes, sent.what));
        }
    }

    /// Puts back what could not be sent after all: it is its sender's turn.
    pub(crate) fn unpop(&mut self, now: Instant, peer: PeerId, bytes: usize, what: T) {
        let queue = self.queues.entry(peer).or_insert_with(|| Queue {
            waiting: VecDeque::new(),
            bytes: 0,
            deficit: 0,
        });
        queue.waiting.push_front(Waiting { what, bytes, since: now });
        queue.bytes += bytes;
        queue.deficit += bytes;
        self.bytes += bytes;
        if self.turns.front() != Some(&peer) {
            self.turns.retain(|other| *other != peer);
            self.turns.push_front(peer);
        }
    }

    fn leave(&mut self, peer: &PeerId) {
        self.queues.remove(peer);
        self.turns.retain(|other| other != peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a batch, and how many of them the way out takes in a millisecond.
    const BATCH: usize = 1_400;
    const RATE: usize = 9;

    /// Each peer offers so many batches a millisecond, for two seconds; what came through of each, in batches.
    fn relay(offers: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let peers: Vec<PeerId> = offers.iter().map(|_| PeerId::random()).collect();
        let at = |peer: &PeerId| peers.iter().position(|other| other == peer).unwrap();
        let (mut sent, mut dropped) = (vec![0; peers.len()], vec![0; peers.len()]);
        let mut fair = Fair::new(1 << 20, 256 << 10);
        let start = Instant::now();
        for millisecond in 0..2_000 {
            let now = start + Duration::from_millis(millisecond);
            for (peer, offer) in peers.iter().zip(offers) {
                for _ in 0..*offer {
                    if let Some((who, bytes)) = fair.push(now, *peer, BATCH, ()) {
                        dropped[at(&who)] += bytes / BATCH;
                    }
                }
            }
            for _ in 0..RATE {
                let mut late = Vec::new();
                let next = fair.pop(now, |who| late.push(who));
                late.iter().for_each(|(who, bytes)| dropped[at(who)] += bytes / BATCH);
                let Some((peer, ..)) = next else { break };
                sent[at(&peer)] += 1;
            }
        }
        (sent, dropped)
    }

    #[test]
    fn one_flow_beside_a_flood_loses_nothing() {
        let (sent, dropped) = relay(&[100, 3]);
        assert_eq!(dropped[1], 0, "it asks for less than its share");
        assert!(sent[1] >= 2_000 * 3 - 100, "{sent:?}");
        assert!(sent[0] >= 2_000 * 6 - 100, "what it leaves is the other's: {sent:?}");
        assert!(dropped[0] > 100_000);
    }

    #[test]
    fn those_who_all_want_more_than_there_is_get_the_same() {
        let (sent, _) = relay(&[100, 20, 10]);
        for share in &sent {
            assert!(share.abs_diff(6_000) < 100, "{sent:?}");
        }
    }

    #[test]
    fn what_waits_is_bounded_for_each_and_in_all() {
        let (mut fair, now) = (Fair::new(10_000, 4_000), Instant::now());
        let (flood, other) = (PeerId::random(), PeerId::random());
        for _ in 0..100 {
            fair.push(now, flood, 1_000, ());
        }
        assert_eq!((fair.bytes(), fair.bytes_of(&flood), fair.bytes_of(&other)), (4_000, 4_000, 0));
        for _ in 0..6 {
            assert_eq!(fair.push(now, PeerId::random(), 1_000, ()), None);
        }
        assert_eq!(fair.bytes(), 10_000);
        // Full: whoever has most makes room.
        assert_eq!(fair.push(now, other, 1_000, ()), Some((flood, 1_000)));
        assert_eq!(fair.bytes(), 10_000);
    }

    #[test]
    fn what_is_late_is_dropped_and_what_could_not_be_sent_is_next() {
        let (mut fair, now) = (Fair::new(10_000, 4_000), Instant::now());
        let peer = PeerId::random();
        fair.push(now, peer, 1_000, 1);
        let later = now + STALE + Duration::from_millis(1);
        fair.push(later, peer, 1_000, 2);
        fair.push(later, peer, 1_000, 3);
        let mut late = 0;
        let (_, bytes, what) = fair.pop(later, |_| late += 1).unwrap();
        assert_eq!((late, what), (1, 2));
        fair.unpop(later, peer, bytes, what);
        let order: Vec<i32> =
            std::iter::from_fn(|| fair.pop(later, |_| ()).map(|(_, _, what)| what)).collect();
        assert_eq!(order, [2, 3]);
        assert!(fair.is_empty() && fair.queues.is_empty() && fair.turns.is_empty());
    }
}
