//! Waiting for what is under way before a node goes.

use std::time::Duration;

use super::Connections;

/// How long no packet may come before a connection counts as silent while draining.
const SILENCE: Duration = Duration::from_millis(500);

impl Connections {
    /// Waits until nothing comes on any connection any more, at most `patience`.
    pub(crate) async fn drain(&self, patience: Duration) {
        let received =
            || self.lock().values().flatten().map(|entry| entry.connection.stats().udp_rx.bytes).sum::<u64>();
        let end = tokio::time::Instant::now() + patience;
        let mut before = received();
        while before > 0 && tokio::time::Instant::now() < end {
            tokio::time::sleep_until((tokio::time::Instant::now() + SILENCE).min(end)).await;
            let after = received();
            if after == before {
                return;
            }
            before = after;
        }
    }
}
