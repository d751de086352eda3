//! How much a connection may hold: of what was received and not yet read, of what was written and is not
//! acknowledged, and of datagrams.
//!
//! A stream has a window of its own, all streams of a connection have one together, and all connections hold no more
//! than the [`Ledger`](super::ledger::Ledger) lets them. A connection starts with a share that shrinks with the number
//! of those that there are, and gets more when it needs it.
//!
//! Where a reader stops, its stream's window fills, and with it a part of the connection's: some such streams would
//! leave nothing to the others between the two nodes. QUIC says when that is so: a sender that may send no more on any
//! stream tells so (DATA_BLOCKED, RFC 9000, section 19.12). Then the connection's window grows, at most by a window for
//! each of its streams.
//!
//! What was written and is not acknowledged is bounded too, for all streams of a connection together. It is what
//! goes in about a second: bulk would fill more on a slow path, and whoever writes a little would wait as long.

use std::time::Duration;

use crate::alpn::Alpn;

/// Share of the buffers that one stream may hold, as a divisor, and the bounds of that, in bytes: 16 MiB are 100 ms at
/// 1 Gbit/s and more.
const STREAM_SHARE: u64 = 64;
const LEAST_STREAM: u64 = 256 << 10;
const MOST_STREAM: u64 = 16 << 20;
/// Share of what is left of the buffers with which the first connection starts to receive, as a divisor, and what each
/// that there is already adds to that: where they are a few hundred, each gets the least.
const FIRST_SHARE: u64 = 32;
const EACH_SHARE: u64 = 16;
/// Least of that, in bytes: some packets.
const LEAST_WINDOW: u64 = 16 << 10;
const LEAST_SENDING: u64 = 8 << 10;
/// Least and most of datagrams that wait, each way: it is as it was at the beginning as long as the connection lasts.
/// Those that came in one read of the socket are there at once. And of a protocol that has none but to ask for an
/// acknowledgement.
const LEAST_DATAGRAMS: u64 = 16 << 10;
const MOST_DATAGRAMS: u64 = 1 << 20;
const NO_DATAGRAMS: u64 = 2 << 10;
/// Share of the buffers that is left to connections that begin, as a divisor: what those that there are need more
/// comes out of the rest.
const BEGINNERS_SHARE: u64 = 8;
/// What a stranger gets, who may only join.
const STRANGER: First = First { window: 64 << 10, sending: 64 << 10, datagrams: NO_DATAGRAMS };
/// How long it takes what is taken to be sent to go, and in round trips: what is on its way is part of it, and may
/// double.
const SENDING: Duration = Duration::from_secs(1);
const SENDING_ROUNDS: u32 = 4;
/// Most of that, as a share of the buffers.
const SENDING_SHARE: u64 = 32;
const MOST_SENDING: u64 = 32 << 20;

/// What all connections together may hold, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffers(pub(super) u64);

/// What a connection starts with, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct First {
    /// Received and not yet read.
    pub(super) window: u64,
    /// Written and not acknowledged; streams that rested may write as much again, also where that is more by now.
    pub(super) sending: u64,
    /// Datagrams that wait, each way.
    pub(super) datagrams: u64,
}

impl Buffers {
    /// Window of a stream.
    pub(super) fn stream(self) -> u64 {
        (self.0 / STREAM_SHARE).clamp(LEAST_STREAM, MOST_STREAM)
    }

    /// What one more connection for `alpn` starts with beside so many, where they leave so much.
    pub(super) fn first(alpn: Alpn, connections: usize, left: u64) -> First {
        if alpn == Alpn::Join {
            return STRANGER;
        }
        let share = FIRST_SHARE.saturating_add(EACH_SHARE.saturating_mul(connections as u64));
        let window = left / share;
        let datagrams = match alpn {
            Alpn::Mesh => (window / 4).clamp(LEAST_DATAGRAMS, MOST_DATAGRAMS),
            _ => NO_DATAGRAMS,
        };
        let sending = (window / 4).max(LEAST_SENDING);
        First { window: window.max(LEAST_WINDOW), sending, datagrams }
    }

    /// How much of it connections may hold beyond what they started with.
    pub(super) fn growing(self) -> u64 {
        self.0 - self.0 / BEGINNERS_SHARE
    }

    /// The largest window of a connection that started with `first`, with so many streams in use. quinn tells the peer
    /// of what was read when it is an eighth of the window.
    pub(super) fn most(self, first: u64, streams: u64) -> u64 {
        first.saturating_add(streams.saturating_mul(self.stream()) / 7 * 8)
    }

    /// What is taken of all streams of a connection to be sent, where so many bytes a second go.
    pub(super) fn sending(self, rate: f64, rtt: Duration) -> u64 {
        let time = SENDING.max(rtt * SENDING_ROUNDS);
        ((rate * time.as_secs_f64()) as u64).min(self.0 / SENDING_SHARE).min(MOST_SENDING)
    }
}

impl First {
    /// All of it.
    pub(super) fn total(&self) -> u64 {
        self.window + 2 * self.sending + 2 * self.datagrams
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn windows_are_scaled_to_the_host() {
        // Of the host's memory an eighth is for buffers.
        for (memory, stream, first) in
            [(256, 512, 1024), (512, 1024, 2048), (2048, 4096, 8192), (8192, 16384, 32768)]
        {
            let buffers = Buffers(memory * MIB / 8);
            let window = Buffers::first(Alpn::Mesh, 0, buffers.0).window;
            assert_eq!((buffers.stream() >> 10, window >> 10), (stream, first), "{memory} MiB");
        }
    }

    #[test]
    fn what_is_taken_to_be_sent_goes_in_about_a_second() {
        let buffers = Buffers(1024 * MIB);
        for (rate, rtt, sending) in [
            (0, 100, 0),
            (10_000_000, 100, 10_000_000),
            (5_000_000, 1000, 20_000_000),
            (1_000_000_000, 1, 32 * MIB),
        ] {
            assert_eq!(buffers.sending(f64::from(rate), Duration::from_millis(rtt)), sending, "{rate} {rtt}");
        }
    }
}
