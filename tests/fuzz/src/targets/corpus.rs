//! Valid inputs of every kind, to be changed.

use std::net::SocketAddr;
use std::time::SystemTime;

use anyhow::Result;
use bytes::Bytes;
use edgeloom_api::token::JoinToken;
use edgeloom_api::{hub, join};
use edgeloom_mesh::wire::{Code, Datagram, Direction, Frame, FrameKind, Header, Measure, Preface, Target};
use edgeloom_model::{Family, Protocol, ServiceKey, Workload};
use edgeloom_tunnel::identity::{Authority, Claims, Guard, Identity, Role, SignedCredential};
use edgeloom_tunnel::wire::frame::{Control, DATA_HEADER, DataHeader};
use edgeloom_tunnel::wire::message::{Hello, MAX_CANDIDATES, Message, Refusal};
use std::sync::Arc;

type Inputs = Result<Vec<Vec<u8>>>;

fn addresses() -> [SocketAddr; 2] {
    [SocketAddr::from(([203, 0, 113, 7], 20006)), SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 7], 20006))]
}

fn every_message() -> Vec<Message> {
    let [v4, v6] = addresses();
    let peer = [7; 32];
    vec![
        Message::Probe { id: 1, epoch: 2, in_use: true, shunned: true },
        Message::Answer { id: 1, epoch: 2, observed: None },
        Message::Answer { id: 1, epoch: 2, observed: Some(v4) },
        Message::Answer { id: 1, epoch: 2, observed: Some(v6) },
        Message::Candidates { addresses: [v4, v6].repeat(MAX_CANDIDATES / 2), answered: false },
        Message::Open { peer },
        Message::Session { session: 9, side: 1, key: [3; 16], peer, observed: v6 },
        Message::Refused { peer, reason: Refusal::Full },
        Message::Fill { id: 1, padding: 1400 },
        Message::Filled { id: 1, padding: 400 },
    ]
}

pub(super) fn messages() -> Inputs {
    let encoded = |message: Message| {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        bytes
    };
    Ok(every_message().into_iter().map(encoded).collect())
}

pub(super) fn frames() -> Inputs {
    let data = |down, length| {
        let header = DataHeader { session: 5, side: 1, down, counter: 77, tag: [9; 16] };
        let mut frame = vec![0x40; DATA_HEADER + length];
        header.write(&mut frame);
        frame
    };
    let sealed = [0xab; 60];
    Ok(vec![
        data(false, 1200),
        data(true, 64),
        Control::Sealed { from: [1; 8], nonce: [2; 12], sealed: &sealed }.encode(),
        Control::Hello { from: [1; 32], nonce: [2; 12], sealed: &sealed }.encode(),
        Control::WhoAreYou { hint: [1; 8] }.encode(),
        Control::UnknownSession { session: 5 }.encode(),
    ])
}

fn member() -> Result<(Identity, SignedCredential)> {
    let authority = Authority::generate("laboratory", SystemTime::now())?;
    let identity = Identity::generate()?;
    let credential = authority.sign(&Claims {
        cluster: "laboratory".to_owned(),
        node: "edge-a".to_owned(),
        node_uid: "0b8e7a3c-51c2-4c0e-9a2e-0e3f7f6b1d55".to_owned(),
        peer: identity.peer_id().to_bytes().into(),
        site: "site-a".to_owned(),
        roles: [Role::Edge].into_iter().collect(),
        not_before: 1_700_000_000,
        expires: 1_800_000_000,
        serial: 7,
    })?;
    Ok((identity, credential))
}

pub(super) fn credentials() -> Inputs {
    Ok(vec![member()?.1.encode()])
}

pub(super) fn hellos() -> Inputs {
    let credential = member()?.1.encode();
    let hello = |message| Hello { credential: &credential, message }.encode();
    Ok(every_message().into_iter().map(hello).collect())
}

pub(super) fn certificates() -> Inputs {
    let (identity, credential) = member()?;
    let identity = Arc::new(identity);
    let shown = |credential| -> Result<Vec<u8>> {
        Ok(Guard::new(identity.clone(), credential, None)?.certificate().to_vec())
    };
    Ok(vec![shown(None)?, shown(Some(credential))?])
}

fn header(target: Target) -> Header {
    let source =
        Workload { namespace: "shop".into(), name: "client-0".into(), service_account: "default".into() };
    Header { flow: 5, target, source: Some(source) }
}

fn targets() -> [Target; 2] {
    let (protocol, port) = (Protocol::Tcp, 80);
    let endpoint = Some(addresses()[1].ip());
    [
        Target::Service { service: ServiceKey::new("shop", "orders"), port, protocol, endpoint },
        Target::Pod { namespace: "shop".into(), name: "orders-0".into(), family: Family::V4, port, protocol },
    ]
}

pub(super) fn prefaces() -> Inputs {
    let mut inputs: Vec<_> = targets().map(|target| Preface::Tcp(header(target)).encode()).into();
    inputs.push(Preface::Udp.encode());
    inputs.push(Preface::Measure(Measure::Sink).encode());
    Ok(inputs)
}

pub(super) fn udp_frames() -> Inputs {
    let [service, pod] = targets();
    let kinds = [
        FrameKind::Open(header(service)),
        FrameKind::Open(header(pod)),
        FrameKind::Data(vec![1; 1400]),
        FrameKind::Opened,
        FrameKind::Close(Code::Refused),
    ];
    let encoded = |kind| {
        let mut bytes = Vec::new();
        Frame { flow: 3, kind }.encode(&mut bytes);
        bytes
    };
    Ok(kinds.map(encoded).into())
}

pub(super) fn datagrams() -> Inputs {
    let of = |direction| Datagram { flow: 3, direction, payload: &[1; 400] }.encode();
    Ok(vec![of(Direction::ToTarget), of(Direction::ToCaller)])
}

pub(super) fn joins() -> Inputs {
    let request = join::JoinRequest {
        secret: "secret".to_owned(),
        node: "edge-a".to_owned(),
        hostname: "edge-a".to_owned(),
        os: "linux".to_owned(),
        arch: "amd64".to_owned(),
        release: "0.1.0".to_owned(),
        routes: vec!["10.0.0.0/8".parse()?, "fd00::/8".parse()?],
    };
    let offer = join::Offer {
        version: join::VERSION,
        cluster: "laboratory".to_owned(),
        authorities: vec![Bytes::from_static(&[0x30; 300])],
    };
    let ask = join::FromJoiner::from(join::Ask { version: join::VERSION });
    Ok(vec![
        ask.encode()?,
        join::FromJoiner::from(request).encode()?,
        join::FromServer::from(offer).encode()?,
    ])
}

pub(super) fn hubs() -> Inputs {
    let hello = hub::Hello {
        version: 1,
        release: "0.1.0".to_owned(),
        kinds: vec!["Pod".to_owned(), "Service".to_owned()],
        digest: Bytes::from_static(&[1; 32]),
    };
    let write = hub::Write::DeletePod {
        namespace: "shop".to_owned(),
        name: "orders-0".to_owned(),
        uid: "0b8e7a3c".to_owned(),
    };
    let put = hub::Put { seq: 4, object: Bytes::from_static(br#"{"kind":"Pod","metadata":{"name":"a"}}"#) };
    Ok(vec![
        hub::FromNode::from(hello).encode()?,
        hub::FromNode::from(hub::WriteUp { id: 1, write }).encode()?,
        hub::FromNode::from(hub::Applied { seq: 9 }).encode()?,
        hub::FromNode::from(hub::Request::Renew).encode()?,
        hub::FromControl::from(put).encode()?,
    ])
}

pub(super) fn tokens() -> Inputs {
    Ok(vec![JoinToken::new(b"certificate", Default::default()).expose().into_bytes()])
}
