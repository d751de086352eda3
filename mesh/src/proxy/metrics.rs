//! What the proxy counts.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::splice::Carried;
use crate::wire::Code;

/// Seconds of a connect: from a loopback to a relayed path that lost packets.
const CONNECT_BUCKETS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// What carries a TCP connection between two agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// A stream of the QUIC connection.
    Quic,
    /// A TCP connection on the LAN.
    Tcp,
}

impl By {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

/// Metrics of all flows.
#[derive(Clone, Debug)]
pub struct Metrics {
    connections: IntCounterVec,
    flows: IntCounterVec,
    pub(super) lan_dead: IntCounter,
    open: IntGaugeVec,
    bytes: IntCounterVec,
    pub(super) connect_seconds: Histogram,
    pub(super) set_aside: IntGauge,
    udp_flows: IntGaugeVec,
    udp_sent: IntCounterVec,
    udp_dropped: IntCounterVec,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Both directions came to their end.
    Complete,
    /// A side reset it, or the tunnel was lost.
    Reset,
    /// The client left before the endpoint answered.
    Client,
    /// No endpoint was known.
    NoEndpoint,
    /// Too many are open.
    Busy,
    /// It was refused at the far end, or by all endpoints tried.
    Refused(Code),
}

impl Ended {
    fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Reset => "reset",
            Self::Client => "client_left",
            Self::NoEndpoint => "no_endpoint",
            Self::Busy => "busy",
            Self::Refused(code) => code.as_str(),
        }
    }
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let connect = HistogramOpts::new(
            "edgeloom_mesh_connect_seconds",
            "Time from a client's connect to the endpoint's answer, fail-over included.",
        );
        let connect_seconds = Histogram::with_opts(connect.buckets(CONNECT_BUCKETS.to_vec()))?;
        registry.register(Box::new(connect_seconds.clone()))?;
        let set_aside = IntGauge::new(
            "edgeloom_mesh_endpoints_set_aside",
            "Endpoints that failed lately and are passed over for now.",
        )?;
        registry.register(Box::new(set_aside.clone()))?;
        let lan_dead = IntCounter::new(
            "edgeloom_mesh_lan_tcp_dead_total",
            "TCP connections on the LAN that turned out dead when a flow was to go by them; it went by QUIC.",
        )?;
        registry.register(Box::new(lan_dead.clone()))?;
        Ok(Self {
            flows: counters(
                "edgeloom_mesh_flows_total",
                "TCP connections that reached their endpoint through another node's agent, by direction and by what \
                 carries them: quic, or tcp on a LAN.",
                &["direction", "carrier"],
            )?,
            lan_dead,
            connections: counters(
                "edgeloom_mesh_connections_total",
                "TCP connections that ended, by direction (outgoing: of clients here) and how they ended.",
                &["direction", "result"],
            )?,
            open: gauges("edgeloom_mesh_connections", "TCP connections that are open.", &["direction"])?,
            bytes: counters(
                "edgeloom_mesh_bytes_total",
                "Bytes of TCP connections sent to and received from other nodes' agents.",
                &["direction"],
            )?,
            connect_seconds,
            set_aside,
            udp_flows: gauges("edgeloom_mesh_udp_flows", "UDP flows that are open.", &["direction"])?,
            udp_sent: counters(
                "edgeloom_mesh_udp_sent_total",
                "UDP datagrams sent to other nodes' agents, by what carried them (datagram or stream).",
                &["carrier"],
            )?,
            udp_dropped: counters(
                "edgeloom_mesh_udp_dropped_total",
                "UDP datagrams dropped here, by reason.",
                &["reason"],
            )?,
        })
    }

    /// Counts a connection that ended.
    pub(super) fn connections(&self, direction: &str, ended: Ended) {
        self.connections.with_label_values(&[direction, ended.as_str()]).inc();
    }

    /// Counts a connection that reached its endpoint by another node's agent.
    pub(super) fn flow(&self, direction: &str, by: By) {
        self.flows.with_label_values(&[direction, by.as_str()]).inc();
    }

    /// Counts a connection as open until the guard is dropped.
    pub(super) fn open(&self, direction: &str) -> OpenGuard {
        OpenGuard::new(self.open.with_label_values(&[direction]))
    }

    /// Counts a UDP flow as open until the guard is dropped.
    pub(super) fn udp_open(&self, direction: &str) -> OpenGuard {
        OpenGuard::new(self.udp_flows.with_label_values(&[direction]))
    }

    /// Counts a datagram that went to another node's agent.
    pub(super) fn sent(&self, carrier: &str) {
        self.udp_sent.with_label_values(&[carrier]).inc();
    }

    /// Counts a datagram that was dropped.
    pub(super) fn dropped(&self, reason: &str) {
        self.udp_dropped.with_label_values(&[reason]).inc();
    }

    /// Counters of bytes.
    pub(super) fn carried(&self) -> Carried {
        let bytes = |direction: &str| -> IntCounter { self.bytes.with_label_values(&[direction]) };
        Carried { sent: bytes("sent"), received: bytes("received") }
    }
}

/// Keeps a gauge one higher while it lives.
#[derive(Debug)]
pub(crate) struct OpenGuard(IntGauge);

impl OpenGuard {
    pub(crate) fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
