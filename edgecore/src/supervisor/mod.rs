//! Runs the modules of the daemon: each in a task of its own, started again after a failure with back-off, and
//! counted; all of them ended and joined at the end.

use std::error::Error;
use std::time::Duration;

use futures::future::BoxFuture;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The first pause before a module is started again.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// A module that ran this long is taken to have been well: its next pause is short again.
const WELL_AFTER: Duration = Duration::from_secs(120);

/// When a module that has ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Whenever it ends before the daemon does.
    Always,
    /// When it failed or panicked; one that ended by itself has done its work.
    OnFailure,
    /// Not at all.
    Never,
}

/// How a module ended.
#[derive(Debug)]
enum End {
    Done,
    Failed(String),
    Panicked(String),
}

impl Restart {
    fn applies(self, end: &End) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => !matches!(end, End::Done),
            Self::Never => false,
        }
    }
}

#[derive(Clone, Debug)]
struct Metrics {
    restarts: IntCounterVec,
    up: IntGaugeVec,
}

/// Owns the modules.
#[derive(Debug)]
pub struct Supervisor {
    tasks: JoinSet<()>,
    cancel: CancellationToken,
    metrics: Metrics,
}

/// What a module gives back.
pub type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

impl Supervisor {
    /// A supervisor without modules; it ends them when `cancel` is cancelled.
    pub fn new(registry: &Registry, cancel: CancellationToken) -> Result<Self, prometheus::Error> {
        let restarts =
            Opts::new("edgeloom_edgecore_module_restarts_total", "Times a module was started again");
        let up = Opts::new("edgeloom_edgecore_module_up", "Whether a module runs");
        let metrics = Metrics {
            restarts: IntCounterVec::new(restarts, &["module"])?,
            up: IntGaugeVec::new(up, &["module"])?,
        };
        registry.register(Box::new(metrics.restarts.clone()))?;
        registry.register(Box::new(metrics.up.clone()))?;
        Ok(Self { tasks: JoinSet::new(), cancel, metrics })
    }

    /// Starts a module. `start` is called for each run with a token that ends it.
    pub fn module<F>(&mut self, name: &'static str, restart: Restart, start: F)
    where
        F: Fn(CancellationToken) -> BoxFuture<'static, Outcome> + Send + 'static,
    {
        let (cancel, metrics) = (self.cancel.clone(), self.metrics.clone());
        metrics.restarts.with_label_values(&[name]).inc_by(0);
        self.tasks.spawn(supervise(name, restart, start, cancel, metrics));
    }

    /// Ends all modules and waits for them; what has not ended after `drain` is dropped.
    pub async fn shutdown(mut self, drain: Duration) {
        self.cancel.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(drain, all).await.is_err() {
            tracing::warn!(?drain, "modules did not end in time and are dropped");
            self.tasks.shutdown().await;
        }
    }
}

async fn supervise<F>(
    name: &'static str,
    restart: Restart,
    start: F,
    cancel: CancellationToken,
    metrics: Metrics,
) where
    F: Fn(CancellationToken) -> BoxFuture<'static, Outcome> + Send,
{
    let up = metrics.up.with_label_values(&[name]);
    let mut pause = MIN_PAUSE;
    loop {
        let began = Instant::now();
        up.set(1);
        let end = run_once(start(cancel.child_token())).await;
        up.set(0);
        if cancel.is_cancelled() {
            return;
        }
        match &end {
            End::Done => tracing::debug!(module = name, "ended"),
            End::Failed(error) => tracing::error!(module = name, error, "failed"),
            End::Panicked(error) => tracing::error!(module = name, error, "panicked"),
        }
        if !restart.applies(&end) {
            return;
        }
        pause = next_pause(pause, began.elapsed());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = cancel.cancelled() => return,
        }
        metrics.restarts.with_label_values(&[name]).inc();
    }
}

/// In a task of its own, so that a panic ends only that; dropped with whoever waits.
async fn run_once(module: BoxFuture<'static, Outcome>) -> End {
    let mut task = JoinSet::new();
    task.spawn(module);
    match task.join_next().await {
        Some(Ok(Ok(()))) | None => End::Done,
        Some(Ok(Err(error))) => End::Failed(error.to_string()),
        Some(Err(error)) => End::Panicked(error.to_string()),
    }
}

fn next_pause(last: Duration, ran: Duration) -> Duration {
    if ran >= WELL_AFTER { MIN_PAUSE } else { (last * 2).min(MAX_PAUSE) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::FutureExt as _;

    use super::*;

    /// Runs a module that ends as `outcome` says for ten minutes; how often it was started.
    async fn starts(restart: Restart, outcome: fn(u32) -> Outcome) -> (u32, u64) {
        let registry = Registry::new();
        let mut supervisor = Supervisor::new(&registry, CancellationToken::new()).unwrap();
        let count = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&count);
        supervisor.module("m", restart, move |_| {
            let n = counted.fetch_add(1, Ordering::Relaxed);
            async move { outcome(n) }.boxed()
        });
        tokio::time::sleep(Duration::from_secs(600)).await;
        let restarts = supervisor.metrics.restarts.with_label_values(&["m"]).get();
        supervisor.shutdown(Duration::from_secs(1)).await;
        (count.load(Ordering::Relaxed), restarts)
    }

    #[tokio::test(start_paused = true)]
    async fn policies() {
        assert_eq!(starts(Restart::Never, |_| Err("x".into())).await, (1, 0));
        assert_eq!(starts(Restart::OnFailure, |_| Ok(())).await, (1, 0));
        // 2 + 4 + 8 + 16 + 32 seconds, then a minute each.
        assert_eq!(starts(Restart::OnFailure, |_| Err("x".into())).await, (14, 13));
        assert_eq!(starts(Restart::Always, |_| Ok(())).await, (14, 13));
        assert_eq!(
            starts(Restart::OnFailure, |n| if n == 0 { panic!("once") } else { Ok(()) }).await,
            (2, 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_is_dropped() {
        let mut supervisor = Supervisor::new(&Registry::new(), CancellationToken::new()).unwrap();
        supervisor.module("deaf", Restart::Always, |_| std::future::pending().boxed());
        supervisor.shutdown(Duration::from_secs(5)).await;
    }

    #[test]
    fn a_long_run_makes_the_next_pause_short() {
        assert_eq!(next_pause(MAX_PAUSE, WELL_AFTER), MIN_PAUSE);
        assert_eq!(next_pause(MAX_PAUSE, Duration::ZERO), MAX_PAUSE);
    }
}
