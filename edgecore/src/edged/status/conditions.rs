//! A pod's conditions, from the statuses of its containers.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{Context, rfc3339};
use crate::edged::observed::Observed;
use crate::edged::pod::{Pod, Role};

/// All conditions of the pod: kubelet's own, and those of others as they were.
pub(super) fn conditions(
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
