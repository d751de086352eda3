//! A pod's `.status`, from what the runtime holds: a pure function, in kubelet's words.

mod conditions;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::observed::{Instance, Observed, State};
use super::plan::{Waiting, restarts};
use super::pod::{Pod, RestartPolicy, Role};
use super::resources;

/// Inputs of [`status`] beside the pod and the runtime's view.
pub struct Context<'a> {
    /// The status written before, or the API's; null where there is none.
    pub previous: &'a Value,
    /// Why containers wait, by name.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// Whether a running container (by id) has started.
    pub started: &'a dyn Fn(&str) -> bool,
    /// Whether a running container (by id) is ready.
    pub ready: &'a dyn Fn(&str) -> bool,
    /// Addresses of the node at its site, the one of the primary family first.
    pub host_ips: &'a [String],
    /// Set where edged itself ended the pod: reason and message.
    pub failure: Option<(&'a str, &'a str)>,
    /// Whether the pod is being ended or has run to its end, so that nothing more will be started.
    pub terminal: bool,
    /// The time.
    pub now: OffsetDateTime,
}

/// `.status`, complete, to be sent as a merge patch.
pub fn status(pod: &Pod, observed: &Observed, context: &Context<'_>) -> Value {
    let containers = |role: fn(Role) -> bool| -> Vec<Value> {
        pod.containers()
            .filter(|(r, _)| role(*r))
            .map(|(role, container)| container_status(pod, role, &container.name, observed, context))
            .collect()
    };
    let init = containers(|role| role != Role::Main);
    let main = containers(|role| role == Role::Main);
    let phase = context.failure.map_or_else(|| phase(pod, &init, &main, context.terminal), |_| "Failed");
    let phase = keep_terminal(phase, context.previous);
    let mut status = Map::new();
    status.insert("phase".into(), json!(phase));
    if let Some(generation) = pod.meta.generation {
        status.insert("observedGeneration".into(), json!(generation));
    }
    status.insert("conditions".into(), conditions::conditions(pod, phase, &init, &main, observed, context));
    status.insert("reason".into(), context.failure.map_or(Value::Null, |(reason, _)| json!(reason)));
    status.insert("message".into(), context.failure.map_or(Value::Null, |(_, message)| json!(message)));
    addresses(&mut status, pod, observed, context);
    let start_time = context.previous["startTime"].as_str().map(str::to_owned);
    status.insert("startTime".into(), json!(start_time.unwrap_or_else(|| rfc3339(context.now))));
    if !init.is_empty() {
        status.insert("initContainerStatuses".into(), json!(init));
    }
    status.insert("containerStatuses".into(), json!(main));
    status.insert("qosClass".into(), json!(resources::qos(&pod.spec).as_str()));
    Value::Object(status)
}

/// Whether the API's status lacks what was told: the phase, an address or a verdict of readiness was
/// changed by somebody else, or never arrived.
pub fn differs(theirs: &Value, ours: &Value) -> bool {
    let verdict = |status: &Value, kind: &str| {
        let all = status["conditions"].as_array().into_iter().flatten();
        all.filter(|c| c["type"] == kind).find_map(|c| c["status"].as_str().map(str::to_owned))
    };
    ["phase", "podIP"].iter().any(|field| theirs[field] != ours[field])
        || ["Ready", "ContainersReady"].iter().any(|kind| verdict(theirs, kind) != verdict(ours, kind))
}

/// A pod that has succeeded or failed stays so.
fn keep_terminal<'a>(phase: &'a str, previous: &'a Value) -> &'a str {
    match previous["phase"].as_str() {
        Some(before @ ("Succeeded" | "Failed")) => before,
        _ => phase,
    }
}

fn addresses(status: &mut Map<String, Value>, pod: &Pod, observed: &Observed, context: &Context<'_>) {
    let list = |ips: &[String]| -> Value { ips.iter().map(|ip| json!({ "ip": ip })).collect() };
    if let Some(first) = context.host_ips.first() {
        status.insert("hostIP".into(), json!(first));
        status.insert("hostIPs".into(), list(context.host_ips));
    }
    let sandbox = observed.sandbox();
    let ips = if pod.host_network() && sandbox.is_some() {
        context.host_ips.to_vec()
    } else {
        sandbox.map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    };
    if let Some(first) = ips.first() {
        status.insert("podIP".into(), json!(first));
        status.insert("podIPs".into(), list(&ips));
    } else if context.terminal {
        // The address of what ran stays readable after the sandbox is gone.
        for field in ["podIP", "podIPs"] {
            if let Some(value) = context.previous.get(field).filter(|value| !value.is_null()) {
                status.insert(field.into(), value.clone());
            }
        }
    } else {
        status.insert("podIP".into(), Value::Null);
        status.insert("podIPs".into(), Value::Null);
    }
}

fn container_status(pod: &Pod, role: Role, name: &str, observed: &Observed, context: &Context<'_>) -> Value {
    let spec_image = pod.container(name).and_then(|(_, c)| c.image.clone()).unwrap_or_default();
    let before = previous_status(context.previous, name);
    let Some(newest) = observed.newest(name) else {
        return without_instance(pod, role, name, &spec_image, before, context);
    };
    let waiting = context.waiting.get(name);
    let (state, last) = states(pod, role, newest, observed.previous(name), waiting, context.terminal);
    let running = newest.state == State::Running;
    let started = running && (context.started)(&newest.id);
    let ready = match role {
        Role::Init => newest.state == State::Exited && newest.exit_code == 0,
        Role::Main | Role::Sidecar => running && started && (context.ready)(&newest.id),
    };
    json!({
        "name": name,
        "state": state,
        "lastState": last.or_else(|| before.map(|b| b["lastState"].clone())).unwrap_or_else(|| json!({})),
        "ready": ready,
        "restartCount": newest.attempt,
        "image": if newest.image.is_empty() { spec_image } else { newest.image.clone() },
        "imageID": newest.image_ref,
        "containerID": format!("containerd://{}", newest.id),
        "started": started,
    })
}

fn previous_status<'a>(previous: &'a Value, name: &str) -> Option<&'a Value> {
    ["containerStatuses", "initContainerStatuses"]
        .iter()
        .filter_map(|field| previous[field].as_array())
        .flatten()
        .find(|status| status["name"] == name)
}

/// The runtime holds nothing of this name: it is yet to be made, or was removed after it had ended.
fn without_instance(
    pod: &Pod,
    role: Role,
    name: &str,
    spec_image: &str,
    before: Option<&Value>,
    context: &Context<'_>,
) -> Value {
    if let Some(before) = before.filter(|before| !before["state"]["terminated"].is_null()) {
        return before.clone();
    }
    let was_running = before.is_some_and(|before| !before["state"]["running"].is_null());
    if context.terminal && was_running {
        return lost(before.cloned().unwrap_or_default());
    }
    let default =
        if pod.spec.init_containers.as_ref().is_some_and(|init| !init.is_empty()) && role == Role::Main {
            "PodInitializing"
        } else {
            "ContainerCreating"
        };
    let waiting = match context.waiting.get(name) {
        Some(waiting) => json!({ "reason": waiting.reason, "message": waiting.message }),
        None => json!({ "reason": default }),
    };
    let mut status = json!({
        "name": name,
        "state": { "waiting": waiting },
        "lastState": {},
        "ready": false,
        "restartCount": before.and_then(|before| before["restartCount"].as_u64()).unwrap_or(0),
        "image": spec_image,
        "imageID": "",
        "started": false,
    });
    if let Some(before) = before.filter(|before| before["containerID"].is_string()) {
        // It ran, and goes on counting.
        status["containerID"] = before["containerID"].clone();
        status["lastState"] =
            if was_running { lost(before.clone())["state"].take() } else { before["lastState"].clone() };
    }
    status
}

/// It ran when last seen, and the runtime has forgotten it.
fn lost(mut status: Value) -> Value {
    status["state"] = json!({ "terminated": {
        "exitCode": 137,
        "reason": "ContainerStatusUnknown",
        "message": "The container could not be located when the pod was terminated",
        "startedAt": null,
        "finishedAt": null,
    }});
    status["ready"] = json!(false);
    status["started"] = json!(false);
    status
}

/// `state` and, where there is one, `lastState`.
fn states(
    pod: &Pod,
    role: Role,
    newest: &Instance,
    previous: Option<&Instance>,
    waiting: Option<&Waiting>,
    terminal: bool,
) -> (Value, Option<Value>) {
    let last = previous.map(terminated);
    match newest.state {
        State::Running => (json!({ "running": { "startedAt": nanos(newest.started) } }), last),
        State::Exited => {
            let again = !terminal && restarts(pod.restart_policy(), role, newest.exit_code);
            match waiting {
                Some(waiting) if again => {
                    let state =
                        json!({ "waiting": { "reason": waiting.reason, "message": waiting.message } });
                    (state, Some(terminated(newest)))
                }
                _ => (terminated(newest), last),
            }
        }
        State::Created | State::Unknown => {
            let state = match waiting {
                Some(waiting) => json!({ "reason": waiting.reason, "message": waiting.message }),
                None => json!({ "reason": "ContainerCreating" }),
            };
            (json!({ "waiting": state }), last)
        }
    }
}

fn terminated(instance: &Instance) -> Value {
    let reason = match (instance.reason.as_str(), instance.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    let mut ended = json!({
        "exitCode": instance.exit_code,
        "reason": reason,
        "startedAt": nanos(instance.started),
        "finishedAt": nanos(instance.finished),
        "containerID": format!("containerd://{}", instance.id),
    });
    if !instance.message.is_empty() {
        ended["message"] = json!(instance.message);
    }
    json!({ "terminated": ended })
}

/// The phase, as kubelet derives it from the containers.
fn phase(pod: &Pod, init: &[Value], main: &[Value], terminal: bool) -> &'static str {
    let policy = pod.restart_policy();
    let sidecar = |status: &Value| {
        status["name"]
            .as_str()
            .and_then(|name| pod.container(name))
            .is_some_and(|(role, _)| role == Role::Sidecar)
    };
    let exit = |status: &Value| status["state"]["terminated"]["exitCode"].as_i64();
    let mut pending = 0;
    for status in init.iter().filter(|status| !sidecar(status)) {
        match exit(status) {
            Some(0) => {}
            Some(_) if policy == RestartPolicy::Never => return "Failed",
            _ => pending += 1,
        }
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in main {
        if !status["state"]["running"].is_null() {
            running += 1;
        } else if let Some(code) = exit(status) {
            stopped += 1;
            succeeded += usize::from(code == 0);
        } else if !status["lastState"]["terminated"].is_null() {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    let began = running + stopped > 0;
    match () {
        () if pending > 0 && !began => "Pending",
        () if waiting > 0 && !terminal => "Pending",
        () if running > 0 => "Running",
        () if stopped == 0 => "Pending",
        () if terminal && succeeded == main.len() => "Succeeded",
        () if terminal => "Failed",
        () if policy == RestartPolicy::Always => "Running",
        () if stopped == succeeded => "Succeeded",
        () if policy == RestartPolicy::Never => "Failed",
        () => "Running",
    }
}

/// Unix time in nanoseconds as the API writes times; null for 0.
pub fn nanos(nanoseconds: i64) -> Value {
    if nanoseconds == 0 {
        return Value::Null;
    }
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanoseconds))
        .map_or(Value::Null, |time| json!(rfc3339(time)))
}

/// A time as the API writes it: UTC, whole seconds.
pub fn rfc3339(time: OffsetDateTime) -> String {
    let whole = time.to_offset(time::UtcOffset::UTC).replace_nanosecond(0).unwrap_or(time);
    whole.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests;
