//! Who is no member, or is one no longer, and what it gets.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edgeloom_tunnel::identity::Identity;
use edgeloom_tunnel::wire::frame::{Control, DataHeader};
use edgeloom_tunnel::{Alpn, Config, RelayPeer};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::common::{Cluster, Node, Relay, config};
use crate::middlebox::Middlebox;

/// Longer than any answer takes on one host.
const SILENCE: Duration = Duration::from_millis(300);

/// Sends `packets` from an address of its own; what comes back.
async fn tell(node: &Relay, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for packet in packets {
        socket.send_to(packet, node.address).await.unwrap();
    }
    let (mut answers, mut buffer) = (Vec::new(), [0; 2048]);
    while let Ok(received) = timeout(SILENCE, socket.recv(&mut buffer)).await {
        answers.push(buffer[..received.unwrap()].to_vec());
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_and_comes_again_is_not_answered() {
    let cluster = Cluster::new("test");
    let relay = Relay::new();
    let control = relay.start(&cluster).await;
    let tap = Middlebox::new(relay.address, true).await;
    let relays = vec![RelayPeer { peer: relay.peer.peer, addresses: vec![tap.address] }];
    let a = cluster.node("a", Config { direct: false, relays, ..config(None) }).await;
    let b = cluster.node("b", Config { direct: false, ..config(Some(&relay)) }).await;
    a.tunnel.set_peers(vec![b.as_peer()]);
    a.echo(&b, 100_000).await.unwrap();
    a.echo(&control, 1000).await.unwrap();
    let recorded = tap.sent.lock().unwrap().clone();
    let of = |first: u8| recorded.iter().filter(|packet| packet[0] == first).cloned().collect::<Vec<_>>();
    let (sealed, hellos, data) = (of(0x01), of(0x02), of(0x10));
    assert!(!sealed.is_empty() && !hellos.is_empty() && !data.is_empty());
    assert_eq!(tell(&relay, &[sealed, hellos].concat()).await, Vec::<Vec<u8>>::new());
    // Data is sent on, to who knows it already; whoever repeats it hears nothing.
    assert!(data.iter().all(|frame| DataHeader::parse(frame).is_ok()));
    assert_eq!(tell(&relay, &data).await, Vec::<Vec<u8>>::new());
    // Neither the peer's path nor its connections were touched.
    a.echo(&b, 100_000).await.unwrap();
    assert!(control.counter("edgeloom_tunnel_dropped_packets_total") >= 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_by_name_whose_credential_ran_out_gets_no_answer() {
    let cluster = Cluster::new("test");
    let relay = Relay::new();
    let control = relay.start(&cluster).await;
    let patience = Config { connect_timeout: Duration::from_millis(700), ..config(Some(&relay)) };
    let start = |end: SystemTime| {
        let identity = Arc::new(Identity::generate().unwrap());
        cluster.node_until("a", identity, patience.clone(), end)
    };
    let hour = Duration::from_secs(3600);
    let (good, lapsed) = (start(SystemTime::now() + hour).await, start(SystemTime::now() - hour).await);
    // The control names every node of the cluster, whatever became of its credential.
    control.tunnel.set_peers(vec![good.as_peer(), lapsed.as_peer()]);
    let calls = async |node: &Node| node.tunnel.open(control.id(), Alpn::Mesh).await;
    calls(&good).await.unwrap();
    calls(&lapsed).await.unwrap_err();
    assert!(control.status_of(&good).path.is_direct());
    assert!(!control.status_of(&lapsed).path.is_direct(), "it was believed to be somewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_nobody_known_is_asked_who_it_is_in_fewer_bytes() {
    let cluster = Cluster::new("test");
    let relay = Relay::new();
    let _control = relay.start(&cluster).await;
    let frame = Control::Sealed { from: [7; 8], nonce: [0; 12], sealed: &[0; 34] }.encode();
    let answers = tell(&relay, std::slice::from_ref(&frame)).await;
    assert_eq!(answers, [Control::WhoAreYou { hint: [7; 8] }.encode()]);
    assert!(answers[0].len() < frame.len());
}
