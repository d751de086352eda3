//! Questions and answers of DNS, and the objects that the zone and the datapath are made of.

use std::sync::LazyLock;

use anyhow::Result;
use edgeloom_dns::Zone;
use edgeloom_model::Model;
use serde_json::{Value, json};

type Inputs = Result<Vec<Vec<u8>>>;

/// Longest answer to a datagram: what passes every path unfragmented.
const MAX_DATAGRAM: usize = 1232;
/// Types of records (RFC 1035, section 3.2.2, and later ones).
const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const OPT: u16 = 41;
const ANY: u16 = 255;

fn every_object() -> Vec<Value> {
    let meta = |name: &str| json!({"namespace": "shop", "name": name, "uid": "0b8e7a3c"});
    let mut slice = meta("many-1");
    slice["labels"] = json!({"kubernetes.io/service-name": "many"});
    let endpoints: Vec<Value> = (1..=40)
        .map(|i| json!({"addresses": [format!("10.244.1.{i}")], "hostname": format!("h-{i}"), "nodeName": "edge-a"}))
        .collect();
    vec![
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta("orders"),
            "spec": {"clusterIPs": ["10.96.0.10", "fd00::10"], "ipFamilies": ["IPv4", "IPv6"],
                "internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose",
                "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080, "protocol": "TCP"}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta("many"),
            "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta("alias"),
            "spec": {"type": "ExternalName", "externalName": "orders.shop.svc.cluster.local"}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": slice,
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": 80}]}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "edge-a"},
            "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.1.2"}]}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta("orders-0"),
            "spec": {"nodeName": "edge-a", "serviceAccountName": "default"},
            "status": {"podIPs": [{"ip": "10.244.1.7"}]}}),
    ]
}

pub(super) fn objects() -> Inputs {
    Ok(every_object().iter().map(|object| object.to_string().into_bytes()).collect())
}

/// As the node does with what the hub brings.
pub(super) fn object(input: &[u8]) -> bool {
    let Ok(object) = serde_json::from_slice::<Value>(input) else { return false };
    let mut model = Model::default();
    if model.put(&object).is_err() {
        return false;
    }
    assert_eq!(model.put(&object).ok(), Some(false), "the same object again is a change");
    true
}

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let mut model = Model::default();
    for object in every_object() {
        model.put(&object).expect("the objects are good");
    }
    Zone::build(model, "cluster.local").expect("the constant is a domain")
});

/// A name as it lies in a message, uncompressed.
fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let labels = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

/// A message with one question.
fn message(flags: u16, of: &str, kind: u16, counts: [u16; 3], rest: &[u8]) -> Vec<u8> {
    let header: Vec<u8> =
        [7, flags, 1, counts[0], counts[1], counts[2]].into_iter().flat_map(u16::to_be_bytes).collect();
    [&header, &name(of)[..], &kind.to_be_bytes(), &1u16.to_be_bytes(), rest].concat()
}

/// A record of the name that is asked for, as it is pointed at.
fn record(kind: u16, data: &[u8]) -> Vec<u8> {
    let fixed: Vec<u8> =
        [0xc00c, kind, 1, 0, 60, data.len() as u16].into_iter().flat_map(u16::to_be_bytes).collect();
    [&fixed, data].concat()
}

/// What a client that knows EDNS adds (RFC 6891, section 6.1.2), with the largest datagram that it takes.
fn edns(payload: u16) -> Vec<u8> {
    let fields = [OPT, payload, 0, 0x8000, 0].into_iter().flat_map(u16::to_be_bytes);
    [0].into_iter().chain(fields).collect()
}

pub(super) fn questions() -> Inputs {
    let plain = |of: &str, kind| message(0x0100, of, kind, [0; 3], &[]);
    let with = |of: &str, kind, payload| message(0x0100, of, kind, [0, 0, 1], &edns(payload));
    Ok(vec![
        plain("orders.shop.svc.cluster.local", A),
        plain("orders.shop.svc.cluster.local", AAAA),
        plain("_http._tcp.orders.shop.svc.cluster.local", SRV),
        plain("h-7.many.shop.svc.cluster.local", A),
        plain("10.0.96.10.in-addr.arpa", PTR),
        plain("orders.shop.svc.cluster.local", ANY),
        plain("cluster.local", SOA),
        plain("dns-version.cluster.local", TXT),
        with("many.shop.svc.cluster.local", A, 4096),
        with("many.shop.svc.cluster.local", SRV, 600),
        with("nothing.shop.svc.cluster.local", A, 512),
    ])
}

pub(super) fn question(input: &[u8]) -> bool {
    let Some(answer) = edgeloom_dns::answer(input, &ZONE) else { return false };
    is_answer(input, &answer);
    true
}

/// What is said to a client is small enough for a datagram, an answer, and the answer to its question.
fn is_answer(asked: &[u8], answer: &[u8]) {
    assert!(answer.len() <= MAX_DATAGRAM, "an answer of {} bytes", answer.len());
    assert_eq!(answer.get(..2), asked.get(..2), "another question's answer");
    assert!(answer.get(2).is_some_and(|flags| flags & 0x80 != 0), "no answer");
}

const FOREIGN: &str = "www.example.com";

pub(super) fn answers() -> Inputs {
    let good = |counts, rest: &[Vec<u8>]| message(0x8180, FOREIGN, A, counts, &rest.concat());
    let soa = [name("ns.example.com"), name("a.example.com"), vec![1; 20]].concat();
    Ok(vec![
        good([2, 0, 0], &[record(A, &[192, 0, 2, 1]), record(A, &[192, 0, 2, 2])]),
        good([1, 0, 1], &[record(CNAME, &name("a.example.com")), edns(1232)]),
        good([1, 0, 0], &[record(TXT, b"\x04text\x03two")]),
        good([0, 1, 0], &[record(SOA, &soa)]),
        message(0x8183, FOREIGN, A, [0, 1, 0], &record(SOA, &soa)),
        // More than fits what a client takes.
        good([150, 0, 0], &vec![record(A, &[192, 0, 2, 1]); 150]),
    ])
}

/// What an upstream server says, or whoever passes for it.
pub(super) fn answer(input: &[u8]) -> bool {
    let asked = message(0x0100, FOREIGN, A, [0, 0, 1], &edns(4096));
    let Some(answer) = edgeloom_dns::passed_on(&asked, input) else { return false };
    is_answer(&asked, &answer);
    true
}
