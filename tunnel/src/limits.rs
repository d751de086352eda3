//! What others may take of this node. Every field has a default that no honest site meets.

use serde::{Deserialize, Serialize};

/// Bounds against abuse, of the overlay's socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Handshakes and connections of hosts without a credential, which may only join, at a time; and of them from one
    /// address (IPv6: one /64).
    pub strangers: usize,
    /// See [`Limits::strangers`].
    pub strangers_per_source: usize,
    /// Handshakes of members at a time, and of one member.
    pub handshakes: usize,
    /// See [`Limits::handshakes`].
    pub handshakes_per_peer: usize,
    /// Connections of one member, of each protocol.
    pub connections_per_peer: usize,
    /// Streams that a member may have open on one connection, and TCP connections on the LAN.
    pub streams: u32,
    /// MiB that all connections together may hold of what was received and not yet read. By default an eighth of the
    /// host's memory.
    pub buffers_mib: Option<u64>,
    /// Frames a second, such as probes, that are taken of one address; others are dropped.
    pub frames_per_second: u32,
    /// As a relay: sessions at a time, and of one member.
    pub relay_sessions: usize,
    /// See [`Limits::relay_sessions`].
    pub relay_sessions_per_peer: usize,
    /// As a relay: megabits a second that are forwarded in all. By default as many as go.
    pub relay_mbit: Option<u32>,
    /// As a relay: KiB that wait where the way out is full, in all, and of one member. They are served in turn.
    pub relay_queue_kib: usize,
    /// See [`Limits::relay_queue_kib`].
    pub relay_queue_kib_per_peer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            strangers: 256,
            // More than a control talks to, so that most of those who are too many are told so.
            strangers_per_source: 32,
            handshakes: 1024,
            handshakes_per_peer: 16,
            // Two that were dialled at the same time, their renewals, and old ones whose streams go on.
            connections_per_peer: 16,
            streams: 1024,
            buffers_mib: None,
            frames_per_second: 2_000,
            relay_sessions: 65_536,
            relay_sessions_per_peer: 4_096,
            relay_mbit: None,
            relay_queue_kib: 16 << 10,
            relay_queue_kib_per_peer: 1 << 10,
        }
    }
}

/// Share of the host's memory that all connections may hold, as a divisor.
const MEMORY_SHARE: u64 = 8;
/// Least window of a connection, in bytes: nothing much slower than a packet at a time.
const LEAST_WINDOW: u64 = 256 << 10;

impl Limits {
    /// Bytes that all connections together may hold.
    pub(crate) fn buffers(&self) -> u64 {
        let memory = || nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |info| info.ram_total());
        self.buffers_mib.map_or_else(|| memory() / MEMORY_SHARE, |mebibytes| mebibytes << 20)
    }

    /// Window of each of so many connections, of which none needs more than `most`.
    pub(crate) fn window(buffers: u64, connections: usize, most: u64) -> u64 {
        (buffers / connections.max(1) as u64).clamp(LEAST_WINDOW.min(most), most)
    }

    /// Bytes a second of the relay.
    pub(crate) fn relay_rate(&self) -> Option<u64> {
        self.relay_mbit.map(|megabits| u64::from(megabits) * 125_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_share_what_there_is() {
        let (buffers, most) = (512 << 20, 64 << 20);
        assert_eq!(Limits::window(buffers, 0, most), most);
        assert_eq!(Limits::window(buffers, 8, most), most);
        assert_eq!(Limits::window(buffers, 512, most), 1 << 20);
        assert_eq!(Limits::window(buffers, 1_000_000, most), LEAST_WINDOW);
        assert_eq!(Limits::window(1 << 20, 100, 1 << 17), 1 << 17, "a small host offers little to each");
    }
}
