//! The server on its own address, in a network namespace made for the test. Needs root; says so and
//! passes without.

#![expect(clippy::unwrap_used, reason = "a test that meets an error here has failed")]

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use edgeloom_dns::{Server, ServerConfig, Zone};
use edgeloom_model::Model;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use nix::sched::{CloneFlags, unshare};
use prometheus::Registry;
use serde_json::json;
use tokio_util::sync::CancellationToken;

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn ask(server: SocketAddr, name: &str) -> Message {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    socket.send_to(&query.to_vec().unwrap(), server).unwrap();
    let mut buffer = [0; 4096];
    // Only who was asked may answer, or resolvers ignore it.
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(from, server);
    Message::from_vec(&buffer[..length]).unwrap()
}

#[test]
fn it_brings_its_address_and_takes_it_away() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED it_brings_its_address_and_takes_it_away: needs root");
        return;
    }
    // Of this thread, and of the runtime in it.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    let mut model = Model::default();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "orders"},
                         "spec": {"clusterIPs": ["10.96.0.10"], "ports": [{"port": 80}]}});
    model.put(&service).unwrap();
    let zone = Arc::new(ArcSwap::from_pointee(Zone::build(model, "cluster.local").unwrap()));
    let listen: Vec<SocketAddr> =
        vec!["169.254.96.16:53".parse().unwrap(), "[fd00:96::16]:53".parse().unwrap()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for _ in 0..2 {
            let config = ServerConfig {
                listen: listen.clone(),
                // Nothing is reachable from here: as with the uplink cut.
                upstreams: vec!["192.0.2.1:53".parse().unwrap()],
                ..ServerConfig::default()
            };
            let server = Server::start(config, zone.clone(), &Registry::new(), CancellationToken::new())
                .await
                .unwrap();
            for at in listen.clone() {
                // A thread is born into the namespace of the one that makes it.
                let asked = std::thread::spawn(move || {
                    (ask(at, "orders.shop.svc.cluster.local."), ask(at, "www.example.com."))
                });
                while !asked.is_finished() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let (inside, outside) = asked.join().unwrap();
                assert_eq!(inside.answers.len(), 1);
                assert_eq!(outside.metadata.response_code, ResponseCode::ServFail);
            }
            assert!(ip("address show dev lo").contains("169.254.96.16/32"));
            server.shutdown().await;
            assert!(!ip("address show dev lo").contains("96"), "{}", ip("address show dev lo"));
        }
        // An address that was there before is the operator's, and stays.
        ip("address add 169.254.96.16/32 dev lo");
        let config = ServerConfig { listen: listen[..1].to_vec(), ..ServerConfig::default() };
        let server = Server::start(config, zone, &Registry::new(), CancellationToken::new()).await.unwrap();
        server.shutdown().await;
        assert!(ip("address show dev lo").contains("169.254.96.16/32"));
    });
}
