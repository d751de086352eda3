//! How much is on its way to a node without an acknowledgement. Pure.

use std::collections::VecDeque;

/// Messages on their way at most.
pub(super) const MESSAGES: usize = 256;
/// Bytes on their way at most, but for one message that is larger alone.
pub(super) const BYTES: usize = 1 << 20;

/// Numbers messages and knows which of them are not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Window {
    sent: u64,
    on_the_way: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl Window {
    /// Whether another message may be sent.
    pub(super) fn is_open(&self) -> bool {
        self.on_the_way.len() < MESSAGES && self.bytes < BYTES
    }

    /// Counts a message of `bytes` and gives it its number.
    pub(super) fn send(&mut self, bytes: usize) -> u64 {
        self.sent += 1;
        self.on_the_way.push_back((self.sent, bytes));
        self.bytes += bytes;
        self.sent
    }

    /// The node's disk holds everything up to `seq`. False if that was never sent.
    pub(super) fn acknowledge(&mut self, seq: u64) -> bool {
        while self.on_the_way.front().is_some_and(|(first, _)| *first <= seq) {
            if let Some((_, bytes)) = self.on_the_way.pop_front() {
                self.bytes -= bytes;
            }
        }
        seq <= self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_bytes_close_the_window_and_acknowledgements_open_it() {
        let mut window = Window::default();
        for _ in 0..MESSAGES {
            assert!(window.is_open());
            window.send(10);
        }
        assert!(!window.is_open());
        assert!(window.acknowledge(1) && window.is_open());
        assert!(window.acknowledge(MESSAGES as u64));
        assert_eq!(window.send(5 * BYTES), MESSAGES as u64 + 1);
        assert!(!window.is_open());
        assert!(window.acknowledge(MESSAGES as u64 + 1) && window.is_open());
        assert!(window.acknowledge(3), "an old acknowledgement changes nothing");
        assert!(!window.acknowledge(9999));
    }
}
