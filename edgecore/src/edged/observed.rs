//! What the container runtime says of one pod.

use crate::cri::proto;

/// Label of a sandbox and its containers: the pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label of a sandbox and its containers: the pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label of a sandbox and its containers: the pod's uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label of a container: its name in the specification.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation of a container: [`super::pod::spec_hash`] of what it was made from.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// Annotation of a container: how often it was restarted.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation of a container: path, within it, of its last words.
pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation of a container: `File` or `FallbackToLogsOnError`.
pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation of a container: seconds that it has to end, kept for when the pod's object is gone.
pub const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";

/// A sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// Which one of the pod's, from 0.
    pub attempt: u32,
    /// Whether it runs.
    pub ready: bool,
    /// When it was made, in nanoseconds of Unix time.
    pub created: i64,
    /// Its addresses; none with the host's network, or while not asked for.
    pub ips: Vec<String>,
}

/// Life of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime does not know.
    Unknown,
}

/// One container that was made for a name of the specification.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// Name in the specification.
    pub name: String,
    /// Its sandbox.
    pub sandbox: String,
    /// How often a container of this name was restarted before it.
    pub attempt: u32,
    /// Its life.
    pub state: State,
    /// When it was made, in nanoseconds of Unix time.
    pub created: i64,
    /// When it was started; 0 for never.
    pub started: i64,
    /// When it ended; 0 for not yet.
    pub finished: i64,
    /// Exit code.
    pub exit_code: i32,
    /// Reason of the runtime, such as `OOMKilled`.
    pub reason: String,
    /// Its last words, or the runtime's message.
    pub message: String,
    /// Image as it was asked for.
    pub image: String,
    /// Image by digest.
    pub image_ref: String,
    /// [`CONTAINER_HASH`].
    pub hash: String,
    /// Seconds to end, from [`GRACE_PERIOD`].
    pub grace: Option<u64>,
    /// Its log file on the host.
    pub log_path: String,
}

/// All that the runtime holds for one pod, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Sandboxes.
    pub sandboxes: Vec<Sandbox>,
    /// Containers.
    pub containers: Vec<Instance>,
}

impl Observed {
    /// Orders newest first.
    pub fn new(mut sandboxes: Vec<Sandbox>, mut containers: Vec<Instance>) -> Self {
        sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created));
        containers.sort_by(|a, b| b.created.cmp(&a.created).then(b.attempt.cmp(&a.attempt)));
        Self { sandboxes, containers }
    }

    /// The newest sandbox.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    /// The newest container of a name.
    pub fn newest(&self, name: &str) -> Option<&Instance> {
        self.containers.iter().find(|instance| instance.name == name)
    }

    /// The newest container of a name that has ended, other than the newest of all.
    pub fn previous(&self, name: &str) -> Option<&Instance> {
        self.containers
            .iter()
            .filter(|instance| instance.name == name)
            .skip(1)
            .find(|instance| instance.state == State::Exited)
    }

    /// Containers that run.
    pub fn running(&self) -> impl Iterator<Item = &Instance> {
        self.containers.iter().filter(|instance| instance.state == State::Running)
    }

    /// Whether nothing of the pod runs any more.
    pub fn is_stopped(&self) -> bool {
        self.running().next().is_none() && !self.sandboxes.iter().any(|sandbox| sandbox.ready)
    }
}

impl From<&proto::ContainerStatus> for Instance {
    fn from(status: &proto::ContainerStatus) -> Self {
        let metadata = status.metadata.clone().unwrap_or_default();
        let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
        Self {
            id: status.id.clone(),
            name: status.labels.get(CONTAINER_NAME).cloned().unwrap_or(metadata.name),
            sandbox: String::new(),
            attempt: annotation(RESTART_COUNT).parse().unwrap_or(metadata.attempt),
            state: match status.state() {
                proto::ContainerState::Created => State::Created,
                proto::ContainerState::Running => State::Running,
                proto::ContainerState::Exited => State::Exited,
                proto::ContainerState::Unknown => State::Unknown,
            },
            created: status.created_at,
            started: status.started_at,
            finished: status.finished_at,
            exit_code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
            image: status.image.as_ref().map(|image| image.image.clone()).unwrap_or_default(),
            image_ref: status.image_ref.clone(),
            hash: annotation(CONTAINER_HASH),
            grace: annotation(GRACE_PERIOD).parse().ok(),
            log_path: status.log_path.clone(),
        }
    }
}
