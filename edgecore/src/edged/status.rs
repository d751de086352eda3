//! A pod's `.status`, from what the runtime holds: a pure function, in kubelet's words.

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
    status.insert("conditions".into(), conditions(pod, phase, &init, &main, observed, context));
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
    json!({
        "name": name,
        "state": { "waiting": waiting },
        "lastState": {},
        "ready": false,
        "restartCount": before.and_then(|before| before["restartCount"].as_u64()).unwrap_or(0),
        "image": spec_image,
        "imageID": "",
        "started": false,
    })
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

fn conditions(
    pod: &Pod,
    phase: &str,
    init: &[Value],
    main: &[Value],
    observed: &Observed,
    context: &Context<'_>,
) -> Value {
    let over = matches!(phase, "Succeeded" | "Failed");
    let network = observed.sandbox().is_some_and(|s| s.ready && (pod.host_network() || !s.ips.is_empty()));
    let containers_ready =
        ready_condition(phase, main.iter().chain(sidecars(pod, init)), "ContainersNotReady");
    let ready = readiness_gates(pod, context.previous, &containers_ready);
    let own = [
        ("PodReadyToStartContainers", Verdict::plain(network && !over)),
        ("Initialized", initialized(phase, pod, init, main)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
    ];
    let before = context.previous["conditions"].as_array().cloned().unwrap_or_default();
    let mut all: Vec<Value> = own
        .into_iter()
        .map(|(kind, verdict)| verdict.into_condition(kind, &before, pod.meta.generation, context.now))
        .collect();
    // Conditions of others: the scheduler's, a readiness gate's.
    let ours = |c: &Value| all.iter().any(|own| own["type"] == c["type"]);
    let theirs: Vec<Value> = before.iter().filter(|c| !ours(c)).cloned().collect();
    all.extend(theirs);
    if !all.iter().any(|c| c["type"] == "PodScheduled") {
        all.push(Verdict::plain(true).into_condition(
            "PodScheduled",
            &before,
            pod.meta.generation,
            context.now,
        ));
    }
    Value::Array(all)
}

fn sidecars<'a>(pod: &'a Pod, init: &'a [Value]) -> impl Iterator<Item = &'a Value> {
    init.iter().filter(|status| {
        let name = status["name"].as_str().unwrap_or_default();
        pod.container(name).is_some_and(|(role, _)| role == Role::Sidecar)
    })
}

#[derive(Clone, Default)]
struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn plain(holds: bool) -> Self {
        Self { holds, ..Self::default() }
    }

    fn into_condition(
        self,
        kind: &str,
        before: &[Value],
        generation: Option<i64>,
        now: OffsetDateTime,
    ) -> Value {
        let status = if self.holds { "True" } else { "False" };
        let since = before
            .iter()
            .find(|c| c["type"] == kind && c["status"] == status)
            .and_then(|c| c["lastTransitionTime"].as_str())
            .map_or_else(|| rfc3339(now), str::to_owned);
        let mut condition = json!({ "type": kind, "status": status, "lastProbeTime": null });
        condition["lastTransitionTime"] = json!(since);
        if let Some(generation) = generation {
            condition["observedGeneration"] = json!(generation);
        }
        if !self.reason.is_empty() {
            condition["reason"] = json!(self.reason);
        }
        if !self.message.is_empty() {
            condition["message"] = json!(self.message);
        }
        condition
    }
}

fn ready_condition<'a>(
    phase: &str,
    statuses: impl Iterator<Item = &'a Value>,
    reason: &'static str,
) -> Verdict {
    match phase {
        "Succeeded" => return Verdict { holds: false, reason: "PodCompleted", message: String::new() },
        "Failed" => return Verdict { holds: false, reason: "PodFailed", message: String::new() },
        _ => {}
    }
    let unready: Vec<&str> = statuses
        .filter(|status| status["ready"] != true)
        .filter_map(|status| status["name"].as_str())
        .collect();
    if unready.is_empty() {
        return Verdict::plain(true);
    }
    Verdict {
        holds: false,
        reason,
        message: format!("containers with unready status: [{}]", unready.join(" ")),
    }
}

/// `Ready` is `ContainersReady` and every readiness gate.
fn readiness_gates(pod: &Pod, previous: &Value, containers: &Verdict) -> Verdict {
    if !containers.holds {
        return containers.clone();
    }
    let holds = |gate: &str| {
        previous["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|c| c["type"] == gate && c["status"] == "True"))
    };
    let absent: Vec<String> = pod
        .spec
        .readiness_gates
        .iter()
        .flatten()
        .filter(|gate| !holds(&gate.condition_type))
        .map(|gate| format!("the status of pod readiness gate {:?} is not \"True\"", gate.condition_type))
        .collect();
    if absent.is_empty() {
        return Verdict::plain(true);
    }
    Verdict { holds: false, reason: "ReadinessGatesNotReady", message: absent.join(", ") }
}

fn initialized(phase: &str, pod: &Pod, init: &[Value], main: &[Value]) -> Verdict {
    if phase == "Succeeded" {
        return Verdict { holds: true, reason: "PodCompleted", message: String::new() };
    }
    let began = main.iter().any(|status| {
        !status["state"]["running"].is_null()
            || !status["state"]["terminated"].is_null()
            || !status["lastState"]["terminated"].is_null()
    });
    let done = |status: &&Value| {
        let name = status["name"].as_str().unwrap_or_default();
        match pod.container(name) {
            Some((Role::Sidecar, _)) => status["started"] == true,
            _ => status["ready"] == true,
        }
    };
    let pending: Vec<&str> =
        init.iter().filter(|status| !done(status)).filter_map(|status| status["name"].as_str()).collect();
    if began || pending.is_empty() {
        return Verdict::plain(true);
    }
    Verdict {
        holds: false,
        reason: "ContainersNotInitialized",
        message: format!("containers with incomplete status: [{}]", pending.join(" ")),
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
#[path = "status_tests.rs"]
mod tests;
