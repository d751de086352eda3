//! Taking a pod down: hooks, grace, sandbox, volumes, and the word to the cloud.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future;

use super::{Wanted, Worker};
use crate::cri::CriError;
use crate::cri::proto::{ContainerId, PodSandboxId};
use crate::edged::cluster::Report;
use crate::edged::events::Subject;
use crate::edged::observed::{Instance, Observed};
use crate::edged::plan::Kill;
use crate::edged::pod::{Pod, Role};
use crate::edged::probes::{Target, run_handler};
use crate::edged::sandbox;
use crate::edged::{cgroup, gc, log_rotation};

/// However much of the grace a stop hook has used, the process has this long after SIGTERM.
const MIN_GRACE: Duration = Duration::from_secs(2);

/// Why a pod could not be ended yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum EndError {
    /// The runtime said no.
    #[error(transparent)]
    Runtime(#[from] CriError),
    /// What it left on disk could not be removed.
    #[error("what it left on disk could not be removed: {0}")]
    Disk(#[from] std::io::Error),
    /// The cloud could not be told.
    #[error(transparent)]
    Cloud(#[from] crate::edged::cluster::ClusterError),
}

impl Worker {
    /// Ends the pod for good and removes all that it left.
    pub(super) async fn terminate(&mut self, wanted: &Wanted) -> Result<(), EndError> {
        self.probes.stop();
        if let (Wanted::Pod(pod), true) = (wanted, self.written.is_null()) {
            self.written = pod.object["status"].clone();
        }
        let pod = match wanted {
            Wanted::Pod(pod) => Some(pod),
            Wanted::Nothing => None,
        };
        let observed = self.node.runtime.observe(&self.id.uid).await?;
        self.stop_all(pod, &observed).await?;
        self.stop_sandboxes(&observed).await?;
        if let Some(pod) = pod {
            let observed = self.node.runtime.observe(&self.id.uid).await?;
            self.publish(pod, &observed, true, None).await;
        }
        for sandbox in &observed.sandboxes {
            let request = PodSandboxId { pod_sandbox_id: sandbox.id.clone() };
            self.node.runtime.cri.remove_pod_sandbox(request).await?;
        }
        self.remove_from_disk().await?;
        self.node.images.forget(&self.id.uid);
        if pod.is_some() {
            let report = Report::PodGone {
                namespace: self.id.namespace.clone(),
                name: self.id.name.clone(),
                uid: self.id.uid.clone(),
            };
            self.node.cluster.report(report).await?;
        }
        Ok(())
    }

    /// Stops every container: the main ones together, then sidecars from last to first.
    async fn stop_all(&self, pod: Option<&Arc<Pod>>, observed: &Observed) -> Result<(), CriError> {
        let is_sidecar = |instance: &Instance| {
            let role = pod.and_then(|pod| pod.container(&instance.name)).map(|(role, _)| role);
            role == Some(Role::Sidecar)
        };
        let began = Instant::now();
        let stop = |instance| async move {
            let grace = self.grace(pod, instance).saturating_sub(began.elapsed());
            if let Some(pod) = pod {
                let message = format!("Stopping container {}", instance.name);
                let subject = Subject::container(pod, &instance.name);
                self.node.recorder.normal(subject, "Killing", message).await;
            }
            self.stop_one(pod, observed, instance, grace).await
        };
        let main = observed.running().filter(|instance| !is_sidecar(instance)).map(stop);
        future::try_join_all(main).await?;
        // Newest first is the reverse of the order in which they were started.
        for sidecar in observed.running().filter(|instance| is_sidecar(instance)) {
            stop(sidecar).await?;
        }
        Ok(())
    }

    fn grace(&self, pod: Option<&Arc<Pod>>, instance: &Instance) -> Duration {
        match pod {
            Some(pod) => pod.grace(),
            // The object is gone; what it said was kept with the container.
            None => Duration::from_secs(instance.grace.unwrap_or(30)),
        }
    }

    async fn stop_one(
        &self,
        pod: Option<&Arc<Pod>>,
        observed: &Observed,
        instance: &Instance,
        grace: Duration,
    ) -> Result<(), CriError> {
        let began = Instant::now();
        if let Some(pod) = pod {
            self.run_pre_stop(pod, observed, instance, grace).await;
        }
        let left = grace.saturating_sub(began.elapsed()).max(MIN_GRACE.min(grace));
        match self.node.runtime.cri.stop_container(&instance.id, left).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn run_pre_stop(&self, pod: &Pod, observed: &Observed, instance: &Instance, grace: Duration) {
        let Some((_, container)) = pod.container(&instance.name) else { return };
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let Some(hook) = hook.filter(|_| !grace.is_zero()) else { return };
        let ip = observed.sandbox().and_then(|sandbox| sandbox.ips.first()).map(String::as_str);
        let ip = ip.unwrap_or_default();
        let target = Target { container, id: &instance.id, ip, cri: &self.node.runtime.cri };
        if let Err(error) = run_handler(hook, &target, grace).await {
            let subject = Subject::container(pod, &instance.name);
            let message = format!("PreStopHook failed: {error}");
            self.node.recorder.warning(subject, "FailedPreStopHook", message).await;
        }
    }

    /// Ends one container of a pod that goes on.
    pub(super) async fn kill(
        &self,
        pod: &Arc<Pod>,
        observed: &Observed,
        kill: &Kill,
    ) -> Result<(), CriError> {
        let subject = Subject::container(pod, &kill.name);
        self.node.recorder.normal(subject, "Killing", kill.message.clone()).await;
        let Some(instance) = observed.containers.iter().find(|instance| instance.id == kill.id) else {
            return Ok(());
        };
        self.stop_one(Some(pod), observed, instance, pod.grace()).await
    }

    /// Stops every sandbox that runs.
    pub(super) async fn stop_sandboxes(&self, observed: &Observed) -> Result<(), CriError> {
        for sandbox in observed.sandboxes.iter().filter(|sandbox| sandbox.ready) {
            self.stop_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    /// Stops a sandbox with whatever runs in it, and frees its addresses.
    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = PodSandboxId { pod_sandbox_id: id.to_owned() };
        match self.node.runtime.cri.stop_pod_sandbox(request).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes dead containers and sandboxes that nobody will ask for.
    pub(super) async fn tidy(&self, observed: &Observed) -> Result<(), CriError> {
        let cri = &self.node.runtime.cri;
        for instance in gc::superfluous(observed) {
            cri.remove_container(ContainerId { container_id: instance.id.clone() }).await?;
            log_rotation::remove(Path::new(&instance.log_path));
            let _ = fs::remove_file(self.directory.last_words(&instance.name, instance.attempt));
        }
        for id in gc::dead_sandboxes(observed) {
            cri.remove_pod_sandbox(PodSandboxId { pod_sandbox_id: id.to_owned() }).await?;
        }
        Ok(())
    }

    /// Ends a pod that has run longer than it may.
    pub(super) async fn fail_by_deadline(
        &mut self,
        pod: &Arc<Pod>,
        observed: &Observed,
    ) -> Result<Duration, CriError> {
        let message = "Pod was active on the node longer than the specified deadline";
        self.node.recorder.normal(Subject::pod(pod), "DeadlineExceeded", message).await;
        self.stop_all(Some(pod), observed).await?;
        self.stop_sandboxes(observed).await?;
        let observed = self.node.runtime.observe(&self.id.uid).await?;
        self.publish(pod, &observed, true, Some(("DeadlineExceeded", message))).await;
        Ok(super::RESYNC)
    }

    async fn remove_from_disk(&self) -> std::io::Result<()> {
        let directory = self.directory.clone();
        let logs = sandbox::log_directory(&self.node.log_root, &self.id);
        let cgroup = sandbox::cgroup_parent(&self.node.cgroup_root, &self.id);
        let work = move || {
            cgroup::remove(&cgroup);
            directory.remove()?;
            match fs::remove_dir_all(&logs) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
    }
}
