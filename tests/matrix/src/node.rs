//! A node that does what it is told on standard input and says on standard output what happens, a JSON object a
//! line: the real tunnel, and on it requests of 64 bytes and transfers whose hash is checked.

use std::net::SocketAddr;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use edgeloom_model::{NodeName, Site};
use edgeloom_tunnel::identity::{Role, Trust};
use edgeloom_tunnel::{Alpn, Carriers, Config, Limits, Path, Peer, PeerId, Proxy, RelayPeer, Tunnel};
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::JoinSet;

use crate::cluster::{self, CLUSTER};
use crate::transfer::{self, Received};

/// Where relays take WebSockets.
const WEBSOCKET: u16 = 443;
/// How often the path is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// How long a stream is tried for.
const PATIENCE: Duration = Duration::from_secs(15);

/// A node of a cell.
#[derive(Debug, Args)]
pub(crate) struct NodeArguments {
    /// Folder that all nodes share: CA and keys.
    #[arg(long)]
    pub(crate) folder: PathBuf,
    /// Its name.
    #[arg(long)]
    pub(crate) name: String,
    /// Its site.
    #[arg(long)]
    pub(crate) site: String,
    /// Address to listen on.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// Serve as a relay.
    #[arg(long)]
    pub(crate) serve: bool,
    /// A relay, as NAME=ADDRESS:PORT.
    #[arg(long)]
    pub(crate) relay: Vec<String>,
    /// HTTP proxy on the way out.
    #[arg(long)]
    pub(crate) proxy: Option<String>,
    /// As a relay: forward no more than so many megabits a second.
    #[arg(long)]
    pub(crate) relay_mbit: Option<u32>,
    /// Another node, as NAME@SITE, or NAME@SITE=ADDRESS:PORT where it has a public address. The first is the one that
    /// is visited and sent to, and whose path is told of.
    #[arg(long)]
    pub(crate) peer: Vec<String>,
}

/// What a node says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// It listens, and has this peer id.
    Up { peer: String },
    /// A relay answers it.
    Ready,
    /// The first answer of the peer came, so many milliseconds after the visit began.
    Answer { ms: f64 },
    /// The path to the peer is another.
    Path {
        ms: f64,
        kind: String,
        path: String,
        /// Over what this node speaks to the relay, where it is not UDP.
        carrier: Option<String>,
    },
    /// The peer took so many bytes.
    Sent(Received),
    /// The paths to its peers are kept from now on.
    Kept,
    /// A stream to the first relay is open, on which it says that it is well.
    Beating,
    /// It has sent to all peers for as long as it was told.
    Flooded,
    /// Largest packet that came back by the path in use, in bytes.
    Traced { datagram: Option<u16> },
    /// What it was told to do failed.
    Failed { error: String },
}

/// Says it.
fn say(event: &Event) {
    println!("{}", serde_json::to_string(event).expect("events have no maps"));
}

/// Runs until standard input ends.
pub(crate) async fn run(arguments: &NodeArguments) -> Result<()> {
    let authority = cluster::authority(&arguments.folder)?;
    let identity = cluster::identity(&arguments.folder, &arguments.name)?;
    let role = if arguments.serve { Role::Relay } else { Role::Edge };
    let credential = cluster::credential(&authority, &identity, &arguments.name, &arguments.site, role)?;
    let trust = Trust::new(CLUSTER, [authority.certificate()])?;
    let config = config(arguments)?;
    let control = config.relays.first().map(|relay| relay.peer);
    let (tunnel, incoming) =
        Tunnel::start(config, Arc::new(identity), credential, trust, &Registry::new()).await?;
    let serving = tokio::spawn(transfer::serve(incoming));
    say(&Event::Up { peer: tunnel.peer_id().to_string() });
    let peers =
        arguments.peer.iter().map(|text| peer(&arguments.folder, text)).collect::<Result<Vec<_>>>()?;
    let result = obey(&tunnel, peers, control).await;
    tunnel.shutdown(Duration::from_millis(200)).await;
    serving.await?;
    result
}

fn config(arguments: &NodeArguments) -> Result<Config> {
    let relay = |text: &String| {
        let (name, address) = text.split_once('=').context("--relay: expected NAME=ADDRESS:PORT")?;
        let peer = cluster::identity(&arguments.folder, name)?.peer_id();
        Ok(RelayPeer { peer, addresses: vec![address.parse()?] })
    };
    Ok(Config {
        listen: arguments.listen,
        relay: arguments.serve,
        relays: arguments.relay.iter().map(relay).collect::<Result<_>>()?,
        carriers: Carriers {
            websocket_listen: arguments.serve.then_some(SocketAddr::new(arguments.listen.ip(), WEBSOCKET)),
            proxy: arguments.proxy.as_deref().map(|url| Proxy::parse(url, "")).transpose()?,
            ..Carriers::default()
        },
        limits: Limits { relay_mbit: arguments.relay_mbit, ..Limits::default() },
        ..Config::default()
    })
}

fn peer(folder: &FilePath, text: &str) -> Result<Peer> {
    let (whom, address) = text.split_once('=').map_or((text, None), |(whom, at)| (whom, Some(at)));
    let (name, site) = whom.split_once('@').context("--peer: expected NAME@SITE")?;
    let addresses = address.map(str::parse).transpose()?.into_iter().collect();
    let peer = cluster::identity(folder, name)?.peer_id();
    Ok(Peer { peer, node: NodeName::new(name)?, site: Site::new(site)?, addresses })
}

async fn obey(tunnel: &Tunnel, peers: Vec<Peer>, control: Option<PeerId>) -> Result<()> {
    let began = Arc::new(Mutex::new(Instant::now()));
    let others: Vec<PeerId> = peers.iter().map(|peer| peer.peer).collect();
    let other = others.first().copied();
    tunnel.set_peers(peers);
    let mut beats = JoinSet::new();
    let watching = tokio::spawn(watch(tunnel.clone(), other, began.clone()));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let told = async {
            let other = other.context("no --peer")?;
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("visit", _) => {
                    *began.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                    tokio::time::timeout(PATIENCE, transfer::request(tunnel, other)).await??;
                    let ms = since(&began);
                    Ok(Event::Answer { ms })
                }
                ("send", bytes) => Ok(Event::Sent(transfer::send(tunnel, other, bytes.parse()?).await?)),
                ("flood", seconds) => {
                    let length = Duration::from_secs(seconds.parse()?);
                    transfer::flood(tunnel, &others, length).await?;
                    Ok(Event::Flooded)
                }
                ("keep", _) => {
                    tunnel.keep(others.iter().copied());
                    Ok(Event::Kept)
                }
                ("beat", _) => {
                    beats.spawn(transfer::beat(
                        tunnel.open(control.context("no --relay")?, Alpn::Mesh).await?,
                    ));
                    Ok(Event::Beating)
                }
                ("trace", _) => {
                    let trace = tunnel.trace(other).await?;
                    // The one in use stands first.
                    Ok(Event::Traced {
                        datagram: trace.attempts.first().and_then(|attempt| attempt.datagram),
                    })
                }
                _ => bail!("{line:?}: known are visit, keep, beat, trace, send BYTES and flood SECONDS"),
            }
        };
        say(&told.await.unwrap_or_else(|error: anyhow::Error| Event::Failed { error: format!("{error:#}") }));
    }
    watching.abort();
    let _ = watching.await;
    Ok(())
}

fn since(began: &Mutex<Instant>) -> f64 {
    began.lock().unwrap_or_else(PoisonError::into_inner).elapsed().as_secs_f64() * 1000.0
}

/// Says when a relay answers, and every change of the path.
async fn watch(tunnel: Tunnel, other: Option<PeerId>, began: Arc<Mutex<Instant>>) {
    let mut before = (Path::None, None);
    let mut ready = false;
    loop {
        for status in tunnel.peers() {
            if Some(status.peer) == other {
                let now = (status.path, status.carrier);
                if now != before {
                    before = now;
                    let (kind, path) = (status.path.kind().to_owned(), status.path.to_string());
                    let carrier = status.carrier.map(|carrier| carrier.as_str().to_owned());
                    say(&Event::Path { ms: since(&began), kind, path, carrier });
                }
            } else if !ready && status.path.is_direct() {
                ready = true;
                say(&Event::Ready);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
