use std::net::{IpAddr, Ipv4Addr};

use edgeloom_model::Model;
use hickory_proto::rr::{Name, RData};
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// One Service with many endpoints, one with an address, one that is another's name.
fn zone() -> Zone {
    let mut model = Model::default();
    let endpoints: Vec<_> = (1..=200).map(|i| json!({"addresses": [format!("10.244.1.{i}")]})).collect();
    let service = |name: &str, spec| {
        json!({"apiVersion": "v1", "kind": "Service",
               "metadata": {"namespace": "shop", "name": name}, "spec": spec})
    };
    for object in [
        service("orders", json!({"clusterIPs": ["10.96.0.10"], "ports": [{"port": 80}]})),
        service("many", json!({"clusterIP": "None", "ports": [{"port": 80}]})),
        service("alias", json!({"type": "ExternalName", "externalName": "orders.shop.svc.cluster.local"})),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
               "metadata": {"namespace": "shop", "name": "many-1",
                            "labels": {"kubernetes.io/service-name": "many"}},
               "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": 80}]}),
    ] {
        model.put(&object).unwrap();
    }
    Zone::build(model, "cluster.local").unwrap()
}

fn query(name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

fn request(message: &Message) -> Box<Request> {
    match read(&message.to_vec().unwrap()) {
        Asked::Query(request) => request,
        other => panic!("{other:?}"),
    }
}

/// Asks as a client does, through the wire form on both ways.
fn ask(message: &Message, turn: usize) -> Message {
    let request = request(message);
    let Local::Answer(answer) = request.look_up(&zone(), turn) else { panic!("not the zone's") };
    Message::from_vec(&write(&answer, request.datagram_limit())).unwrap()
}

#[test]
fn an_answer_survives_the_wire() {
    let asked = query("Orders.shop.svc.cluster.local.", RecordType::A, Some(4096));
    let answer = ask(&asked, 0);
    assert_eq!(answer.metadata.id, asked.metadata.id);
    assert_eq!(answer.queries, asked.queries);
    let metadata = answer.metadata;
    assert!(metadata.authoritative && metadata.recursion_available && metadata.recursion_desired);
    assert!(!metadata.truncation);
    assert_eq!(answer.edns.as_ref().map(Edns::max_payload), Some(MAX_DATAGRAM));
    assert_eq!(answer.answers[0].data, RData::A(Ipv4Addr::new(10, 96, 0, 10).into()));
    assert_eq!(answer.answers[0].name.to_ascii(), "Orders.shop.svc.cluster.local.");
    // A client that does not speak EDNS gets none.
    assert!(ask(&query("orders.shop.svc.cluster.local.", RecordType::A, None), 0).edns.is_none());
}

#[test]
fn negative_answers_say_how_long_they_hold() {
    let no_name = ask(&query("nobody.shop.svc.cluster.local.", RecordType::A, None), 0);
    assert_eq!(no_name.metadata.response_code, ResponseCode::NXDomain);
    let no_data = ask(&query("orders.shop.svc.cluster.local.", RecordType::AAAA, None), 0);
    assert_eq!(no_data.metadata.response_code, ResponseCode::NoError);
    for answer in [no_name, no_data] {
        assert!(answer.answers.is_empty());
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
    }
}

#[test]
fn what_does_not_fit_is_asked_for_again() {
    // 200 addresses take 3200 bytes and more.
    for (payload, limit) in [(None, 512), (Some(100), 512), (Some(1024), 1024), (Some(4096), 1232)] {
        let asked = query("many.shop.svc.cluster.local.", RecordType::A, payload);
        let request = request(&asked);
        assert_eq!(request.datagram_limit(), limit);
        let Local::Answer(answer) = request.look_up(&zone(), 0) else { panic!() };
        let packet = write(&answer, limit);
        assert!(packet.len() <= limit);
        let cut = Message::from_vec(&packet).unwrap();
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        assert_eq!(cut.queries, asked.queries);
        // Over TCP it comes whole.
        let whole = Message::from_vec(&write(&answer, u16::MAX.into())).unwrap();
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 200);
    }
}

#[test]
fn every_address_comes_first_in_turn() {
    let asked = query("many.shop.svc.cluster.local.", RecordType::A, None);
    let first = |turn| {
        let Local::Answer(answer) = request(&asked).look_up(&zone(), turn) else { panic!() };
        let RData::A(address) = &answer.answers[0].data else { panic!() };
        IpAddr::from(address.0)
    };
    let met: std::collections::BTreeSet<_> = (0..200).map(first).collect();
    assert_eq!(met.len(), 200);
}

#[test]
fn an_alias_asks_for_the_rest() {
    let asked = query("alias.shop.svc.cluster.local.", RecordType::A, None);
    let Local::Alias { mut so_far, question } = request(&asked).look_up(&zone(), 0) else { panic!() };
    assert!(extend(&mut so_far, &zone(), &question, 0).is_none());
    let kinds: Vec<_> = so_far.answers.iter().map(|record| record.record_type()).collect();
    assert_eq!(kinds, [RecordType::CNAME, RecordType::A]);
    // Who asks for the alias itself gets just that.
    let asked = query("alias.shop.svc.cluster.local.", RecordType::CNAME, None);
    assert!(
        matches!(request(&asked).look_up(&zone(), 0), Local::Answer(answer) if answer.answers.len() == 1)
    );
}

#[test]
fn what_is_no_question_is_refused_or_ignored() {
    let code = |message: &Message| match read(&message.to_vec().unwrap()) {
        Asked::Wrong(answer) => {
            assert_eq!(answer.metadata.id, message.metadata.id);
            answer.metadata.response_code
        }
        other => panic!("{other:?}"),
    };
    let plain = query("orders.shop.svc.cluster.local.", RecordType::A, Some(1232));
    let mut update = plain.clone();
    update.metadata.op_code = OpCode::Update;
    assert!(matches!(code(&update), ResponseCode::NotImp | ResponseCode::FormErr));
    let mut two = plain.clone();
    two.add_query(plain.queries[0].clone());
    assert_eq!(code(&two), ResponseCode::FormErr);
    // Nor is it looked at: the decoder would take memory for all that are announced.
    assert!(decode(&two.to_vec().unwrap()).is_none());
    let mut newer = plain.clone();
    newer.edns.as_mut().unwrap().set_version(1);
    assert_eq!(code(&newer), ResponseCode::BADVERS);
    assert_eq!(code(&query("cluster.local.", RecordType::AXFR, None)), ResponseCode::Refused);
    let mut chaos = plain.clone();
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos), ResponseCode::Refused);
    let mut response = plain;
    response.metadata.message_type = MessageType::Response;
    assert!(matches!(read(&response.to_vec().unwrap()), Asked::Nothing));
    assert!(matches!(read(&[0; HEADER - 1]), Asked::Nothing));
    // Cut in its question.
    let packet = query("orders.shop.svc.cluster.local.", RecordType::A, None).to_vec().unwrap();
    assert!(matches!(read(&packet[..20]), Asked::Wrong(_)));
}

/// Reads a packet, and answers it as far as the zone can.
fn survive(zone: &Zone, packet: &[u8], limit: usize) {
    let answer = match read(packet) {
        Asked::Query(request) => match request.look_up(zone, 7) {
            Local::Answer(answer) | Local::Alias { so_far: answer, .. } => answer,
            Local::Foreign => request.failure(ResponseCode::ServFail),
        },
        Asked::Wrong(answer) => *answer,
        Asked::Nothing => return,
    };
    assert!(write(&answer, limit).len() <= limit);
}

proptest! {
    #[test]
    fn no_packet_is_too_strange(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
        survive(&Zone::build(Model::default(), "cluster.local").unwrap(), &packet, 512);
    }

    #[test]
    fn no_damage_to_a_good_packet_is_too_strange(
        at in 0usize..80, byte in any::<u8>(), cut in 0usize..80, kind in any::<u16>()
    ) {
        let mut packet = query("orders.shop.svc.cluster.local.", kind.into(), Some(1232)).to_vec().unwrap();
        if let Some(hit) = packet.get_mut(at) {
            *hit = byte;
        }
        packet.truncate(packet.len().saturating_sub(cut));
        survive(&zone(), &packet, 512);
    }

    #[test]
    fn no_name_is_too_strange(
        labels in proptest::collection::vec("[-_a-zA-Z0-9*.]{1,20}", 0..8),
        kind in any::<u16>(), reverse in any::<bool>()
    ) {
        let end: &[&str] = if reverse { &["in-addr", "arpa"] } else { &["svc", "cluster", "local"] };
        let labels = labels.iter().map(String::as_bytes).chain(end.iter().map(|label| label.as_bytes()));
        if let Ok(mut name) = Name::from_labels(labels) {
            name.set_fqdn(true);
            zone().lookup(&name, kind.into());
        }
    }
}
