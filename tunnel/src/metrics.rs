//! What Prometheus sees of the tunnel.

mod families;
mod subjects;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::Registry;

use crate::carrier::link::Meter;
use crate::config::Config;
use crate::lan::Account;
use crate::limits::Limits;
use crate::socket::{Budget, PeerSlot};
use crate::status::DirectKind;
use families::Families;
use subjects::{Bounded, Carriers, Lan, Links, Packets, Paths, Relay};

/// The metrics of one tunnel; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    packets: Packets,
    pub(crate) paths: Paths,
    pub(crate) links: Links,
    pub(crate) relay: Relay,
    pub(crate) carriers: Carriers,
    pub(crate) lan: Lan,
    bounded: Bounded,
    told: Arc<Mutex<Option<Instant>>>,
}

/// How often the log says that there is no room.
const TOLD: Duration = Duration::from_secs(10);

/// Kinds of path, as labels.
pub(crate) const PATHS: [&str; 7] = ["lan", "public", "punched", "relayed", "tcp", "wss", "none"];

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let families = Families(registry);
        Ok(Self {
            packets: Packets::new(families)?,
            paths: Paths::new(families)?,
            links: Links::new(families)?,
            relay: Relay::new(families)?,
            carriers: Carriers::new(families)?,
            lan: Lan::new(families)?,
            bounded: Bounded::new(families)?,
            told: Arc::default(),
        })
    }

    pub(crate) fn sent(&self, kind: &'static str, bytes: usize) {
        self.packets.sent.add(kind, bytes);
    }

    pub(crate) fn received(&self, kind: &'static str, bytes: usize) {
        self.packets.received.add(kind, bytes);
    }

    pub(crate) fn dropped(&self, reason: &'static str) {
        self.packets.dropped.with_label_values(&[reason]).inc();
    }

    /// Where the bytes of a connection over TCP with a node of the LAN are counted.
    pub(crate) fn account(&self, slot: Option<Arc<PeerSlot>>, budget: Budget) -> Account {
        Account { budget, sent: self.lan.sent.clone(), received: self.lan.received.clone(), slot }
    }

    /// The bounds, for people to compare with what is used.
    pub(crate) fn limits(&self, config: &Config, buffers: u64) {
        let limits = &config.limits;
        self.limit("strangers", limits.strangers as u64);
        self.limit("strangers_per_source", limits.strangers_per_source as u64);
        self.limit("handshakes", limits.handshakes as u64);
        self.limit("handshakes_per_peer", limits.handshakes_per_peer as u64);
        self.limit("connections_per_peer", limits.connections_per_peer as u64);
        self.limit("streams_per_connection", limits.streams.into());
        self.limit("buffer_bytes", buffers);
        self.limit("frames_per_second_of_one_address", limits.frames_per_second.into());
        if config.lan_tcp {
            self.limit("lan_tcp_connections_per_peer", limits.streams.into());
        }
        if config.relay {
            self.relay_limits(limits);
        }
    }

    fn relay_limits(&self, limits: &Limits) {
        self.limit("relay_sessions", limits.relay_sessions as u64);
        self.limit("relay_sessions_per_peer", limits.relay_sessions_per_peer as u64);
        self.limit("relay_bytes_per_second", limits.relay_rate().unwrap_or(0));
        self.limit("relay_queue_bytes", (limits.relay_queue_kib as u64) << 10);
        self.limit("relay_queue_bytes_per_peer", (limits.relay_queue_kib_per_peer as u64) << 10);
    }

    /// The bound of what this node sends, in bytes a second; 0 is none.
    pub(crate) fn rate(&self, rate: Option<u64>) {
        self.limit("rate_bytes_per_second", rate.unwrap_or(0));
    }

    fn limit(&self, of: &str, value: u64) {
        self.bounded.limits.with_label_values(&[of]).set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// What is taken of a bound, by its name among the limits.
    pub(crate) fn in_use(&self, of: &str, value: u64) {
        self.bounded.in_use.with_label_values(&[of]).set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// Refuses for want of room; the log says so now and then.
    pub(crate) fn busy(&self, remote: &SocketAddr) {
        self.refuse("busy", remote, "too many handshakes at a time, of this source or in all");
    }

    /// Refuses since the connections that there are hold all that they may.
    pub(crate) fn no_memory(&self, remote: &SocketAddr) {
        self.refuse(
            "memory",
            remote,
            "those that there are hold all memory that they may: overlay.limits.buffersMib",
        );
    }

    fn refuse(&self, reason: &str, remote: &SocketAddr, why: &str) {
        self.links.refused.with_label_values(&[reason]).inc();
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD) {
            *told = Some(now);
            tracing::warn!(%remote, "connections are refused: {why}");
        }
    }

    /// What the relay took of a node, and dropped of it.
    pub(crate) fn relayed(&self, node: &str, bytes: u64, dropped: u64) {
        self.relay.taken.with_label_values(&[node]).inc_by(bytes);
        if dropped > 0 {
            self.relay.dropped.with_label_values(&[node]).inc_by(dropped);
        }
    }

    pub(crate) fn carrier_full(&self, frames: usize) {
        self.carriers.dropped.inc_by(frames as u64);
    }

    /// Counters of the carriers of one kind.
    pub(crate) fn meter(&self, kind: DirectKind) -> Meter {
        let label = [kind.as_str()];
        Meter {
            sent: self.carriers.sent.with_label_values(&label),
            received: self.carriers.received.with_label_values(&label),
        }
    }

    pub(crate) fn forwarded(&self, bytes: usize) {
        self.relay.frames.inc();
        self.relay.bytes.inc_by(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_shows_each_bound() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let config = Config { relay: true, lan_tcp: true, ..Config::default() };
        metrics.limits(&config, 1 << 30);
        metrics.rate(None);
        let families = registry.gather();
        let limits = families.iter().find(|family| family.name() == "edgeloom_tunnel_limit").unwrap();
        // `buffersMib` and `relayMbit` are among them whether they are set or not; `streams` stands for two.
        let keys = serde_json::to_value(Limits::default()).unwrap().as_object().unwrap().len();
        assert_eq!(limits.get_metric().len(), keys + 2, "with that of TCP on the LAN, and `rateMbit`");
    }
}
