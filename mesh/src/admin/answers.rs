//! What is known, put into the words of the admin API. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use edgeloom_api::admin::{self, Health, Phase};
use edgeloom_model::{Choice, Endpoint, Entry, Family, PodRef, Service};
use edgeloom_tunnel::{Attempt, OpenError, Path, PeerId, PeerStatus, Ping, Trace};

use crate::lan_tcp::Compared;
use crate::measure::Outcome;
use crate::snapshot::Snapshot;

/// Every other member that was not expelled, with the path to it.
pub(super) fn peers(snapshot: &Snapshot, known: &[PeerStatus]) -> Vec<(PeerId, admin::Peer)> {
    let others = snapshot.model.members().filter(|m| !m.revoked && m.name != snapshot.place.node);
    let peer = |member: &std::sync::Arc<edgeloom_model::EdgeNode>| {
        let id: PeerId = member.peer.parse().ok()?;
        let status = known.iter().find(|status| status.peer == id);
        let peer = admin::Peer {
            node: member.name.to_string(),
            site: member.site.to_string(),
            peer_id: member.peer.to_string(),
            connected: status.is_some_and(|status| status.connected),
            path: status.map_or(admin::Path::None, |status| path(&status.path, snapshot)),
            near: snapshot.routed.iter().any(|(node, _)| *node == member.name),
            carrier: status.and_then(|status| status.carrier).map(|carrier| carrier.as_str().to_owned()),
            rtt_ms: status.and_then(|status| status.rtt).map(|rtt| rtt.as_secs_f64() * 1000.0),
            loss: status.map_or(0.0, |status| status.loss),
            passed_over_loss: status.and_then(|status| status.passed_over_loss),
            sent_bytes: status.map_or(0, |status| status.sent_bytes),
            received_bytes: status.map_or(0, |status| status.received_bytes),
            last_change: None,
        };
        Some((id, peer))
    };
    others.filter_map(peer).collect()
}

fn path(path: &Path, snapshot: &Snapshot) -> admin::Path {
    match path {
        Path::Direct { addr, kind } => {
            admin::Path::Direct { address: addr.to_string(), by: kind.as_str().to_owned() }
        }
        Path::Relayed { relay } => admin::Path::Relayed { relay: snapshot.name_of(relay) },
        Path::None => admin::Path::None,
    }
}

/// One answer to a ping, or why there is none.
pub(super) fn echo(sequence: u32, answer: Result<Ping, OpenError>, snapshot: &Snapshot) -> admin::Echo {
    match answer {
        Ok(ping) => admin::Echo {
            sequence,
            rtt_ms: Some(ping.rtt.as_secs_f64() * 1000.0),
            path: path(&ping.path, snapshot),
            error: None,
        },
        Err(error) => {
            admin::Echo { sequence, rtt_ms: None, path: admin::Path::None, error: Some(error.to_string()) }
        }
    }
}

/// What TCP connections to a node on the LAN go by, and why.
pub(super) fn flows(compared: Option<Compared>) -> String {
    let Some(Compared { over_tcp, quic, tcp, ago }) = compared else {
        return "QUIC: not compared with TCP yet, which is done once some 32 MiB have passed".to_owned();
    };
    let mbit = |bytes: f64| bytes * 8.0 / 1e6;
    let (by, other) = if over_tcp { ("TCP with TLS", "QUIC") } else { ("QUIC", "TCP") };
    let (rate, others) = if over_tcp { (tcp, quic) } else { (quic, tcp) };
    let minutes = ago.as_secs() / 60;
    let (rate, others) = (mbit(rate), mbit(others));
    format!("{by}: {rate:.0} Mbit/s, {other} {others:.0}, measured {minutes} min ago")
}

/// What came of trying every way to a node.
pub(super) fn trace(trace: &Trace, flows: Option<String>, snapshot: &Snapshot) -> admin::Trace {
    let attempt = |attempt: &Attempt| admin::Attempt {
        path: path(&attempt.path, snapshot),
        learnt: attempt.learnt.to_owned(),
        standing: attempt.standing.as_str().to_owned(),
        rtt_ms: attempt.rtt.map(milliseconds),
        loss: attempt.loss,
        answers: attempt.answers,
        datagram_bytes: attempt.datagram,
    };
    let sighting = |(by, at): &(PeerId, SocketAddr)| admin::Sighting {
        by: snapshot.name_of(by),
        address: at.to_string(),
    };
    admin::Trace {
        path: path(&trace.path, snapshot),
        why: trace.why.clone(),
        attempts: trace.attempts.iter().map(attempt).collect(),
        nat: trace.nat.to_string(),
        seen_at: trace.seen_at.iter().map(sighting).collect(),
        datagram_bytes: trace.datagram,
        flows,
    }
}

/// The figures of a measurement.
pub(super) fn measurement(
    phase: Phase,
    streams: usize,
    outcome: &Outcome,
    by: &Path,
    snapshot: &Snapshot,
) -> admin::Measurement {
    let times = &outcome.round_trips;
    let percentile = |percent: usize| times.get((times.len() * percent / 100).min(times.len() - 1)).copied();
    let round_trips = (!times.is_empty()).then(|| admin::RoundTrips {
        count: times.len(),
        p50_ms: percentile(50).map_or(0.0, milliseconds),
        p90_ms: percentile(90).map_or(0.0, milliseconds),
        p99_ms: percentile(99).map_or(0.0, milliseconds),
    });
    let (path, seconds) = (path(by, snapshot), outcome.took.as_secs_f64());
    admin::Measurement { phase, path, streams, seconds, bytes: outcome.bytes, round_trips }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Every Service, as callers here meet it. `set_aside` says how many endpoints of a choice failed lately.
pub(super) fn services(snapshot: &Snapshot, set_aside: impl Fn(&Choice) -> usize) -> Vec<admin::Service> {
    snapshot.model.services().map(|service| answer(service, snapshot, &set_aside)).collect()
}

fn answer(service: &Service, snapshot: &Snapshot, set_aside: &impl Fn(&Choice) -> usize) -> admin::Service {
    let (mut near, mut far, mut aside) = (BTreeSet::new(), BTreeSet::new(), 0);
    for port in &service.ports {
        for family in [Family::V4, Family::V6] {
            let choice = snapshot.choose(service, port, family, Entry::Cluster);
            aside += set_aside(&choice);
            match choice {
                Choice::Near(backends) => near.extend(backends.iter().map(|b| identity(&b.endpoint))),
                Choice::Far(backends) => far.extend(backends.iter().map(|b| identity(&b.backend.endpoint))),
                Choice::None => {}
            }
        }
    }
    let addresses = service.cluster_ips.iter().chain(&service.external_ips).chain(&service.ingress_ips);
    let (near, far) = (near.len(), far.len());
    admin::Service {
        namespace: service.key.namespace.to_string(),
        name: service.key.name.to_string(),
        kind: service.kind.as_str().to_owned(),
        addresses: addresses.copied().collect(),
        ports: service.ports.iter().map(port).collect(),
        near,
        far,
        set_aside: aside,
        health: health(service, near + far, aside),
    }
}

/// What makes an endpoint one: its pod, which has an address of each family, or else its address.
fn identity(endpoint: &Endpoint) -> Result<PodRef, IpAddr> {
    endpoint.pod.clone().ok_or(endpoint.address)
}

fn port(port: &edgeloom_model::ServicePort) -> admin::ServicePort {
    admin::ServicePort {
        name: port.name.to_string(),
        port: port.port,
        protocol: port.protocol.to_string(),
        node_port: port.node_port,
    }
}

fn health(service: &Service, endpoints: usize, aside: usize) -> Health {
    let named = matches!(service.kind, edgeloom_model::ServiceType::ExternalName(_));
    if service.opted_out || named {
        Health::NotServed
    } else if endpoints <= aside {
        Health::Unavailable
    } else if aside > 0 {
        Health::Degraded
    } else {
        Health::Ok
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use edgeloom_model::{Model, NodeName, Site};
    use edgeloom_tunnel::DirectKind;
    use edgeloom_tunnel::identity::Identity;
    use serde_json::{Value, json};

    use super::*;
    use crate::snapshot::Place;

    fn snapshot(objects: &[Value]) -> Snapshot {
        let mut model = Model::default();
        for object in objects {
            model.put(object).unwrap();
        }
        let (node, site) = (NodeName::new("a1").unwrap(), Site::new("a").unwrap());
        let place = Place { node, site, exports: Vec::new() };
        Snapshot { model: Arc::new(model), ..Snapshot::empty(Arc::new(place)) }
    }

    fn member(name: &str, site: &str, peer: &str) -> Value {
        json!({"apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode", "metadata": {"name": name},
               "spec": {"peerId": peer, "site": site, "roles": ["edge"]}})
    }

    fn peer_id() -> PeerId {
        Identity::generate().unwrap().peer_id()
    }

    #[test]
    fn members_with_their_paths() {
        let (b, relay) = (peer_id(), peer_id());
        let own = peer_id().to_string();
        let snapshot = snapshot(&[
            member("a1", "a", &own),
            member("b1", "b", &b.to_string()),
            member("cloud", "hq", &relay.to_string()),
        ]);
        let status = |path| PeerStatus {
            peer: b,
            node: None,
            site: None,
            path,
            carrier: matches!(path, Path::Relayed { .. }).then_some(DirectKind::Tcp),
            rtt: Some(Duration::from_micros(20_500)),
            loss: 0.1,
            passed_over_loss: None,
            sent_bytes: 7,
            received_bytes: 8,
            connected: true,
        };
        let seen = peers(&snapshot, &[status(Path::Relayed { relay })]);
        assert_eq!(seen.len(), 2, "not the own node");
        let (_, b1) = &seen[0];
        assert_eq!((b1.node.as_str(), b1.path.word(), b1.path.via()), ("b1", "relayed", "cloud"));
        assert_eq!(b1.carrier.as_deref(), Some("tcp"));
        assert_eq!((b1.rtt_ms, b1.sent_bytes, b1.connected), (Some(20.5), 7, true));
        let addr = "203.0.113.22:20006".parse().unwrap();
        let seen = peers(&snapshot, &[status(Path::Direct { addr, kind: DirectKind::Punched })]);
        assert_eq!((seen[0].1.path.word(), seen[0].1.path.via()), ("punched", "203.0.113.22:20006"));
        assert_eq!((seen[1].1.path.word(), seen[1].1.connected), ("none", false));
        let routed = [(NodeName::new("b1").unwrap(), Family::V6)].into();
        let near: Vec<bool> =
            peers(&Snapshot { routed, ..snapshot }, &[]).iter().map(|(_, p)| p.near).collect();
        assert_eq!(near, [true, false]);
    }

    #[test]
    fn what_flows_on_a_lan_go_by() {
        let compared =
            |over_tcp| Compared { over_tcp, quic: 125e6, tcp: 500e6, ago: Duration::from_secs(200) };
        for (given, want) in [
            (None, "QUIC: not compared"),
            (Some(compared(true)), "TCP with TLS: 4000 Mbit/s, QUIC 1000, measured 3 min ago"),
            (Some(compared(false)), "QUIC: 1000 Mbit/s, TCP 4000, measured 3 min ago"),
        ] {
            let said = flows(given);
            assert!(said.starts_with(want), "{said}");
        }
    }

    #[test]
    fn services_with_their_health() {
        let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name}, "spec": spec});
        let slice = |name: &str, nodes: &[&str]| {
            let endpoint = |(i, node): (usize, &&str)| json!({"addresses": [format!("10.244.9.{}", i + 1)], "nodeName": node});
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                   "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": name}},
                   "ports": [{"name": "http", "port": 8080}, {"name": "metrics", "port": 9090}],
                   "endpoints": nodes.iter().enumerate().map(endpoint).collect::<Vec<_>>()})
        };
        let ports = json!([{"name": "http", "port": 80, "nodePort": 30080}, {"name": "metrics", "port": 90}]);
        let snapshot = snapshot(&[
            member("a1", "a", "p"),
            member("b1", "b", "q"),
            service("far", json!({"type": "NodePort", "clusterIPs": ["10.96.0.1"], "ports": ports})),
            slice("far", &["b1", "b1"]),
            service("near", json!({"clusterIPs": ["10.96.0.2"], "ports": ports})),
            slice("near", &["a1", "b1"]),
            service("none", json!({"clusterIPs": ["10.96.0.3"], "ports": ports})),
            service("other", json!({"type": "ExternalName", "externalName": "a.example"})),
        ]);
        let seen = services(&snapshot, |_| 0);
        let summary: Vec<_> = seen.iter().map(|s| (s.name.as_str(), s.near, s.far, s.health)).collect();
        let want = [
            ("far", 0, 2, Health::Ok),
            ("near", 1, 0, Health::Ok),
            ("none", 0, 0, Health::Unavailable),
            ("other", 0, 0, Health::NotServed),
        ];
        assert_eq!(summary, want);
        assert_eq!((seen[0].kind.as_str(), seen[0].ports[0].node_port), ("NodePort", Some(30080)));
        let mut dual = slice("far", &["b1"]);
        dual["metadata"]["name"] = json!("far-6");
        dual["addressType"] = json!("IPv6");
        dual["endpoints"][0]["addresses"] = json!(["fd00::1"]);
        let pod = json!({"kind": "Pod", "namespace": "shop", "name": "far-0"});
        let mut single = slice("far", &["b1"]);
        for slice in [&mut dual, &mut single] {
            slice["endpoints"][0]["targetRef"] = pod.clone();
        }
        let mut both = snapshot.clone();
        let model = Arc::make_mut(&mut both.model);
        model.put(&single).unwrap();
        model.put(&dual).unwrap();
        assert_eq!(services(&both, |_| 0)[0].far, 1, "one pod with two addresses");
        let aside = |choice: &Choice| usize::from(matches!(choice, Choice::Far(_)));
        assert_eq!(services(&snapshot, aside)[0].health, Health::Unavailable, "one of two ports each");
    }
}
