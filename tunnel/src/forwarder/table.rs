//! Which sessions a relay holds: pure, bounded, told the time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::wire::message::Refusal;

/// Bounds of a relay's table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Sessions in all.
    pub(crate) sessions: usize,
    /// Sessions that one peer is an end of.
    pub(crate) per_peer: usize,
    /// A session that forwarded nothing for this long ends.
    pub(crate) idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sessions: 65_536, per_peer: 4_096, idle: Duration::from_secs(600) }
    }
}

/// A session that was opened, or that stands already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) id: u32,
    /// The ends by side.
    pub(crate) ends: [PeerId; 2],
    pub(crate) keys: [[u8; 16]; 2],
    /// Whether it was made just now.
    pub(crate) new: bool,
}

impl Opened {
    /// Side of `peer`.
    pub(crate) fn side(&self, peer: &PeerId) -> u8 {
        u8::from(self.ends[0] != *peer)
    }
}

#[derive(Debug)]
struct Entry {
    opened: Opened,
    used: Instant,
}

/// The sessions of a relay.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    limits: Limits,
    by_pair: HashMap<[PeerId; 2], u32>,
    by_id: HashMap<u32, Entry>,
    per_peer: HashMap<PeerId, usize>,
}

fn pair(a: PeerId, b: PeerId) -> [PeerId; 2] {
    if a.to_bytes() <= b.to_bytes() { [a, b] } else { [b, a] }
}

impl Sessions {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// A session between `from` and `to`; the same one for both, whoever asks. `random` makes number and keys.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        from: PeerId,
        to: PeerId,
        mut random: impl FnMut() -> (u32, [[u8; 16]; 2]),
    ) -> Result<Opened, Refusal> {
        let ends = pair(from, to);
        if let Some(entry) = self.by_pair.get(&ends).and_then(|id| self.by_id.get_mut(id)) {
            entry.used = now;
            return Ok(Opened { new: false, ..entry.opened });
        }
        let share = |peer: &PeerId| self.per_peer.get(peer).copied().unwrap_or(0);
        if from == to
            || self.by_id.len() >= self.limits.sessions
            || ends.iter().any(|peer| share(peer) >= self.limits.per_peer)
        {
            return Err(Refusal::Full);
        }
        let (mut id, keys) = random();
        while self.by_id.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        let opened = Opened { id, ends, keys, new: true };
        self.by_id.insert(id, Entry { opened, used: now });
        self.by_pair.insert(ends, id);
        for peer in ends {
            *self.per_peer.entry(peer).or_default() += 1;
        }
        Ok(opened)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> {
        self.by_id.keys().copied()
    }

    /// Sessions of the peer that has most.
    pub(crate) fn most_of_a_peer(&self) -> usize {
        self.per_peer.values().copied().max().unwrap_or(0)
    }

    /// The peers that are an end of any.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &PeerId> {
        self.per_peer.keys()
    }

    /// The session with this number, for an end that lost it.
    pub(crate) fn get(&self, id: u32) -> Option<Opened> {
        self.by_id.get(&id).map(|entry| Opened { new: false, ..entry.opened })
    }

    /// Ends the sessions that forwarded nothing since `idle` before `now`; `used` tells when one last did.
    pub(crate) fn expire(&mut self, now: Instant, used: impl Fn(u32) -> Option<Instant>) -> Vec<u32> {
        let idle = self.limits.idle;
        let over: Vec<u32> = self
            .by_id
            .iter()
            .filter(|(id, entry)| {
                let last = used(**id).map_or(entry.used, |used| used.max(entry.used));
                now.saturating_duration_since(last) >= idle
            })
            .map(|(id, _)| *id)
            .collect();
        for id in &over {
            self.remove(*id);
        }
        over
    }

    /// Ends every session of `peer`.
    pub(crate) fn remove_peer(&mut self, peer: &PeerId) -> Vec<u32> {
        let over: Vec<u32> =
            self.by_id.iter().filter(|(_, e)| e.opened.ends.contains(peer)).map(|(id, _)| *id).collect();
        for id in &over {
            self.remove(*id);
        }
        over
    }

    fn remove(&mut self, id: u32) {
        let Some(entry) = self.by_id.remove(&id) else { return };
        self.by_pair.remove(&entry.opened.ends);
        for peer in entry.opened.ends {
            if let Some(share) = self.per_peer.get_mut(&peer) {
                *share -= 1;
                if *share == 0 {
                    self.per_peer.remove(&peer);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random() -> (u32, [[u8; 16]; 2]) {
        (7, [[1; 16], [2; 16]])
    }

    #[test]
    fn both_ends_get_the_same_session_and_different_sides() {
        let (a, b) = (PeerId::random(), PeerId::random());
        let mut sessions = Sessions::new(Limits::default());
        let now = Instant::now();
        let first = sessions.open(now, a, b, random).unwrap();
        let second = sessions.open(now, b, a, random).unwrap();
        assert_eq!(Opened { new: false, ..first }, second);
        assert!(first.new);
        assert_ne!(first.side(&a), first.side(&b));
        assert_eq!(first.ends[usize::from(first.side(&b))], b);
        // A number that is taken is not given twice.
        let third = sessions.open(now, a, PeerId::random(), random).unwrap();
        assert_ne!(third.id, first.id);
    }

    #[test]
    fn the_table_and_each_share_are_bounded() {
        let limits = Limits { sessions: 3, per_peer: 2, ..Limits::default() };
        let mut sessions = Sessions::new(limits);
        let now = Instant::now();
        let a = PeerId::random();
        assert!(sessions.open(now, a, a, random).is_err());
        for _ in 0..2 {
            sessions.open(now, a, PeerId::random(), random).unwrap();
        }
        assert_eq!(sessions.open(now, a, PeerId::random(), random), Err(Refusal::Full));
        sessions.open(now, PeerId::random(), PeerId::random(), random).unwrap();
        assert_eq!(sessions.open(now, PeerId::random(), PeerId::random(), random), Err(Refusal::Full));
        assert_eq!(sessions.remove_peer(&a).len(), 2);
        assert_eq!(sessions.len(), 1);
        sessions.open(now, a, PeerId::random(), random).unwrap();
    }

    #[test]
    fn idle_sessions_end_and_used_ones_do_not() {
        let limits = Limits::default();
        let mut sessions = Sessions::new(limits);
        let start = Instant::now();
        let kept = sessions.open(start, PeerId::random(), PeerId::random(), random).unwrap();
        let idle = sessions.open(start, PeerId::random(), PeerId::random(), random).unwrap();
        let later = start + limits.idle;
        let used = |id| (id == kept.id).then_some(start + limits.idle / 2);
        assert_eq!(sessions.expire(later, used), vec![idle.id]);
        assert_eq!(sessions.get(kept.id), Some(Opened { new: false, ..kept }));
        assert_eq!(sessions.get(idle.id), None);
    }
}
