//! What the node's side of the hub counts.

use prometheus::{IntCounter, IntGauge, Registry};

/// Metrics of session, metastore and outbox.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) connected: IntGauge,
    pub(crate) sessions: IntCounter,
    pub(crate) changes: IntCounter,
    pub(crate) writes: IntCounter,
    pub(crate) refused_writes: IntCounter,
    pub(crate) objects: IntGauge,
    pub(crate) pending: IntGauge,
    pub(crate) dropped_events: IntCounter,
    pub(crate) credential_expiry: IntGauge,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        Ok(Self {
            connected: gauge(
                "edgeloom_hub_client_connected",
                "1 while there is a session with the control.",
            )?,
            sessions: counter(
                "edgeloom_hub_client_sessions_total",
                "Sessions that were opened with the control.",
            )?,
            changes: counter(
                "edgeloom_hub_client_changes_total",
                "Changes of objects taken from the control.",
            )?,
            writes: counter("edgeloom_hub_client_writes_total", "Writes that the control has answered.")?,
            refused_writes: counter(
                "edgeloom_hub_client_refused_writes_total",
                "Writes that the control or the API refused for good.",
            )?,
            objects: gauge("edgeloom_metastore_objects", "Objects that the node holds.")?,
            pending: gauge("edgeloom_outbox_pending_writes", "Writes that wait for the control.")?,
            dropped_events: counter(
                "edgeloom_outbox_dropped_events_total",
                "Events dropped since the start because too many waited.",
            )?,
            credential_expiry: gauge(
                "edgeloom_credential_expiry_timestamp_seconds",
                "When the node's credential ends, in seconds since the Unix epoch.",
            )?,
        })
    }
}
