//! What the API server counts.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

/// Metrics of the API server.
pub(crate) struct Metrics {
    pub(crate) requests: IntCounterVec,
    pub(crate) duration: HistogramVec,
    pub(crate) watches: IntGauge,
    pub(crate) connections: IntGauge,
    pub(crate) watches_cut: prometheus::IntCounter,
    /// For `/metrics`.
    pub(crate) registry: Registry,
}

impl Metrics {
    /// Makes and registers them.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new(
                    "edgeloom_api_requests_total",
                    "Requests answered, by verb, resource and status code.",
                ),
                &["verb", "resource", "code"],
            )?,
            duration: HistogramVec::new(
                HistogramOpts::new(
                    "edgeloom_api_request_duration_seconds",
                    "Time from the head of a request to the head of its answer, long-running ones left out.",
                )
                .buckets(prometheus::exponential_buckets(0.0005, 2.0, 14)?),
                &["verb"],
            )?,
            watches: IntGauge::new("edgeloom_api_watches", "Watches that run now.")?,
            connections: IntGauge::new("edgeloom_api_connections", "Connections that are open now.")?,
            watches_cut: prometheus::IntCounter::new(
                "edgeloom_api_watches_cut_total",
                "Watches ended because their client did not read.",
            )?,
            registry: registry.clone(),
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.watches.clone()))?;
        registry.register(Box::new(metrics.connections.clone()))?;
        registry.register(Box::new(metrics.watches_cut.clone()))?;
        Ok(metrics)
    }
}
