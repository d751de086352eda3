//! Bringing a pod up: sandbox, volumes, containers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use time::OffsetDateTime;

use super::{RETRY, Worker};
use crate::cri::CriError;
use crate::cri::proto::{
    ContainerConfig, ContainerId, CreateContainerRequest, Image, Mount, PodSandboxConfig,
    RunPodSandboxRequest,
};
use crate::edged::container::{self, DEFAULT_TERMINATION_PATH};
use crate::edged::events::Subject;
use crate::edged::fields::Facts;
use crate::edged::observed::{Observed, State};
use crate::edged::plan::{Start, Waiting};
use crate::edged::pod::Pod;
use crate::edged::probes::{Target, run_handler};
use crate::edged::{dns, env, sandbox};
use crate::volumes;

/// A container whose description is refused is tried again this often; a change of a ConfigMap or Secret that
/// it refers to is heard of at once.
const AFTER_REFUSAL: Duration = Duration::from_secs(15);
/// A start hook that takes longer than this has hung.
const POST_START_LIMIT: Duration = Duration::from_secs(300);

/// Why a container was not started: reason and message of its status.
struct Refusal {
    reason: &'static str,
    message: String,
}

impl Worker {
    /// Ends what is left of earlier sandboxes and makes a new one; when to look again.
    pub(super) async fn replace_sandbox(
        &mut self,
        pod: &Arc<Pod>,
        attempt: u32,
        stop: &[String],
    ) -> Result<Duration, CriError> {
        if attempt > 0 {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.node.recorder.normal(Subject::pod(pod), "SandboxChanged", message).await;
        }
        for id in stop {
            self.stop_sandbox(id).await?;
        }
        let config = sandbox::sandbox_config(pod, attempt, &self.node.sandbox_settings());
        if let Err(error) = fs::create_dir_all(&config.log_directory) {
            let message = format!("Failed to make the log directory {}: {error}", config.log_directory);
            self.node.recorder.warning(Subject::pod(pod), "FailedCreatePodSandBox", message).await;
            return Ok(self.pause_after_failure());
        }
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        match self.node.runtime.cri.run_pod_sandbox(request).await {
            Ok(_) => {
                self.failures = 0;
                // The hosts file names the new addresses.
                self.mounted = false;
                self.node.metrics.sandboxes.inc();
                Ok(Duration::ZERO)
            }
            Err(error @ CriError::Unreachable { .. }) => Err(error),
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {error}");
                self.node.recorder.warning(Subject::pod(pod), "FailedCreatePodSandBox", message).await;
                Ok(self.pause_after_failure())
            }
        }
    }

    /// Whether volumes have to be set up (again) before going on.
    pub(super) fn volumes_are_stale(&self) -> bool {
        let due = self.renew.is_some_and(|at| at <= OffsetDateTime::now_utc().unix_timestamp());
        due || !self.mounted || self.shown != self.node.data_version()
    }

    /// Sets up the pod's volumes and hosts file; `Some` pause where that failed.
    pub(super) async fn set_up_volumes(&mut self, pod: &Arc<Pod>, observed: &Observed) -> Option<Duration> {
        let shown = self.node.data_version();
        let facts = self.facts(pod, observed);
        if let Err(error) = self.write_hosts(pod, &facts) {
            tracing::warn!(pod = %self.id, %error, "cannot write the hosts file");
            return Some(RETRY);
        }
        match volumes::set_up(pod, &self.directory, &facts, &self.node.cluster).await {
            Ok(renew) => {
                self.failures = 0;
                self.renew = renew;
                self.mounted = true;
                self.shown = shown;
                None
            }
            Err(error) => {
                self.node.recorder.warning(Subject::pod(pod), "FailedMount", error.to_string()).await;
                // A running pod keeps what it has; the next look tries again.
                self.shown = shown;
                let holds = !self.mounted || observed.running().next().is_none();
                holds.then(|| self.pause_after_failure())
            }
        }
    }

    fn write_hosts(&self, pod: &Pod, facts: &Facts) -> std::io::Result<()> {
        self.directory.create()?;
        let host = if pod.host_network() {
            fs::read_to_string("/etc/hosts").unwrap_or_default()
        } else {
            String::new()
        };
        let text = dns::hosts_file(pod, &self.node.cluster_domain, &facts.pod_ips, &host);
        let path = self.directory.hosts();
        if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            // In place: containers have this very file mounted.
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        }
        Ok(())
    }

    fn facts(&self, pod: &Pod, observed: &Observed) -> Facts {
        let node = self.node.facts.load();
        let ips = observed.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        let pod_ips = if pod.host_network() { node.host_ips.clone() } else { ips };
        Facts { pod_ips, ..Facts::clone(&node) }
    }

    /// Starts a container; when to look again.
    pub(super) async fn start(
        &mut self,
        pod: &Arc<Pod>,
        observed: &Observed,
        start: &Start,
    ) -> Result<Duration, CriError> {
        let Some((_, container)) = pod.container(&start.name) else { return Ok(RETRY) };
        let Some(of) = observed.sandbox() else { return Ok(RETRY) };
        if let Some(id) = &start.replaces {
            self.node.runtime.cri.remove_container(ContainerId { container_id: id.clone() }).await?;
        }
        let sandbox = sandbox::sandbox_config(pod, of.attempt, &self.node.sandbox_settings());
        let image = match self.node.images.ensure(pod, container, &sandbox).await {
            Ok(image) => image,
            Err(missing) => {
                self.waiting.insert(start.name.clone(), missing.waiting);
                let shown = self.node.runtime.observe(&self.id.uid).await?;
                self.publish(pod, &shown, false, None).await;
                return Ok(missing.again.unwrap_or(super::RESYNC));
            }
        };
        self.count_restart(observed, &start.name);
        match self.create_and_start(pod, observed, container, start, &image, &sandbox, &of.id).await {
            Ok(()) => {
                self.waiting.remove(&start.name);
                Ok(Duration::ZERO)
            }
            Err(refusal) => {
                let subject = Subject::container(pod, &start.name);
                self.node.recorder.warning(subject, "Failed", format!("Error: {}", refusal.message)).await;
                let Refusal { reason, message } = refusal;
                self.waiting.insert(start.name.clone(), Waiting { reason: reason.to_owned(), message });
                let shown = self.node.runtime.observe(&self.id.uid).await?;
                self.publish(pod, &shown, false, None).await;
                Ok(AFTER_REFUSAL)
            }
        }
    }

    fn count_restart(&mut self, observed: &Observed, name: &str) {
        let Some(last) = observed.newest(name).filter(|last| last.state == State::Exited) else { return };
        let ended = Duration::from_nanos(u64::try_from(last.finished).unwrap_or(0));
        self.backoff.next(name, SystemTime::UNIX_EPOCH + ended, SystemTime::now());
    }

    #[expect(clippy::too_many_arguments, reason = "one step of start(), with all that start() found out")]
    async fn create_and_start(
        &mut self,
        pod: &Arc<Pod>,
        observed: &Observed,
        container: &Container,
        start: &Start,
        image: &Image,
        sandbox: &PodSandboxConfig,
        sandbox_id: &str,
    ) -> Result<(), Refusal> {
        let subject = || Subject::container(pod, &container.name);
        let config = self
            .describe(pod, observed, container, start.attempt, image)
            .map_err(|message| Refusal { reason: "CreateContainerConfigError", message })?;
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox.clone()),
        };
        let cri = &self.node.runtime.cri;
        let created = cri.create_container(request).await;
        let id = created
            .map_err(|error| Refusal { reason: "CreateContainerError", message: error.message() })?
            .container_id;
        let recorder = &self.node.recorder;
        recorder.normal(subject(), "Created", format!("Created container: {}", container.name)).await;
        cri.start_container(ContainerId { container_id: id.clone() })
            .await
            .map_err(|error| Refusal { reason: "RunContainerError", message: error.message() })?;
        recorder.normal(subject(), "Started", format!("Started container {}", container.name)).await;
        self.node.metrics.starts.inc();
        match container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) {
            Some(hook) => self.run_post_start(pod, observed, container, hook, &id).await,
            None => Ok(()),
        }
    }

    async fn run_post_start(
        &self,
        pod: &Pod,
        observed: &Observed,
        container: &Container,
        hook: &LifecycleHandler,
        id: &str,
    ) -> Result<(), Refusal> {
        let facts = self.facts(pod, observed);
        let ip = facts.pod_ips.first().map(String::as_str).unwrap_or_default();
        let target = Target { container, id, ip, cri: &self.node.runtime.cri };
        let Err(error) = run_handler(hook, &target, POST_START_LIMIT).await else { return Ok(()) };
        let message = format!("PostStartHook failed: {error}");
        let subject = Subject::container(pod, &container.name);
        self.node.recorder.warning(subject, "FailedPostStartHook", message.clone()).await;
        if let Err(error) = self.node.runtime.cri.stop_container(id, pod.grace()).await {
            tracing::warn!(pod = %self.id, %error, "a container whose start hook failed was not stopped");
        }
        Err(Refusal { reason: "PostStartHookError", message })
    }

    fn describe(
        &self,
        pod: &Pod,
        observed: &Observed,
        container: &Container,
        attempt: u32,
        image: &Image,
    ) -> Result<ContainerConfig, String> {
        let facts = self.facts(pod, observed);
        let environment = env::environment(pod, container, &facts, self.node.cluster.as_ref())?;
        let mut mounts = volumes::mounts(pod, container, &self.directory, &environment)?;
        self.add_own_mounts(container, attempt, &mut mounts)?;
        let inputs = container::Inputs { attempt, image, environment, mounts, node_memory: self.node.memory };
        container::container_config(pod, container, inputs)
    }

    /// The hosts file, unless the pod mounts its own, and the file for last words.
    fn add_own_mounts(
        &self,
        container: &Container,
        attempt: u32,
        mounts: &mut Vec<Mount>,
    ) -> Result<(), String> {
        let bind = |container_path: &str, host: &std::path::Path| Mount {
            container_path: container_path.to_owned(),
            host_path: host.display().to_string(),
            ..Mount::default()
        };
        if !mounts.iter().any(|mount| mount.container_path == "/etc/hosts") {
            mounts.push(bind("/etc/hosts", &self.directory.hosts()));
        }
        let words = self.directory.last_words(&container.name, attempt);
        let make = || -> std::io::Result<()> {
            fs::create_dir_all(words.parent().unwrap_or(&words))?;
            fs::File::create(&words)?;
            // Whatever user the container runs as.
            fs::set_permissions(&words, fs::Permissions::from_mode(0o666))
        };
        make().map_err(|error| format!("{}: {error}", words.display()))?;
        let path = container.termination_message_path.as_deref().unwrap_or(DEFAULT_TERMINATION_PATH);
        mounts.push(bind(path, &words));
        Ok(())
    }
}
