//! `meshctl peers`

use anyhow::Result;
use edgeloom_api::admin::{PEERS, Path, Peer, node_path};
use edgeloom_model::NodeName;
use serde::Serialize;

use super::own_node_only;
use crate::args::Output;
use crate::connect::Source;
use crate::fleet;
use crate::show::{self, Cell, Table, Tone};

/// A peer as one node sees it.
#[derive(Serialize)]
struct Seen {
    from: String,
    #[serde(flatten)]
    peer: Peer,
}

pub(crate) async fn run(source: Source, node: Option<&NodeName>, output: Output) -> Result<()> {
    let peers: Vec<Peer> = match (source, node) {
        (Source::Daemon(daemon), node) => {
            own_node_only(node, "--node")?;
            daemon.get(PEERS).await?
        }
        (Source::Control(control), Some(node)) => control.get(&node_path(node.as_str(), PEERS)).await?,
        (Source::Control(control), None) => {
            let mut nodes = fleet::nodes(&control).await?;
            nodes.retain(|node| node.session.connected && !fleet::is_control(node));
            return from_all(fleet::ask(&control, nodes, PEERS).await, output);
        }
    };
    match output {
        Output::Json => show::json(&peers),
        Output::Table => table(peers.iter().map(|peer| (None, peer))),
    }
}

fn from_all(answers: Vec<fleet::Answer<Vec<Peer>>>, output: Output) -> Result<()> {
    let mut seen = Vec::new();
    for answer in answers {
        let from = answer.node.node;
        match answer.answer {
            Ok(peers) => seen.extend(peers.into_iter().map(|peer| Seen { from: from.clone(), peer })),
            Err(error) => eprintln!("{from}: {error}"),
        }
    }
    match output {
        Output::Json => show::json(&seen),
        Output::Table => table(seen.iter().map(|seen| (Some(seen.from.as_str()), &seen.peer))),
    }
}

fn table<'a>(peers: impl Iterator<Item = (Option<&'a str>, &'a Peer)>) -> Result<()> {
    let mut peers = peers.peekable();
    let Some((from, _)) = peers.peek() else {
        show::line("No other node is known here. A node appears as soon as it has joined.")?;
        return Ok(());
    };
    const COLUMNS: [&str; 10] =
        ["FROM", "NODE", "SITE", "PATH", "VIA", "RTT", "LOSS", "SENT", "RECEIVED", "SINCE"];
    let fleet = from.is_some();
    let mut table = Table::new(if fleet { &COLUMNS } else { &COLUMNS[1..] });
    for (from, peer) in peers {
        table.row(from.map(Cell::from).into_iter().chain(cells(peer)));
    }
    table.print()?;
    Ok(())
}

fn cells(peer: &Peer) -> [Cell; 9] {
    let in_use = peer.path != Path::None;
    let tone = match peer.path {
        // On a LAN TCP is no makeshift: it was measured to be faster.
        Path::Direct { .. } if peer.carrier.is_none() || over_tcp_by_choice(peer) => Tone::Good,
        Path::Direct { .. } => Tone::Warning,
        Path::Relayed { .. } => Tone::Warning,
        Path::None if peer.near => Tone::Good,
        Path::None => Tone::Plain,
    };
    let loss = if in_use { format!("{:.0}%", peer.loss * 100.0) } else { "-".to_owned() };
    let via = match (&peer.path, &peer.carrier) {
        (Path::None, _) if peer.near => "route on the LAN".to_owned(),
        (Path::None, _) => "-".to_owned(),
        (Path::Relayed { relay }, Some(carrier)) => format!("{relay}, over {carrier}"),
        (Path::Direct { address, .. }, Some(carrier)) if over_tcp_by_choice(peer) => {
            format!("{address}, flows over {carrier}")
        }
        (path, _) => path.via().to_owned(),
    };
    let via = match peer.passed_over_loss.filter(|_| in_use) {
        Some(loss) => format!("{via}; a better path loses {:.0}%", loss * 100.0),
        None => via,
    };
    [
        peer.node.as_str().into(),
        peer.site.as_str().into(),
        Cell::new(if peer.near && !in_use { "near" } else { peer.path.word() }, tone),
        via.into(),
        peer.rtt_ms.map_or_else(|| "-".to_owned(), show::milliseconds).into(),
        loss.into(),
        show::bytes(peer.sent_bytes).into(),
        show::bytes(peer.received_bytes).into(),
        peer.last_change.map_or_else(|| "-".to_owned(), |since| show::age(since, show::now())).into(),
    ]
}

/// Whether TCP connections go over TCP because that is faster, not because UDP is blocked.
fn over_tcp_by_choice(peer: &Peer) -> bool {
    peer.carrier.is_some() && peer.path.word() == "lan"
}
