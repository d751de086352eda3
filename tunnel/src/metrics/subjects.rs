//! The metrics of each subject.

use prometheus::{Error, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::families::Families;
use crate::status::DirectKind;

/// Seconds of a round trip: from a LAN to a path round the world.
const ROUND_TRIPS: [f64; 12] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0];

/// Packets of all kinds.
#[derive(Clone, Debug)]
pub(super) struct Packets {
    pub(super) sent: ByKind,
    pub(super) received: ByKind,
    pub(super) dropped: IntCounterVec,
}

/// How peers are found and reached.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) probes: IntCounter,
    pub(crate) probe_rtt: Histogram,
    pub(crate) peers: IntGaugeVec,
    pub(crate) passed_over: IntGauge,
    pub(crate) changes: IntCounterVec,
    pub(crate) reachable: IntGauge,
    pub(crate) libp2p_peers: IntGauge,
}

/// QUIC connections, and who was let in.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    pub(crate) connections: IntGaugeVec,
    pub(crate) streams: IntGaugeVec,
    pub(crate) handshakes: IntCounterVec,
    pub(crate) refused: IntCounterVec,
}

/// What this node does as a relay.
#[derive(Clone, Debug)]
pub(crate) struct Relay {
    pub(crate) sessions: IntGauge,
    pub(super) frames: IntCounter,
    pub(super) bytes: IntCounter,
    pub(super) taken: IntCounterVec,
    pub(super) dropped: IntCounterVec,
}

/// Connections over TCP in the place of UDP.
#[derive(Clone, Debug)]
pub(crate) struct Carriers {
    pub(crate) open: IntGaugeVec,
    pub(super) sent: IntCounterVec,
    pub(super) received: IntCounterVec,
    pub(super) dropped: IntCounter,
}

/// Flows over TCP with nodes of the LAN.
#[derive(Clone, Debug)]
pub(crate) struct Lan {
    pub(crate) connections: IntGauge,
    pub(super) sent: IntCounter,
    pub(super) received: IntCounter,
}

/// What is bounded.
#[derive(Clone, Debug)]
pub(super) struct Bounded {
    pub(super) limits: IntGaugeVec,
    pub(super) in_use: IntGaugeVec,
}

/// Counters of each kind of path, resolved once: the hot path adds to them.
#[derive(Clone, Debug)]
pub(super) struct ByKind {
    lan: IntCounter,
    public: IntCounter,
    punched: IntCounter,
    relayed: IntCounter,
    tcp: IntCounter,
    wss: IntCounter,
    unbound: IntCounter,
}

impl Packets {
    pub(super) fn new(families: Families<'_>) -> Result<Self, Error> {
        let sent =
            families.counters("sent_bytes_total", "QUIC bytes sent to peers, by kind of path.", "path")?;
        let received = "QUIC bytes received from peers, by kind of path.";
        let received = families.counters("received_bytes_total", received, "path")?;
        let dropped = "Packets and frames dropped, by reason.";
        let dropped = families.counters("dropped_packets_total", dropped, "reason")?;
        Ok(Self { sent: ByKind::new(&sent), received: ByKind::new(&received), dropped })
    }
}

impl Paths {
    pub(super) fn new(families: Families<'_>) -> Result<Self, Error> {
        let rtt = "Round trip times of answered probes.";
        let passed_over =
            "Peers whose traffic goes by another path because the one it would take loses much more.";
        let changes = "Moves of a peer's traffic, by kind of the new path.";
        let reachable = "1 if AutoNAT found this node reachable from outside without punching, else 0.";
        Ok(Self {
            probes: families.counter("probes_sent_total", "Probes sent.")?,
            probe_rtt: families.histogram("probe_rtt_seconds", rtt, &ROUND_TRIPS)?,
            peers: families.gauges("peers", "Known peers, by kind of the path in use.", "path")?,
            passed_over: families.gauge("peers_off_lossy_path", passed_over)?,
            changes: families.counters("path_changes_total", changes, "path")?,
            reachable: families.gauge("reachable", reachable)?,
            libp2p_peers: families.gauge("libp2p_peers", "Peers with an open libp2p connection.")?,
        })
    }
}

impl Links {
    pub(super) fn new(families: Families<'_>) -> Result<Self, Error> {
        let streams = "Streams in use, of all connections, by protocol.";
        Ok(Self {
            connections: families.gauges("connections", "Open QUIC connections, by protocol.", "protocol")?,
            streams: families.gauges("streams", streams, "protocol")?,
            handshakes: families.counters("handshakes_total", "Completed handshakes, by side.", "side")?,
            refused: families.counters("refused_total", "Refused peers, by reason.", "reason")?,
        })
    }
}

impl Relay {
    pub(super) fn new(families: Families<'_>) -> Result<Self, Error> {
        let bytes = "Bytes that this relay forwarded, headers included.";
        let taken = "Bytes that this relay took to forward, by the node that sent them; beyond some hundred nodes, others.";
        let dropped =
            "Bytes that this relay dropped because its way out was full, by the node that sent them.";
        Ok(Self {
            sessions: families.gauge("forwarder_sessions", "Sessions that this relay forwards.")?,
            frames: families.counter("forwarder_frames_total", "Frames that this relay forwarded.")?,
            bytes: families.counter("forwarder_bytes_total", bytes)?,
            taken: families.counters("forwarder_peer_bytes_total", taken, "node")?,
            dropped: families.counters("forwarder_peer_dropped_bytes_total", dropped, "node")?,
        })
    }
}

impl Carriers {
    pub(super) fn new(families: Families<'_>) -> Result<Self, Error> {
        let open = "Open carriers: connections over TCP in UDP's place.";
        let dropped = "Frames dropped because their carrier could not keep up.";
        let (sent, received) =
            ("Bytes of frames sent over carriers.", "Bytes of frames received over carriers.");
        let carriers = Self {
            open: families.gauges("carriers", open, "carrier")?,
            sent: families.counters("carrier_sent_bytes_total", sent, "carrier")?,
            received: families.counters("carrier_received_bytes_total", received, "carrier")?,
            dropped: families.counter("carrier_dropped_frames_total", dropped)?,
        };
        for kind in [DirectKind::Tcp, DirectKind::Wss] {
            // None is a figure too.
            let label = [kind.as_str()];
            carriers.open.with_label_values(&label).set(0);
            carriers.sent.with_label_values(&label);
            carriers.received.with_label_values(&label);
        }
        Ok(carriers)
    }
}

impl Lan {
    pub(super) fn new(families: Families<'_>) -> Result<Self, Error> {
        let open = "Open connections over TCP with nodes of the LAN, those that wait for a flow included.";
        let sent = "Bytes of flows sent over TCP to nodes of the LAN.";
        let received = "Bytes of flows received over TCP from nodes of the LAN.";
        Ok(Self {
            connections: families.gauge("lan_tcp_connections", open)?,
            sent: families.counter("lan_tcp_sent_bytes_total", sent)?,
            received: families.counter("lan_tcp_received_bytes_total", received)?,
        })
    }
}

impl Bounded {
    pub(super) fn new(families: Families<'_>) -> Result<Self, Error> {
        let limits = "Bounds of what others may take of this node; 0 is none.";
        let in_use = "What is taken of what is bounded, by the same names.";
        Ok(Self {
            limits: families.gauges("limit", limits, "of")?,
            in_use: families.gauges("in_use", in_use, "of")?,
        })
    }
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

    pub(super) fn add(&self, kind: &str, bytes: usize) {
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
