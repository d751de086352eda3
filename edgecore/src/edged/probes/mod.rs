//! Startup, readiness and liveness probes: one task for each container that has any, its results on a board
//! that the pod's worker reads.

mod check;
mod count;
mod grpc;
mod http;
mod tls;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::events::{Recorder, Subject};
use super::observed::Instance;
use super::plan::Health;
use super::pod::Pod;
use crate::cri::Cri;

use check::Outcome;
pub use check::{Target, run_handler};
use count::Count;

/// What the probes of one container say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verdict {
    started: bool,
    ready: bool,
    failed: Option<&'static str>,
}

/// Results by container id.
#[derive(Debug, Default)]
pub struct Board(Mutex<HashMap<String, Verdict>>);

impl Board {
    /// Whether the container is ready: its readiness probe says so, or it has none.
    pub fn ready(&self, id: &str) -> bool {
        self.with(|all| all.get(id).is_some_and(|verdict| verdict.ready))
    }

    fn with<R>(&self, f: impl FnOnce(&mut HashMap<String, Verdict>) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns whether that changed anything.
    fn update(&self, id: &str, change: impl FnOnce(&mut Verdict)) -> bool {
        self.with(|all| {
            let Some(verdict) = all.get_mut(id) else { return false };
            let before = *verdict;
            change(verdict);
            before != *verdict
        })
    }
}

impl Health for Board {
    fn started(&self, id: &str) -> bool {
        self.with(|all| all.get(id).is_some_and(|verdict| verdict.started))
    }

    fn failed(&self, id: &str) -> Option<&'static str> {
        self.with(|all| all.get(id).and_then(|verdict| verdict.failed))
    }
}

/// The probes of one pod. Dropping it ends them.
pub struct Probes {
    board: Arc<Board>,
    tasks: JoinSet<()>,
    running: HashMap<String, tokio::task::AbortHandle>,
    cri: Cri,
    recorder: Arc<Recorder>,
    /// Told whenever a verdict has changed.
    changed: Arc<Notify>,
}

impl Probes {
    /// No probes yet. `changed` is told of results.
    pub fn new(cri: Cri, recorder: Arc<Recorder>, changed: Arc<Notify>) -> Self {
        Self { board: Arc::default(), tasks: JoinSet::new(), running: HashMap::new(), cri, recorder, changed }
    }

    /// The results.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Probes exactly the containers that run. `was_ready` says of a container that this process has not seen
    /// before whether it was ready when last seen: a restart of edgecore takes nothing out of service.
    pub fn follow(
        &mut self,
        pod: &Arc<Pod>,
        running: &[&Instance],
        ip: Option<&str>,
        was_ready: impl Fn(&str) -> bool,
    ) {
        while self.tasks.try_join_next().is_some() {}
        self.board.with(|all| all.retain(|id, _| running.iter().any(|instance| instance.id == *id)));
        self.running.retain(|id, task| {
            let keep = running.iter().any(|instance| instance.id == *id);
            if !keep {
                task.abort();
            }
            keep
        });
        for instance in running {
            if self.board.with(|all| all.contains_key(&instance.id)) {
                continue;
            }
            let Some((_, container)) = pod.container(&instance.name) else { continue };
            let adopted = was_ready(&instance.id);
            let verdict = Verdict {
                started: container.startup_probe.is_none() || adopted,
                ready: container.readiness_probe.is_none() || adopted,
                failed: None,
            };
            self.board.with(|all| all.insert(instance.id.clone(), verdict));
            if has_probes(container) {
                let probed = self.probed(pod, container, instance, ip.unwrap_or_default(), adopted);
                self.running.insert(instance.id.clone(), self.tasks.spawn(probed.run()));
            }
        }
    }

    /// Stops probing; the last verdicts stay.
    pub fn stop(&mut self) {
        self.running.clear();
        self.tasks.abort_all();
    }

    fn probed(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        of: &Instance,
        ip: &str,
        adopted: bool,
    ) -> Probed {
        let age = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
            .saturating_sub(Duration::from_nanos(u64::try_from(of.started).unwrap_or(0)));
        Probed {
            pod: Arc::clone(pod),
            container: container.clone(),
            id: of.id.clone(),
            ip: ip.to_owned(),
            age,
            adopted,
            board: Arc::clone(&self.board),
            cri: self.cri.clone(),
            recorder: Arc::clone(&self.recorder),
            changed: Arc::clone(&self.changed),
        }
    }
}

fn has_probes(container: &Container) -> bool {
    container.startup_probe.is_some()
        || container.readiness_probe.is_some()
        || container.liveness_probe.is_some()
}

/// One container under probes.
struct Probed {
    pod: Arc<Pod>,
    container: Container,
    id: String,
    ip: String,
    /// How long it runs already.
    age: Duration,
    adopted: bool,
    board: Arc<Board>,
    cri: Cri,
    recorder: Arc<Recorder>,
    changed: Arc<Notify>,
}

impl Probed {
    async fn run(self) {
        if let Some(probe) = self.container.startup_probe.as_ref().filter(|_| !self.adopted) {
            if !self.wait_for_start(probe).await {
                return;
            }
            self.note(|verdict| verdict.started = true);
        }
        tokio::join!(self.watch_liveness(), self.watch_readiness());
    }

    async fn wait_for_start(&self, probe: &Probe) -> bool {
        let mut count = Count::new(probe, None);
        self.delay(probe).await;
        loop {
            match self.probe_once(probe, "Startup", &mut count).await {
                Some(true) => return true,
                Some(false) => {
                    self.note(|verdict| verdict.failed = Some("startup"));
                    return false;
                }
                None => {}
            }
            tokio::time::sleep(period(probe)).await;
        }
    }

    async fn watch_liveness(&self) {
        let Some(probe) = &self.container.liveness_probe else { return };
        let mut count = Count::new(probe, Some(true));
        self.delay(probe).await;
        loop {
            if self.probe_once(probe, "Liveness", &mut count).await == Some(false) {
                // It will be another container with another id.
                self.note(|verdict| verdict.failed = Some("liveness"));
                return;
            }
            tokio::time::sleep(period(probe)).await;
        }
    }

    async fn watch_readiness(&self) {
        let Some(probe) = &self.container.readiness_probe else { return };
        let mut count = Count::new(probe, Some(self.adopted));
        self.delay(probe).await;
        loop {
            if let Some(ready) = self.probe_once(probe, "Readiness", &mut count).await {
                self.note(|verdict| verdict.ready = ready);
            }
            tokio::time::sleep(period(probe)).await;
        }
    }

    /// Probes; the verdict, where one stands after it.
    async fn probe_once(&self, probe: &Probe, kind: &str, count: &mut Count) -> Option<bool> {
        let target = Target { container: &self.container, id: &self.id, ip: &self.ip, cri: &self.cri };
        let outcome = check::probe(probe, &target, seconds(probe.timeout_seconds, 1)).await;
        if let Outcome::Failure(message) = &outcome {
            let subject = Subject::container(&self.pod, &self.container.name);
            self.recorder.warning(subject, "Unhealthy", format!("{kind} probe failed: {message}")).await;
        }
        count.note(matches!(outcome, Outcome::Success))
    }

    async fn delay(&self, probe: &Probe) {
        let initial = seconds(probe.initial_delay_seconds, 0).saturating_sub(self.age);
        tokio::time::sleep(initial).await;
    }

    fn note(&self, change: impl FnOnce(&mut Verdict)) {
        if self.board.update(&self.id, change) {
            self.changed.notify_one();
        }
    }
}

fn period(probe: &Probe) -> Duration {
    seconds(probe.period_seconds, 10).max(Duration::from_secs(1))
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
}
