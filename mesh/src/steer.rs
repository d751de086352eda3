//! Brings each snapshot into the kernel and into DNS.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use edgeloom_api::admin;
use edgeloom_dns::Zone;
use edgeloom_ebpf::{State, Status, Steering};
use ipnet::IpNet;
use prometheus::{Histogram, HistogramOpts, IntCounter, Registry};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::render;
use crate::snapshot::Snapshot;

/// How often the datapath is made to hold what is desired though nothing changed: hooks that somebody
/// removed come back, and what failed is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// Makes DNS answer from a snapshot.
pub(crate) fn publish_zone(snapshot: &Snapshot, domain: &str, zone: &ArcSwap<Zone>) {
    match Zone::build(snapshot.model.clone(), domain) {
        Ok(built) => zone.store(Arc::new(built)),
        Err(error) => tracing::error!(%error, "DNS keeps its last zone"),
    }
}

/// Feeds a datapath.
pub(crate) struct Feeder {
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) published: watch::Receiver<u64>,
    pub(crate) service_cidrs: Vec<IpNet>,
    /// What is said of the datapath in the status.
    pub(crate) report: Arc<ArcSwap<admin::Datapath>>,
    pub(crate) metrics: Metrics,
}

impl Feeder {
    /// Feeds `steering` until `stop` is cancelled, and gives it back.
    pub(crate) async fn run<S: Steering>(mut self, mut steering: S, stop: CancellationToken) -> S {
        self.report.store(Arc::new(report(&steering.status())));
        let mut again = tokio::time::interval(AGAIN);
        loop {
            let go_on = tokio::select! {
                changed = self.published.changed() => changed.is_ok(),
                _ = again.tick() => true,
                () = stop.cancelled() => false,
            };
            if !go_on {
                return steering;
            }
            // Nothing is complete yet: what a predecessor left in the kernel is better.
            if *self.published.borrow_and_update() > 0 {
                self.feed(&mut steering).await;
            }
        }
    }

    async fn feed(&self, steering: &mut impl Steering) {
        let started = std::time::Instant::now();
        let desired = render::desired(&self.snapshot.load(), &self.service_cidrs);
        match steering.apply(&desired).await {
            Ok(applied) => {
                for (frontend, error) in &applied.failed {
                    tracing::warn!(%frontend, %error, "a Service keeps what it had in the kernel");
                }
                self.metrics.failed.inc_by(applied.failed.len() as u64);
            }
            Err(error) => {
                self.metrics.failed.inc();
                tracing::error!(%error, "the datapath was not updated; it is tried again");
            }
        }
        self.metrics.seconds.observe(started.elapsed().as_secs_f64());
        self.report.store(Arc::new(report(&steering.status())));
    }
}

/// What the status says of a datapath.
fn report(status: &Status) -> admin::Datapath {
    let off = status.features.iter().filter_map(|feature| match &feature.state {
        State::On => None,
        State::Off(why) => Some(admin::Missing { what: feature.name.to_owned(), why: why.clone() }),
    });
    admin::Datapath { mode: "ebpf".to_owned(), off: off.collect() }
}

/// What the feeding of the datapath counts.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    seconds: Histogram,
    failed: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let seconds = Histogram::with_opts(
            HistogramOpts::new(
                "edgeloom_mesh_datapath_update_seconds",
                "Time to bring one snapshot of the model into the kernel.",
            )
            .buckets(vec![0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0]),
        )?;
        registry.register(Box::new(seconds.clone()))?;
        let failed = IntCounter::new(
            "edgeloom_mesh_datapath_failures_total",
            "Services that could not be brought into the kernel, each try counted.",
        )?;
        registry.register(Box::new(failed.clone()))?;
        Ok(Self { seconds, failed })
    }
}
