//! What others may take of this node. Every field has a default that no honest site meets.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// Bounds against abuse, of the overlay's socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Handshakes and connections of hosts without a credential, which may only join, at a time; and of them from one
    /// address (IPv6: one /64).
    #[serde(deserialize_with = "positive")]
    pub strangers: usize,
    /// See [`Limits::strangers`].
    #[serde(deserialize_with = "positive")]
    pub strangers_per_source: usize,
    /// Handshakes of members at a time, and of one member.
    #[serde(deserialize_with = "positive")]
    pub handshakes: usize,
    /// See [`Limits::handshakes`].
    #[serde(deserialize_with = "positive")]
    pub handshakes_per_peer: usize,
    /// Connections of one member, of each protocol.
    #[serde(deserialize_with = "positive")]
    pub connections_per_peer: usize,
    /// Streams that a member may have open on one connection, and TCP connections on the LAN.
    #[serde(deserialize_with = "positive")]
    pub streams: u32,
    /// MiB that all connections together may hold: received and not yet read, written and not acknowledged, and
    /// datagrams that wait. By default an eighth of the host's memory.
    #[serde(deserialize_with = "positive_or_none")]
    pub buffers_mib: Option<u64>,
    /// Frames a second, such as probes, that are taken of one address; others are dropped.
    #[serde(deserialize_with = "positive")]
    pub frames_per_second: u32,
    /// As a relay: sessions at a time, and of one member.
    #[serde(deserialize_with = "positive")]
    pub relay_sessions: usize,
    /// See [`Limits::relay_sessions`].
    #[serde(deserialize_with = "positive")]
    pub relay_sessions_per_peer: usize,
    /// As a relay: megabits a second that are forwarded in all. By default as many as go.
    #[serde(deserialize_with = "positive_or_none")]
    pub relay_mbit: Option<u32>,
    /// As a relay: KiB that wait where the way out is full, in all, and of one member. They are served in turn.
    #[serde(deserialize_with = "positive")]
    pub relay_queue_kib: usize,
    /// See [`Limits::relay_queue_kib`].
    #[serde(deserialize_with = "positive")]
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

/// A bound: one of 0 would shut everybody out, honest or not, which the file says by other keys where it is meant.
fn positive<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + PartialOrd + From<u8>,
    D: Deserializer<'de>,
{
    let bound = T::deserialize(deserializer)?;
    if bound >= T::from(1) { Ok(bound) } else { Err(D::Error::custom("must be 1 at least")) }
}

/// The same of a bound that may be absent.
fn positive_or_none<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de> + PartialOrd + From<u8>,
    D: Deserializer<'de>,
{
    match Option::<T>::deserialize(deserializer)? {
        Some(bound) if bound < T::from(1) => Err(D::Error::custom("must be 1 at least, or null")),
        bound => Ok(bound),
    }
}

/// Share of the host's memory that all connections may hold, as a divisor.
const MEMORY_SHARE: u64 = 8;
impl Limits {
    /// Bytes that all connections together may hold.
    pub(crate) fn buffers(&self) -> u64 {
        let memory = || nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |info| info.ram_total());
        self.buffers_mib.map_or_else(|| memory() / MEMORY_SHARE, |mebibytes| mebibytes << 20)
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
    fn a_bound_of_nothing_is_refused() {
        let all = serde_json::to_value(Limits::default()).unwrap();
        for key in all.as_object().unwrap().keys() {
            let read = |bound: u8| serde_json::from_value::<Limits>(serde_json::json!({ key: bound }));
            assert!(read(1).is_ok(), "{key}");
            let error = read(0).unwrap_err().to_string();
            assert!(error.contains("1 at least"), "{key}: {error}");
        }
        let limits = Limits { buffers_mib: Some(64), relay_mbit: Some(8), ..Limits::default() };
        let shown = serde_json::to_value(&limits).unwrap();
        assert_eq!(serde_json::from_value::<Limits>(shown).unwrap(), limits);
        assert_eq!(serde_json::from_value::<Limits>(all).unwrap(), Limits::default());
    }
}
