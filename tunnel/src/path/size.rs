//! How large a packet a path carries: pure. Sizes are tried side by side, those that nothing answers again.

use std::time::{Duration, Instant};

/// MTUs that links have: the least of IPv6, tunnels of several kinds, PPPoE, Ethernet. None is larger than what a
/// node takes.
const MTUS: [u16; 7] = [1280, 1400, 1420, 1450, 1480, 1492, 1500];
/// Payloads that are tried whatever the family: of a path that carries no QUIC, and what QUIC wants at least
/// (RFC 9000, section 14).
const LEAST: [u16; 2] = [512, 1200];
/// How often a size that nothing answers is tried: that all are lost by chance on a path that loses one in ten is one
/// of ten thousand.
const ROUNDS: u32 = 4;
/// IPv4's header with UDP's, and IPv6's.
const V4_HEADERS: u16 = 28;
const V6_HEADERS: u16 = 48;

/// What lies around a frame on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Envelope {
    pub(crate) ipv6: bool,
    /// The forwarder's header.
    pub(crate) header: u16,
}

impl Envelope {
    /// The sizes that are worth a try, in bytes of UDP payload without the forwarder's header.
    fn sizes(self) -> impl Iterator<Item = u16> {
        let headers = if self.ipv6 { V6_HEADERS } else { V4_HEADERS };
        LEAST.into_iter().chain(MTUS.map(|mtu| mtu - headers - self.header))
    }
}

/// What one trial found of a path.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    trial: u64,
    rounds: u32,
    next: Option<Instant>,
    /// Largest size of the trial that came back.
    largest: Option<u16>,
}

impl Sizes {
    /// The sizes to be tried now, of this trial; what answers within `wait` is not tried again.
    pub(crate) fn due(&mut self, now: Instant, trial: u64, wait: Duration, envelope: Envelope) -> Vec<u16> {
        if self.trial != trial {
            *self = Self { trial, ..Self::default() };
        }
        if self.rounds == ROUNDS || self.next.is_some_and(|next| now < next) {
            return Vec::new();
        }
        self.rounds += 1;
        self.next = Some(now + wait);
        envelope.sizes().filter(|size| Some(*size) > self.largest).collect()
    }

    /// A packet of the trial with so many bytes came back.
    pub(crate) fn came_back(&mut self, trial: u64, bytes: u16) {
        if self.trial == trial && self.rounds > 0 {
            self.largest = self.largest.max(Some(bytes));
        }
    }

    /// The largest that came back, of the last trial.
    pub(crate) fn largest(&self) -> Option<u16> {
        self.largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(100);
    const V4: Envelope = Envelope { ipv6: false, header: 0 };

    /// What is found where packets of at most `most` bytes pass, of which every `lost`th is lost.
    fn found(envelope: Envelope, most: u16, lost: usize) -> Option<u16> {
        let (mut sizes, mut now, mut sent) = (Sizes::default(), Instant::now(), 0);
        for _ in 0..20 {
            for size in sizes.due(now, 7, WAIT, envelope) {
                sent += 1;
                if size <= most && sent % lost != 0 {
                    sizes.came_back(7, size);
                }
            }
            now += WAIT / 2;
        }
        assert!(sent <= ROUNDS as usize * 9, "{sent}");
        sizes.largest()
    }

    #[test]
    fn the_largest_that_passes_is_found_though_some_are_lost() {
        let v6 = Envelope { ipv6: true, header: 0 };
        let relayed = |ipv6| Envelope { ipv6, header: 32 };
        for (envelope, most, want) in [
            (V4, 1472, Some(1472)),
            (V4, 1471, Some(1464)),
            (V4, 1280 - 28, Some(1252)),
            (v6, 1280 - 48, Some(1232)),
            (relayed(false), 1280 - 28 - 32, Some(1220)),
            (relayed(true), 1280 - 48 - 32, Some(1200)),
            (relayed(true), 9000, Some(1420)),
            (V4, 1199, Some(512)),
            (V4, 0, None),
        ] {
            assert_eq!(found(envelope, most, usize::MAX), want, "{envelope:?} {most}");
            assert_eq!(found(envelope, most, 7), want, "{envelope:?} {most}, one of seven lost");
        }
    }

    #[test]
    fn what_was_found_before_says_nothing_in_the_next_trial() {
        let (mut sizes, now) = (Sizes::default(), Instant::now());
        sizes.came_back(0, 9_000);
        assert_eq!(sizes.largest(), None, "nothing was tried");
        assert!(sizes.due(now, 1, WAIT, V4).contains(&1472));
        sizes.came_back(1, 1472);
        assert!(sizes.due(now + WAIT, 1, WAIT, V4).is_empty(), "nothing larger is left to try");
        assert!(sizes.due(now + WAIT, 2, WAIT, V4).contains(&1472));
        sizes.came_back(1, 1472);
        assert_eq!(sizes.largest(), None);
    }
}
