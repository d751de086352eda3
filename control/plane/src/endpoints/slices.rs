//! From a Service and its pods to EndpointSlices. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use sha2::{Digest, Sha256};

use crate::pods;

/// Endpoints in one slice at most, as kube-controller-manager has it by default.
const PER_SLICE: usize = 100;
/// Who manages our slices: the value that the real controller writes, since it is its contract.
pub(crate) const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
/// Label that names a slice's manager.
pub(crate) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Label that names a slice's Service.
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The slices that `service` should have. `zone` tells a node's zone.
pub(crate) fn desired<'p>(
    service: &Service,
    pods: impl Iterator<Item = &'p Pod>,
    zone: &dyn Fn(&str) -> Option<String>,
) -> Vec<EndpointSlice> {
    let mut groups: BTreeMap<(String, Vec<PortKey>), Vec<Endpoint>> = BTreeMap::new();
    let families = families(service);
    for family in &families {
        // A family without endpoints still has one slice, so that a watcher knows that it is empty.
        groups.entry((family.clone(), Vec::new())).or_default();
    }
    for pod in pods {
        if pods::is_finished(pod) || pods::node(pod).is_none() {
            continue;
        }
        let ports = ports(service, pod);
        for family in &families {
            if let Some(address) = address(pod, family) {
                let endpoint = endpoint(service, pod, address, zone);
                groups.entry((family.clone(), ports.clone())).or_default().push(endpoint);
            }
        }
    }
    drop_placeholders(&mut groups);
    groups
        .into_iter()
        .flat_map(|((family, ports), endpoints)| slices(service, &family, &ports, endpoints))
        .collect()
}

/// A family with endpoints needs no empty slice beside them.
fn drop_placeholders(groups: &mut BTreeMap<(String, Vec<PortKey>), Vec<Endpoint>>) {
    let filled: Vec<String> = groups
        .iter()
        .filter(|(_, endpoints)| !endpoints.is_empty())
        .map(|((family, _), _)| family.clone())
        .collect();
    groups.retain(|(family, _), endpoints| !endpoints.is_empty() || !filled.contains(family));
}

/// A port as a pod offers it: name, protocol, number, application protocol.
type PortKey = (String, String, i32, Option<String>);

fn families(service: &Service) -> Vec<String> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    if families.is_empty() { vec!["IPv4".to_owned()] } else { families }
}

fn address(pod: &Pod, family: &str) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let all = listed.chain(status.pod_ip.as_deref());
    all.filter_map(|text| text.parse::<IpAddr>().ok()).find(|address| address.is_ipv4() == (family == "IPv4"))
}

/// The Service's ports as this pod has them; a named target port that the pod lacks is left out.
fn ports(service: &Service, pod: &Pod) -> Vec<PortKey> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let key = |port: &ServicePort| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let number = target(port, pod, &protocol)?;
        Some((port.name.clone().unwrap_or_default(), protocol, number, port.app_protocol.clone()))
    };
    ports.into_iter().flatten().filter_map(key).collect()
}

fn target(port: &ServicePort, pod: &Pod, protocol: &str) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let containers = pod.spec.as_ref()?.containers.iter();
            containers
                .flat_map(|container| container.ports.iter().flatten())
                .find(|port| {
                    port.name.as_deref() == Some(name)
                        && port.protocol.as_deref().unwrap_or("TCP") == protocol
                })
                .map(|port| port.container_port)
        }
    }
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    address: IpAddr,
    zone: &dyn Fn(&str) -> Option<String>,
) -> Endpoint {
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let spec = service.spec.as_ref();
    let always = spec.and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    let serving = always || pods::is_ready(pod);
    let node = pods::node(pod).map(str::to_owned);
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(always || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        zone: node.as_deref().and_then(zone),
        node_name: node,
        target_ref: Some(reference(pod)),
        ..Endpoint::default()
    }
}

/// Only pods of the Service's own subdomain have names of their own in DNS.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let own = spec.subdomain.as_deref() == service.metadata.name.as_deref();
    spec.hostname.clone().filter(|name| own && !name.is_empty())
}

/// The pod, as an endpoint refers to it.
pub(crate) fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.namespace(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

fn slices(
    service: &Service,
    family: &str,
    ports: &[PortKey],
    mut endpoints: Vec<Endpoint>,
) -> Vec<EndpointSlice> {
    endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    if endpoints.is_empty() {
        return vec![slice(service, family, ports, 0, Vec::new())];
    }
    let chunks = endpoints.chunks(PER_SLICE).enumerate();
    chunks.map(|(chunk, endpoints)| slice(service, family, ports, chunk, endpoints.to_vec())).collect()
}

fn slice(
    service: &Service,
    family: &str,
    ports: &[PortKey],
    chunk: usize,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let name = service.name_any();
    let mut labels = service.labels().clone();
    labels.remove("service.kubernetes.io/headless");
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels.insert(SERVICE_LABEL.to_owned(), name.clone());
    let headless = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None");
    if headless {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", suffix(family, ports, chunk))),
            namespace: service.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![owner(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints,
        ports: Some(ports.iter().map(port).collect()),
    }
}

/// Five characters that are the same for the same family, ports and chunk: a slice keeps its name.
fn suffix(family: &str, ports: &[PortKey], chunk: usize) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let digest = Sha256::digest(format!("{family} {ports:?} {chunk}"));
    digest.iter().take(5).map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}

fn port((name, protocol, number, app_protocol): &PortKey) -> EndpointPort {
    EndpointPort {
        name: Some(name.clone()),
        protocol: Some(protocol.clone()),
        port: Some(*number),
        app_protocol: app_protocol.clone(),
    }
}

pub(crate) fn owner(service: &Service) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: service.name_any(),
        uid: service.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(spec: serde_json::Value) -> Service {
        serde_json::from_value(json!({
            "metadata": { "name": "orders", "namespace": "shop", "uid": "1", "labels": { "app": "orders" } },
            "spec": spec,
        }))
        .unwrap()
    }

    fn pod(name: &str, ips: &[&str], ready: bool, spec: serde_json::Value) -> Pod {
        let mut pod = json!({
            "metadata": { "name": name, "namespace": "shop", "uid": name },
            "spec": { "nodeName": "edge-b", "containers": [
                { "name": "app", "ports": [{ "name": "http", "containerPort": 8080, "protocol": "TCP" }] },
            ]},
            "status": {
                "phase": "Running", "podIP": ips[0],
                "podIPs": ips.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
                "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
            },
        });
        for (key, value) in spec.as_object().into_iter().flatten() {
            pod["spec"][key] = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    fn zone(node: &str) -> Option<String> {
        (node == "edge-b").then(|| "site-b".to_owned())
    }

    #[test]
    fn both_families_named_ports_and_zone() {
        let service = service(json!({
            "ipFamilies": ["IPv4", "IPv6"],
            "ports": [{ "name": "web", "port": 80, "targetPort": "http" }],
        }));
        let pods = [pod("a", &["10.244.2.3", "fd00::3"], true, json!({}))];
        let slices = desired(&service, pods.iter(), &zone);
        assert_eq!(slices.len(), 2);
        let v4 = slices.iter().find(|slice| slice.address_type == "IPv4").unwrap();
        assert_eq!(v4.ports.as_ref().unwrap()[0].port, Some(8080));
        assert_eq!(v4.endpoints[0].zone.as_deref(), Some("site-b"));
        assert_eq!(v4.endpoints[0].addresses, ["10.244.2.3"]);
        assert_eq!(v4.labels()[SERVICE_LABEL], "orders");
        assert_eq!(v4.labels()["app"], "orders");
    }

    #[test]
    fn conditions_follow_the_pod() {
        let plain = service(json!({ "ports": [{ "port": 80 }] }));
        let published = service(json!({ "ports": [{ "port": 80 }], "publishNotReadyAddresses": true }));
        let mut going = pod("g", &["10.0.0.3"], true, json!({}));
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let table = [
            (&plain, pod("r", &["10.0.0.1"], true, json!({})), (true, true, false)),
            (&plain, pod("n", &["10.0.0.2"], false, json!({})), (false, false, false)),
            (&plain, going.clone(), (false, true, true)),
            (&published, pod("n", &["10.0.0.2"], false, json!({})), (true, true, false)),
        ];
        for (service, pod, expected) in table {
            let slices = desired(service, [pod].iter(), &zone);
            let conditions = slices[0].endpoints[0].conditions.clone().unwrap();
            let got = (conditions.ready, conditions.serving, conditions.terminating);
            assert_eq!(got, (Some(expected.0), Some(expected.1), Some(expected.2)));
        }
    }

    #[test]
    fn an_empty_service_has_an_empty_slice_and_finished_pods_do_not_count() {
        let service = service(json!({ "ports": [{ "port": 80 }] }));
        let mut finished = pod("f", &["10.0.0.1"], false, json!({}));
        finished.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
        let slices = desired(&service, [finished].iter(), &zone);
        assert_eq!(slices.len(), 1);
        assert!(slices[0].endpoints.is_empty());
    }

    #[test]
    fn many_endpoints_are_spread_over_slices_with_names_that_stay() {
        let service = service(json!({ "ports": [{ "port": 80 }] }));
        let pods: Vec<Pod> = (0..250)
            .map(|n| pod(&format!("p{n}"), &[&format!("10.0.{}.{}", n / 200, n % 200 + 1)], true, json!({})))
            .collect();
        let first = desired(&service, pods.iter(), &zone);
        let names = |slices: &[EndpointSlice]| slices.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
        assert_eq!(first.iter().map(|slice| slice.endpoints.len()).collect::<Vec<_>>(), [100, 100, 50]);
        assert_eq!(names(&first), names(&desired(&service, pods.iter().rev(), &zone)));
    }

    #[test]
    fn a_hostname_counts_only_in_its_own_subdomain() {
        let service = service(json!({ "clusterIP": "None", "ports": [{ "port": 80 }] }));
        let own = json!({ "hostname": "db-0", "subdomain": "orders" });
        let other = json!({ "hostname": "db-0", "subdomain": "else" });
        let name = |spec| {
            let pods = [pod("a", &["10.0.0.1"], true, spec)];
            desired(&service, pods.iter(), &zone)[0].endpoints[0].hostname.clone()
        };
        assert_eq!(name(own).as_deref(), Some("db-0"));
        assert_eq!(name(other), None);
    }
}
