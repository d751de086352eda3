//! From the names in a path to what the runtime calls it, with kubelet's words where that fails.

use axum::http::StatusCode;
use edgeloom_api::kind;
use serde_json::Value;

use super::{Context, Refusal};
use crate::edged::observed::{Instance, Observed, State};
use crate::edged::pod::Pod;

/// A pod and what runs of it.
pub(super) struct Found {
    pub(super) pod: Pod,
    pub(super) observed: Observed,
}

/// The pod of this name on this node.
pub(super) async fn pod(context: &Context, namespace: &str, name: &str) -> Result<Found, Refusal> {
    let internal = |text: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, text);
    let object = context.node.cluster.get(&kind::POD, namespace, name);
    let object = object.map_err(|error| internal(error.to_string()))?;
    let object = object.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, "pod does not exist".to_owned()))?;
    let pod = Pod::parse(&object).map_err(|error| internal(error.to_string()))?;
    let observed = context.node.runtime.observe(&pod.id.uid).await?;
    Ok(Found { pod, observed })
}

impl Found {
    /// The running container of this name.
    pub(super) fn running(&self, name: &str) -> Result<&Instance, Refusal> {
        self.known(name)?;
        self.observed
            .newest(name)
            .filter(|instance| instance.state == State::Running)
            .ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("container not found (\"{name}\")")))
    }

    /// The container whose log is asked for.
    pub(super) fn logged(&self, name: &str, previous: bool) -> Result<&Instance, Refusal> {
        self.known(name)?;
        let pod = &self.pod.id.name;
        let bad = |text: String| Refusal(StatusCode::BAD_REQUEST, text);
        if previous {
            // While it waits for its back-off, the one that ended last is the previous one.
            let newest = self.observed.newest(name).filter(|last| last.state == State::Exited);
            return self.observed.previous(name).or(newest).ok_or_else(|| {
                bad(format!("previous terminated container {name:?} in pod {pod:?} not found"))
            });
        }
        let newest = self.observed.newest(name).filter(|last| last.state != State::Created);
        newest.ok_or_else(|| {
            let why = waits_for(&self.pod.object["status"], name);
            bad(format!("container {name:?} in pod {pod:?} is waiting to start: {why}"))
        })
    }

    fn known(&self, name: &str) -> Result<(), Refusal> {
        match self.pod.container(name) {
            Some(_) => Ok(()),
            None => {
                let text = format!("container {name:?} not found in pod {:?}", self.pod.id.name);
                Err(Refusal(StatusCode::NOT_FOUND, text))
            }
        }
    }
}

/// Why a container has not started, by the pod's status.
fn waits_for<'a>(status: &'a Value, container: &str) -> &'a str {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut all = lists.iter().filter_map(|list| status[list].as_array()).flatten();
    let own = all.find(|one| one["name"] == container);
    own.and_then(|own| own["state"]["waiting"]["reason"].as_str()).unwrap_or("ContainerCreating")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_waits_for_what_the_status_says() {
        let status = json!({
            "initContainerStatuses": [{"name": "init", "state": {"terminated": {"exitCode": 0}}}],
            "containerStatuses": [{"name": "web", "state": {"waiting": {"reason": "ImagePullBackOff"}}}],
        });
        for (container, why) in
            [("web", "ImagePullBackOff"), ("init", "ContainerCreating"), ("other", "ContainerCreating")]
        {
            assert_eq!(waits_for(&status, container), why);
        }
        assert_eq!(waits_for(&Value::Null, "web"), "ContainerCreating");
    }
}
