//! A process that holds tunnels.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use edgeloom_model::{NodeName, Site};
use edgeloom_tunnel::identity::{Authority, Claims, Identity, Role, Trust, write_private};
use edgeloom_tunnel::{Accepted, Alpn, Config, Incoming, Peer, Stream, Tunnel};
use prometheus::Registry;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::JoinSet;

/// Name of the cluster, and of the one site.
const CLUSTER: &str = "bench";
const CERTIFICATE: &str = "ca.der";
const KEY: &str = "ca.key";
/// How long credentials hold, in seconds: longer than any run.
const LIFE: u64 = 86_400;
/// Bytes that a stream carries each way.
const BLOCK: usize = 64;

/// What a process holds.
#[derive(Debug, Args)]
pub(crate) struct Holder {
    /// Folder that all processes share: CA and keys.
    #[arg(long)]
    folder: PathBuf,
    /// Tunnels, as NAME=ADDRESS:PORT.
    tunnels: Vec<String>,
}

/// Makes the CA.
pub(super) fn create(folder: &Path) -> Result<()> {
    let authority = Authority::generate(CLUSTER, SystemTime::now())?;
    write_private(&folder.join(CERTIFICATE), authority.certificate())?;
    Ok(write_private(&folder.join(KEY), authority.private_key())?)
}

/// Holds them until standard input ends.
pub(crate) async fn hold(holder: &Holder) -> Result<()> {
    let mut tunnels = Vec::new();
    let mut served = JoinSet::new();
    for place in &holder.tunnels {
        let (tunnel, incoming) = start(&holder.folder, place).await?;
        served.spawn(serve(incoming));
        tunnels.push(tunnel);
    }
    println!("done");
    let mut kept = Vec::new();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match obey(&holder.folder, &tunnels, &line, &mut kept).await {
            Ok(()) => println!("done"),
            Err(error) => println!("{error:#}"),
        }
    }
    Ok(())
}

async fn obey(folder: &Path, tunnels: &[Tunnel], line: &str, kept: &mut Vec<Stream>) -> Result<()> {
    let mut words = line.split(' ');
    let (verb, count) = (words.next().unwrap_or_default(), words.next().context("no count")?.parse()?);
    let peers = words.map(|place| peer(folder, place)).collect::<Result<Vec<_>>>()?;
    match verb {
        // One of one's own to so many, or so many of one's own to one: whichever there are more of.
        "dial" => {
            for (index, tunnel) in tunnels.iter().enumerate().take(count) {
                let peers = if tunnels.len() > 1 { &peers[..1] } else { &peers[..count] };
                tunnel.set_peers(peers.to_vec());
                for peer in peers {
                    let asked = ask(tunnel, peer).await;
                    asked.with_context(|| format!("tunnel {index} to {}", peer.node))?;
                }
            }
        }
        "open" => {
            let (tunnel, peer) = (tunnels.first().context("no tunnel")?, peers.first().context("no peer")?);
            for _ in 0..count {
                kept.push(ask(tunnel, peer).await?);
            }
        }
        _ => bail!("{verb:?} is no verb"),
    }
    Ok(())
}

/// A stream that carried a block each way.
async fn ask(tunnel: &Tunnel, peer: &Peer) -> Result<Stream> {
    let mut stream = tunnel.open(peer.peer, Alpn::Mesh).await?;
    stream.send.write_all(&[7; BLOCK]).await?;
    let mut answer = [0; BLOCK];
    stream.recv.read_exact(&mut answer).await?;
    ensure!(answer == [7; BLOCK], "another answer");
    Ok(stream)
}

/// Sends back what comes.
async fn serve(mut incoming: Incoming) {
    let mut streams = JoinSet::new();
    while let Some(accepted) = incoming.accept().await {
        if let Accepted::Stream { mut stream, .. } = accepted {
            streams.spawn(async move {
                let mut block = [0; BLOCK];
                while stream.recv.read_exact(&mut block).await.is_ok() {
                    if stream.send.write_all(&block).await.is_err() {
                        return;
                    }
                }
            });
        }
        while streams.try_join_next().is_some() {}
    }
}

async fn start(folder: &Path, place: &str) -> Result<(Tunnel, Incoming)> {
    let (name, listen) = split(place)?;
    let read = |name| std::fs::read(folder.join(name));
    let authority = Authority::from_parts(read(CERTIFICATE)?, read(KEY)?)?;
    let identity = identity(folder, name)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let credential = authority.sign(&Claims {
        cluster: CLUSTER.to_owned(),
        node: name.to_owned(),
        node_uid: name.to_owned(),
        peer: identity.peer_id().to_bytes().into(),
        site: CLUSTER.to_owned(),
        roles: [Role::Edge].into_iter().collect(),
        not_before: now - 60,
        expires: now + LIFE,
        serial: now,
    })?;
    let trust = Trust::new(CLUSTER, [authority.certificate()])?;
    // libp2p has connections of its own, to relays only, and there are none.
    let config = Config { listen, libp2p: false, ..Config::default() };
    Ok(Tunnel::start(config, Arc::new(identity), credential, trust, &Registry::new()).await?)
}

fn identity(folder: &Path, name: &str) -> Result<Identity> {
    Ok(Identity::load_or_create(&folder.join(format!("{name}.identity")))?)
}

fn split(place: &str) -> Result<(&str, SocketAddr)> {
    let (name, at) = place.split_once('=').context("expected NAME=ADDRESS:PORT")?;
    Ok((name, at.parse()?))
}

fn peer(folder: &Path, place: &str) -> Result<Peer> {
    let (name, at) = split(place)?;
    let peer = identity(folder, name)?.peer_id();
    Ok(Peer { peer, node: NodeName::new(name)?, site: Site::new(CLUSTER)?, addresses: vec![at] })
}
