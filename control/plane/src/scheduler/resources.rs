//! Amounts of what pods ask for and nodes have: CPU, memory, number of pods. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Amounts in thousandths of a CPU, bytes and pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) cpu: i128,
    pub(crate) memory: i128,
    pub(crate) pods: usize,
}

impl Amounts {
    /// What a node can give. A node that has not said how many pods it takes takes 110, as kubelet does.
    pub(crate) fn allocatable(node: &Node) -> Self {
        let status = node.status.as_ref();
        let map = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let unlimited = i128::MAX;
        let get = |name: &str| map.and_then(|map| map.get(name)).and_then(milli);
        Self {
            cpu: get("cpu").unwrap_or(unlimited),
            memory: get("memory").map_or(unlimited, |milli| milli / 1000),
            pods: get("pods").map_or(110, |milli| usize::try_from(milli / 1000).unwrap_or(0)),
        }
    }

    /// What a pod asks for: the sum of its containers, or its largest init container if that is more.
    pub(crate) fn requested(pod: &Pod) -> Self {
        let Some(spec) = pod.spec.as_ref() else { return Self::default() };
        let main = spec.containers.iter().map(container).fold(Self::default(), |sum, one| sum.plus(&one));
        let init = spec.init_containers.iter().flatten().map(container);
        init.fold(main, |most, one| Self {
            cpu: most.cpu.max(one.cpu),
            memory: most.memory.max(one.memory),
            pods: most.pods,
        })
    }

    /// The sum of both.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
            pods: self.pods + other.pods,
        }
    }

    /// Nothing where it fits, else the name of what does not.
    pub(crate) fn within(&self, limit: &Self) -> Result<(), &'static str> {
        if self.cpu > limit.cpu {
            Err("cpu")
        } else if self.memory > limit.memory {
            Err("memory")
        } else {
            Ok(())
        }
    }
}

fn container(container: &Container) -> Amounts {
    let requests: Option<&BTreeMap<String, Quantity>> =
        container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let get = |name: &str| requests.and_then(|map| map.get(name)).and_then(milli).unwrap_or(0);
    Amounts { cpu: get("cpu"), memory: get("memory") / 1000, pods: 0 }
}

/// A quantity in thousandths, rounded up; nothing if it is none (Kubernetes API, `resource.Quantity`).
fn milli(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let split = text.find(|letter: char| !(letter.is_ascii_digit() || matches!(letter, '.' | '+' | '-')));
    let (number, suffix) = text.split_at(split.unwrap_or(text.len()));
    let factor: f64 = match suffix {
        "n" => 1e-6,
        "u" => 1e-3,
        "m" => 1.0,
        "" => 1e3,
        "k" => 1e6,
        "M" => 1e9,
        "G" => 1e12,
        "T" => 1e15,
        "P" => 1e18,
        "E" => 1e21,
        "Ki" => 1024.0 * 1e3,
        "Mi" => 1024f64.powi(2) * 1e3,
        "Gi" => 1024f64.powi(3) * 1e3,
        "Ti" => 1024f64.powi(4) * 1e3,
        "Pi" => 1024f64.powi(5) * 1e3,
        "Ei" => 1024f64.powi(6) * 1e3,
        exponent => 10f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?) * 1e3,
    };
    let value = number.parse::<f64>().ok()? * factor;
    // Whole by construction up to 2^53, far beyond what a node has.
    Some(value.ceil() as i128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, expected) in [
            ("100m", Some(100)),
            ("2", Some(2000)),
            ("0.5", Some(500)),
            ("1Ki", Some(1_024_000)),
            ("64Mi", Some(64 * 1024 * 1024 * 1000)),
            ("1e3", Some(1_000_000)),
            ("1n", Some(1)),
            ("", None),
            ("ten", None),
            ("1Xi", None),
        ] {
            assert_eq!(milli(&Quantity(text.to_owned())), expected, "{text}");
        }
    }
}
