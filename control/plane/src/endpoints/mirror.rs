//! From EndpointSlices to the older Endpoints object, which `kubectl describe service` and older
//! clients read. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;
use kube::api::ObjectMeta;

/// The Endpoints of `service`: the slices of its first address family, ready and not.
pub(crate) fn endpoints(service: &Service, slices: &[EndpointSlice]) -> Endpoints {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref());
    let family = families.and_then(|list| list.first()).map_or("IPv4", String::as_str);
    let mut by_ports: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    let own = slices.iter().filter(|slice| slice.address_type == family && !slice.endpoints.is_empty());
    for slice in own {
        let ports = ports(slice);
        let subset = by_ports.entry(format!("{ports:?}")).or_insert_with(|| EndpointSubset {
            ports: (!ports.is_empty()).then_some(ports),
            ..EndpointSubset::default()
        });
        for endpoint in &slice.endpoints {
            let list =
                if is_ready(endpoint) { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            list.get_or_insert_default().extend(addresses(endpoint));
        }
    }
    Endpoints {
        metadata: ObjectMeta {
            name: Some(service.name_any()),
            namespace: service.namespace(),
            labels: Some(labels(service)),
            owner_references: None,
            ..ObjectMeta::default()
        },
        subsets: (!by_ports.is_empty()).then(|| by_ports.into_values().collect()),
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.insert("endpoints.kubernetes.io/managed-by".to_owned(), "endpoint-controller".to_owned());
    labels
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = EndpointAddress> + '_ {
    endpoint.addresses.iter().map(|address| EndpointAddress {
        ip: address.clone(),
        hostname: endpoint.hostname.clone(),
        node_name: endpoint.node_name.clone(),
        target_ref: endpoint.target_ref.clone(),
    })
}

fn ports(slice: &EndpointSlice) -> Vec<EndpointPort> {
    let ports = slice.ports.iter().flatten();
    ports
        .map(|port| EndpointPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: port.port.unwrap_or_default(),
            protocol: port.protocol.clone(),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_and_not_ready_of_the_first_family() {
        let service: Service = serde_json::from_value(json!({
            "metadata": { "name": "orders", "namespace": "shop" },
            "spec": { "ipFamilies": ["IPv4", "IPv6"] },
        }))
        .unwrap();
        let slice = |family: &str, address: &str, ready: bool| -> EndpointSlice {
            serde_json::from_value(json!({
                "metadata": {}, "addressType": family,
                "ports": [{ "name": "", "port": 80, "protocol": "TCP" }],
                "endpoints": [{ "addresses": [address], "conditions": { "ready": ready } }],
            }))
            .unwrap()
        };
        let slices = [
            slice("IPv4", "10.0.0.1", true),
            slice("IPv4", "10.0.0.2", false),
            slice("IPv6", "fd00::1", true),
        ];
        let got = serde_json::to_value(endpoints(&service, &slices)).unwrap();
        assert_eq!(
            got["subsets"],
            json!([{
                "addresses": [{ "ip": "10.0.0.1" }],
                "notReadyAddresses": [{ "ip": "10.0.0.2" }],
                "ports": [{ "port": 80, "protocol": "TCP" }],
            }])
        );
        assert!(endpoints(&service, &[]).subsets.is_none());
    }
}
