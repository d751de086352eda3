//! The server on loopback sockets, with upstream servers of the tests' own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use edgeloom_model::Model;
use hickory_proto::op::Query;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use super::*;

fn zone() -> Arc<ArcSwap<Zone>> {
    let mut model = Model::default();
    for (name, spec) in [
        ("orders", json!({"clusterIPs": ["10.96.0.10"], "ports": [{"port": 80}]})),
        ("outside", json!({"type": "ExternalName", "externalName": "www.example.com"})),
        ("circle", json!({"type": "ExternalName", "externalName": "circle.shop.svc.cluster.local"})),
    ] {
        let object = json!({"apiVersion": "v1", "kind": "Service",
                            "metadata": {"namespace": "shop", "name": name}, "spec": spec});
        model.put(&object).unwrap();
    }
    Arc::new(ArcSwap::from_pointee(Zone::build(model, "cluster.local").unwrap()))
}

async fn start(upstreams: Vec<SocketAddr>) -> (Server, SocketAddr) {
    let config = ServerConfig { listen: vec![edgeloom_ports::free()], upstreams, ..ServerConfig::default() };
    let server = Server::start(config, zone(), &Registry::new(), CancellationToken::new()).await.unwrap();
    let address = server.addresses()[0];
    (server, address)
}

fn query(name: &str) -> Message {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    query
}

async fn ask(server: SocketAddr, name: &str) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query(name).to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 4096];
    let length = timeout(Duration::from_secs(8), socket.recv(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

/// An upstream server that knows every name; it tells over TCP what it cuts short by datagram.
async fn upstream(cuts: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let (udp, tcp) = bind(edgeloom_ports::free()).await.unwrap();
    let address = udp.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let answer = |packet: &[u8]| {
        let query = Message::from_vec(packet).unwrap();
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.add_queries(query.queries.clone());
        let name = query.queries[0].name().clone();
        let data = RData::A(std::net::Ipv4Addr::new(192, 0, 2, 80).into());
        answer.add_answer(Record::from_rdata(name, 60, data));
        answer
    };
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                got = udp.recv_from(&mut buffer) => {
                    let (length, from) = got.unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                    let answer = answer(&buffer[..length]);
                    let answer = if cuts { answer.truncate() } else { answer };
                    udp.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
                }
                got = tcp.accept() => {
                    let mut stream = got.unwrap().0;
                    let packet = read_frame(&mut stream).await.unwrap().unwrap();
                    write_frame(&mut stream, &answer(&packet).to_vec().unwrap()).await.unwrap();
                }
            }
        }
    });
    (address, asked)
}

/// An address where nothing answers, and nothing refuses either.
async fn silent() -> (SocketAddr, UdpSocket) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    (socket.local_addr().unwrap(), socket)
}

#[tokio::test]
async fn cluster_names_need_no_upstream() {
    let (server, at) = start(Vec::new()).await;
    let answer = ask(at, "orders.shop.svc.cluster.local.").await;
    assert_eq!(answer.answers.len(), 1);
    let answer = ask(at, "nobody.shop.svc.cluster.local.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    server.shutdown().await;
}

#[tokio::test]
async fn tcp_answers_several_questions_in_turn() {
    let (server, at) = start(Vec::new()).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    for name in ["orders.shop.svc.cluster.local.", "nobody.shop.svc.cluster.local."] {
        write_frame(&mut stream, &query(name).to_vec().unwrap()).await.unwrap();
        let answer = Message::from_vec(&read_frame(&mut stream).await.unwrap().unwrap()).unwrap();
        assert_eq!(answer.queries[0].name().to_ascii(), name);
    }
    // Ending the server ends its connections.
    server.shutdown().await;
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn other_names_are_asked_for_once_and_kept() {
    let (address, asked) = upstream(false).await;
    let (server, at) = start(vec![address]).await;
    for name in ["www.example.com.", "www.example.com.", "WWW.example.com."] {
        let answer = ask(at, name).await;
        assert_eq!(answer.answers.len(), 1, "{answer:?}");
        assert!(answer.metadata.recursion_available && !answer.metadata.authoritative);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    server.shutdown().await;
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp() {
    let (address, _) = upstream(true).await;
    let (server, at) = start(vec![address]).await;
    assert_eq!(ask(at, "www.example.com.").await.answers.len(), 1);
    server.shutdown().await;
}

#[tokio::test]
async fn aliases_are_followed_upstream_and_circles_end() {
    let (address, _) = upstream(false).await;
    let (server, at) = start(vec![address]).await;
    let answer = ask(at, "outside.shop.svc.cluster.local.").await;
    let kinds: Vec<_> = answer.answers.iter().map(Record::record_type).collect();
    assert_eq!(kinds, [RecordType::CNAME, RecordType::A]);
    let answer = ask(at, "circle.shop.svc.cluster.local.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    server.shutdown().await;
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_is_silent() {
    let (dead, _open) = silent().await;
    let (alive, asked) = upstream(false).await;
    let (server, at) = start(vec![dead, alive]).await;
    for index in 0..4 {
        assert_eq!(ask(at, &format!("{index}.example.com.")).await.answers.len(), 1);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 4);
    // By now the silent one rests, and holds nobody up.
    let start = Instant::now();
    ask(at, "fast.example.com.").await;
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    server.shutdown().await;
}

#[tokio::test]
async fn without_servers_a_question_fails_fast() {
    // A port where nobody listens answers by ICMP: known at once.
    let (closed, socket) = silent().await;
    drop(socket);
    let (server, at) = start(vec![closed]).await;
    let (start_at, answer) = (Instant::now(), ask(at, "www.example.com.").await);
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(start_at.elapsed() < Duration::from_millis(500));
    server.shutdown().await;
}

#[tokio::test]
async fn it_never_asks_itself() {
    let own = edgeloom_ports::free();
    let config = ServerConfig { listen: vec![own], upstreams: vec![own], ..ServerConfig::default() };
    let server = Server::start(config, zone(), &Registry::new(), CancellationToken::new()).await.unwrap();
    let answer = ask(own, "www.example.com.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    server.shutdown().await;
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let config = ServerConfig { listen: vec![taken.local_addr().unwrap()], ..ServerConfig::default() };
    let error = Server::start(config, zone(), &Registry::new(), CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains(&taken.local_addr().unwrap().to_string()), "{error}");
}
