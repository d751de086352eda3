//! From the names in a path to what the runtime calls it, with kubelet's words where that fails.

use axum::http::StatusCode;
use edgeloom_api::kind;
use serde_json::Value;

use super::{Context, Refusal};
use crate::edged::observed::{Instance, Observed, State};
use crate::edged::plan::restarts;
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
            let newest = self.observed.newest(name).filter(|last| self.is_started_again(last));
            return newest.or_else(|| self.observed.previous(name)).ok_or_else(|| {
                bad(format!("previous terminated container {name:?} in pod {pod:?} not found"))
            });
        }
        let newest = self.observed.newest(name).filter(|last| last.state != State::Created);
        newest.or_else(|| self.observed.previous(name)).ok_or_else(|| {
            let why = waits_for(&self.pod.object["status"], name);
            bad(format!("container {name:?} in pod {pod:?} is waiting to start: {why}"))
        })
    }

    /// Whether the container has ended and another is to follow it.
    fn is_started_again(&self, last: &Instance) -> bool {
        let Some((role, _)) = self.pod.container(&last.name) else { return false };
        let object = &self.pod.object;
        let goes_on = !self.pod.is_deleted()
            && !matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        goes_on && last.state == State::Exited && restarts(self.pod.restart_policy(), role, last.exit_code)
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
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::edged::testing::instance;

    fn found(policy: &str, status: Value, containers: Vec<Instance>) -> Found {
        let object = json!({
            "metadata": {"name": "p", "namespace": "shop", "uid": "u"},
            "spec": {"restartPolicy": policy, "containers": [{"name": "c"}]},
            "status": status,
        });
        let pod = Pod::parse(&Arc::new(object)).unwrap();
        Found { pod, observed: Observed::new(Vec::new(), containers) }
    }

    #[test]
    fn the_previous_container_is_the_one_that_another_follows() {
        let ran = |attempt, exit_code| instance("c", attempt, State::Exited, exit_code);
        let runs = |attempt| instance("c", attempt, State::Running, 0);
        let running = json!({"phase": "Running"});
        for (policy, status, containers, previous) in [
            // In its back-off.
            ("Always", &running, vec![ran(0, 1)], Some("c0")),
            ("Always", &running, vec![ran(0, 1), ran(1, 1)], Some("c1")),
            ("OnFailure", &running, vec![ran(0, 1)], Some("c0")),
            // It has been started again.
            ("Always", &running, vec![ran(0, 1), runs(1)], Some("c0")),
            ("OnFailure", &running, vec![ran(0, 1), ran(1, 0)], Some("c0")),
            // Nothing follows it.
            ("Never", &running, vec![ran(0, 0)], None),
            ("Never", &json!({"phase": "Failed"}), vec![ran(0, 1)], None),
            ("Always", &json!({"phase": "Failed"}), vec![ran(0, 1)], None),
            ("OnFailure", &running, vec![ran(0, 0)], None),
            ("Always", &running, vec![runs(0)], None),
        ] {
            let found = found(policy, status.clone(), containers.clone());
            match (found.logged("c", true), previous) {
                (Ok(instance), Some(previous)) => assert_eq!(instance.id, previous, "{containers:?}"),
                (Err(Refusal(StatusCode::BAD_REQUEST, text)), None) => {
                    assert_eq!(text, "previous terminated container \"c\" in pod \"p\" not found");
                }
                (other, _) => panic!("{policy} {containers:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_log_of_a_container_that_is_yet_to_start_is_that_of_the_one_before() {
        let made = instance("c", 1, State::Created, 0);
        let both = found("Always", Value::Null, vec![instance("c", 0, State::Exited, 1), made.clone()]);
        assert_eq!(both.logged("c", false).unwrap().id, "c0");
        assert!(found("Always", Value::Null, vec![made]).logged("c", false).is_err());
    }

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
