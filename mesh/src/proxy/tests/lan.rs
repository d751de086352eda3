//! Flows over TCP on a LAN: as by QUIC, and by QUIC where there is nothing to go by.

use edgeloom_tunnel::LanPeer;
use futures::FutureExt as _;

use crate::measure;
use crate::testing::pair_on_lan;

use super::*;

const FLOWS: &str = "edgeloom_mesh_flows_total";

#[tokio::test]
async fn a_call_with_half_close_in_both_orders() {
    let (a, b) = pair_on_lan().await;
    let (target, port) = listener().await;
    serve([&a, &b], port, &[(LOOPBACK, "b1")]);
    let mut client = call(&a, cluster_ip()).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut server, _) = soon(target.accept()).await.unwrap();
    let mut question = String::new();
    soon(server.read_to_string(&mut question)).await.unwrap();
    assert_eq!(question, "question");
    server.write_all(b"answer").await.unwrap();
    drop(server);
    let mut answer = String::new();
    soon(client.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "answer");

    a.proxy.lan_tcp.make_ready(a.wire.peer).await;
    let mut client = call(&a, cluster_ip()).await;
    let (mut server, _) = soon(target.accept()).await.unwrap();
    server.write_all(b"greeting").await.unwrap();
    server.shutdown().await.unwrap();
    let mut greeting = String::new();
    soon(client.read_to_string(&mut greeting)).await.unwrap();
    client.write_all(b"still here").await.unwrap();
    drop(client);
    let mut rest = String::new();
    soon(server.read_to_string(&mut rest)).await.unwrap();
    assert_eq!((greeting.as_str(), rest.as_str()), ("greeting", "still here"));
    drop(server);
    a.proxy.shutdown(SOON).await;
    assert_eq!(a.metric(FLOWS, &["outgoing", "tcp"]), 2.0);
    assert_eq!(b.metric(FLOWS, &["incoming", "tcp"]), 2.0);
    assert_eq!(a.metric("edgeloom_mesh_connections_total", &["outgoing", "complete"]), 2.0);
    assert_eq!(a.metric("edgeloom_mesh_bytes_total", &["sent"]), 18.0);
    assert_eq!(a.metric("edgeloom_mesh_bytes_total", &["received"]), 14.0);
}

#[tokio::test]
async fn megabytes_both_ways_arrive_whole() {
    let (a, b) = pair_on_lan().await;
    let (target, port) = listener().await;
    serve([&a, &b], port, &[(LOOPBACK, "b1")]);
    both_ways(&a, &target).await;
    assert_eq!(a.metric(FLOWS, &["outgoing", "tcp"]), 1.0);
}

#[tokio::test]
async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let (a, b) = pair_on_lan().await;
    let (target, port) = listener().await;
    serve([&a, &b], port, &[(LOOPBACK, "b1")]);
    for (from_client, half_closed) in [(true, false), (false, false), (true, true), (false, true)] {
        a.proxy.lan_tcp.make_ready(a.wire.peer).await;
        let mut client = call(&a, cluster_ip()).await;
        client.write_all(b"x").await.unwrap();
        let (mut server, _) = soon(target.accept()).await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        server.write_all(b"y").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        let (mut gone, mut left) = if from_client { (client, server) } else { (server, client) };
        if half_closed {
            // The end of one direction has passed; only the other can bring the reset.
            gone.shutdown().await.unwrap();
            assert_eq!(soon(left.read(&mut [0])).await.unwrap(), 0);
        }
        socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
        drop(gone);
        if half_closed {
            soon(async { while left.write_all(b"z").await.is_ok() {} }).await;
        } else {
            let error = soon(left.read(&mut [0])).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{from_client}");
        }
    }
    a.proxy.shutdown(SOON).await;
    assert_eq!(a.metric(FLOWS, &["outgoing", "tcp"]), 4.0);
    assert_eq!(a.metric("edgeloom_mesh_connections_total", &["outgoing", "reset"]), 4.0);
}

#[tokio::test]
async fn a_refusal_says_why_and_another_endpoint_is_tried_with_what_the_client_sent() {
    let (a, b) = pair_on_lan().await;
    let (target, port) = listener().await;
    // Another address of this host, where nobody listens at that port.
    let closed = IpAddr::from([127, 0, 0, 2]);
    serve([&a, &b], port, &[(LOOPBACK, "b1"), (closed, "b1")]);
    for _ in 0..4 {
        a.proxy.lan_tcp.make_ready(a.wire.peer).await;
        a.proxy.lan_tcp.make_ready(a.wire.peer).await;
        let mut client = call(&a, cluster_ip()).await;
        client.write_all(b"hello").await.unwrap();
        let (mut server, _) = soon(target.accept()).await.unwrap();
        let mut hello = [0; 5];
        soon(server.read_exact(&mut hello)).await.unwrap();
        assert_eq!(&hello, b"hello");
    }
    // Once at least the closed one was asked first, and is set aside now.
    assert_eq!(b.metric("edgeloom_mesh_connections_total", &["incoming", "refused"]), 1.0);
    assert_eq!(a.metric("edgeloom_mesh_lan_tcp_dead_total", &[]), 0.0, "a refusal is an answer");
}

#[tokio::test]
async fn a_connection_that_is_dead_is_no_error_of_the_client_s() {
    let (a, b) = pair_on_lan().await;
    let (target, port) = listener().await;
    serve([&a, &b], port, &[(LOOPBACK, "b1")]);
    let cut = lan(&a).await;
    a.proxy.lan_tcp.make_ready(a.wire.peer).await;
    cut.send(true).unwrap();
    let mut client = call(&a, cluster_ip()).await;
    client.write_all(b"hello").await.unwrap();
    let (mut server, _) = soon(target.accept()).await.unwrap();
    let mut hello = [0; 5];
    soon(server.read_exact(&mut hello)).await.unwrap();
    assert_eq!(&hello, b"hello");
    server.write_all(b"!").await.unwrap();
    soon(client.read_exact(&mut [0])).await.unwrap();
    assert_eq!(a.metric(FLOWS, &["outgoing", "quic"]), 1.0);
    assert_eq!(a.metric("edgeloom_mesh_lan_tcp_dead_total", &[]), 1.0);
    // What is ready is not tried again for a while: flows go by QUIC without waiting.
    assert_eq!(a.proxy.lan_tcp.ready(a.wire.peer), 0);
    let mut client = call(&a, cluster_ip()).await;
    client.write_all(b"again").await.unwrap();
    soon(target.accept()).await.unwrap();
    assert_eq!(a.metric("edgeloom_mesh_lan_tcp_dead_total", &[]), 1.0);
}

#[tokio::test]
async fn an_endpoint_that_is_slow_to_take_a_connection_is_waited_for() {
    let (a, b) = pair_on_lan().await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((LOOPBACK, 0).into()).unwrap();
    // One connection waits to be accepted; the next one's SYN is dropped, and sent again after a second.
    let target = socket.listen(0).unwrap();
    let address = target.local_addr().unwrap();
    let _first = TcpStream::connect(address).await.unwrap();
    serve([&a, &b], address.port(), &[(LOOPBACK, "b1")]);
    let mut client = call(&a, cluster_ip()).await;
    client.write_all(b"hello").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    soon(target.accept()).await.unwrap();
    let (mut server, _) = soon(target.accept()).await.unwrap();
    let mut hello = [0; 5];
    soon(server.read_exact(&mut hello)).await.unwrap();
    assert_eq!(&hello, b"hello");
    assert_eq!(a.metric(FLOWS, &["outgoing", "tcp"]), 1.0);
    assert_eq!(a.metric("edgeloom_mesh_lan_tcp_dead_total", &[]), 0.0);
    assert!(target.accept().now_or_never().is_none(), "connected to once");
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_not_used() {
    let (a, b) = pair_on_lan().await;
    assert_eq!(a.proxy.lan_tcp.ready(a.wire.peer), 1);
    // The other agent ends what waits there.
    b.proxy.force.cancel();
    let closed = async {
        while a.proxy.lan_tcp.ready(a.wire.peer) > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(closed).await;
    assert!(a.proxy.lan_tcp.take(a.wire.peer).is_none());
}

#[tokio::test]
async fn an_upload_ends_with_its_lan() {
    let (a, b) = pair_on_lan().await;
    let (target, port) = listener().await;
    serve([&a, &b], port, &[(LOOPBACK, "b1")]);
    let cut = lan(&a).await;
    a.proxy.lan_tcp.make_ready(a.wire.peer).await;
    let mut client = call(&a, cluster_ip()).await;
    client.write_all(b"first").await.unwrap();
    // Its endpoint takes what comes and says nothing.
    let (mut server, _) = soon(target.accept()).await.unwrap();
    soon(server.read_exact(&mut [0; 5])).await.unwrap();
    assert_eq!(a.metric(FLOWS, &["outgoing", "tcp"]), 1.0);
    cut.send(true).unwrap();
    let upload = async {
        loop {
            if let Err(error) = client.write_all(&[7; 64 << 10]).await {
                break error;
            }
        }
    };
    tokio::pin!(upload);
    // How long nothing was acknowledged the kernel knows by its own clock.
    let kernel = Duration::from_millis(1_200);
    assert!(tokio::time::timeout(kernel, &mut upload).await.is_err(), "a second is no sign of a lost LAN");
    tokio::time::pause();
    assert_eq!(soon(upload).await.kind(), ErrorKind::ConnectionReset);
    assert_eq!(a.metric("edgeloom_mesh_connections_total", &["outgoing", "reset"]), 1.0);
}

/// Puts a LAN between `a` and the other node that lets everything pass until it is told to be cut.
async fn lan(a: &Node) -> tokio::sync::watch::Sender<bool> {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let beyond = a.wire.lan.lock().unwrap().replace(LanPeer { address, bytes: 0 }).unwrap().address;
    let (cut, is_cut) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(beyond).await.unwrap();
            let mut is_cut = is_cut.clone();
            tokio::spawn(async move {
                let silent = async {
                    let _ = is_cut.wait_for(|cut| *cut).await;
                };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                    () = silent => [&near, &far].map(deafen),
                };
                std::future::pending().await
            });
        }
    });
    cut
}

/// Has the kernel drop what comes to a socket before TCP sees it: nothing is acknowledged.
fn deafen(tcp: &TcpStream) {
    let nothing = u16::try_from(libc::BPF_RET | libc::BPF_K).unwrap();
    socket2::SockRef::from(tcp).attach_filter(&[socket2::SockFilter::new(nothing, 0, 0, 0)]).unwrap();
}

#[tokio::test]
async fn both_ways_are_compared() {
    let (a, _b) = pair_on_lan().await;
    let (quic, tcp) = soon(measure::compare(&*a.wire, a.wire.peer)).await.unwrap();
    assert!(quic > 0.0 && tcp > 0.0, "{quic} and {tcp} bytes a second");
}
