//! The loop that every controller runs: take a key, bring what it names to the wanted state, try again
//! later if that failed.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, Registry};
use tokio_util::sync::CancellationToken;

use crate::queue::Queue;

/// Why a key could not be brought to its wanted state this time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused or did not answer.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The object cannot be worked with as it is.
    #[error("{0}")]
    Object(String),
}

impl Error {
    /// Another writer was faster, or what was to be made or removed already is: not worth a warning,
    /// the next try sees the newer state.
    fn is_race(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
    }
}

/// What a controller wants done after a key.
pub(crate) enum Next {
    /// Nothing until something changes.
    Wait,
    /// Look again after this time, whatever happens.
    After(Duration),
}

/// What the loops count.
#[derive(Clone)]
pub(crate) struct Metrics {
    syncs: IntCounterVec,
    seconds: HistogramVec,
}

impl Metrics {
    /// Registers the metrics of all controllers.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let syncs = IntCounterVec::new(
            prometheus::Opts::new(
                "edgeloom_plane_syncs_total",
                "Keys that a controller of the embedded plane worked on, by controller and result (ok, race, error).",
            ),
            &["controller", "result"],
        )?;
        let seconds = HistogramVec::new(
            prometheus::HistogramOpts::new(
                "edgeloom_plane_sync_duration_seconds",
                "Time that a controller of the embedded plane took for one key.",
            ),
            &["controller"],
        )?;
        registry.register(Box::new(syncs.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self { syncs, seconds })
    }
}

/// A controller: brings what a key names to the wanted state.
pub(crate) trait Reconcile: Send + Sync + 'static {
    /// What its queue holds.
    type Key: Clone + Ord + Hash + Debug + Send + Sync + 'static;
    /// Name in logs and metrics.
    const NAME: &'static str;
    /// One key's turn.
    fn reconcile(&self, key: Self::Key) -> impl Future<Output = Result<Next, Error>> + Send;
}

/// Works on the keys of `queue` one after the other until stopped.
pub(crate) async fn run<C: Reconcile>(
    controller: C,
    queue: Arc<Queue<C::Key>>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    loop {
        let key = tokio::select! {
            key = queue.next() => key,
            () = stop.cancelled() => return,
        };
        tracing::debug!(controller = C::NAME, ?key, "its turn");
        let timer = metrics.seconds.with_label_values(&[C::NAME]).start_timer();
        let result = controller.reconcile(key.clone()).await;
        timer.observe_duration();
        let label = settle::<C>(&queue, key, result);
        metrics.syncs.with_label_values(&[C::NAME, label]).inc();
    }
}

/// Puts the key back where it has to come up again; says how it went.
fn settle<C: Reconcile>(queue: &Queue<C::Key>, key: C::Key, result: Result<Next, Error>) -> &'static str {
    match result {
        Ok(next) => {
            queue.succeeded(&key);
            if let Next::After(wait) = next {
                queue.add_after(key, wait);
            }
            "ok"
        }
        Err(error) if error.is_race() => {
            tracing::debug!(controller = C::NAME, ?key, %error, "overtaken; looking again");
            queue.failed(key);
            "race"
        }
        Err(error) => {
            tracing::warn!(controller = C::NAME, ?key, %error, "not done; trying again");
            queue.failed(key);
            "error"
        }
    }
}

/// `result`, or `None` where the object is gone (404), or another made or changed it first (409).
pub(crate) fn unless_overtaken<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        Err(error) => Err(error),
    }
}
