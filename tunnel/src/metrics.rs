//! What Prometheus sees of the tunnel.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::carrier::link::Meter;
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
