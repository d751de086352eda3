//! A node, a relay, and a transfer between two nodes: what the tunnel does, to be tried by hand.
//!
//! All nodes share one folder with the cluster's CA and their keys, so this is for a laboratory only.
//!
//! ```text
//! node /tmp/c relay --serve                          # on a host that all reach
//! node /tmp/c b --relay relay=203.0.113.10:20006     # behind a NAT
//! node /tmp/c a --relay relay=203.0.113.10:20006 --to b --megabytes 100
//! ```

use std::net::SocketAddr;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::Parser;
use edgeloom_model::{NodeName, Site};
use edgeloom_tunnel::identity::{Authority, Claims, Identity, Role, SignedCredential, Trust, write_private};
use edgeloom_tunnel::{
    Accepted, Alpn, Carriers, Config, Congestion, Incoming, Path, Peer, Proxy, RelayPeer, Tunnel,
};
use prometheus::{Registry, TextEncoder};
use tokio::io::AsyncWriteExt as _;

const CLUSTER: &str = "laboratory";
const CHUNK: usize = 256 << 10;

/// A node of the overlay.
#[derive(Parser)]
struct Arguments {
    /// Folder that all nodes share: CA and keys.
    folder: PathBuf,
    /// Name of this node.
    name: String,
    /// Address to listen on.
    #[arg(long, default_value = "[::]:20006")]
    listen: SocketAddr,
    /// Serve as a relay.
    #[arg(long)]
    serve: bool,
    /// As a relay, take WebSockets over TLS here.
    #[arg(long)]
    websocket: Option<SocketAddr>,
    /// Take no TLS over TCP.
    #[arg(long)]
    no_tls: bool,
    /// HTTP proxy on the way to WebSockets, as http://[USER:PASSWORD@]HOST:PORT.
    #[arg(long)]
    proxy: Option<String>,
    /// A relay and its address, as NAME=ADDRESS:PORT.
    #[arg(long)]
    relay: Vec<String>,
    /// Forbid direct paths.
    #[arg(long)]
    no_direct: bool,
    /// Where to remember peers.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Site of this node; by default its name.
    #[arg(long)]
    site: Option<String>,
    /// Connect to this node.
    #[arg(long)]
    to: Option<String>,
    /// Send this much to it.
    #[arg(long, default_value_t = 0)]
    megabytes: usize,
    /// Wait for a direct path before the transfer, at most this long.
    #[arg(long, default_value_t = 5)]
    patience: u64,
    /// Ask for 64 bytes this often, one request after the other.
    #[arg(long, default_value_t = 0)]
    requests: usize,
    /// Ask for 64 bytes every so many seconds, each time on a new stream, until interrupted.
    #[arg(long)]
    every: Option<u64>,
    /// Congestion control: auto, bbr or cubic.
    #[arg(long, default_value = "auto")]
    congestion: String,
    /// Print the metrics at the end.
    #[arg(long)]
    metrics: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let arguments = Arguments::parse();
    let authority = authority(&arguments.folder)?;
    let identity = identity(&arguments.folder, &arguments.name)?;
    let credential = credential(&authority, &identity, &arguments)?;
    let trust = Trust::new(CLUSTER, [authority.certificate()])?;
    let registry = Registry::new();
    let (tunnel, incoming) =
        Tunnel::start(config(&arguments)?, Arc::new(identity), credential, trust, &registry).await?;
    let started = Instant::now();
    println!("{} is {}", arguments.name, tunnel.peer_id());
    tokio::spawn(serve(incoming));
    if let Some(to) = &arguments.to {
        visit(&tunnel, &arguments, to, started).await?;
    } else {
        tokio::signal::ctrl_c().await?;
    }
    if arguments.metrics {
        print!("{}", TextEncoder::new().encode_to_string(&registry.gather())?);
    }
    tunnel.shutdown(Duration::from_millis(500)).await;
    Ok(())
}

fn authority(folder: &FilePath) -> Result<Authority> {
    let (certificate, key) = (folder.join("ca.der"), folder.join("ca.key"));
    if !key.exists() {
        let authority = Authority::generate(CLUSTER, SystemTime::now())?;
        write_private(&certificate, authority.certificate())?;
        write_private(&key, authority.private_key())?;
    }
    Ok(Authority::from_parts(std::fs::read(certificate)?, std::fs::read(key)?)?)
}

fn identity(folder: &FilePath, name: &str) -> Result<Identity> {
    Ok(Identity::load_or_create(&folder.join(format!("{name}.identity")))?)
}

fn credential(authority: &Authority, identity: &Identity, arguments: &Arguments) -> Result<SignedCredential> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let role = if arguments.serve { Role::Relay } else { Role::Edge };
    Ok(authority.sign(&Claims {
        cluster: CLUSTER.to_owned(),
        node: arguments.name.clone(),
        node_uid: arguments.name.clone(),
        peer: identity.peer_id().to_bytes().into(),
        site: arguments.site.clone().unwrap_or_else(|| arguments.name.clone()),
        roles: [role].into_iter().collect(),
        not_before: now - 60,
        expires: now + 86_400,
        serial: rand::random(),
    })?)
}

fn config(arguments: &Arguments) -> Result<Config> {
    let relay = |text: &String| {
        let (name, address) = text.split_once('=').context("--relay: expected NAME=ADDRESS:PORT")?;
        let peer = identity(&arguments.folder, name)?.peer_id();
        Ok(RelayPeer { peer, addresses: vec![address.parse()?] })
    };
    Ok(Config {
        listen: arguments.listen,
        relay: arguments.serve,
        carriers: Carriers {
            listen: !arguments.no_tls,
            websocket_listen: arguments.websocket,
            proxy: arguments.proxy.as_ref().map(|url| Proxy::parse(url, "")).transpose()?,
            ..Carriers::default()
        },
        relays: arguments.relay.iter().map(relay).collect::<Result<_>>()?,
        direct: !arguments.no_direct,
        state_dir: arguments.state.clone(),
        congestion: match arguments.congestion.as_str() {
            "bbr" => Congestion::Bbr,
            "cubic" => Congestion::Cubic,
            _ => Congestion::Auto,
        },
        ..Config::default()
    })
}

/// Answers requests of 64 bytes; of longer streams, counts the bytes and says how many there were.
async fn serve(mut incoming: Incoming) {
    while let Some(accepted) = incoming.accept().await {
        let Accepted::Stream { mut stream, .. } = accepted else { continue };
        tokio::spawn(async move {
            let mut count = 0u64;
            while let Ok(Some(chunk)) = stream.recv.read_chunk(usize::MAX, true).await {
                count += chunk.bytes.len() as u64;
                if chunk.bytes[..] == [7; 64] && stream.send.write_all(&chunk.bytes).await.is_err() {
                    return;
                }
            }
            let _ = stream.send.write_all(format!("{count}").as_bytes()).await;
            let _ = stream.send.finish();
        });
    }
}

async fn visit(tunnel: &Tunnel, arguments: &Arguments, to: &str, started: Instant) -> Result<()> {
    let peer = identity(&arguments.folder, to)?.peer_id();
    let site = Site::new(to)?;
    tunnel.set_peers(vec![Peer { peer, node: NodeName::new(to)?, site, addresses: Vec::new() }]);
    let path =
        || tunnel.peers().into_iter().find(|status| status.peer == peer).map_or(Path::None, |s| s.path);
    let mut stream = tunnel.open(peer, Alpn::Mesh).await?;
    request(&mut stream).await?;
    println!("first answer after {:?}, {}", started.elapsed(), path());
    let patience = Duration::from_secs(arguments.patience);
    while !path().is_direct() && started.elapsed() < patience {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("after {:?}: {}", started.elapsed(), path());
    println!("ping: {:?}", tunnel.ping(peer).await?.rtt);
    if arguments.requests > 0 {
        let mut times = Vec::with_capacity(arguments.requests);
        for _ in 0..arguments.requests {
            let begun = Instant::now();
            request(&mut stream).await?;
            times.push(begun.elapsed());
        }
        times.sort();
        println!("64 B request: p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
    }
    if arguments.megabytes > 0 {
        transfer(tunnel, peer, arguments.megabytes).await?;
        println!("afterwards: {}", path());
    }
    while let Some(seconds) = arguments.every {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let begun = Instant::now();
        let answer = async { request(&mut tunnel.open(peer, Alpn::Mesh).await?).await };
        match tokio::time::timeout(Duration::from_secs(10), answer).await {
            Ok(Ok(())) => println!("{:?}: answer in {:?}, {}", started.elapsed(), begun.elapsed(), path()),
            Ok(Err(error)) => println!("{:?}: {error:#}", started.elapsed()),
            Err(_) => println!("{:?}: no answer", started.elapsed()),
        }
    }
    Ok(())
}

async fn request(stream: &mut edgeloom_tunnel::Stream) -> Result<()> {
    stream.send.write_all(&[7; 64]).await?;
    let mut answer = [0; 64];
    stream.recv.read_exact(&mut answer).await?;
    Ok(())
}

async fn transfer(tunnel: &Tunnel, peer: edgeloom_tunnel::PeerId, megabytes: usize) -> Result<()> {
    let mut stream = tunnel.open(peer, Alpn::Mesh).await?;
    let chunk = bytes::Bytes::from(vec![0x5a; CHUNK]);
    let total = megabytes << 20;
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    for _ in 0..total.div_ceil(CHUNK) {
        let before = Instant::now();
        stream.send.write_chunk(chunk.clone()).await?;
        longest = longest.max(before.elapsed());
    }
    stream.send.shutdown().await?;
    let answer = String::from_utf8(stream.recv.read_to_end(64).await?)?;
    let time = begun.elapsed();
    let rate = total as f64 * 8.0 / time.as_secs_f64() / 1e6;
    println!("{answer} bytes in {time:.2?}: {rate:.0} Mbit/s, longest wait for a write {longest:.0?}");
    Ok(())
}
