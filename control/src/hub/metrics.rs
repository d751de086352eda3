//! What the hub counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Metrics of the hub.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub(super) sessions: IntGauge,
    pub(super) opened: IntCounter,
    pub(super) sent: IntCounter,
    pub(super) sent_bytes: IntCounter,
    pub(super) writes: IntCounterVec,
    pub(super) requests: IntCounterVec,
    pub(super) objects: IntGauge,
    pub(super) watch_errors: IntCounterVec,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
                let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(counters.clone()))?;
                Ok(counters)
            };
        Ok(Self {
            sessions: gauge("edgeloom_hub_sessions", "Nodes with a session.")?,
            opened: counter("edgeloom_hub_sessions_opened_total", "Sessions that nodes opened.")?,
            sent: counter("edgeloom_hub_sent_changes_total", "Changes of objects sent to nodes.")?,
            sent_bytes: counter("edgeloom_hub_sent_bytes_total", "Bytes of objects sent to nodes.")?,
            writes: counters(
                "edgeloom_hub_writes_total",
                "Writes of nodes by what became of them.",
                &["result"],
            )?,
            requests: counters(
                "edgeloom_hub_requests_total",
                "Requests of nodes by what became of them.",
                &["result"],
            )?,
            objects: gauge("edgeloom_hub_objects", "Objects of the cluster that the hub holds.")?,
            watch_errors: counters(
                "edgeloom_hub_watch_errors_total",
                "Failures of watches on the API.",
                &["resource"],
            )?,
        })
    }
}
