//! What edged counts.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Metrics of the node's pods.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Pods that this node looks after, those being ended included.
    pub pods: IntGauge,
    /// Sandboxes made.
    pub sandboxes: IntCounter,
    /// Containers started.
    pub starts: IntCounter,
    /// Image pulls, by result.
    pub pulls: IntCounterVec,
    /// Listings of the runtime that failed.
    pub relist_failures: IntCounter,
    /// How long a listing took.
    pub relist_seconds: Histogram,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("edgeloom_edged_{name}");
        let seconds =
            HistogramOpts::new(name("relist_seconds"), "Time that a listing of the container runtime took");
        let pulls = Opts::new(name("image_pulls_total"), "Image pulls, by result");
        let metrics = Self {
            pods: IntGauge::new(name("pods"), "Pods that the node looks after, those being ended included")?,
            sandboxes: IntCounter::new(name("sandboxes_total"), "Pod sandboxes made")?,
            starts: IntCounter::new(name("container_starts_total"), "Containers started")?,
            pulls: IntCounterVec::new(pulls, &["result"])?,
            relist_failures: IntCounter::new(
                name("relist_failures_total"),
                "Listings of the container runtime that failed",
            )?,
            relist_seconds: Histogram::with_opts(seconds.buckets(vec![0.005, 0.02, 0.1, 0.5, 2.0, 10.0]))?,
        };
        for result in ["success", "failure"] {
            metrics.pulls.with_label_values(&[result]);
        }
        registry.register(Box::new(metrics.pods.clone()))?;
        registry.register(Box::new(metrics.sandboxes.clone()))?;
        registry.register(Box::new(metrics.starts.clone()))?;
        registry.register(Box::new(metrics.pulls.clone()))?;
        registry.register(Box::new(metrics.relist_failures.clone()))?;
        registry.register(Box::new(metrics.relist_seconds.clone()))?;
        Ok(metrics)
    }
}
