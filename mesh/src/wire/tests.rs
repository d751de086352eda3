use proptest::prelude::*;

use super::*;

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9.-]{1,253}"
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn targets() -> impl Strategy<Value = Target> {
    let endpoint = proptest::option::of(any::<IpAddr>());
    let service = (name(), name(), 1u16.., protocols(), endpoint).prop_map(
        |(namespace, name, port, protocol, endpoint)| Target::Service {
            service: ServiceKey::new(namespace, name),
            port,
            protocol,
            endpoint,
        },
    );
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let pod = (name(), name(), family, 1u16.., protocols()).prop_map(
        |(namespace, name, family, port, protocol)| Target::Pod { namespace, name, family, port, protocol },
    );
    prop_oneof![service, pod]
}

fn headers() -> impl Strategy<Value = Header> {
    let source = (name(), name(), "[a-z]{0,63}").prop_map(|(namespace, name, account)| Workload {
        namespace: namespace.into(),
        name: name.into(),
        service_account: account.into(),
    });
    (any::<u64>(), targets(), proptest::option::of(source)).prop_map(|(flow, target, source)| Header {
        flow,
        target,
        source,
    })
}

fn frames() -> impl Strategy<Value = Frame> {
    let kind = prop_oneof![
        headers().prop_map(FrameKind::Open),
        proptest::collection::vec(any::<u8>(), 0..2000).prop_map(FrameKind::Data),
        Just(FrameKind::Opened),
        proptest::sample::select(Code::ALL.to_vec()).prop_map(FrameKind::Close),
    ];
    (any::<u32>(), kind).prop_map(|(flow, kind)| Frame { flow, kind })
}

proptest! {
    #[test]
    fn a_preface_is_read_as_it_was_written(header in headers(), rest in any::<Vec<u8>>()) {
        let measure = [Measure::Echo, Measure::Sink, Measure::Source].map(Preface::Measure);
        for preface in measure.into_iter().chain([Preface::Tcp(header), Preface::Udp]) {
            let mut bytes = preface.encode();
            let length = bytes.len();
            for cut in 0..length {
                prop_assert_eq!(Preface::decode(&bytes[..cut]), Ok(None));
            }
            bytes.extend_from_slice(&rest);
            prop_assert_eq!(Preface::decode(&bytes), Ok(Some((preface, length))));
        }
    }

    #[test]
    fn a_frame_is_read_as_it_was_written(frame in frames(), rest in any::<Vec<u8>>()) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let length = bytes.len();
        for cut in 0..length {
            prop_assert_eq!(Frame::decode(&bytes[..cut]), Ok(None));
        }
        bytes.extend_from_slice(&rest);
        prop_assert_eq!(Frame::decode(&bytes), Ok(Some((frame, length))));
    }

    #[test]
    fn a_datagram_is_read_as_it_was_written(flow: u32, back: bool, payload: Vec<u8>) {
        let direction = if back { Direction::ToCaller } else { Direction::ToTarget };
        let datagram = Datagram { flow, direction, payload: &payload };
        let bytes = datagram.encode();
        prop_assert_eq!(bytes.len(), datagram.size());
        prop_assert_eq!(Datagram::decode(&bytes), Ok(datagram));
    }

    #[test]
    fn no_bytes_are_too_bad(bytes: Vec<u8>, kind in 0u8..8, length in 0u16..300) {
        let _ = (Preface::decode(&bytes), Frame::decode(&bytes), Datagram::decode(&bytes));
        let mut framed = vec![VERSION, kind];
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(&bytes);
        if let Ok(Some((_, taken))) = Preface::decode(&framed) {
            prop_assert!(taken <= framed.len());
        }
    }
}

#[test]
fn what_a_newer_release_adds_is_passed_over() {
    let target = Target::Service {
        service: ServiceKey::new("shop", "orders"),
        port: 80,
        protocol: Protocol::Tcp,
        endpoint: None,
    };
    let preface = Preface::Tcp(Header { flow: 7, target, source: None });
    let mut bytes = preface.encode();
    bytes.extend_from_slice(b"later");
    let length = u16::from_be_bytes([bytes[2], bytes[3]]) + 5;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    assert_eq!(Preface::decode(&bytes), Ok(Some((preface, bytes.len()))));
}

#[test]
fn what_is_refused() {
    for (bytes, want) in [
        (vec![2], WireError::Version(2)),
        (vec![1, 1, 0xff, 0xff], WireError::TooLong(65_535)),
        (vec![1, 9, 0, 0], WireError::Unknown("the stream's purpose")),
        (vec![1, 1, 0, 0], WireError::Short("the flow's number")),
        (vec![1, 1, 0, 10, 0, 0, 0, 0, 0, 0, 0, 7, 3, 0], WireError::Unknown("the target's kind")),
        (vec![1, 1, 0, 10, 0, 0, 0, 0, 0, 0, 0, 7, 1, 0], WireError::Name("namespace")),
    ] {
        assert_eq!(Preface::decode(&bytes), Err(want));
    }
}

#[test]
fn codes_keep_their_numbers() {
    for code in Code::ALL {
        assert_eq!(Code::from_number(code.number().into()), code);
    }
    assert_eq!(Code::from_number(u64::MAX), Code::Reset);
}
