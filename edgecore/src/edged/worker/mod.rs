//! The life of one pod: looks at what is wanted and what is there, does what [`super::plan`] says, tells the
//! status, and looks again.
//!
//! A worker ends when nothing of its pod is left to do, or when edgecore stops: then everything stays as it is
//! and the next process adopts it.

mod ending;
mod starting;
mod telling;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::telling::{Told, known_restarts, load_status, was_ready};
use super::backoff::Backoff;
use super::context::Node;
use super::events::Subject;
use super::observed::Observed;
use super::plan::{self, Plan, SandboxPlan, Waiting};
use super::pod::{Pod, PodId};
use super::probes::Probes;
use crate::cri::CriError;
use crate::volumes::PodDirectory;

/// How soon something that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// The longest pause between tries of something that goes on failing. A change of what it depends on is heard
/// of at once; this is for what is not heard of.
const MAX_RETRY: Duration = Duration::from_secs(30);
/// Everything is looked at again this often although nothing was heard.
const RESYNC: Duration = Duration::from_secs(60);

/// What a worker is told from outside.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// The pod as the cloud wants it; its deletion mark included.
    Pod(Arc<Pod>),
    /// The cloud does not know it (any more): it is ended without being told of.
    Nothing,
}

impl Wanted {
    /// The pod if it is to run.
    fn running(&self) -> Option<&Arc<Pod>> {
        match self {
            Self::Pod(pod) if !pod.is_deleted() => Some(pod),
            _ => None,
        }
    }
}

/// A worker and what it holds of its pod.
pub struct Worker {
    node: Arc<Node>,
    id: PodId,
    directory: PodDirectory,
    probes: Probes,
    wanted: watch::Receiver<Wanted>,
    poke: Arc<Notify>,
    backoff: Backoff,
    waiting: BTreeMap<String, Waiting>,
    /// The status that was written last; null for none.
    written: Value,
    told: Told,
    /// Sandboxes and volumes that failed in a row.
    failures: u32,
    /// Whether the volumes were set up by this process.
    mounted: bool,
    /// Version of the node's ConfigMaps and Secrets that the volumes show.
    shown: u64,
    /// Unix second at which a token is due.
    renew: Option<i64>,
}

impl Worker {
    /// A worker for the pod; `poke` has it look again.
    pub fn new(node: Arc<Node>, id: PodId, wanted: watch::Receiver<Wanted>, poke: Arc<Notify>) -> Self {
        let directory = PodDirectory::new(&node.pods, &id.uid);
        let written = load_status(&directory);
        let probes = Probes::new(node.runtime.cri.clone(), Arc::clone(&node.recorder), Arc::clone(&poke));
        Self {
            node,
            id,
            directory,
            probes,
            wanted,
            poke,
            backoff: Backoff::default(),
            waiting: BTreeMap::new(),
            written,
            told: Told::default(),
            failures: 0,
            mounted: false,
            shown: 0,
            renew: None,
        }
    }

    /// Runs until the pod is gone or `cancel` asks to leave it.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let mut changes = self.wanted.clone();
            let pause = if let Some(pod) = wanted.running() {
                tokio::select! {
                    pause = self.sync(pod) => pause,
                    () = until_ending(&mut changes) => Duration::ZERO,
                    () = cancel.cancelled() => return,
                }
            } else {
                tokio::select! {
                    done = self.terminate(&wanted) => match done {
                        Ok(()) => return,
                        Err(error) => {
                            tracing::warn!(pod = %self.id, %error, "the pod could not be ended, trying again");
                            RETRY
                        }
                    },
                    () = until_sooner(&mut changes, &wanted) => Duration::ZERO,
                    () = cancel.cancelled() => return,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.poke.notified() => {}
                changed = self.wanted.changed() => if changed.is_err() { return },
                () = cancel.cancelled() => return,
            }
        }
    }

    /// One look and what follows from it; how long to pause then.
    async fn sync(&mut self, pod: &Arc<Pod>) -> Duration {
        match self.step(pod).await {
            Ok(pause) => pause,
            Err(error) => {
                // A runtime that is away is told of once, not by every pod.
                if !matches!(error, CriError::Unreachable { .. }) {
                    tracing::warn!(pod = %self.id, %error, "trying again");
                }
                RETRY
            }
        }
    }

    async fn step(&mut self, pod: &Arc<Pod>) -> Result<Duration, CriError> {
        if self.written.is_null() {
            self.written = pod.object["status"].clone();
        }
        let observed = self.node.runtime.observe(&self.id.uid).await?;
        self.follow_probes(pod, &observed);
        if let Some(left) = self.left_of_deadline(pod)
            && left.is_zero()
        {
            return self.fail_by_deadline(pod, &observed).await;
        }
        let plan = self.plan(pod, &observed);
        self.note_waiting(pod, &plan, &observed).await;
        self.publish(pod, &observed, plan.finished, None).await;
        self.tidy(&observed).await?;
        let again = self.carry_out(pod, &observed, plan).await?.unwrap_or(RESYNC);
        let deadline = self.left_of_deadline(pod).unwrap_or(RESYNC);
        let retell = self.told.pause(tokio::time::Instant::now()).unwrap_or(RESYNC);
        Ok(again.min(self.until_renewal()).min(deadline).min(retell))
    }

    fn follow_probes(&mut self, pod: &Arc<Pod>, observed: &Observed) {
        let running: Vec<_> = observed.running().collect();
        let ip = if pod.host_network() {
            self.node.facts.load().host_ips.first().cloned()
        } else {
            observed.sandbox().and_then(|sandbox| sandbox.ips.first().cloned())
        };
        let written = &self.written;
        self.probes.follow(pod, &running, ip.as_deref(), |id| was_ready(written, id));
    }

    fn plan(&self, pod: &Pod, observed: &Observed) -> Plan {
        let context = plan::Context {
            health: self.probes.board(),
            backoff: &self.backoff,
            known_restarts: &known_restarts(&self.written),
            ended: matches!(self.written["phase"].as_str(), Some("Succeeded" | "Failed")),
            now: SystemTime::now(),
        };
        plan::plan(pod, observed, &context)
    }

    /// Takes over what the plan lets wait, with an Event for what is new, and forgets what waits no more.
    async fn note_waiting(&mut self, pod: &Pod, plan: &Plan, observed: &Observed) {
        let running: Vec<&str> = observed.running().map(|instance| instance.name.as_str()).collect();
        self.waiting.retain(|name, _| !running.contains(&name.as_str()));
        for (name, waiting) in &plan.waiting {
            if self.waiting.get(name) != Some(waiting) {
                let message = format!("Back-off restarting failed container {name} in pod {}", pod.id);
                self.node.recorder.warning(Subject::container(pod, name), "BackOff", message).await;
                self.waiting.insert(name.clone(), waiting.clone());
            }
        }
    }

    /// Does what the plan says; when to look again at the latest, `None` for whenever something happens.
    async fn carry_out(
        &mut self,
        pod: &Arc<Pod>,
        observed: &Observed,
        plan: Plan,
    ) -> Result<Option<Duration>, CriError> {
        for kill in &plan.kill {
            self.kill(pod, observed, kill).await?;
        }
        match &plan.sandbox {
            SandboxPlan::None => {
                self.stop_sandboxes(observed).await?;
                return Ok((!plan.kill.is_empty()).then_some(Duration::ZERO));
            }
            SandboxPlan::Create { attempt, stop } => {
                return self.replace_sandbox(pod, *attempt, stop).await.map(Some);
            }
            SandboxPlan::Keep(_) => {}
        }
        if self.volumes_are_stale()
            && let Some(pause) = self.set_up_volumes(pod, observed).await
        {
            return Ok(Some(pause));
        }
        let mut again = plan.wake;
        for start in &plan.start {
            let pause = self.start(pod, observed, start).await?;
            again = Some(again.map_or(pause, |wake| wake.min(pause)));
        }
        Ok(if plan.kill.is_empty() { again } else { Some(Duration::ZERO) })
    }

    /// What is left of `activeDeadlineSeconds`.
    fn left_of_deadline(&self, pod: &Pod) -> Option<Duration> {
        let limit = Duration::from_secs(u64::try_from(pod.spec.active_deadline_seconds?).ok()?);
        let format = &time::format_description::well_known::Rfc3339;
        let began = OffsetDateTime::parse(self.written["startTime"].as_str()?, format).ok()?;
        if matches!(self.written["phase"].as_str(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let ran = Duration::try_from(OffsetDateTime::now_utc() - began).unwrap_or_default();
        Some(limit.saturating_sub(ran))
    }

    /// Twice as long after each failure in a row.
    fn pause_after_failure(&mut self) -> Duration {
        let pause = Duration::from_secs(1 << self.failures.min(5)).min(MAX_RETRY);
        self.failures += 1;
        pause
    }

    fn until_renewal(&self) -> Duration {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        self.renew.map_or(RESYNC, |at| Duration::from_secs(u64::try_from(at - now).unwrap_or(0)))
    }
}

/// Resolves when the pod is no longer to run.
async fn until_ending(changes: &mut watch::Receiver<Wanted>) {
    if changes.wait_for(|wanted| wanted.running().is_none()).await.is_err() {
        // The manager is gone, and with it whoever could ask for an end.
        std::future::pending::<()>().await;
    }
}

/// Resolves when a pod that is being ended gets less time, or none.
async fn until_sooner(changes: &mut watch::Receiver<Wanted>, before: &Wanted) {
    let grace = |wanted: &Wanted| match wanted {
        Wanted::Pod(pod) => pod.grace(),
        Wanted::Nothing => Duration::ZERO,
    };
    let now = grace(before);
    if changes.wait_for(|wanted| grace(wanted) < now).await.is_err() {
        std::future::pending::<()>().await;
    }
}
