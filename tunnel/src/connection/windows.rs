//! How much may be received and not yet read.
//!
//! A stream has a window of its own, all streams of a connection have one together, and all connections share what
//! the host can spare. Where a reader stops, its stream's window fills, and with it a part of the connection's: some
//! such streams would leave nothing to the others between the two nodes. QUIC says when that is so: a sender that may
//! send no more on any stream tells so (DATA_BLOCKED, RFC 9000, section 19.12). Then the connection's window grows,
//! at most by a window for each of its streams, out of a reserve that all connections share. None takes more of it
//! than it leaves to the others.
//!
//! What was written and is not acknowledged is bounded too, for all streams of a connection together. It is what
//! goes in about a second: bulk would fill more on a slow path, and whoever writes a little would wait as long.

use std::time::Duration;

use crate::limits::Limits;

/// Share of the buffers that one stream may hold, as a divisor, and the bounds of that, in bytes: 16 MiB are 100 ms at
/// 1 Gbit/s and more.
const STREAM_SHARE: u64 = 64;
const LEAST_STREAM: u64 = 256 << 10;
const MOST_STREAM: u64 = 16 << 20;
/// The same of one connection that has no reader that stopped.
const CONNECTION_SHARE: u64 = 4;
const LEAST_CONNECTION: u64 = 1 << 20;
const MOST_CONNECTION: u64 = 64 << 20;
/// Least that is taken of all streams of a connection to be sent, in bytes: what a path holds that is not known yet.
pub(super) const LEAST_SENDING: u64 = 512 << 10;
/// How long that takes to go, and in round trips: what is on its way is part of it, and may double.
const SENDING: Duration = Duration::from_secs(1);
const SENDING_ROUNDS: u32 = 4;
/// Share of the buffers that is kept in reserve.
const RESERVE_SHARE: u64 = 2;

/// What all connections together may hold, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffers(pub(super) u64);

impl Buffers {
    /// Window of a stream.
    pub(super) fn stream(self) -> u64 {
        (self.0 / STREAM_SHARE).clamp(LEAST_STREAM, MOST_STREAM).min(self.most())
    }

    /// Largest window of a connection that did not grow.
    pub(super) fn most(self) -> u64 {
        (self.0 / CONNECTION_SHARE).clamp(LEAST_CONNECTION, MOST_CONNECTION)
    }

    /// Window of each of so many connections that did not grow.
    pub(super) fn window(self, connections: usize) -> u64 {
        Limits::window(self.0 - self.reserve(), connections, self.most())
    }

    /// What is taken of all streams of a connection to be sent, where so many bytes a second go. Less than a peer like
    /// this one lets be on its way, or its window would bind first.
    pub(super) fn sending(self, rate: f64, rtt: Duration) -> u64 {
        let time = SENDING.max(rtt * SENDING_ROUNDS);
        ((rate * time.as_secs_f64()) as u64).clamp(LEAST_SENDING, self.most() / 2)
    }

    fn reserve(self) -> u64 {
        self.0 / RESERVE_SHARE
    }

    /// What the window of a connection that has grown by `own` so far grows by in all, with so many streams in use,
    /// while the others have `others` of the reserve. Twice as much each time the peer was blocked.
    pub(super) fn growth(self, own: u64, others: u64, streams: u64, blocked: bool) -> u64 {
        let bound = streams.saturating_mul(self.stream());
        let grown = if blocked {
            let most = self.reserve().saturating_sub(others) / 2;
            (own * 2).max(own + self.stream()).min(most).max(own)
        } else {
            own
        };
        grown.min(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn windows_are_scaled_to_the_host() {
        // Of the host's memory an eighth is for buffers.
        for (memory, stream, connection) in
            [(256, 512, 8), (512, 1024, 16), (2048, 4096, 64), (8192, 16384, 64)]
        {
            let buffers = Buffers(memory * MIB / 8);
            assert_eq!((buffers.stream() >> 10, buffers.most() >> 20), (stream, connection), "{memory} MiB");
        }
        assert!(Buffers(0).stream() <= Buffers(0).most());
    }

    #[test]
    fn what_is_taken_to_be_sent_goes_in_about_a_second() {
        let buffers = Buffers(1024 * MIB);
        for (rate, rtt, sending) in [
            (0, 100, LEAST_SENDING),
            (100_000, 100, LEAST_SENDING),
            (10_000_000, 100, 10_000_000),
            (5_000_000, 1000, 20_000_000),
            (1_000_000_000, 1, 32 * MIB),
        ] {
            assert_eq!(buffers.sending(f64::from(rate), Duration::from_millis(rtt)), sending, "{rate} {rtt}");
        }
    }

    #[test]
    fn readers_that_stop_leave_room_to_the_others() {
        for memory in [256, 512, 2048, 65_536] {
            let buffers = Buffers(memory * MIB / 8);
            // Each holds a stream's window, until one more finds no room.
            let (mut growth, mut stopped) = (0, 0);
            loop {
                let held = stopped * buffers.stream();
                if held + buffers.stream() > buffers.window(1) + growth {
                    let more = buffers.growth(growth, 0, stopped + 1, true);
                    if more == growth {
                        break;
                    }
                    growth = more;
                    continue;
                }
                stopped += 1;
            }
            assert!(stopped >= 28, "{stopped} readers that stop, {memory} MiB");
            assert!(buffers.window(1) + growth <= buffers.0, "{memory} MiB");
        }
    }

    #[test]
    fn the_reserve_is_shared() {
        let buffers = Buffers(1024 * MIB);
        let (mut total, mut least) = (0, u64::MAX);
        for _ in 0..4 {
            let (mut own, mut before) = (0, u64::MAX);
            while own != before {
                before = own;
                own = buffers.growth(own, total, 1000, true);
            }
            total += own;
            least = least.min(own);
        }
        assert!(total < buffers.reserve() && least >= buffers.stream(), "{total} {least}");
    }

    #[test]
    fn a_window_shrinks_with_its_streams() {
        let buffers = Buffers(1024 * MIB);
        let stream = buffers.stream();
        assert_eq!(buffers.growth(0, 0, 4, true), stream);
        assert_eq!(buffers.growth(stream, 0, 4, true), 2 * stream);
        assert_eq!(buffers.growth(2 * stream, 0, 4, false), 2 * stream);
        assert_eq!(buffers.growth(2 * stream, 0, 1, false), stream);
        assert_eq!(buffers.growth(2 * stream, 0, 0, true), 0);
    }
}
