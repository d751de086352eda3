//! What a connection was given to hold, and what of it has come free since.
//!
//! A window that shrinks is not less to hold at once: the peer was offered it, and may use up what it was offered. It
//! is when as much was read. Nor is a smaller bound of what is taken to be sent: what was taken stays until it is
//! acknowledged. It is once a write has found room below the new bound.

use std::time::Duration;

use super::windows::{Buffers, First};

/// Least window after the first step, in bytes.
const LEAST_STEP: u64 = 64 << 10;

/// What a connection holds, at most, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Holding {
    first: First,
    /// Window that the peer was told, and what it was offered beyond that.
    pub(super) window: u64,
    debt: u64,
    /// What the streams have read since the connection began.
    read: u64,
    /// What is taken of all streams to be sent, and the most that may be there still.
    sending: u64,
    taken: u64,
    /// The peer was kept from sending, and was offered no more since. It says so once only.
    waits: bool,
    /// What was read by then.
    read_then: u64,
}

/// How a connection is used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Use {
    /// Streams that are open.
    pub(super) streams: u64,
    /// The peer was kept from sending.
    pub(super) blocked: bool,
    /// Bytes a second that are sent, and the round trip time.
    pub(super) rate: f64,
    pub(super) rtt: Duration,
    /// Bytes that the streams have read since the connection began.
    pub(super) read: u64,
    /// A write has found room since what is taken to be sent became less, or nothing is left to be sent.
    pub(super) fits: bool,
}

/// What the connection is to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) window: Option<u64>,
    pub(super) sending: Option<u64>,
}

impl Holding {
    pub(super) fn new(first: First) -> Self {
        let First { window, sending, .. } = first;
        Self { first, window, debt: 0, read: 0, sending, taken: sending, waits: false, read_then: 0 }
    }

    /// All of it.
    pub(super) fn total(&self) -> u64 {
        let First { window, sending, .. } = self.first;
        self.first.total() - window - sending + self.window + self.debt + self.taken
    }

    /// Whether it holds no more than it started with.
    pub(super) fn is_first(&self) -> bool {
        self.total() == self.first.total()
    }

    /// Looks at how the connection is used; it may hold `room` more than before.
    pub(super) fn look(&mut self, buffers: Buffers, usage: Use, room: u64) -> Change {
        self.debt = self.debt.saturating_sub(usage.read - self.read);
        self.read = usage.read;
        if usage.fits {
            self.taken = self.sending;
        }
        let before = self.total();
        let window = self.receive(buffers, usage, room);
        let room = room - self.total().saturating_sub(before);
        Change { window, sending: self.send(buffers.sending(usage.rate, usage.rtt), room) }
    }

    fn receive(&mut self, buffers: Buffers, usage: Use, room: u64) -> Option<u64> {
        if usage.blocked {
            (self.waits, self.read_then) = (true, self.read);
        }
        // What it reads is offered anew, an eighth of the window at a time.
        self.waits &= usage.blocked || self.read - self.read_then < self.window / 4;
        let most = buffers.most(self.first.window, usage.streams);
        // Twice as much until it suffices: whoever reads in time needs no more than is on its way.
        let wanted = if self.waits { (self.window * 2).max(LEAST_STEP) } else { self.window };
        let wanted = wanted.min(most).min(self.window + room);
        if wanted <= self.window / 2 {
            self.debt += self.window - wanted;
        } else if wanted <= self.window {
            return None;
        }
        (self.window, self.waits) = (wanted, false);
        Some(wanted)
    }

    fn send(&mut self, wanted: u64, room: u64) -> Option<u64> {
        let wanted = wanted.max(self.first.sending).min(self.taken + room);
        if wanted == self.sending || wanted.abs_diff(self.sending) < self.sending / 4 {
            return None;
        }
        self.sending = wanted;
        self.taken = self.taken.max(wanted);
        Some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::alpn::Alpn;

    const MIB: u64 = 1 << 20;
    const BUFFERS: Buffers = Buffers(1024 * MIB);

    fn first() -> Holding {
        Holding::new(Buffers::first(Alpn::Mesh, 100, BUFFERS.0))
    }

    #[test]
    fn a_window_grows_where_the_peer_waits_and_shrinks_with_the_streams() {
        let mut holding = first();
        let start = holding.window;
        let many = Use { streams: 4, blocked: true, ..Use::default() };
        assert_eq!(holding.look(BUFFERS, Use { streams: 4, ..Use::default() }, MIB << 10), Change::default());
        let most = BUFFERS.most(start, 4);
        let mut window = start;
        while window < most {
            window = (window * 2).min(most);
            assert_eq!(holding.look(BUFFERS, many, MIB << 10).window, Some(window));
        }
        assert_eq!(holding.look(BUFFERS, many, MIB << 10).window, None, "a window for each stream is enough");
        let (total, before) = (holding.total(), holding.window);
        let few = Use { streams: 1, ..Use::default() };
        let window = BUFFERS.most(start, 1);
        assert_eq!(holding.look(BUFFERS, few, 0).window, Some(window));
        assert_eq!(holding.total(), total, "the peer may still send what it was offered");
        holding.look(BUFFERS, Use { read: 40 * MIB, ..few }, 0);
        assert_eq!(holding.total(), total - 40 * MIB);
        holding.look(BUFFERS, Use { read: 400 * MIB, ..few }, 0);
        assert_eq!(holding.total(), total - (before - window));
    }

    #[test]
    fn what_is_taken_to_be_sent_is_held_until_a_write_finds_room() {
        let mut holding = first();
        let (start, total) = (holding.sending, holding.total());
        let sends =
            |rate, fits| Use { streams: 1, rate, rtt: Duration::from_millis(100), fits, ..Use::default() };
        assert_eq!(holding.look(BUFFERS, sends(2e7, true), MIB << 10).sending, Some(20_000_000));
        let more = 20_000_000 - start;
        assert_eq!(holding.total(), total + more);
        assert_eq!(holding.look(BUFFERS, sends(1.9e7, true), MIB << 10).sending, None, "that is no news");
        assert_eq!(holding.look(BUFFERS, sends(0.0, true), 0).sending, Some(start));
        holding.look(BUFFERS, sends(0.0, false), 0);
        assert_eq!(holding.total(), total + more);
        holding.look(BUFFERS, sends(0.0, true), 0);
        assert!(holding.is_first());
    }

    #[test]
    fn there_is_no_more_than_there_is_room() {
        let mut holding = first();
        let total = holding.total();
        let usage = Use { streams: 9, blocked: true, rate: 1e9, ..Use::default() };
        holding.look(BUFFERS, usage, 3 * MIB);
        assert_eq!(holding.total(), total + 3 * MIB);
        assert_eq!(holding.look(BUFFERS, usage, 0), Change::default());
        // The peer does not say so again.
        let usage = Use { blocked: false, ..usage };
        assert_eq!(holding.look(BUFFERS, usage, 0), Change::default());
        let window = holding.window;
        assert_eq!(holding.look(BUFFERS, usage, 64 * MIB).window, Some(2 * window));
        assert_eq!(holding.look(BUFFERS, usage, 64 * MIB).window, None);
        // Nor does it wait where enough was read since, which it was told.
        holding.look(BUFFERS, Use { blocked: true, ..usage }, 0);
        let usage = Use { read: 2 * window, ..usage };
        assert_eq!(holding.look(BUFFERS, usage, 64 * MIB).window, None);
    }

    proptest! {
        #[test]
        fn what_is_held_is_never_less_than_what_may_come(
            looks in prop::collection::vec((0_u64..8, any::<bool>(), 0.0..1e9, 0_u64..(64 << 20), any::<bool>()), 1..60),
            room in 0_u64..(256 << 20),
        ) {
            // As quinn counts: what may be received beyond what was read.
            let mut holding = first();
            let (mut window, mut owed, mut read) = (holding.window, 0, 0);
            for (streams, blocked, rate, more, fits) in looks {
                let paid = more.min(owed);
                (owed, read) = (owed - paid, read + more);
                let (before, usage) = (holding.total(), Use { streams, blocked, rate, rtt: Duration::ZERO, read, fits });
                let change = holding.look(BUFFERS, usage, room);
                prop_assert!(holding.total() <= before + room);
                if let Some(new) = change.window {
                    owed += window.saturating_sub(new);
                    window = new;
                }
                prop_assert!(holding.window + holding.debt >= window + owed);
                prop_assert!(holding.taken >= holding.sending);
            }
        }
    }
}
