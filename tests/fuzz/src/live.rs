//! A running node under mangled datagrams.
//!
//! A node talks to a relay through a wire-tap on loopback, which passes every datagram on and keeps some: handshakes,
//! hellos, sealed messages, QUIC packets. Then these come back, changed or as they were, from the node's own address
//! and from a stranger's, to both ends, while the node goes on calling the relay. Every call must be answered, and
//! neither end may hold more memory afterwards.

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use edgeloom_tunnel::identity::{Authority, Claims, Identity, Role, Trust};
use edgeloom_tunnel::{Accepted, Alpn, Config, Incoming, PeerId, RelayPeer, Tunnel};
use prometheus::Registry;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::memory;
use crate::mutate::Mutator;

const CLUSTER: &str = "laboratory";
/// Datagrams of each direction that are kept.
const KEPT: usize = 512;
/// Datagrams between two rests of the flood, and the rest: at most 64,000 a second, which a node has time to read.
const BURST: u64 = 64;
const REST: Duration = Duration::from_millis(1);
/// How long a call may take in the flood.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the two nodes may hold more after the flood than after its first tenth.
const GROWTH: u64 = 16 << 20;

/// Floods a relay and a node with `datagrams` datagrams.
pub(crate) fn run(datagrams: u64, seed: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(flooded(datagrams, seed))
}

async fn flooded(datagrams: u64, seed: u64) -> Result<()> {
    let authority = Authority::generate(CLUSTER, SystemTime::now())?;
    let relay = Arc::new(Identity::generate()?);
    let relay_at = StdSocket::bind("127.0.0.1:0")?.local_addr()?;
    let config = Config { listen: relay_at, relay: true, libp2p: false, direct: false, ..Config::default() };
    let (server, incoming) = start(&authority, relay.clone(), Role::Relay, config).await?;
    let tap = WireTap::open(relay_at).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(echo(incoming));
    tasks.spawn(tap.clone().pass_up());
    tasks.spawn(tap.clone().pass_down());
    let relays = vec![RelayPeer { peer: relay.peer_id(), addresses: vec![tap.near.local_addr()?] }];
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config { listen, relays, libp2p: false, direct: false, ..Config::default() };
    let (client, _nothing) = start(&authority, Arc::new(Identity::generate()?), Role::Edge, config).await?;
    for _ in 0..20 {
        call(&client, relay.peer_id()).await.context("before the flood")?;
    }
    let outcome = flood(&client, relay.peer_id(), &tap, datagrams, seed).await;
    client.shutdown(Duration::ZERO).await;
    server.shutdown(Duration::ZERO).await;
    tasks.shutdown().await;
    outcome
}

async fn start(
    authority: &Authority,
    identity: Arc<Identity>,
    role: Role,
    config: Config,
) -> Result<(Tunnel, Incoming)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let credential = authority.sign(&Claims {
        cluster: CLUSTER.to_owned(),
        node: role.as_str().to_owned(),
        node_uid: role.as_str().to_owned(),
        peer: identity.peer_id().to_bytes().into(),
        site: "site".to_owned(),
        roles: [role].into_iter().collect(),
        not_before: now - 60,
        expires: now + 3600,
        serial: 1,
    })?;
    let trust = Trust::new(CLUSTER, [authority.certificate()])?;
    Ok(Tunnel::start(config, identity, credential, trust, &Registry::new()).await?)
}

/// Answers each stream with what it read.
async fn echo(mut incoming: Incoming) {
    let mut streams = JoinSet::new();
    while let Some(accepted) = incoming.accept().await {
        while streams.try_join_next().is_some() {}
        let Accepted::Stream { mut stream, .. } = accepted else { continue };
        streams.spawn(async move {
            let copied = tokio::io::copy(&mut stream.recv, &mut stream.send).await;
            // A stream that broke is seen by its caller.
            let _ = copied.map(|_| stream.send.finish());
        });
    }
}

async fn call(client: &Tunnel, relay: PeerId) -> Result<()> {
    let exchange = async {
        let mut stream = client.open(relay, Alpn::Mesh).await?;
        stream.send.write_all(&[7; 4096]).await?;
        stream.send.finish()?;
        let answer = stream.recv.read_to_end(8192).await?;
        ensure!(answer == [7; 4096], "{} bytes came back, or others than were sent", answer.len());
        Ok(())
    };
    tokio::time::timeout(PATIENCE, exchange).await.context("no answer in time")?
}

/// Sends the flood, and calls through it.
async fn flood(client: &Tunnel, relay: PeerId, tap: &WireTap, datagrams: u64, seed: u64) -> Result<()> {
    let stranger = UdpSocket::bind("127.0.0.1:0").await?;
    let [mut up, mut down] =
        [tap.kept(&tap.up), tap.kept(&tap.down)].map(|kept| Mutator::new(seed, kept, 1500));
    let to_client = tap.client().context("the node sent nothing")?;
    let started = Instant::now();
    let (mut held, mut calls) = (0, 0u64);
    for number in 0..datagrams {
        if number == datagrams / 10 {
            held = memory::anonymous()?;
        }
        // A full socket drops, as a network does.
        let _ = match number % 4 {
            0 => stranger.try_send_to(up.next(), tap.relay),
            1 => tap.far.try_send(up.next()),
            2 => stranger.try_send_to(down.next(), to_client),
            _ => tap.near.try_send_to(down.next(), to_client),
        };
        if number % BURST == 0 {
            tokio::time::sleep(REST).await;
        }
        if number % (datagrams / 50).max(1) == 0 {
            call(client, relay).await.with_context(|| format!("after {number} datagrams"))?;
            calls += 1;
        }
    }
    let grew = memory::anonymous()?.saturating_sub(held);
    crate::row("live", datagrams, None, started, (grew, None));
    println!("{:<12} {calls} calls in the flood, all answered", "");
    ensure!(grew <= GROWTH, "memory grew by {} KiB, {} are allowed", grew >> 10, GROWTH >> 10);
    Ok(())
}

/// Stands between a node and its relay.
struct WireTap {
    /// Where the node believes the relay to be.
    near: UdpSocket,
    /// Where the relay believes the node to be.
    far: UdpSocket,
    relay: SocketAddr,
    client: Mutex<Option<SocketAddr>>,
    up: Mutex<Vec<Vec<u8>>>,
    down: Mutex<Vec<Vec<u8>>>,
}

impl WireTap {
    async fn open(relay: SocketAddr) -> Result<Arc<Self>> {
        let near = UdpSocket::bind("127.0.0.1:0").await?;
        let far = UdpSocket::bind("127.0.0.1:0").await?;
        far.connect(relay).await?;
        Ok(Arc::new(Self {
            near,
            far,
            relay,
            client: Mutex::default(),
            up: Mutex::default(),
            down: Mutex::default(),
        }))
    }

    async fn pass_up(self: Arc<Self>) {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = self.near.recv_from(&mut buffer).await {
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
            keep(&self.up, &buffer[..length]);
            // What the relay's socket does not take is lost, as on a network.
            let _ = self.far.send(&buffer[..length]).await;
        }
    }

    async fn pass_down(self: Arc<Self>) {
        let mut buffer = vec![0; 65_536];
        loop {
            let Ok(length) = self.far.recv(&mut buffer).await else { continue };
            keep(&self.down, &buffer[..length]);
            if let Some(client) = self.client() {
                let _ = self.near.send_to(&buffer[..length], client).await;
            }
        }
    }

    fn client(&self) -> Option<SocketAddr> {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self, of: &Mutex<Vec<Vec<u8>>>) -> Vec<Vec<u8>> {
        of.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn keep(kept: &Mutex<Vec<Vec<u8>>>, datagram: &[u8]) {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() < KEPT {
        kept.push(datagram.to_vec());
    }
}
