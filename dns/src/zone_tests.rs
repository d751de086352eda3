//! The tables of the specification, by its own examples.

use serde_json::{Value, json};

use super::*;

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
           "metadata": {"namespace": "default", "name": name}, "spec": spec})
}

fn slice(service: &str, family: &str, endpoints: Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
           "metadata": {"namespace": "default", "name": format!("{service}-{family}"),
                        "labels": {"kubernetes.io/service-name": service}},
           "addressType": family, "endpoints": endpoints,
           "ports": [{"name": "https", "port": 8443, "protocol": "TCP"}]})
}

fn zone_of(objects: &[Value]) -> Zone {
    let mut model = Model::default();
    for object in objects {
        model.put(object).unwrap();
    }
    Zone::build(model, "Cluster.Local").unwrap()
}

/// The specification's cluster: a Service with addresses, a headless one, a name for another.
fn zone() -> Zone {
    let ports = json!([{"name": "https", "port": 443, "targetPort": 8443}, {"port": 80}]);
    zone_of(&[
        service("kubernetes", json!({"clusterIPs": ["10.3.0.1", "2001:db8::1"], "ports": ports})),
        service("headless", json!({"clusterIP": "None", "ports": ports})),
        slice(
            "headless",
            "IPv4",
            json!([
                {"addresses": ["10.3.0.100"], "hostname": "my-pet"},
                {"addresses": ["10.3.0.101"], "conditions": {"ready": true}},
                {"addresses": ["10.3.0.102"], "conditions": {"ready": false}},
            ]),
        ),
        slice("headless", "IPv6", json!([{"addresses": ["2001:db8::100"], "hostname": "my-pet"}])),
        service("empty", json!({"clusterIP": "None", "ports": ports})),
        service("early", json!({"clusterIP": "None", "ports": ports, "publishNotReadyAddresses": true})),
        slice("early", "IPv4", json!([{"addresses": ["10.3.0.103"], "conditions": {"ready": false}}])),
        service("foo", json!({"type": "ExternalName", "externalName": "www.example.com"})),
        service("left", json!({"clusterIPs": ["10.3.0.9"], "ports": ports})),
    ])
}

fn ask(name: &str, kind: RecordType) -> Lookup {
    zone().lookup(&Name::from_ascii(name).unwrap(), kind)
}

/// The data of what is found, as in a zone file, sorted.
fn data(lookup: Lookup) -> Vec<String> {
    let Lookup::Found { records, .. } = lookup else { panic!("{lookup:?}") };
    assert!(records.iter().all(|record| record.ttl == TTL));
    let mut data: Vec<_> = records.iter().map(|record| record.data.to_string()).collect();
    data.sort();
    data
}

#[test]
fn found_by_the_tables() {
    use RecordType::{A, AAAA, PTR, SOA, SRV, TXT};
    let svc = |name: &str| format!("{name}.default.svc.cluster.local.");
    let cases: &[(&str, RecordType, &[&str])] = &[
        // 2.2
        ("dns-version.cluster.local.", TXT, &["1.1.0"]),
        // 2.3.1, 2.3.2, 2.3.3
        (&svc("kubernetes"), A, &["10.3.0.1"]),
        (&svc("kubernetes"), AAAA, &["2001:db8::1"]),
        (&svc("_https._tcp.kubernetes"), SRV, &["0 100 443 kubernetes.default.svc.cluster.local."]),
        ("1.0.3.10.in-addr.arpa.", PTR, &["kubernetes.default.svc.cluster.local."]),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.",
            PTR,
            &["kubernetes.default.svc.cluster.local."],
        ),
        // 2.4.1, 2.4.2, 2.4.3
        (&svc("headless"), A, &["10.3.0.100", "10.3.0.101"]),
        (&svc("headless"), AAAA, &["2001:db8::100"]),
        (&svc("my-pet.headless"), A, &["10.3.0.100"]),
        (&svc("my-pet.headless"), AAAA, &["2001:db8::100"]),
        (&svc("10-3-0-101.headless"), A, &["10.3.0.101"]),
        (
            &svc("_https._tcp.headless"),
            SRV,
            &[
                "0 50 8443 10-3-0-101.headless.default.svc.cluster.local.",
                "0 50 8443 my-pet.headless.default.svc.cluster.local.",
            ],
        ),
        ("100.0.3.10.in-addr.arpa.", PTR, &["my-pet.headless.default.svc.cluster.local."]),
        (&svc("early"), A, &["10.3.0.103"]),
        // Case does not count.
        ("KuberNetes.Default.SVC.cluster.LOCAL.", A, &["10.3.0.1"]),
        ("cluster.local.", SOA, &["ns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"]),
    ];
    for (name, kind, want) in cases {
        assert_eq!(data(ask(name, *kind)), *want, "{name} {kind}");
    }
}

#[test]
fn not_found_and_found_without_such_records() {
    use RecordType::{A, AAAA, MX, PTR, SRV};
    let svc = |name: &str| format!("{name}.default.svc.cluster.local.");
    let cases: &[(&str, RecordType, Lookup)] = &[
        (&svc("nobody"), A, Lookup::NoName),
        ("kubernetes.elsewhere.svc.cluster.local.", A, Lookup::NoName),
        ("elsewhere.svc.cluster.local.", A, Lookup::NoName),
        ("x.cluster.local.", A, Lookup::NoName),
        ("default.svc.cluster.local.", A, Lookup::NoData),
        ("svc.cluster.local.", A, Lookup::NoData),
        ("cluster.local.", A, Lookup::NoData),
        (&svc("kubernetes"), MX, Lookup::NoData),
        (&svc("left"), AAAA, Lookup::NoData),
        // A port without a name has no SRV record; nor has one of another protocol.
        (&svc("_http._tcp.kubernetes"), SRV, Lookup::NoName),
        (&svc("_https._udp.kubernetes"), SRV, Lookup::NoName),
        (&svc("_https._tcp.kubernetes"), A, Lookup::NoData),
        (&svc("_tcp.kubernetes"), SRV, Lookup::NoData),
        (&svc("_udp.kubernetes"), SRV, Lookup::NoName),
        // Endpoints that are not ready, and Services without a ready one.
        (&svc("10-3-0-102.headless"), A, Lookup::NoName),
        (&svc("empty"), A, Lookup::NoName),
        (&svc("_https._tcp.empty"), SRV, Lookup::NoName),
        (&svc("10-3-0-101.headless"), AAAA, Lookup::NoData),
        // Only headless Services have names for endpoints.
        (&svc("my-pet.kubernetes"), A, Lookup::NoName),
        ("99.0.3.10.in-addr.arpa.", PTR, Lookup::Foreign),
        ("3.10.in-addr.arpa.", PTR, Lookup::Foreign),
        ("102.0.3.10.in-addr.arpa.", PTR, Lookup::Foreign),
        ("www.example.com.", A, Lookup::Foreign),
        ("local.", A, Lookup::Foreign),
        (".", A, Lookup::Foreign),
        ("a.b.c.d.e.f.default.svc.cluster.local.", A, Lookup::NoName),
    ];
    for (name, kind, want) in cases {
        assert_eq!(ask(name, *kind), *want, "{name} {kind}");
    }
}

#[test]
fn an_external_name_is_an_alias_for_every_type() {
    for kind in [RecordType::A, RecordType::CNAME, RecordType::MX] {
        let Lookup::Alias { record, target } = ask("foo.default.svc.cluster.local.", kind) else {
            panic!("{kind}")
        };
        assert_eq!(target.to_string(), "www.example.com.");
        assert_eq!(record.data.to_string(), "www.example.com.");
    }
}

#[test]
fn srv_answers_carry_the_addresses_of_their_targets() {
    let lookup = ask("_https._tcp.headless.default.svc.cluster.local.", RecordType::SRV);
    let Lookup::Found { additional, .. } = lookup else { panic!("{lookup:?}") };
    let mut additional: Vec<_> =
        additional.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    additional.sort();
    assert_eq!(
        additional,
        [
            "10-3-0-101.headless.default.svc.cluster.local. 10.3.0.101",
            "my-pet.headless.default.svc.cluster.local. 10.3.0.100",
            "my-pet.headless.default.svc.cluster.local. 2001:db8::100",
        ]
    );
}

#[test]
fn a_pod_without_a_name_is_not_asked_for_elsewhere() {
    let zone = zone_of(&[json!({
        "apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode", "metadata": {"name": "edge-a"},
        "spec": {"peerId": "12D3Koo", "site": "a", "roles": ["edge"], "podCidrs": ["10.244.1.0/24"]},
    })]);
    let name = Name::from_ascii("7.1.244.10.in-addr.arpa.").unwrap();
    assert_eq!(zone.lookup(&name, RecordType::PTR), Lookup::NoName);
}

#[test]
fn the_owner_is_written_as_it_was_asked() {
    let lookup = ask("KUBERNETES.default.svc.cluster.local.", RecordType::A);
    let Lookup::Found { records, .. } = lookup else { panic!("{lookup:?}") };
    assert_eq!(records[0].name.to_ascii(), "KUBERNETES.default.svc.cluster.local.");
}

#[test]
fn a_domain_that_is_none_is_refused() {
    let error = Zone::build(Model::default(), &"x".repeat(64)).unwrap_err();
    assert!(error.to_string().contains("is not a domain name"));
}
