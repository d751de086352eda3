//! Pods: the reason that stands in STATUS is found as kubectl's printer finds it.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{age, items, text_or_none};

pub(in crate::kinds) fn pod_ready(pod: &Value, _: OffsetDateTime) -> Value {
    let running = |status: &&Value| status["ready"] == json!(true) && status["state"]["running"].is_object();
    let ready = items(&pod["status"]["containerStatuses"]).filter(running).count();
    let sidecars: Vec<&str> =
        items(&pod["spec"]["initContainers"]).filter(is_sidecar).filter_map(name).collect();
    let ready_sidecars = items(&pod["status"]["initContainerStatuses"])
        .filter(|status| name(status).is_some_and(|name| sidecars.contains(&name)))
        .filter(|status| status["started"] == json!(true) && status["ready"] == json!(true))
        .count();
    let total = items(&pod["spec"]["containers"]).count() + sidecars.len();
    json!(format!("{}/{total}", ready + ready_sidecars))
}

fn name(value: &Value) -> Option<&str> {
    value["name"].as_str()
}

fn is_sidecar(container: &&Value) -> bool {
    container["restartPolicy"] == "Always"
}

pub(in crate::kinds) fn pod_status(pod: &Value, _: OffsetDateTime) -> Value {
    json!(reason(pod))
}

fn reason(pod: &Value) -> String {
    let status = &pod["status"];
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let mut reason = text(&status["reason"]).or_else(|| text(&status["phase"])).unwrap_or_default();
    let gated =
        |condition: &Value| condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated";
    if items(&status["conditions"]).any(gated) {
        reason = "SchedulingGated".to_owned();
    }
    let initializing = init_reason(pod);
    let is_initializing = initializing.is_some();
    reason = initializing.unwrap_or(reason);
    let initialized = |condition: &Value| condition["type"] == "Initialized" && condition["status"] == "True";
    if !is_initializing || items(&status["conditions"]).any(initialized) {
        reason = container_reason(pod, reason);
    }
    if pod["metadata"]["deletionTimestamp"].is_string() {
        if status["reason"] == "NodeLost" {
            return "Unknown".to_owned();
        }
        if !matches!(status["phase"].as_str(), Some("Failed" | "Succeeded")) {
            return "Terminating".to_owned();
        }
    }
    reason
}

/// What the first init container that is not done says.
fn init_reason(pod: &Value) -> Option<String> {
    let total = items(&pod["spec"]["initContainers"]).count();
    for (index, status) in items(&pod["status"]["initContainerStatuses"]).enumerate() {
        let state = &status["state"];
        let spec = items(&pod["spec"]["initContainers"]).find(|one| one["name"] == status["name"]);
        let terminated = &state["terminated"];
        if terminated.is_object() && terminated["exitCode"].as_i64().unwrap_or(0) == 0 {
            continue;
        }
        if spec.as_ref().is_some_and(is_sidecar) && status["started"] == json!(true) {
            continue;
        }
        if terminated.is_object() {
            return Some(format!("Init:{}", terminated_reason(terminated)));
        }
        let waiting = state["waiting"]["reason"].as_str().unwrap_or("");
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        return Some(format!("Init:{index}/{total}"));
    }
    None
}

fn terminated_reason(terminated: &Value) -> String {
    let number = |field: &str| terminated[field].as_i64().unwrap_or(0);
    match (terminated["reason"].as_str(), number("signal")) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, 0) => format!("ExitCode:{}", number("exitCode")),
        (_, signal) => format!("Signal:{signal}"),
    }
}

/// What the first container that has something to say says; completed ones yield to running ones.
fn container_reason(pod: &Value, mut reason: String) -> String {
    let mut has_running = false;
    let statuses: Vec<&Value> = items(&pod["status"]["containerStatuses"]).collect();
    for status in statuses.into_iter().rev() {
        let state = &status["state"];
        let waiting = state["waiting"]["reason"].as_str().unwrap_or("");
        if !waiting.is_empty() {
            waiting.clone_into(&mut reason);
        } else if state["terminated"].is_object() {
            reason = terminated_reason(&state["terminated"]);
        } else if status["ready"] == json!(true) && state["running"].is_object() {
            has_running = true;
        }
    }
    if reason == "Completed" && has_running {
        let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
        let all = items(&pod["status"]["conditions"]).any(ready);
        return if all { "Running".to_owned() } else { "NotReady".to_owned() };
    }
    reason
}

pub(in crate::kinds) fn pod_restarts(pod: &Value, now: OffsetDateTime) -> Value {
    let status = &pod["status"];
    let initializing = init_reason(pod).is_some();
    let sidecars: Vec<&str> =
        items(&pod["spec"]["initContainers"]).filter(is_sidecar).filter_map(name).collect();
    let inits = items(&status["initContainerStatuses"])
        .filter(|one| initializing || name(one).is_some_and(|name| sidecars.contains(&name)));
    let mains = items(&status["containerStatuses"]).filter(|_| !initializing);
    let (mut restarts, mut last) = (0, None::<&str>);
    for one in inits.chain(mains) {
        restarts += one["restartCount"].as_i64().unwrap_or(0);
        last = last.max(one["lastState"]["terminated"]["finishedAt"].as_str());
    }
    match last {
        Some(time) if restarts > 0 => json!(format!("{restarts} ({} ago)", age(time, now))),
        _ => json!(restarts.to_string()),
    }
}

pub(in crate::kinds) fn pod_ip(pod: &Value, _: OffsetDateTime) -> Value {
    let status = &pod["status"];
    match status["podIPs"][0]["ip"].as_str() {
        Some(ip) => json!(ip),
        None => text_or_none(&status["podIP"]),
    }
}

pub(in crate::kinds) fn pod_node(pod: &Value, _: OffsetDateTime) -> Value {
    text_or_none(&pod["spec"]["nodeName"])
}

pub(in crate::kinds) fn pod_nominated(pod: &Value, _: OffsetDateTime) -> Value {
    text_or_none(&pod["status"]["nominatedNodeName"])
}

pub(in crate::kinds) fn pod_gates(pod: &Value, _: OffsetDateTime) -> Value {
    let gates: Vec<&str> =
        items(&pod["spec"]["readinessGates"]).filter_map(|gate| gate["conditionType"].as_str()).collect();
    if gates.is_empty() {
        return json!(super::NONE);
    }
    let passed = |gate: &&&str| {
        items(&pod["status"]["conditions"]).any(|one| one["type"] == **gate && one["status"] == "True")
    };
    json!(format!("{}/{}", gates.iter().filter(passed).count(), gates.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        for (pod, expected) in [
            (json!({"status": {"phase": "Pending"}}), "Pending"),
            (json!({"status": {"phase": "Failed", "reason": "Evicted"}}), "Evicted"),
            (
                json!({"status": {"phase": "Pending", "containerStatuses": [
                    {"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}}),
                "ImagePullBackOff",
            ),
            (
                json!({"status": {"phase": "Running", "containerStatuses": [
                    {"state": {"terminated": {"exitCode": 3}}}]}}),
                "ExitCode:3",
            ),
            (
                json!({"spec": {"initContainers": [{"name": "a"}, {"name": "b"}]}, "status": {"phase": "Pending",
                    "initContainerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 0}}},
                        {"name": "b", "state": {"running": {}}}]}}),
                "Init:1/2",
            ),
            (json!({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Running"}}), "Terminating"),
        ] {
            assert_eq!(reason(&pod), expected, "{pod}");
        }
    }

    #[test]
    fn restarts_with_the_last_time() {
        let now = OffsetDateTime::from_unix_timestamp(1_000_000_000).unwrap();
        let pod = json!({"status": {"containerStatuses": [{"restartCount": 2,
            "lastState": {"terminated": {"finishedAt": "2001-09-09T01:41:40Z"}}}]}});
        assert_eq!(pod_restarts(&pod, now), "2 (5m ago)");
        assert_eq!(pod_restarts(&json!({}), now), "0");
    }
}
