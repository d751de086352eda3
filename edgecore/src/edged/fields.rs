//! The downward API: fields and resources of a pod, as environment variables and files show them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use edgeloom_api::names;
use k8s_openapi::api::core::v1::ResourceFieldSelector;

use super::pod::Pod;
use super::resources;

/// What a pod is told of its node and of itself at the time it is asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Name of the node.
    pub node: String,
    /// Labels of the node.
    pub node_labels: BTreeMap<String, String>,
    /// Addresses of the node.
    pub host_ips: Vec<String>,
    /// Addresses of the pod.
    pub pod_ips: Vec<String>,
    /// CPU that pods may use, in thousandths of a core: the limit of what has none.
    pub allocatable_cpu_milli: i64,
    /// Memory that pods may use, in bytes: the limit of what has none.
    pub allocatable_memory: i64,
}

/// Labels that a pod takes from its node where it has none: where it runs.
const NODE_LABELS: [&str; 2] = [names::ZONE_LABEL, "topology.kubernetes.io/region"];

/// A field of the pod, such as `metadata.labels['app']` or `status.podIP`.
pub fn field(pod: &Pod, path: &str, facts: &Facts) -> Result<String, String> {
    let meta = |name: &str| pod.object["metadata"][name].as_str().unwrap_or_default().to_owned();
    if let Some((map, key)) = subscript(path) {
        return match map {
            "metadata.labels" => Ok(pod
                .label(key)
                .or_else(|| {
                    let from_node = NODE_LABELS.contains(&key).then(|| facts.node_labels.get(key)).flatten();
                    from_node.map(String::as_str)
                })
                .unwrap_or_default()
                .to_owned()),
            "metadata.annotations" => Ok(pod.annotation(key).unwrap_or_default().to_owned()),
            _ => Err(format!("unsupported fieldPath: {path}")),
        };
    }
    match path {
        "metadata.name" | "metadata.namespace" | "metadata.uid" => Ok(meta(&path["metadata.".len()..])),
        "metadata.labels" => Ok(lines(pod.meta.labels.as_ref())),
        "metadata.annotations" => Ok(lines(pod.meta.annotations.as_ref())),
        "spec.nodeName" => Ok(pod.spec.node_name.clone().unwrap_or_else(|| facts.node.clone())),
        "spec.serviceAccountName" => Ok(pod.spec.service_account_name.clone().unwrap_or_default()),
        "status.hostIP" => Ok(facts.host_ips.first().cloned().unwrap_or_default()),
        "status.hostIPs" => Ok(facts.host_ips.join(",")),
        "status.podIP" => Ok(facts.pod_ips.first().cloned().unwrap_or_default()),
        "status.podIPs" => Ok(facts.pod_ips.join(",")),
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

/// `map['key']` taken apart.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// A map as `key="value"` lines.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (key, value) in map.into_iter().flatten() {
        let separator = if text.is_empty() { "" } else { "\n" };
        write!(text, "{separator}{key}={value:?}").expect("writing to a String cannot fail");
    }
    text
}

/// A request or limit of a container, divided and rounded up. `container` is the one that asks, where the
/// selector names none.
pub fn resource(
    pod: &Pod,
    container: &str,
    selector: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().unwrap_or(container);
    let (_, container) = pod.container(name).ok_or_else(|| format!("container {name} not found"))?;
    let (what, resource) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let allocatable = match resource {
        "cpu" => facts.allocatable_cpu_milli,
        "memory" => facts.allocatable_memory.saturating_mul(1000),
        _ => 0,
    };
    let milli = match what {
        "limits" => resources::limit(container, resource).and_then(resources::milli).unwrap_or(allocatable),
        "requests" => resources::request(container, resource).and_then(resources::milli).unwrap_or(0),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let divisor = selector.divisor.as_ref().and_then(resources::milli).filter(|d| *d > 0).unwrap_or(1000);
    Ok((milli / divisor + i64::from(milli % divisor > 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edged::pod::tests::pod;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::json;

    fn facts() -> Facts {
        Facts {
            node: "edge-a".into(),
            node_labels: [(names::ZONE_LABEL.to_owned(), "site-a".to_owned())].into(),
            host_ips: vec!["192.168.10.5".into()],
            pod_ips: vec!["10.244.1.2".into(), "fd00::2".into()],
            allocatable_cpu_milli: 2000,
            allocatable_memory: 1 << 30,
        }
    }

    #[test]
    fn fields() {
        let pod = pod(json!({"containers": [{"name": "c"}], "serviceAccountName": "default"}));
        for (path, expected) in [
            ("metadata.name", Ok("web")),
            ("metadata.uid", Ok("u1")),
            ("metadata.labels", Ok("app=\"web\"")),
            ("metadata.labels['app']", Ok("web")),
            ("metadata.labels['absent']", Ok("")),
            ("metadata.labels['topology.kubernetes.io/zone']", Ok("site-a")),
            ("spec.nodeName", Ok("edge-a")),
            ("status.podIP", Ok("10.244.1.2")),
            ("status.podIPs", Ok("10.244.1.2,fd00::2")),
            ("status.hostIP", Ok("192.168.10.5")),
            ("spec.serviceAccountName", Ok("default")),
            ("spec.containers", Err(())),
            ("spec.labels['a']", Err(())),
        ] {
            let got = field(&pod, path, &facts());
            assert_eq!(got.as_deref().map_err(|_| ()), expected, "{path}");
        }
    }

    #[test]
    fn container_resources() {
        let pod = pod(json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "250m"}}}]}));
        for (what, divisor, expected) in [
            ("limits.cpu", None, "1"),
            ("limits.cpu", Some("1m"), "250"),
            ("limits.memory", Some("1Mi"), "1024"),
            ("requests.memory", None, "0"),
        ] {
            let selector = ResourceFieldSelector {
                resource: what.into(),
                divisor: divisor.map(|d| Quantity(d.into())),
                container_name: None,
            };
            assert_eq!(resource(&pod, "c", &selector, &facts()).unwrap(), expected, "{what} {divisor:?}");
        }
    }
}
