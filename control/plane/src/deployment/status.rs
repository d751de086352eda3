//! A Deployment's status from its ReplicaSets, in the words that `kubectl rollout status` reads. Pure.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::rolling;

/// The status that `deployment` should have.
pub(crate) fn status(
    deployment: &Deployment,
    current: Option<&ReplicaSet>,
    old: &[ReplicaSet],
    now: Timestamp,
) -> DeploymentStatus {
    let all = || current.into_iter().chain(old);
    let sum = |field: fn(&ReplicaSet) -> i32| -> i32 { all().map(field).sum() };
    let replicas = sum(pods);
    let available = sum(available);
    let updated = current.map_or(0, pods);
    let some = |count: i32| (count != 0).then_some(count);
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let total = all().map(|set| rolling::Set::from(set).wanted).sum::<i32>();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(replicas),
        updated_replicas: some(updated),
        ready_replicas: some(sum(ready)),
        available_replicas: some(available),
        unavailable_replicas: some((total - available).max(0)),
        terminating_replicas: None,
        collision_count: None,
        conditions: deployment.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    let enough = available >= wanted - rolling::limits(deployment).unavailable;
    let availability = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned())
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.".to_owned())
    };
    set(&mut status, "Available", availability, now, false);
    if let Some(current) = current {
        progress(&mut status, deployment, current, now, (wanted, updated, available, replicas));
    }
    status
}

fn pods(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

fn ready(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

type Counts = (i32, i32, i32, i32);

/// Keeps `Progressing`: complete, still moving, or out of time.
fn progress(
    status: &mut DeploymentStatus,
    deployment: &Deployment,
    current: &ReplicaSet,
    now: Timestamp,
    (wanted, updated, available, replicas): Counts,
) {
    let name = current.name_any();
    if updated == wanted && replicas == wanted && available == wanted {
        let done = format!("ReplicaSet \"{name}\" has successfully progressed.");
        return set(status, "Progressing", ("True", "NewReplicaSetAvailable", done), now, false);
    }
    let before = deployment.status.as_ref();
    let moved = before.is_none_or(|before| {
        before.updated_replicas.unwrap_or(0) < updated
            || before.available_replicas.unwrap_or(0) < available
            || before.replicas.unwrap_or(0) > replicas
            || before.observed_generation != deployment.metadata.generation
    });
    let late = !moved && overdue(status, deployment, now);
    if late {
        let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
        return set(status, "Progressing", ("False", "ProgressDeadlineExceeded", message), now, false);
    }
    let known = condition(status, "Progressing").is_some_and(|progress| {
        progress.reason.as_deref() != Some("NewReplicaSetAvailable")
            && progress.reason.as_deref() != Some("ProgressDeadlineExceeded")
    });
    if moved || !known {
        let message = format!("ReplicaSet \"{name}\" is progressing.");
        set(status, "Progressing", ("True", "ReplicaSetUpdated", message), now, moved);
    }
}

/// Seconds until the deadline of a rollout that has not moved since, if it has one and is not done.
pub(crate) fn deadline(status: &DeploymentStatus, deployment: &Deployment, now: Timestamp) -> Option<i64> {
    let limit = deployment.spec.as_ref()?.progress_deadline_seconds?;
    let progress = condition(status, "Progressing").filter(|progress| progress.status == "True")?;
    if progress.reason.as_deref() == Some("NewReplicaSetAvailable") {
        return None;
    }
    let since = progress.last_update_time.as_ref()?.0;
    Some(i64::from(limit) - (now.as_second() - since.as_second()))
}

fn overdue(status: &DeploymentStatus, deployment: &Deployment, now: Timestamp) -> bool {
    let already = condition(status, "Progressing").is_some_and(|progress| {
        progress.reason.as_deref() == Some("ProgressDeadlineExceeded") && progress.status == "False"
    });
    already || deadline(status, deployment, now).is_some_and(|left| left <= 0)
}

fn condition<'s>(status: &'s DeploymentStatus, kind: &str) -> Option<&'s DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// Sets a condition; times change only when it does, or when `touch` says that it was seen anew.
fn set(
    status: &mut DeploymentStatus,
    kind: &str,
    (value, reason, message): (&str, &str, String),
    now: Timestamp,
    touch: bool,
) {
    let conditions = status.conditions.get_or_insert_default();
    let time = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let before =
        conditions.iter().position(|condition| condition.type_ == kind).map(|at| conditions.remove(at));
    let same_value = before.as_ref().filter(|before| before.status == value);
    let transition = same_value.and_then(|before| before.last_transition_time.clone());
    let same = same_value.filter(|before| {
        before.reason.as_deref() == Some(reason) && before.message.as_deref() == Some(&message) && !touch
    });
    let update = same.and_then(|before| before.last_update_time.clone());
    conditions.push(DeploymentCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: transition.or_else(|| Some(time.clone())),
        last_update_time: update.or(Some(time)),
    });
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(status: &DeploymentStatus) -> Deployment {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "generation": 2 },
            "spec": { "replicas": 2, "progressDeadlineSeconds": 600, "selector": {}, "template": {} },
            "status": status,
        }))
        .unwrap()
    }

    fn set_of(pods: i32, available: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": { "name": "web-abc" },
            "spec": { "replicas": 2, "selector": {} },
            "status": { "replicas": pods, "readyReplicas": available, "availableReplicas": available },
        }))
        .unwrap()
    }

    fn reason(status: &DeploymentStatus, kind: &str) -> String {
        condition(status, kind).and_then(|condition| condition.reason.clone()).unwrap_or_default()
    }

    #[test]
    fn from_the_first_pod_to_the_last_and_too_late() {
        let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        let first = status(&deployment(&DeploymentStatus::default()), Some(&set_of(2, 0)), &[], at(0));
        assert_eq!(reason(&first, "Progressing"), "ReplicaSetUpdated");
        assert_eq!(reason(&first, "Available"), "MinimumReplicasUnavailable");
        let stuck = status(&deployment(&first), Some(&set_of(2, 0)), &[], at(100));
        assert_eq!(stuck, first, "nothing moved, nothing is written");
        assert_eq!(deadline(&stuck, &deployment(&stuck), at(100)), Some(500));
        let late = status(&deployment(&stuck), Some(&set_of(2, 0)), &[], at(601));
        assert_eq!(reason(&late, "Progressing"), "ProgressDeadlineExceeded");
        let done = status(&deployment(&late), Some(&set_of(2, 2)), &[], at(700));
        assert_eq!(reason(&done, "Progressing"), "NewReplicaSetAvailable");
        assert_eq!(
            (done.replicas, done.updated_replicas, done.available_replicas),
            (Some(2), Some(2), Some(2))
        );
        assert_eq!(done.unavailable_replicas, None);
    }
}
