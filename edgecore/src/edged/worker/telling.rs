//! A pod's status: told where it has changed, and kept on disk for the next process.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;

use super::Worker;
use crate::edged::cluster::Report;
use crate::edged::observed::Observed;
use crate::edged::plan;
use crate::edged::pod::Pod;
use crate::edged::status;
use crate::volumes::PodDirectory;

/// A status that the cloud seems to have lost is told again, this often at most.
const RETELL: Duration = Duration::from_secs(10);

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
        // Told again while the cloud is away, it would only wear the disk.
        let lost = self.node.cluster.is_connected()
            && status::differs(&pod.object["status"], &status)
            && self.told.is_none_or(|told| told.elapsed() > RETELL);
        if status == self.written && !lost {
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
                self.told = Some(tokio::time::Instant::now());
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
