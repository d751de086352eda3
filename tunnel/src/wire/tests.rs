use std::net::SocketAddr;

use libp2p::identity::ed25519::Keypair;
use proptest::prelude::*;

use super::frame::{Control, DATA_HEADER, DataHeader, FrameError, MAX_CONTROL};
use super::message::{Hello, MAX_CANDIDATES, Message, Refusal};
use super::seal::{DataKey, OwnKey, hint, peer_id, public_key, stamp};

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
        any::<([u8; 16], u16)>().prop_map(SocketAddr::from),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let reason = prop_oneof![Just(Refusal::Absent), Just(Refusal::NoRelay), Just(Refusal::Full)];
    prop_oneof![
        any::<(u64, u64, bool, bool)>().prop_map(|(id, epoch, in_use, shunned)| Message::Probe {
            id,
            epoch,
            in_use,
            shunned
        }),
        (any::<(u64, u64)>(), prop::option::of(address()))
            .prop_map(|((id, epoch), observed)| Message::Answer { id, epoch, observed }),
        (prop::collection::vec(address(), 0..=MAX_CANDIDATES), any::<bool>())
            .prop_map(|(addresses, answered)| Message::Candidates { addresses, answered }),
        any::<[u8; 32]>().prop_map(|peer| Message::Open { peer }),
        (any::<(u32, bool, [u8; 16], [u8; 32])>(), address()).prop_map(
            |((session, side, key, peer), observed)| Message::Session {
                session,
                side: u8::from(side),
                key,
                peer,
                observed
            }
        ),
        (any::<[u8; 32]>(), reason).prop_map(|(peer, reason)| Message::Refused { peer, reason }),
        any::<[u8; 16]>().prop_map(|challenge| Message::Attach { challenge }),
        (any::<u64>(), 0u16..1400).prop_map(|(id, padding)| Message::Fill { id, padding }),
        (any::<u64>(), 0u16..1400).prop_map(|(id, padding)| Message::Filled { id, padding }),
    ]
}

proptest! {
    #[test]
    fn messages_survive_the_wire(message in message()) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        prop_assert_eq!(Message::parse(&bytes), Ok(message.clone()));
        let hello = Hello { credential: &[7; 300], message }.encode();
        prop_assert_eq!(Hello::parse(&hello).unwrap().credential, &[7; 300][..]);
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_read_but_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..1600)) {
        let _ = Control::parse(&bytes);
        let _ = DataHeader::parse(&bytes);
        let _ = Message::parse(&bytes);
        let _ = Hello::parse(&bytes);
    }

    #[test]
    fn a_message_cut_short_or_drawn_out_is_refused(message in message(), cut in 1usize..8) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let short = &bytes[..bytes.len() - cut.min(bytes.len())];
        prop_assert_ne!(Message::parse(short), Ok(message.clone()));
        bytes.push(0);
        prop_assert!(Message::parse(&bytes).is_err());
    }

    #[test]
    fn a_data_header_survives_the_wire(session: u32, side in 0u8..2, down: bool, counter: u64, tag: [u8; 16]) {
        let header = DataHeader { session, side, down, counter, tag };
        let mut frame = [0; DATA_HEADER + 5];
        header.write(&mut frame);
        prop_assert_eq!(DataHeader::parse(&frame), Ok((header, &[0u8; 5][..])));
    }
}

fn pair() -> (OwnKey, OwnKey) {
    (OwnKey::new(&Keypair::generate()), OwnKey::new(&Keypair::generate()))
}

#[test]
fn two_nodes_share_a_key_that_a_third_does_not() {
    let (a, b) = pair();
    let frame = a.pair(&b.public).unwrap().seal(1_234_567, b"probe".to_vec());
    let Ok(Control::Sealed { from, nonce, sealed }) = Control::parse(&frame) else {
        panic!("a sealed frame")
    };
    assert_eq!((from, stamp(nonce)), (hint(&a.public), 1_234_567));
    assert_eq!(b.pair(&a.public).unwrap().open(&from, nonce, sealed).unwrap(), b"probe");
    let stranger = OwnKey::new(&Keypair::generate());
    assert_eq!(stranger.pair(&a.public).unwrap().open(&from, nonce, sealed), Err(FrameError::Forged));
    // Reflected to its sender, it stands under the sender's own hint, which nobody else may use.
    assert_eq!(b.pair(&a.public).unwrap().open(&b.hint, nonce, sealed), Err(FrameError::Forged));
    assert_eq!(a.pair(&b.public).unwrap().open(&from, nonce, sealed), Err(FrameError::Forged));
}

#[test]
fn a_key_that_is_no_point_or_of_small_order_is_refused() {
    let (a, _) = pair();
    let point = |y| {
        let mut key = [0; 32];
        key[0] = y;
        key
    };
    let refused = |y: &u8| a.pair(&point(*y)).is_none();
    assert!(refused(&0) && refused(&1), "of order 4 and 1");
    // About every other coordinate belongs to no point.
    assert!((4..=12).contains(&(2u8..18).filter(refused).count()));
}

#[test]
fn a_peer_id_is_its_key() {
    let key = Keypair::generate().public().to_bytes();
    let peer = peer_id(&key).unwrap();
    assert_eq!(public_key(&peer), Some(key));
    assert_eq!(public_key(&libp2p::PeerId::random()), None);
}

#[test]
fn a_data_frame_changed_anywhere_that_counts_is_refused() {
    let key = DataKey::new(&[3; 16]);
    let payload = [0x40; 100];
    let mut header = DataHeader { session: 9, side: 1, down: false, counter: 77, tag: [0; 16] };
    key.sign(&mut header, &payload);
    assert!(key.verify(&header, &payload));
    assert!(!key.verify(&header, &payload[..99]));
    assert!(!key.verify(&header, &[0x41; 100]));
    for changed in [
        DataHeader { session: 8, ..header },
        DataHeader { side: 0, ..header },
        DataHeader { down: true, ..header },
        DataHeader { counter: 78, ..header },
    ] {
        assert!(!key.verify(&changed, &payload));
    }
    assert!(!DataKey::new(&[4; 16]).verify(&header, &payload));
}

#[test]
fn a_fill_is_as_long_as_it_says_and_so_is_its_answer() {
    let (a, b) = pair();
    let key = a.pair(&b.public).unwrap();
    let encoded = |message: &Message| {
        let mut plain = Vec::new();
        message.encode(&mut plain);
        plain
    };
    for bytes in [48, 512, 1200, MAX_CONTROL as u16] {
        let fill = Message::fill(3, bytes).unwrap();
        let Message::Fill { id, padding } = fill else { panic!("a fill") };
        assert_eq!(key.seal(1, encoded(&fill)).len(), usize::from(bytes));
        assert_eq!(Message::filled_bytes(padding), bytes);
        let answer = Message::Filled { id, padding };
        assert_eq!(key.seal(2, encoded(&answer)).len(), usize::from(bytes), "no larger than what was asked");
    }
    assert_eq!([47, MAX_CONTROL as u16 + 1].map(|bytes| Message::fill(3, bytes)), [None, None]);
}

#[test]
fn padding_that_is_not_zero_too_long_or_not_there_is_refused() {
    let mut bytes = Vec::new();
    Message::Fill { id: 1, padding: 100 }.encode(&mut bytes);
    let changed = |at: usize, to: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = to;
        Message::parse(&bytes)
    };
    assert_eq!(changed(60, 1), Err(FrameError::Value("padding")));
    assert_eq!(changed(9, 0xff), Err(FrameError::Long));
    assert_eq!(changed(10, 101), Err(FrameError::Short));
    assert_eq!(changed(10, 99), Err(FrameError::Trailing));
}
