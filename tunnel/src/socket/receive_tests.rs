//! Batches as GRO makes them: packets of one source and length in one buffer, whatever they are.

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use prometheus::Registry;
use proptest::prelude::*;
use quinn::udp::RecvMeta;
use tokio::sync::mpsc;

use super::super::classify::Mark;
use super::*;
use crate::forwarder::Forward;
use crate::metrics::Metrics;
use crate::status::DirectKind;
use crate::wire::frame::SEALED;
use crate::wire::seal::DataKey;

const KEY: [u8; 16] = [5; 16];
const RELAY: &str = "192.0.2.1:20006";

/// A socket whose node has one session at a relay.
struct Setup {
    mux: Arc<Mux>,
    inbound: mpsc::Receiver<Inbound>,
    session: Arc<Session>,
}

fn setup() -> Setup {
    let (frames, inbound) = mpsc::channel(16);
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let mux = Mux::bind(
        &crate::Config { listen: "127.0.0.1:0".parse().unwrap(), ..crate::Config::default() },
        metrics,
        frames,
    )
    .unwrap();
    let (relay, peer) = (PeerSlot::new(PeerId::random()), PeerSlot::new(PeerId::random()));
    mux.table.bind(RELAY.parse().unwrap(), &relay);
    let session = Arc::new(Session::new(7, 1, &KEY, relay, peer));
    mux.add_session(&session);
    Setup { mux, inbound, session }
}

fn quic(fill: u8, length: usize) -> Vec<u8> {
    let mut packet = vec![fill; length];
    packet[0] = 0x41;
    packet[1..9].copy_from_slice(&Mark::Raw.connection_id());
    packet
}

fn down(session: u32, counter: u64, payload: &[u8]) -> Vec<u8> {
    let mut header = DataHeader { session, side: 1, down: true, counter, tag: [0; 16] };
    DataKey::new(&KEY).sign(&mut header, payload);
    let mut frame = vec![0; DATA_HEADER];
    header.write(&mut frame);
    frame.extend_from_slice(payload);
    frame
}

fn meta(length: usize, stride: usize) -> RecvMeta {
    RecvMeta { addr: RELAY.parse().unwrap(), len: length, stride, ecn: None, dst_ip: None }
}

/// What waits for the raw endpoint.
fn left(mux: &Mux) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut buffers = vec![[0; 2048]; 64];
    let mut bufs: Vec<IoSliceMut<'_>> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
    let mut metas = [RecvMeta::default(); 64];
    let count = mux.left.take(&mut bufs, &mut metas).unwrap_or(0);
    (0..count).map(|index| (metas[index].addr, bufs[index][..metas[index].len].to_vec())).collect()
}

#[tokio::test]
async fn frames_of_one_session_are_closed_up_in_place() {
    let Setup { mux, session, .. } = setup();
    let packets = [quic(1, 100), quic(2, 100), quic(3, 40)];
    let mut buffer: Vec<u8> =
        packets.iter().zip(0..).flat_map(|(packet, counter)| down(7, counter, packet)).collect();
    let mut meta = meta(buffer.len(), 100 + DATA_HEADER);
    assert!(mux.sort(&mut buffer, &mut meta, 1));
    assert_eq!((meta.addr, meta.stride, meta.len), (session.peer.virtual_address, 100, 240));
    assert_eq!(buffer[..meta.len], packets.concat());
}

#[tokio::test]
async fn a_mixed_batch_is_taken_apart() {
    let Setup { mux, session, mut inbound } = setup();
    let sealed = [vec![SEALED], vec![9; 99 + DATA_HEADER]].concat();
    let (plain, relayed) = (quic(1, 100 + DATA_HEADER), quic(2, 100));
    let mut forged = down(7, 3, &quic(3, 100));
    forged[20] ^= 1;
    let mut buffer = [plain.clone(), down(7, 1, &relayed), sealed.clone(), forged].concat();
    let mut meta = meta(buffer.len(), 100 + DATA_HEADER);
    assert!(!mux.sort(&mut buffer, &mut meta, 1));
    let relay = session.relay.virtual_address;
    assert_eq!(left(&mux), vec![(relay, plain), (session.peer.virtual_address, relayed)]);
    let frame = inbound.try_recv().unwrap();
    assert!(matches!(frame.source, Source::Direct(address) if address == RELAY.parse().unwrap()));
    assert_eq!(frame.frame, sealed);
    assert!(inbound.try_recv().is_err());
}

#[tokio::test]
async fn what_comes_ahead_of_its_session_waits_for_it() {
    let Setup { mux, session, .. } = setup();
    let packet = quic(1, 100);
    let mut buffer = down(8, 0, &packet);
    let mut meta = meta(buffer.len(), buffer.len());
    assert!(!mux.sort(&mut buffer, &mut meta, 1));
    assert_eq!(left(&mux), vec![]);
    let late = Arc::new(Session::new(8, 1, &KEY, session.relay.clone(), session.peer.clone()));
    mux.add_session(&late);
    assert_eq!(left(&mux), vec![(session.peer.virtual_address, packet)]);
}

#[tokio::test]
async fn a_relay_sends_a_batch_on_as_it_came() {
    let Setup { mux, .. } = setup();
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let ends = [PeerSlot::new(PeerId::random()), PeerSlot::new(PeerId::random())];
    let to = receiver.local_addr().unwrap();
    ends[1].set_route(Some(Route::Direct { to, kind: DirectKind::Public }));
    mux.table.forwards.insert(3, Arc::new(Forward::new(ends, &[[1; 16], [2; 16]], 1)));
    mux.writable().await.unwrap();
    let payloads = [quic(1, 64), quic(2, 64), quic(3, 20)];
    let mut buffer = Vec::new();
    for (payload, counter) in payloads.iter().zip(0..) {
        let mut header = DataHeader { session: 3, side: 0, down: false, counter, tag: [0; 16] };
        DataKey::new(&[1; 16]).sign(&mut header, payload);
        let mut frame = vec![0; DATA_HEADER];
        header.write(&mut frame);
        buffer.extend(frame);
        buffer.extend_from_slice(payload);
    }
    let mut meta = meta(buffer.len(), 64 + DATA_HEADER);
    assert!(!mux.sort(&mut buffer, &mut meta, 1));
    for payload in payloads {
        let mut frame = [0; 2048];
        let length = receiver.recv(&mut frame).unwrap();
        let (header, carried) = DataHeader::parse(&frame[..length]).unwrap();
        assert!(header.down && header.side == 1 && DataKey::new(&[2; 16]).verify(&header, carried));
        assert_eq!(carried, payload);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever arrives, in whatever batches: nothing panics, and what is kept lies within the buffer.
    #[test]
    fn arbitrary_batches_are_survived(
        batches in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..400), 0usize..150, 0u8..4), 1..20)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let Setup { mux, .. } = setup();
        for (mut bytes, stride, first) in batches {
            bytes[0] = [bytes[0], 0x10, 0x01, 0x40][usize::from(first)];
            let length = bytes.len();
            let mut meta = meta(length, stride);
            if mux.sort(&mut bytes, &mut meta, 1) {
                prop_assert!(meta.len <= length);
            }
        }
    }
}

#[tokio::test]
async fn what_comes_by_another_route_says_nothing_of_the_one_in_use() {
    let Setup { mux, session, .. } = setup();
    let (peer, other) = (session.peer.clone(), "192.0.2.2:20006".parse().unwrap());
    mux.table.bind(other, &peer);
    let relayed = |counter: u64| {
        let mut frame = down(7, counter, &quic(1, 100));
        let length = frame.len();
        assert!(mux.sort(&mut frame, &mut meta(length, length), 50));
    };
    peer.set_route(Some(Route::Direct { to: other, kind: DirectKind::Punched }));
    relayed(1);
    assert_eq!((peer.traffic.silence(50).1, peer.traffic.received()), (None, 100), "the relay's is not it");
    let mut packet = quic(1, 100);
    mux.sort(&mut packet, &mut RecvMeta { addr: other, ..meta(100, 100) }, 60);
    assert_eq!(peer.traffic.silence(60).1, Some(0));
    peer.set_route(Some(Route::Relayed(session.clone())));
    mux.sort(&mut packet, &mut RecvMeta { addr: other, ..meta(100, 100) }, 70);
    assert_eq!(peer.traffic.silence(70).1, Some(10), "the relay's is it now");
    relayed(2);
    assert_eq!(peer.traffic.silence(70).1, Some(20));
}
