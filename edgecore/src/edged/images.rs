//! Images: there, pulled, or why not, in kubelet's words.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::core::v1::Container;
use tokio::sync::Semaphore;

use super::backoff::Backoff;
use super::cluster::Cluster;
use super::events::{Recorder, Subject};
use super::image_name::{self, InvalidName};
use super::metrics::Metrics;
use super::plan::Waiting;
use super::pod::Pod;
use super::pull_secrets::credentials;
use crate::cri::proto::{Image, ImageRequest, ImageSpec, PodSandboxConfig, PullImageRequest};
use crate::cri::{Cri, CriError};

/// One slow registry must not hold up every pod, and many pulls at once must not fill a small uplink.
const CONCURRENT_PULLS: usize = 3;

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

/// Fetches images, with a back-off for each pod and image.
pub struct Images {
    cri: Cri,
    cluster: Arc<dyn Cluster>,
    recorder: Arc<Recorder>,
    metrics: Metrics,
    pulls: Semaphore,
    failures: Mutex<Failures>,
}

/// A pull that failed.
struct Failure {
    at: SystemTime,
    error: String,
    /// Whether its back-off was told of.
    told: bool,
}

#[derive(Default)]
struct Failures {
    backoff: Backoff,
    last: HashMap<String, Failure>,
}

/// Why an image is not there, and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct Missing {
    /// For the container's status.
    pub waiting: Waiting,
    /// When to try again.
    pub again: Option<Duration>,
}

impl Images {
    /// Images of the runtime behind `cri`.
    pub fn new(cri: Cri, cluster: Arc<dyn Cluster>, recorder: Arc<Recorder>, metrics: Metrics) -> Self {
        let pulls = Semaphore::new(CONCURRENT_PULLS);
        Self { cri, cluster, recorder, metrics, pulls, failures: Mutex::default() }
    }

    /// The image of a container, pulled if its policy asks for that.
    pub async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        sandbox: &PodSandboxConfig,
    ) -> Result<Image, Missing> {
        let name = container.image.clone().unwrap_or_default();
        let subject = || Subject::container(pod, &container.name);
        if let Err(error) = image_name::check(&name) {
            return Err(self.misnamed(pod, container, &name, &error).await);
        }
        let present = match self.present(&name).await {
            Ok(present) => present,
            Err(error) => {
                let message = format!("Failed to inspect image {name:?}: {}", error.message());
                self.recorder.warning(subject(), "Failed", message.clone()).await;
                return Err(missing("ImageInspectError", message, Some(super::backoff::INITIAL)));
            }
        };
        match (policy(container), present) {
            (Policy::Never, None) => {
                let message = format!("Container image {name:?} is not present with pull policy of Never");
                self.recorder.warning(subject(), "ErrImageNeverPull", message.clone()).await;
                Err(missing("ErrImageNeverPull", message, None))
            }
            (Policy::Never | Policy::IfNotPresent, Some(image)) => {
                let message = format!("Container image {name:?} already present on machine");
                self.recorder.normal(subject(), "Pulled", message).await;
                Ok(image)
            }
            (Policy::Always | Policy::IfNotPresent, present) => {
                self.pull(pod, container, &name, present, sandbox).await
            }
        }
    }

    /// The image, if the runtime has it.
    pub async fn present(&self, name: &str) -> Result<Option<Image>, CriError> {
        Ok(self.cri.image_status(ImageRequest { image: Some(spec(name)) }).await?.image)
    }

    async fn misnamed(&self, pod: &Pod, container: &Container, name: &str, error: &InvalidName) -> Missing {
        let subject = || Subject::container(pod, &container.name);
        let message = format!(
            "Failed to apply default image tag {name:?}: couldn't parse image name {name:?}: {error}"
        );
        self.recorder.warning(subject(), "InspectFailed", message.clone()).await;
        self.recorder.warning(subject(), "Failed", "Error: InvalidImageName").await;
        missing("InvalidImageName", message, Some(super::backoff::INITIAL))
    }

    async fn pull(
        &self,
        pod: &Pod,
        container: &Container,
        name: &str,
        present: Option<Image>,
        sandbox: &PodSandboxConfig,
    ) -> Result<Image, Missing> {
        let subject = || Subject::container(pod, &container.name);
        let key = format!("{}/{name}", pod.id.uid);
        if let Some((missing, told)) = self.backing_off(&key, name) {
            if !told {
                let message = format!("Back-off pulling image {name:?}");
                self.recorder.normal(subject(), "BackOff", message).await;
            }
            return Err(missing);
        }
        self.recorder.normal(subject(), "Pulling", format!("Pulling image {name:?}")).await;
        let asked = Instant::now();
        let _permit = self.pulls.acquire().await.expect("the semaphore is never closed");
        let began = Instant::now();
        match self.pull_with_credentials(pod, name, sandbox).await {
            Ok(image) => {
                self.failures().backoff.reset(&key);
                self.metrics.pulls.with_label_values(&["success"]).inc();
                let message = format!(
                    "Successfully pulled image {name:?} in {:.3}s ({:.3}s including waiting). Image size: {} bytes.",
                    began.elapsed().as_secs_f64(),
                    asked.elapsed().as_secs_f64(),
                    image.size
                );
                self.recorder.normal(subject(), "Pulled", message).await;
                Ok(image)
            }
            Err(error) => {
                self.metrics.pulls.with_label_values(&["failure"]).inc();
                let error = error.message();
                if let Some(image) = present.filter(|_| !self.cluster.is_connected()) {
                    // Policy Always without an uplink: the copy that ran before is better than none.
                    let message = format!(
                        "Image {name:?} could not be pulled while the cluster is away, the copy on the machine is used: {error}"
                    );
                    self.recorder.warning(subject(), "PulledStale", message).await;
                    return Ok(image);
                }
                self.failed(&key, &error);
                let message = format!("Failed to pull image {name:?}: {error}");
                self.recorder.warning(subject(), "Failed", message.clone()).await;
                self.recorder.warning(subject(), "Failed", "Error: ErrImagePull").await;
                Err(missing("ErrImagePull", error, Some(Duration::from_secs(2))))
            }
        }
    }

    async fn pull_with_credentials(
        &self,
        pod: &Pod,
        name: &str,
        sandbox: &PodSandboxConfig,
    ) -> Result<Image, CriError> {
        let mut credentials = credentials(pod, name, self.cluster.as_ref());
        let mut auth = credentials.pop();
        loop {
            let request = PullImageRequest {
                image: Some(spec(name)),
                auth: auth.take(),
                sandbox_config: Some(sandbox.clone()),
            };
            match self.cri.pull_image(request).await {
                Ok(answer) => {
                    let image = self.present(&answer.image_ref).await?;
                    return image.ok_or(CriError::Incomplete { method: "PullImage", what: "image" });
                }
                Err(error) => match credentials.pop() {
                    Some(next) => auth = Some(next),
                    None => return Err(error),
                },
            }
        }
    }

    /// Why the image is not tried for now, and whether that was said before.
    fn backing_off(&self, key: &str, name: &str) -> Option<(Missing, bool)> {
        let Failures { backoff, last } = &mut *self.failures();
        let failure = last.get_mut(key)?;
        let (left, _) = backoff.waiting(key, failure.at, SystemTime::now())?;
        let message = format!("Back-off pulling image {name:?}: ErrImagePull: {}", failure.error);
        let told = std::mem::replace(&mut failure.told, true);
        Some((missing("ImagePullBackOff", message, Some(left)), told))
    }

    fn failed(&self, key: &str, error: &str) {
        let now = SystemTime::now();
        let mut failures = self.failures();
        failures.backoff.next(key, now, now);
        failures.last.insert(key.to_owned(), Failure { at: now, error: error.to_owned(), told: false });
    }

    /// Forgets what concerns a pod that is gone.
    pub fn forget(&self, uid: &str) {
        let mut failures = self.failures();
        let keys: Vec<String> = failures.last.keys().filter(|key| key.starts_with(uid)).cloned().collect();
        for key in keys {
            failures.last.remove(&key);
            failures.backoff.reset(&key);
        }
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing(reason: &str, message: String, again: Option<Duration>) -> Missing {
    Missing { waiting: Waiting { reason: reason.to_owned(), message }, again }
}

fn spec(name: &str) -> ImageSpec {
    ImageSpec { image: name.to_owned(), annotations: HashMap::new() }
}

fn policy(container: &Container) -> Policy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some(_) => Policy::IfNotPresent,
        None if is_latest(container.image.as_deref().unwrap_or_default()) => Policy::Always,
        None => Policy::IfNotPresent,
    }
}

/// Whether the reference means `latest`: by name, or by having neither tag nor digest.
fn is_latest(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or(image);
    !image.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::edged::pod::tests::pod;
    use crate::edged::testing::{self, Memory};

    #[tokio::test]
    async fn a_name_that_is_none_is_not_asked_of_the_runtime() {
        let root = tempfile::tempdir().unwrap();
        // Nothing listens at this socket.
        let node = testing::node(&Arc::new(Memory::default()), &root.path().join("socket"), root.path());
        let ask = async |image: &str| {
            let pod = pod(json!({"containers": [{"name": "a", "image": image}]}));
            let sandbox = PodSandboxConfig::default();
            node.images.ensure(&pod, &pod.spec.containers[0], &sandbox).await.unwrap_err().waiting
        };
        let waiting = ask("UPPER:1").await;
        assert_eq!(waiting.reason, "InvalidImageName");
        assert!(
            waiting.message.ends_with("repository name (library/UPPER) must be lowercase"),
            "{waiting:?}"
        );
        assert_eq!(ask("lower:1").await.reason, "ImageInspectError");
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, given, expected) in [
            ("busybox", None, Policy::Always),
            ("busybox:latest", None, Policy::Always),
            ("busybox:1", None, Policy::IfNotPresent),
            ("localhost:5000/busybox", None, Policy::Always),
            ("busybox@sha256:00", None, Policy::IfNotPresent),
            ("busybox", Some("Never"), Policy::Never),
        ] {
            let container = Container {
                image: Some(image.into()),
                image_pull_policy: given.map(str::to_owned),
                ..Container::default()
            };
            assert_eq!(policy(&container), expected, "{image}");
        }
    }
}
