//! A pod's status: told where it has changed, and kept on disk for the next process.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::Worker;
use crate::edged::cluster::Report;
use crate::edged::observed::Observed;
use crate::edged::plan;
use crate::edged::pod::Pod;
use crate::edged::status;
use crate::volumes::PodDirectory;

/// A status that the cloud shows otherwise is told again after this, and after twice as long each time that helps
/// nothing: somebody may be writing over it, such as a controller for which the node is still away.
const RETELL: Duration = Duration::from_secs(2);
/// The longest such pause.
const MAX_RETELL: Duration = Duration::from_secs(60);

/// When a status was told, and how often in vain.
#[derive(Debug, Default)]
pub(super) struct Told {
    at: Option<Instant>,
    in_vain: u32,
    /// When it is to be told again, where the cloud shows another.
    again: Option<Instant>,
}

impl Told {
    /// Whether a status that the cloud shows otherwise is to be told now. If not, it is due later.
    fn is_due(&mut self, now: Instant) -> bool {
        let pause = (RETELL * 2u32.saturating_pow(self.in_vain)).min(MAX_RETELL);
        self.again = self.at.map(|at| at + pause).filter(|at| *at > now);
        self.again.is_none()
    }

    /// The cloud shows it as it is.
    fn agreed(&mut self) {
        (self.in_vain, self.again) = (0, None);
    }

    fn told(&mut self, now: Instant, in_vain: bool) {
        self.in_vain = if in_vain { self.in_vain.saturating_add(1) } else { 0 };
        (self.at, self.again) = (Some(now), None);
    }

    /// How long to pause before the status is to be told again.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        self.again.map(|at| at.saturating_duration_since(now))
    }
}

impl Worker {
    /// Tells the status where it differs from what was told last, or where the cloud shows another.
    pub(super) async fn publish(
        &mut self,
        pod: &Arc<Pod>,
        observed: &Observed,
        terminal: bool,
        failure: Option<(&str, &str)>,
    ) {
        let status = self.status(pod, observed, terminal, failure);
        let now = Instant::now();
        let changed = status != self.written;
        // Told again while the cloud is away, it would only wear the disk.
        let lost = self.node.cluster.is_connected() && status::differs(&pod.object["status"], &status);
        if !lost {
            self.told.agreed();
        }
        let due = changed || (lost && self.told.is_due(now));
        if !due {
            return;
        }
        if let Err(error) = save_status(&self.directory, &status) {
            tracing::warn!(pod = %self.id, %error, "status not kept for the next start");
        }
        let report = Report::PodStatus {
            namespace: self.id.namespace.clone(),
            name: self.id.name.clone(),
            uid: self.id.uid.clone(),
            status: status.clone(),
        };
        match self.node.cluster.report(report).await {
            Ok(()) => {
                self.told.told(now, lost && !changed);
                self.written = status;
            }
            // It is told again at the next look.
            Err(error) => tracing::warn!(pod = %self.id, %error, "status not told"),
        }
    }

    fn status(&self, pod: &Pod, observed: &Observed, terminal: bool, failure: Option<(&str, &str)>) -> Value {
        let facts = self.node.facts.load();
        let board = self.probes.board();
        let context = status::Context {
            previous: &merge_conditions(&self.written, &pod.object["status"]),
            waiting: &self.waiting,
            started: &|id| plan::Health::started(board, id),
            ready: &|id| board.ready(id),
            host_ips: &facts.host_ips,
            failure: failure.or_else(|| self.failure_before()),
            terminal,
            now: OffsetDateTime::now_utc(),
        };
        status::status(pod, observed, &context)
    }

    fn failure_before(&self) -> Option<(&str, &str)> {
        let reason = self.written["reason"].as_str().filter(|_| self.written["phase"] == "Failed")?;
        Some((reason, self.written["message"].as_str().unwrap_or_default()))
    }
}

/// What was written last, with the conditions that others have set since.
fn merge_conditions(written: &Value, theirs: &Value) -> Value {
    const OURS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];
    let mut merged = written.clone();
    let is_ours = |condition: &Value| condition["type"].as_str().is_some_and(|kind| OURS.contains(&kind));
    let list = |status: &Value| status["conditions"].as_array().cloned().unwrap_or_default();
    if theirs["conditions"].is_array() {
        let ours = list(written).into_iter().filter(is_ours);
        let others = list(theirs).into_iter().filter(|condition| !is_ours(condition));
        merged["conditions"] = ours.chain(others).collect();
    }
    merged
}

/// Whether the container was ready when its pod's status was written last.
pub(super) fn was_ready(written: &Value, id: &str) -> bool {
    let name = format!("containerd://{id}");
    let statuses = ["containerStatuses", "initContainerStatuses"];
    statuses
        .iter()
        .filter_map(|field| written[field].as_array())
        .flatten()
        .any(|status| status["containerID"] == *name && status["ready"] == true)
}

/// Restart counts of containers that have run.
pub(super) fn known_restarts(written: &Value) -> BTreeMap<String, u32> {
    let statuses = written["containerStatuses"].as_array().into_iter().flatten();
    statuses
        .filter(|status| !status["containerID"].is_null())
        .filter_map(|status| {
            let count = u32::try_from(status["restartCount"].as_u64()?).ok()?;
            Some((status["name"].as_str()?.to_owned(), count))
        })
        .collect()
}

/// The status that was written last, by this process or one before it; null for none.
pub(super) fn load_status(directory: &PodDirectory) -> Value {
    let read = fs::read(directory.status()).ok();
    read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn save_status(directory: &PodDirectory, status: &Value) -> io::Result<()> {
    directory.create()?;
    let temporary = directory.status().with_extension("new");
    fs::write(&temporary, serde_json::to_vec(status)?)?;
    fs::rename(temporary, directory.status())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cloud_shows_otherwise_is_told_again_and_ever_more_seldom() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut told = Told::default();
        assert!(told.is_due(at(0)), "it was never told");
        told.told(at(0), false);
        let mut times = Vec::new();
        for second in 0..200 {
            if told.is_due(at(second)) {
                told.told(at(second), true);
                times.push(second);
            } else {
                assert!(
                    told.pause(at(second)).is_some_and(|pause| !pause.is_zero()),
                    "nothing wakes at {second}"
                );
            }
        }
        assert_eq!(times, [2, 6, 14, 30, 62, 122, 182]);
        told.agreed();
        assert_eq!(told.pause(at(200)), None);
        assert!(told.is_due(at(200)));
    }
}
