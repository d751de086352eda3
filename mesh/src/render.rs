//! The model as the kernel's part needs it. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use edgeloom_ebpf::{Desired, Frontend, Target};
use edgeloom_model::{Choice, EdgeNode, Family};
use ipnet::IpNet;

use crate::snapshot::Snapshot;

/// What the datapath should hold: near Services with their backends, far ones and those that nothing
/// serves, and the ranges whose packets belong to this host.
pub fn desired(snapshot: &Snapshot, service_cidrs: &[IpNet]) -> Desired {
    let mut desired = Desired::default();
    desired.service_ranges.extend(service_cidrs);
    for service in snapshot.model.services() {
        for (ip, number, entry, port) in service.frontends(&snapshot.addresses) {
            let holder = snapshot.model.frontend(ip, number, port.protocol, &snapshot.addresses);
            if holder.is_none_or(|holder| holder.service.key != service.key) {
                continue;
            }
            let target = match snapshot.choose(service, port, Family::of(ip), entry) {
                Choice::Near(backends) => Target::Near {
                    backends: backends.iter().map(|backend| backend.address).collect(),
                    affinity: service.affinity,
                },
                Choice::Far(_) => Target::Far,
                Choice::None => Target::Refuse,
            };
            if needs_route(snapshot, service_cidrs, ip, &target) {
                desired.service_ranges.insert(IpNet::from(ip));
            }
            desired.services.insert(Frontend { addr: ip, port: number, protocol: port.protocol }, target);
        }
    }
    desired.pod_ranges = far_pods(snapshot);
    desired
}

/// Whether packets for an address would leave the host although they are the agent's. What is near or
/// refused is dealt with at the socket: an outer address is left alone then.
fn needs_route(snapshot: &Snapshot, ranges: &[IpNet], ip: IpAddr, target: &Target) -> bool {
    *target == Target::Far
        && !ranges.iter().any(|range| range.contains(&ip))
        && !snapshot.addresses.contains(&ip)
}

/// Ranges of the pods that only other nodes' agents reach.
fn far_pods(snapshot: &Snapshot) -> BTreeSet<IpNet> {
    let others =
        snapshot.model.members().filter(|member| !member.revoked && member.name != snapshot.place.node);
    let ranges = others.flat_map(|member| member.pod_cidrs.iter().map(move |range| (member, range.trunc())));
    let is_far = |(member, range): &(&Arc<EdgeNode>, IpNet)| {
        !snapshot.routed.contains(&(member.name.clone(), Family::of(range.addr())))
    };
    ranges.filter(is_far).map(|(_, range)| range).collect()
}

#[cfg(test)]
mod tests {
    use edgeloom_model::{Model, NodeName, Protocol, Site};
    use edgeloom_tunnel::identity::Identity;
    use serde_json::{Value, json};

    use super::*;
    use crate::snapshot::Place;

    fn member(name: &str, site: &str, range: &str, revoked: bool) -> Value {
        let peer = if name == "a3" {
            "none".to_owned()
        } else {
            Identity::generate().unwrap().peer_id().to_string()
        };
        json!({"apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode", "metadata": {"name": name},
               "spec": {"peerId": peer, "site": site, "podCidrs": [range], "revoked": revoked}})
    }

    fn service(name: &str, spec: Value, endpoints: Value) -> [Value; 2] {
        [
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name}, "spec": spec}),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                   "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": name}},
                   "ports": [{"port": 8080, "protocol": "UDP"}], "endpoints": endpoints}),
        ]
    }

    fn snapshot() -> Snapshot {
        let mut model = Model::default();
        let port = |node_port: Option<u16>| json!([{"port": 53, "protocol": "UDP", "nodePort": node_port}]);
        let mut objects = [
            member("a1", "a", "10.244.1.0/24", false),
            member("a2", "a", "10.244.2.0/24", false),
            member("a3", "a", "10.244.3.0/24", false),
            member("b1", "b", "10.244.4.7/24", false),
            member("b2", "b", "10.244.5.0/24", true),
        ];
        objects[1]["spec"]["podCidrs"] = json!(["10.244.2.0/24", "fd00:10:244:2::/64"]);
        let near = json!([{"addresses": ["10.244.1.5"], "nodeName": "a1"}, {"addresses": ["10.244.4.5"], "nodeName": "b1"}]);
        let far = json!([{"addresses": ["10.244.4.5"], "nodeName": "b1"}]);
        let services = [
            service(
                "near",
                json!({"type": "NodePort", "clusterIPs": ["10.96.0.1"], "ports": port(Some(30053)),
                                   "sessionAffinity": "ClientIP"}),
                near,
            ),
            service(
                "far",
                json!({"clusterIPs": ["10.96.0.2"], "externalIPs": ["198.51.100.7"], "ports": port(None)}),
                far,
            ),
            service("none", json!({"clusterIPs": ["10.96.0.3"], "ports": port(None)}), json!([])),
            service(
                "thief",
                json!({"clusterIPs": ["10.96.0.4"], "externalIPs": ["10.96.0.1"], "ports": port(None)}),
                json!([]),
            ),
        ];
        for object in objects.iter().chain(services.iter().flatten()) {
            model.put(object).unwrap();
        }
        let (node, site) = (NodeName::new("a1").unwrap(), Site::new("a").unwrap());
        let place = Place { node, site, exports: Vec::new() };
        Snapshot {
            model: Arc::new(model),
            routed: [(NodeName::new("a2").unwrap(), Family::V4)].into(),
            addresses: vec!["192.168.10.5".parse().unwrap()],
            ..Snapshot::empty(Arc::new(place))
        }
    }

    #[test]
    fn near_far_and_refused() {
        let range: IpNet = "10.96.0.0/12".parse().unwrap();
        let desired = desired(&snapshot(), &[range]);
        let target = |address: &str| {
            let address: std::net::SocketAddr = address.parse().unwrap();
            let frontend = Frontend { addr: address.ip(), port: address.port(), protocol: Protocol::Udp };
            desired.services.get(&frontend)
        };
        let near = Target::Near {
            backends: vec!["10.244.1.5:8080".parse().unwrap()],
            affinity: Some(std::time::Duration::from_secs(10_800)),
        };
        assert_eq!(target("10.96.0.1:53"), Some(&near), "and not the thief's");
        assert_eq!(target("192.168.10.5:30053"), Some(&near));
        assert_eq!(target("10.96.0.2:53"), Some(&Target::Far));
        assert_eq!(target("198.51.100.7:53"), Some(&Target::Far));
        assert_eq!(target("10.96.0.3:53"), Some(&Target::Refuse));
        assert_eq!(desired.services.len(), 6);
        let host = "198.51.100.7/32".parse().unwrap();
        assert_eq!(desired.service_ranges, [range, host].into());
        let far =
            ["10.244.3.0/24", "10.244.4.0/24", "fd00:10:244:2::/64"].map(|range| range.parse().unwrap());
        assert_eq!(desired.pod_ranges, far.into(), "neither own, routed nor revoked");
    }
}
