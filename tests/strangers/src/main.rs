//! Knocks at every door of running nodes as somebody who must not get in, and as somebody who may.
//!
//! A door is one way of asking a node for something: frames, the forwarder, each protocol on QUIC, libp2p, the two
//! carriers over TCP, flows on a LAN ([`doors`]). [`kinds`] makes the strangers; [`replay`] is the one that repeats what a genuine
//! node said. What came back beyond the handshake is counted at the door, and once more by [`capture`] from packets
//! that were taken on the way. A good credential has to get in at each door where its node serves something: else
//! the silence towards strangers means nothing.

mod capture;
mod doors;
mod kinds;
mod replay;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use edgeloom_api::token::JoinToken;
use edgeloom_tunnel::PeerId;
use edgeloom_tunnel::identity::Identity;

use crate::doors::{Door, Knock, Knocked};
use crate::kinds::{Cluster, Kind};

/// Strangers at the doors of a cluster.
#[derive(Debug, Parser)]
#[command(name = "strangers")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes an identity, if there is none, and prints its peer id.
    Identity {
        /// Its file.
        file: PathBuf,
    },
    /// Knocks.
    Knock(Box<Arguments>),
    /// Looks at what passed on the way.
    Judge {
        /// What `knock` wrote.
        #[arg(long)]
        doors: PathBuf,
        /// Captures (pcap).
        captures: Vec<PathBuf>,
    },
}

/// Where to knock, and as whom.
#[derive(Debug, clap::Args)]
struct Arguments {
    /// The cluster's CA: `cluster`, `certificate` and `key` (DER, in hexadecimal) in JSON.
    #[arg(long)]
    authority: PathBuf,
    /// The control, which relays, as ADDRESS:PORT=PEER.
    #[arg(long)]
    control: Target,
    /// An edge node, as ADDRESS:PORT=PEER.
    #[arg(long)]
    node: Target,
    /// Where the control takes WebSockets.
    #[arg(long)]
    websocket: SocketAddr,
    /// Identity that was revoked.
    #[arg(long)]
    revoked: PathBuf,
    /// Knock as one who may get in, and joins with this token.
    #[arg(long, value_name = "TOKEN")]
    good: Option<JoinToken>,
    /// Packets of genuine nodes (pcap), to be repeated.
    #[arg(long)]
    recording: Vec<PathBuf>,
    /// Where to write which ports were knocked from.
    #[arg(long)]
    doors: PathBuf,
}

/// A node and where it is.
#[derive(Debug, Clone, Copy)]
struct Target {
    at: SocketAddr,
    peer: PeerId,
}

impl std::str::FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (at, peer) = text.split_once('=').context("expected ADDRESS:PORT=PEER")?;
        Ok(Self { at: at.parse()?, peer: peer.parse()? })
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Identity { file } => Identity::load_or_create(&file)
            .map(|identity| println!("{}", identity.peer_id()))
            .map_err(anyhow::Error::from),
        Command::Knock(arguments) => knock(&arguments),
        Command::Judge { doors, captures } => capture::judge(&doors, &captures),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("strangers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn knock(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let knocked = runtime.block_on(knock_everywhere(arguments))?;
    println!("{:<14} {:<8} {:<12} {:>9}  what was said", "who", "target", "door", "bytes");
    for one in &knocked {
        println!("{:<14} {:<8} {:<12} {:>9}  {}", one.who, one.target, one.door, one.bytes, one.note);
    }
    std::fs::write(&arguments.doors, serde_json::to_vec_pretty(&knocked)?)?;
    let wrong: Vec<String> = knocked
        .iter()
        .filter(|one| one.wanted.is_some_and(|wanted| wanted != (one.bytes > 0)))
        .map(|one| format!("{} at the {}'s {}: {} bytes", one.who, one.target, one.door, one.bytes))
        .collect();
    ensure!(wrong.is_empty(), "not as it must be: {}", wrong.join("; "));
    Ok(())
}

async fn knock_everywhere(arguments: &Arguments) -> Result<Vec<Knocked>> {
    let cluster = Cluster::read(&arguments.authority)?;
    let kinds: &[Kind] = if arguments.good.is_some() { &[Kind::Good] } else { Kind::STRANGERS };
    let each = kinds.iter().map(|kind| knock_as(&cluster, *kind, arguments));
    let mut knocked = futures::future::try_join_all(each).await?.concat();
    if arguments.good.is_none() {
        if arguments.recording.is_empty() {
            bail!("without --recording nothing can be repeated");
        }
        let to = [("control", arguments.control.at), ("node", arguments.node.at)];
        knocked.extend(replay::everything(&arguments.recording, &to, arguments.websocket).await?);
    }
    Ok(knocked)
}

/// At one door after the other, as one who knocks does.
async fn knock_as(cluster: &Cluster, kind: Kind, arguments: &Arguments) -> Result<Vec<Knocked>> {
    let (mut knocked, joined) = (Vec::new(), OnceLock::new());
    for (target, name, other) in
        [(arguments.control, "control", arguments.node), (arguments.node, "node", arguments.control)]
    {
        for door in Door::of(name) {
            let guard = cluster.guard(kind, &arguments.revoked)?;
            let second = cluster.guard(kind, &arguments.revoked)?;
            let knock = Knock {
                guard: &guard,
                second: &second,
                target,
                other,
                websocket: arguments.websocket,
                authority: cluster.certificate(),
                token: arguments.good.as_ref().filter(|_| kind == Kind::Good),
                joined: &joined,
            };
            knocked.push(knock.at(*door, kind.name(), name).await);
        }
    }
    Ok(knocked)
}
