//! What Prometheus sees of the tunnel.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::carrier::link::Meter;
use crate::config::Config;
use crate::lan::Account;
use crate::socket::{Budget, PeerSlot};
use crate::status::DirectKind;

/// The metrics of one tunnel; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    sent_bytes: ByKind,
    received_bytes: ByKind,
    dropped: IntCounterVec,
    pub(crate) probes: IntCounter,
    pub(crate) probe_rtt: Histogram,
    pub(crate) peers: IntGaugeVec,
    pub(crate) path_changes: IntCounterVec,
    pub(crate) connections: IntGaugeVec,
    pub(crate) streams: IntGaugeVec,
    pub(crate) handshakes: IntCounterVec,
    pub(crate) refused: IntCounterVec,
    pub(crate) sessions: IntGauge,
    pub(crate) reachable: IntGauge,
    pub(crate) libp2p_peers: IntGauge,
    forwarded_frames: IntCounter,
    forwarded_bytes: IntCounter,
    pub(crate) carriers: IntGaugeVec,
    carrier_sent: IntCounterVec,
    carrier_received: IntCounterVec,
    carrier_dropped: IntCounter,
    pub(crate) lan_connections: IntGauge,
    lan_sent: IntCounter,
    lan_received: IntCounter,
    limits: IntGaugeVec,
    in_use: IntGaugeVec,
    relayed_bytes: IntCounterVec,
    relay_dropped: IntCounterVec,
    told: Arc<Mutex<Option<Instant>>>,
}

/// Counters of each kind of path, resolved once: the hot path adds to them.
#[derive(Clone, Debug)]
struct ByKind {
    lan: IntCounter,
    public: IntCounter,
    punched: IntCounter,
    relayed: IntCounter,
    tcp: IntCounter,
    wss: IntCounter,
    unbound: IntCounter,
}

impl ByKind {
    fn new(family: &IntCounterVec) -> Self {
        let of = |kind| family.with_label_values(&[kind]);
        Self {
            lan: of("lan"),
            public: of("public"),
            punched: of("punched"),
            relayed: of("relayed"),
            tcp: of("tcp"),
            wss: of("wss"),
            unbound: of("direct"),
        }
    }

    fn add(&self, kind: &str, bytes: usize) {
        let counter = match kind {
            "lan" => &self.lan,
            "public" => &self.public,
            "punched" => &self.punched,
            "relayed" => &self.relayed,
            "tcp" => &self.tcp,
            "wss" => &self.wss,
            _ => &self.unbound,
        };
        counter.inc_by(bytes as u64);
    }
}

/// How often the log says that there is no room.
const TOLD: Duration = Duration::from_secs(10);

/// Kinds of path, as labels.
pub(crate) const PATHS: [&str; 7] = ["lan", "public", "punched", "relayed", "tcp", "wss", "none"];

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str| {
            let family = IntCounterVec::new(Opts::new(format!("edgeloom_tunnel_{name}"), help), &[label])?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let gauges = |name: &str, help: &str, label: &str| {
            let family = IntGaugeVec::new(Opts::new(format!("edgeloom_tunnel_{name}"), help), &[label])?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("edgeloom_tunnel_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let sent = counters("sent_bytes_total", "QUIC bytes sent to peers, by kind of path.", "path")?;
        let received =
            counters("received_bytes_total", "QUIC bytes received from peers, by kind of path.", "path")?;
        let sessions =
            IntGauge::new("edgeloom_tunnel_forwarder_sessions", "Sessions that this relay forwards.")?;
        registry.register(Box::new(sessions.clone()))?;
        let reachable = IntGauge::new(
            "edgeloom_tunnel_reachable",
            "1 if AutoNAT found this node reachable from outside without punching, else 0.",
        )?;
        registry.register(Box::new(reachable.clone()))?;
        let libp2p_peers =
            IntGauge::new("edgeloom_tunnel_libp2p_peers", "Peers with an open libp2p connection.")?;
        registry.register(Box::new(libp2p_peers.clone()))?;
        let lan_connections = IntGauge::new(
            "edgeloom_tunnel_lan_tcp_connections",
            "Open connections over TCP with nodes of the LAN, those that wait for a flow included.",
        )?;
        registry.register(Box::new(lan_connections.clone()))?;
        let probe_rtt = Histogram::with_opts(
            HistogramOpts::new("edgeloom_tunnel_probe_rtt_seconds", "Round trip times of answered probes.")
                .buckets(vec![0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0]),
        )?;
        registry.register(Box::new(probe_rtt.clone()))?;
        let metrics = Self {
            sent_bytes: ByKind::new(&sent),
            received_bytes: ByKind::new(&received),
            dropped: counters("dropped_packets_total", "Packets and frames dropped, by reason.", "reason")?,
            probes: counter("probes_sent_total", "Probes sent.")?,
            probe_rtt,
            peers: gauges("peers", "Known peers, by kind of the path in use.", "path")?,
            path_changes: counters(
                "path_changes_total",
                "Moves of a peer's traffic, by kind of the new path.",
                "path",
            )?,
            connections: gauges("connections", "Open QUIC connections, by protocol.", "protocol")?,
            streams: gauges("streams", "Streams in use, of all connections, by protocol.", "protocol")?,
            handshakes: counters("handshakes_total", "Completed handshakes, by side.", "side")?,
            refused: counters("refused_total", "Refused peers, by reason.", "reason")?,
            sessions,
            reachable,
            libp2p_peers,
            forwarded_frames: counter("forwarder_frames_total", "Frames that this relay forwarded.")?,
            forwarded_bytes: counter(
                "forwarder_bytes_total",
                "Bytes that this relay forwarded, headers included.",
            )?,
            carriers: gauges("carriers", "Open carriers: connections over TCP in UDP's place.", "carrier")?,
            carrier_sent: counters(
                "carrier_sent_bytes_total",
                "Bytes of frames sent over carriers.",
                "carrier",
            )?,
            carrier_received: counters(
                "carrier_received_bytes_total",
                "Bytes of frames received over carriers.",
                "carrier",
            )?,
            lan_connections,
            lan_sent: counter(
                "lan_tcp_sent_bytes_total",
                "Bytes of flows sent over TCP to nodes of the LAN.",
            )?,
            lan_received: counter(
                "lan_tcp_received_bytes_total",
                "Bytes of flows received over TCP from nodes of the LAN.",
            )?,
            limits: gauges("limit", "Bounds of what others may take of this node; 0 is none.", "of")?,
            in_use: gauges("in_use", "What is taken of what is bounded, by the same names.", "of")?,
            relayed_bytes: counters(
                "forwarder_peer_bytes_total",
                "Bytes that this relay took to forward, by the node that sent them; beyond some hundred nodes, others.",
                "node",
            )?,
            relay_dropped: counters(
                "forwarder_peer_dropped_bytes_total",
                "Bytes that this relay dropped because its way out was full, by the node that sent them.",
                "node",
            )?,
            told: Arc::default(),
            carrier_dropped: counter(
                "carrier_dropped_frames_total",
                "Frames dropped because their carrier could not keep up.",
            )?,
        };
        for kind in [DirectKind::Tcp, DirectKind::Wss] {
            // None is a figure too.
            metrics.carriers.with_label_values(&[kind.as_str()]).set(0);
            metrics.meter(kind);
        }
        Ok(metrics)
    }

    pub(crate) fn sent(&self, kind: &'static str, bytes: usize) {
        self.sent_bytes.add(kind, bytes);
    }

    pub(crate) fn received(&self, kind: &'static str, bytes: usize) {
        self.received_bytes.add(kind, bytes);
    }

    pub(crate) fn dropped(&self, reason: &'static str) {
        self.dropped.with_label_values(&[reason]).inc();
    }

    /// Where the bytes of a connection over TCP with a node of the LAN are counted.
    pub(crate) fn lan(&self, slot: Option<Arc<PeerSlot>>, budget: Budget) -> Account {
        Account { budget, sent: self.lan_sent.clone(), received: self.lan_received.clone(), slot }
    }

    /// The bounds, for people to compare with what is used.
    pub(crate) fn limits(&self, config: &Config, buffers: u64) {
        let limits = &config.limits;
        let set = |of: &str, value: u64| {
            self.limits.with_label_values(&[of]).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set("strangers", limits.strangers as u64);
        set("strangers_per_source", limits.strangers_per_source as u64);
        set("handshakes", limits.handshakes as u64);
        set("handshakes_per_peer", limits.handshakes_per_peer as u64);
        set("connections_per_peer", limits.connections_per_peer as u64);
        set("streams_per_connection", limits.streams.into());
        set("buffer_bytes", buffers);
        set("frames_per_second_of_one_address", limits.frames_per_second.into());
        if config.relay {
            set("relay_sessions", limits.relay_sessions as u64);
            set("relay_sessions_per_peer", limits.relay_sessions_per_peer as u64);
            set("relay_bytes_per_second", limits.relay_rate().unwrap_or(0));
            set("relay_queue_bytes", (limits.relay_queue_kib as u64) << 10);
            set("relay_queue_bytes_per_peer", (limits.relay_queue_kib_per_peer as u64) << 10);
        }
    }

    /// The bound of what this node sends, in bytes a second; 0 is none.
    pub(crate) fn rate(&self, rate: Option<u64>) {
        let rate = i64::try_from(rate.unwrap_or(0)).unwrap_or(i64::MAX);
        self.limits.with_label_values(&["rate_bytes_per_second"]).set(rate);
    }

    /// What is taken of a bound.
    pub(crate) fn in_use(&self, of: &str, value: u64) {
        self.in_use.with_label_values(&[of]).set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// Refuses for want of room; the log says so now and then.
    pub(crate) fn busy(&self, remote: &SocketAddr) {
        self.refused.with_label_values(&["busy"]).inc();
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD) {
            *told = Some(now);
            tracing::warn!(%remote, "connections are refused: too many handshakes at a time, of this source or in all");
        }
    }

    /// What the relay took of a node, and dropped of it.
    pub(crate) fn relayed(&self, node: &str, bytes: u64, dropped: u64) {
        self.relayed_bytes.with_label_values(&[node]).inc_by(bytes);
        if dropped > 0 {
            self.relay_dropped.with_label_values(&[node]).inc_by(dropped);
        }
    }

    pub(crate) fn carrier_full(&self, frames: usize) {
        self.carrier_dropped.inc_by(frames as u64);
    }

    /// Counters of the carriers of one kind.
    pub(crate) fn meter(&self, kind: DirectKind) -> Meter {
        let label = [kind.as_str()];
        Meter {
            sent: self.carrier_sent.with_label_values(&label),
            received: self.carrier_received.with_label_values(&label),
        }
    }

    pub(crate) fn forwarded(&self, bytes: usize) {
        self.forwarded_frames.inc();
        self.forwarded_bytes.inc_by(bytes as u64);
    }
}
