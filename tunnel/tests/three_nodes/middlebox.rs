//! What stands between a node and its relay, or a peer: passes TCP, and UDP while it is told to, or some of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// A firewall in front of a relay, with an address of its own. Serves one node.
pub(crate) struct Middlebox {
    pub(crate) address: SocketAddr,
    /// Percent of UDP that is lost each way.
    loss: Arc<AtomicU8>,
    /// What the node sent by UDP, kept.
    pub(crate) sent: Arc<Mutex<Vec<Vec<u8>>>>,
    _tasks: JoinSet<()>,
}

impl Middlebox {
    pub(crate) async fn new(relay: SocketAddr, udp: bool) -> Self {
        let address = edgeloom_ports::free();
        let loss = Arc::new(AtomicU8::new(if udp { 0 } else { 100 }));
        let mut tasks = JoinSet::new();
        tasks.spawn(pass_tcp(TcpListener::bind(address).await.unwrap(), relay));
        let sent = Arc::default();
        let near = UdpSocket::bind(address).await.unwrap();
        tasks.spawn(pass_udp(near, relay, loss.clone(), Arc::clone(&sent)));
        Self { address, loss, sent, _tasks: tasks }
    }

    pub(crate) fn pass_udp(&self, pass: bool) {
        self.lose(if pass { 0 } else { 100 });
    }

    /// So many percent of UDP are lost each way.
    pub(crate) fn lose(&self, percent: u8) {
        self.loss.store(percent, Ordering::SeqCst);
    }
}

async fn pass_tcp(listener: TcpListener, to: SocketAddr) {
    let mut passing = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        passing.spawn(async move {
            if let Ok(mut far) = TcpStream::connect(to).await {
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}

async fn pass_udp(near: UdpSocket, to: SocketAddr, loss: Arc<AtomicU8>, sent: Arc<Mutex<Vec<Vec<u8>>>>) {
    let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    far.connect(to).await.unwrap();
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let mut node = None;
    let passes = || rand::random_range(0..100) >= loss.load(Ordering::SeqCst);
    loop {
        tokio::select! {
            Ok((count, from)) = near.recv_from(&mut up) => {
                node = Some(from);
                sent.lock().unwrap().push(up[..count].to_vec());
                if passes() {
                    let _ = far.send(&up[..count]).await;
                }
            }
            received = far.recv(&mut down) => {
                if let (Ok(count), Some(node), true) = (received, node, passes()) {
                    let _ = near.send_to(&down[..count], node).await;
                }
            }
        }
    }
}

/// An HTTP proxy that knows CONNECT and asks for a password.
pub(crate) struct HttpProxy {
    pub(crate) address: SocketAddr,
    /// Connections that it made.
    pub(crate) connected: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl HttpProxy {
    pub(crate) async fn new(authorization: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connected = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let connected = connected.clone();
            async move {
                let mut passing = JoinSet::new();
                while let Ok((near, _)) = listener.accept().await {
                    passing.spawn(connect(near, authorization, connected.clone()));
                }
            }
        });
        Self { address, connected, _tasks: tasks }
    }
}

async fn connect(mut near: TcpStream, authorization: &str, connected: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(near.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    if !head.contains(&format!("Proxy-Authorization: {authorization}\r\n")) {
        let _ = near.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
        return;
    }
    let target = head.split(' ').nth(1).unwrap().to_owned();
    let mut far = TcpStream::connect(target).await.unwrap();
    near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    connected.fetch_add(1, Ordering::SeqCst);
    let _ = copy_bidirectional(&mut near, &mut far).await;
}
