//! Quantities, quality of service, and what they mean to a cgroup.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::cri::proto::LinuxContainerResources;

/// CFS period: kubelet's default, in microseconds.
const CPU_PERIOD: i64 = 100_000;
/// The kernel's smallest quota, in microseconds.
const MIN_CPU_QUOTA: i64 = 1_000;
/// The kernel's smallest weight.
const MIN_CPU_SHARES: i64 = 2;

/// Quality of service of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container has limits, equal to its requests, for CPU and memory.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl Qos {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// A quantity in thousandths, such as millicores; `None` where it cannot be read.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    let text = quantity.0.trim();
    let digits = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0_f64.powi(4),
        "Pi" => 1024.0_f64.powi(5),
        "Ei" => 1024.0_f64.powi(6),
        exponent => 10.0_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    // Saturates where it does not fit; rounded up, as the API does.
    #[expect(clippy::cast_possible_truncation, reason = "a float saturates when it is cast")]
    Some((number * factor * 1000.0).ceil() as i64)
}

/// A quantity in whole units, rounded up.
pub fn units(quantity: &Quantity) -> Option<i64> {
    milli(quantity).map(|milli| milli.saturating_add(999) / 1000)
}

type Amounts<'a> = Option<&'a BTreeMap<String, Quantity>>;

fn amounts(container: &Container) -> (Amounts<'_>, Amounts<'_>) {
    let resources = container.resources.as_ref();
    (resources.and_then(|r| r.requests.as_ref()), resources.and_then(|r| r.limits.as_ref()))
}

/// What a container requests of a resource; a limit alone is a request too.
pub fn request<'a>(container: &'a Container, resource: &str) -> Option<&'a Quantity> {
    let (requests, limits) = amounts(container);
    requests.and_then(|r| r.get(resource)).or_else(|| limits.and_then(|l| l.get(resource)))
}

/// What a container is limited to of a resource.
pub fn limit<'a>(container: &'a Container, resource: &str) -> Option<&'a Quantity> {
    amounts(container).1.and_then(|limits| limits.get(resource))
}

/// Quality of service, from CPU and memory of all containers.
pub fn qos(spec: &PodSpec) -> Qos {
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mentioned = |container: &Container| {
        ["cpu", "memory"].iter().any(|resource| request(container, resource).is_some())
    };
    let guaranteed = |container: &Container| {
        ["cpu", "memory"].iter().all(|resource| {
            let limit = limit(container, resource).and_then(milli);
            limit.is_some() && limit == request(container, resource).and_then(milli)
        })
    };
    match () {
        () if all().all(guaranteed) => Qos::Guaranteed,
        () if all().any(mentioned) => Qos::Burstable,
        () => Qos::BestEffort,
    }
}

/// The cgroup values of a container, on a node with `memory` bytes.
pub fn linux(spec: &PodSpec, container: &Container, memory: u64) -> LinuxContainerResources {
    let requested = request(container, "cpu").and_then(milli).unwrap_or(0);
    let limited = limit(container, "cpu").and_then(milli).unwrap_or(0);
    let quota = if limited > 0 { (limited.saturating_mul(CPU_PERIOD) / 1000).max(MIN_CPU_QUOTA) } else { 0 };
    LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_quota: quota,
        cpu_shares: (requested.saturating_mul(1024) / 1000).max(MIN_CPU_SHARES),
        memory_limit_in_bytes: limit(container, "memory").and_then(units).unwrap_or(0),
        oom_score_adj: oom_score(spec, container, memory),
    }
}

/// Who is killed first when memory is short: kubelet's rule.
fn oom_score(spec: &PodSpec, container: &Container, memory: u64) -> i64 {
    match qos(spec) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let requested = request(container, "memory").and_then(units).unwrap_or(0);
            let memory = i64::try_from(memory).unwrap_or(i64::MAX).max(1);
            (1000 - requested.saturating_mul(1000) / memory).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edged::pod::tests::pod;
    use serde_json::{Value, json};

    #[test]
    fn quantities() {
        for (text, expected) in [
            ("100m", Some(100)),
            ("1", Some(1000)),
            ("0.5", Some(500)),
            ("1e3", Some(1_000_000)),
            ("1Ki", Some(1_024_000)),
            ("128974848", Some(128_974_848_000)),
            ("1E", Some(i64::MAX)),
            ("-1", Some(-1000)),
            ("", None),
            ("x", None),
            ("1Zi", None),
        ] {
            assert_eq!(milli(&Quantity(text.into())), expected, "{text}");
        }
        assert_eq!(units(&Quantity("1500m".into())), Some(2));
    }

    fn spec(resources: Value) -> PodSpec {
        pod(json!({"containers": [{"name": "c", "resources": resources}]})).spec
    }

    #[test]
    fn quality_of_service() {
        for (resources, expected) in [
            (json!({}), Qos::BestEffort),
            (json!({"requests": {"cpu": "1"}}), Qos::Burstable),
            (json!({"limits": {"cpu": "1"}}), Qos::Burstable),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), Qos::Guaranteed),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}}), Qos::Guaranteed),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), Qos::Burstable),
        ] {
            assert_eq!(qos(&spec(resources.clone())), expected, "{resources}");
        }
    }

    #[test]
    fn cgroup_values() {
        let spec = spec(json!({"limits": {"cpu": "250m", "memory": "64Mi"}, "requests": {"cpu": "100m"}}));
        let linux = linux(&spec, &spec.containers[0], 1 << 30);
        assert_eq!((linux.cpu_quota, linux.cpu_shares, linux.memory_limit_in_bytes), (25_000, 102, 64 << 20));
        assert_eq!(linux.oom_score_adj, 1000 - 62);
    }
}
