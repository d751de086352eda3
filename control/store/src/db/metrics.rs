//! Figures of the object database.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

use crate::error::{Error, Result};

/// A commit waits for the disk: from a good SSD to an SD card that is busy.
const COMMIT_BUCKETS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0];

/// What the writer counts.
#[derive(Clone)]
pub(super) struct Metrics {
    pub(super) commit: Histogram,
    pub(super) writes: IntCounter,
    pub(super) failed: IntCounter,
    pub(super) version: IntGauge,
}

impl Metrics {
    /// Makes the figures, and registers them if there is a registry.
    pub(super) fn new(registry: Option<&Registry>) -> Result<Self> {
        let failed =
            |error: prometheus::Error| Error::internal(format_args!("cannot register metrics: {error}"));
        let buckets = HistogramOpts::new(
            "edgeloom_store_commit_seconds",
            "Time from the start of a transaction to its being on disk, in seconds; one holds many writes",
        )
        .buckets(COMMIT_BUCKETS.to_vec());
        let metrics = Self {
            commit: Histogram::with_opts(buckets).map_err(failed)?,
            writes: IntCounter::new(
                "edgeloom_store_writes_total",
                "Writes that reached the database, refused ones included",
            )
            .map_err(failed)?,
            failed: IntCounter::new(
                "edgeloom_store_failed_commits_total",
                "Transactions that the database refused, such as on a full disk",
            )
            .map_err(failed)?,
            version: IntGauge::new("edgeloom_store_resource_version", "resourceVersion of the newest change")
                .map_err(failed)?,
        };
        if let Some(registry) = registry {
            registry.register(Box::new(metrics.commit.clone())).map_err(failed)?;
            registry.register(Box::new(metrics.writes.clone())).map_err(failed)?;
            registry.register(Box::new(metrics.failed.clone())).map_err(failed)?;
            registry.register(Box::new(metrics.version.clone())).map_err(failed)?;
        }
        Ok(metrics)
    }
}
