//! The Node's `.status`, in kubelet's words: a pure function of what was measured.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::machine::{Disk, Machine, Usage};
use crate::cri::proto::{Image, RuntimeCondition};
use crate::edged::status::rfc3339;

/// What this program calls itself where a kubelet's version is asked for: the release of Kubernetes whose
/// behaviour it follows, and its own.
pub const KUBELET_VERSION: &str = concat!("v1.34.0-edgeloom.", env!("CARGO_PKG_VERSION"));

/// Memory below which the node is short of it, in bytes: kubelet's default.
const LOW_MEMORY: u64 = 100 << 20;
/// Share of the disk, in percent, and bytes, below both of which the node is short of it. The share is kubelet's
/// default.
const LOW_DISK: (u64, u64) = (10, 2 << 30);
/// The runtime's conditions that a ready node rests on. Others are remarks: containerd has one, from 1.7 on, that is
/// false as long as something in its configuration is deprecated.
const REQUIRED: [&str; 2] = ["RuntimeReady", "NetworkReady"];
/// Images told of at most: kubelet's default.
const MAX_IMAGES: usize = 50;

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The machine.
    pub machine: Machine,
    /// Its use.
    pub usage: Usage,
    /// The disk of the pods.
    pub disk: Disk,
    /// Processes, and how many there may be.
    pub processes: Option<(u64, u64)>,
    /// Name and version of the runtime; `None` where it does not answer.
    pub runtime: Option<(String, String)>,
    /// Its conditions, or why there are none.
    pub conditions: Result<Vec<RuntimeCondition>, String>,
    /// Its images.
    pub images: Vec<Image>,
    /// Pods at most.
    pub max_pods: u32,
}

/// `.status` as a merge patch. `before` is the last one, and what others wrote: conditions of theirs are kept.
pub fn status(measured: &Measured, before: &Value, now: OffsetDateTime) -> Value {
    let memory = measured.machine.memory;
    let capacity = |memory: u64| {
        json!({
            "cpu": measured.machine.cpus.to_string(),
            "memory": format!("{}Ki", memory / 1024),
            "ephemeral-storage": format!("{}Ki", measured.disk.total / 1024),
            "pods": measured.max_pods.to_string(),
        })
    };
    json!({
        "capacity": capacity(memory),
        "allocatable": capacity(memory.saturating_sub(LOW_MEMORY)),
        "conditions": conditions(measured, before, now),
        "nodeInfo": node_info(measured),
        "images": images(&measured.images),
    })
}

/// Whether two statuses differ in more than the time of their heartbeat.
pub fn differ(one: &Value, other: &Value) -> bool {
    let plain = |status: &Value| {
        let mut status = status.clone();
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            condition["lastHeartbeatTime"] = Value::Null;
        }
        status
    };
    plain(one) != plain(other)
}

/// Whether `shown` has not the conditions that were told: one is missing, or in another state. What others
/// have added is no contradiction.
pub fn contradicts(shown: &Value, told: &Value) -> bool {
    let shown = shown["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    told["conditions"].as_array().into_iter().flatten().any(|told| {
        let same = |shown: &&Value| shown["type"] == told["type"];
        shown.iter().find(same).is_none_or(|shown| shown["status"] != told["status"])
    })
}

fn node_info(measured: &Measured) -> Value {
    let machine = &measured.machine;
    let runtime = measured.runtime.as_ref().map(|(name, version)| {
        format!("{name}://{}", version.trim_start_matches('v').split('~').next().unwrap_or_default())
    });
    json!({
        "machineID": machine.machine_id,
        "systemUUID": machine.system_uuid,
        "bootID": machine.boot_id,
        "kernelVersion": machine.kernel,
        "osImage": machine.os_image,
        "containerRuntimeVersion": runtime.unwrap_or_default(),
        "kubeletVersion": KUBELET_VERSION,
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": machine.architecture,
    })
}

fn images(images: &[Image]) -> Value {
    let mut sorted: Vec<&Image> = images.iter().collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then(a.id.cmp(&b.id)));
    let listed = sorted.iter().take(MAX_IMAGES).map(|image| {
        let names: Vec<&String> = image.repo_digests.iter().chain(&image.repo_tags).take(5).collect();
        json!({ "names": names, "sizeBytes": image.size })
    });
    listed.collect()
}

fn conditions(measured: &Measured, before: &Value, now: OffsetDateTime) -> Value {
    let low_memory = measured.usage.memory_available < LOW_MEMORY;
    let low_disk = measured.disk.lacks(LOW_DISK.0, LOW_DISK.1) > 0;
    let low_pids = measured.processes.is_some_and(|(running, limit)| running * 100 > limit * 90);
    let pressure = |kind: &str, holds: bool, bad: (&str, &str), good: (&str, &str)| {
        let (reason, message) = if holds { bad } else { good };
        condition(kind, holds, reason, message, before, now)
    };
    let own = [
        pressure(
            "MemoryPressure",
            low_memory,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            low_disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            low_pids,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        ready(measured, before, now),
    ];
    let before = before["conditions"].as_array().into_iter().flatten();
    let others = before.filter(|theirs| !own.iter().any(|own| own["type"] == theirs["type"]));
    others.cloned().chain(own.iter().cloned()).collect()
}

fn ready(measured: &Measured, before: &Value, now: OffsetDateTime) -> Value {
    let failed: Vec<String> = match &measured.conditions {
        Err(error) => vec![format!("container runtime is down: {error}")],
        Ok(conditions) => {
            let required = conditions.iter().filter(|c| REQUIRED.contains(&c.r#type.as_str()));
            required.filter(|c| !c.status).map(unready).collect()
        }
    };
    if failed.is_empty() {
        return condition("Ready", true, "KubeletReady", "kubelet is posting ready status", before, now);
    }
    condition("Ready", false, "KubeletNotReady", &failed.join(", "), before, now)
}

fn unready(condition: &RuntimeCondition) -> String {
    let what =
        if condition.r#type == "NetworkReady" { "container runtime network" } else { "container runtime" };
    let RuntimeCondition { r#type, reason, message, .. } = condition;
    format!("{what} not ready: {type}=false reason:{reason} message:{message}")
}

fn condition(
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
    before: &Value,
    now: OffsetDateTime,
) -> Value {
    let status = if holds { "True" } else { "False" };
    let since = before["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind && condition["status"] == status)
        .and_then(|condition| condition["lastTransitionTime"].as_str())
        .map_or_else(|| rfc3339(now), str::to_owned);
    json!({
        "type": kind,
        "status": status,
        "lastHeartbeatTime": rfc3339(now),
        "lastTransitionTime": since,
        "reason": reason,
        "message": message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(second).unwrap()
    }

    fn measured() -> Measured {
        let condition = |kind: &str, status| RuntimeCondition {
            r#type: kind.into(),
            status,
            reason: String::new(),
            message: String::new(),
        };
        Measured {
            machine: Machine { cpus: 2, memory: 1 << 30, ..Machine::default() },
            usage: Usage { memory_available: 1 << 29, ..Usage::default() },
            disk: Disk { total: 1000 << 10, available: 500 << 10 },
            runtime: Some(("containerd".into(), "1.6.20~ds1".into())),
            conditions: Ok(vec![condition("RuntimeReady", true), condition("NetworkReady", true)]),
            max_pods: 110,
            processes: Some((100, 32768)),
            images: vec![],
        }
    }

    fn of<'a>(status: &'a Value, kind: &str) -> &'a Value {
        status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap()
    }

    #[test]
    fn a_healthy_node() {
        let status = status(&measured(), &Value::Null, at(0));
        assert_eq!(of(&status, "Ready")["reason"], "KubeletReady");
        assert_eq!(of(&status, "DiskPressure")["status"], "False");
        assert_eq!(status["nodeInfo"]["containerRuntimeVersion"], "containerd://1.6.20");
        assert_eq!(status["capacity"]["memory"], "1048576Ki");
        assert_eq!(status["allocatable"]["memory"], "946176Ki");
    }

    #[test]
    fn pressure_and_what_is_not_ready() {
        let mut low = measured();
        low.usage.memory_available = 1 << 20;
        low.disk.available = 0;
        let network = low.conditions.as_mut().unwrap().last_mut().unwrap();
        network.status = false;
        network.reason = "NetworkPluginNotReady".into();
        network.message = "cni plugin not initialized".into();
        let status = status(&low, &Value::Null, at(0));
        assert_eq!(of(&status, "MemoryPressure")["status"], "True");
        assert_eq!(of(&status, "DiskPressure")["status"], "True");
        assert_eq!(
            of(&status, "Ready")["message"],
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized"
        );
    }

    #[test]
    fn a_remark_of_the_runtime_leaves_the_node_ready() {
        let mut deprecated = measured();
        deprecated.conditions.as_mut().unwrap().push(RuntimeCondition {
            r#type: "ContainerdHasNoDeprecationWarnings".into(),
            status: false,
            reason: "ContainerdHasDeprecationWarnings".into(),
            message: "{}".into(),
        });
        assert_eq!(of(&status(&deprecated, &Value::Null, at(0)), "Ready")["status"], "True");
    }

    #[test]
    fn what_another_wrote_over_contradicts() {
        let told = status(&measured(), &Value::Null, at(0));
        let theirs = json!({"type": "NetworkUnavailable", "status": "False"});
        for (kind, state, expected) in [
            ("Ready", Some("True"), false),
            ("Ready", Some("Unknown"), true),
            ("DiskPressure", Some("Unknown"), true),
            ("Ready", None, true),
        ] {
            let mut shown = told.clone();
            let conditions = shown["conditions"].as_array_mut().unwrap();
            conditions.retain(|condition| condition["type"] != kind);
            conditions.extend(state.map(|state| json!({"type": kind, "status": state})));
            conditions.push(theirs.clone());
            assert_eq!(contradicts(&shown, &told), expected, "{kind} {state:?}");
        }
        assert!(!contradicts(&json!({"conditions": [theirs]}), &Value::Null), "nothing was told");
    }

    #[test]
    fn heartbeats_alone_are_no_difference_and_others_conditions_stay() {
        let theirs = json!({"conditions": [{"type": "NetworkUnavailable", "status": "False"}]});
        let first = status(&measured(), &theirs, at(0));
        let second = status(&measured(), &first, at(60));
        assert!(!differ(&first, &second));
        assert_eq!(of(&second, "Ready")["lastTransitionTime"], "1970-01-01T00:00:00Z");
        assert_eq!(of(&second, "NetworkUnavailable")["status"], "False");
        let mut down = measured();
        down.conditions = Err("gone".into());
        assert!(differ(&first, &status(&down, &first, at(60))));
    }
}
