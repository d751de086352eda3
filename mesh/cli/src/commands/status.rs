//! `meshctl status`

use anyhow::Result;
use edgeloom_api::admin::{FleetNode, Link, STATUS, Status};
use edgeloom_model::NodeName;
use serde::Serialize;

use super::own_node_only;
use crate::args::Output;
use crate::connect::Source;
use crate::fleet::{self, Answer};
use crate::show::{self, Cell, Table, Tone};

/// A node of the fleet with what it says itself.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(flatten)]
    node: FleetNode,
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) async fn run(source: Source, node: Option<&NodeName>, output: Output) -> Result<()> {
    match source {
        Source::Daemon(daemon) => {
            own_node_only(node, "--node")?;
            let status: Status = daemon.get(STATUS).await?;
            match output {
                Output::Json => show::json(&status),
                Output::Table => one(&status),
            }
        }
        Source::Control(control) => {
            let mut nodes = fleet::nodes(&control).await?;
            nodes.retain(|known| node.is_none_or(|node| known.node == node.as_str()));
            if let (Some(node), true) = (node, nodes.is_empty()) {
                anyhow::bail!("there is no node {node} in the mesh; `meshctl status` lists the nodes");
            }
            let rows: Vec<_> = fleet::ask(&control, nodes, STATUS).await.into_iter().map(row).collect();
            match output {
                Output::Json => show::json(&rows),
                Output::Table => all(&rows),
            }
        }
    }
}

fn row(Answer { node, answer }: Answer<Status>) -> Row {
    match answer {
        Ok(status) => Row { node, status: Some(status), error: None },
        Err(error) => Row { node, status: None, error: Some(error.to_string()) },
    }
}

fn all(rows: &[Row]) -> Result<()> {
    if rows.is_empty() {
        show::line("No node has joined. `meshctl token create --site SITE` makes a token for the first.")?;
        return Ok(());
    }
    let mut table = Table::new(&[
        "NODE",
        "SITE",
        "CONTROL",
        "PEERS",
        "PATHS",
        "SERVICES",
        "ENDPOINTS",
        "DATAPATH",
        "VERSION",
    ]);
    for row in rows {
        let known = |text: fn(&Status) -> String| row.status.as_ref().map_or_else(|| "-".to_owned(), text);
        table.row([
            row.node.node.as_str().into(),
            row.node.site.as_str().into(),
            session(row),
            known(|status| status.peers.known.to_string()).into(),
            known(paths).into(),
            known(|status| status.services.to_string()).into(),
            known(|status| status.endpoints.to_string()).into(),
            row.status.as_ref().map_or_else(|| "-".into(), datapath),
            known(|status| status.version.clone()).into(),
        ]);
    }
    table.print()?;
    for row in rows.iter().filter(|row| row.node.session.connected) {
        if let Some(error) = &row.error {
            eprintln!("{}: {error}", row.node.node);
        }
    }
    Ok(())
}

fn session(row: &Row) -> Cell {
    if row.node.revoked {
        Cell::new("revoked", Tone::Bad)
    } else if fleet::is_control(&row.node) {
        Cell::new("itself", Tone::Plain)
    } else {
        link(&row.node.session)
    }
}

fn link(link: &Link) -> Cell {
    let (word, tone) = if link.connected { ("connected", Tone::Good) } else { ("gone", Tone::Bad) };
    match link.since {
        Some(since) => Cell::new(format!("{word} {}", show::age(since, show::now())), tone),
        None => Cell::new(word, tone),
    }
}

fn paths(status: &Status) -> String {
    let peers = &status.peers;
    let counts = [(peers.near, "near by route"), (peers.direct, "direct"), (peers.relayed, "relayed")];
    let used: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, how)| format!("{count} {how}")).collect();
    if used.is_empty() { "none in use".to_owned() } else { used.join(", ") }
}

fn datapath(status: &Status) -> Cell {
    match &status.datapath {
        None => "-".into(),
        Some(datapath) if datapath.off.is_empty() => Cell::new(&datapath.mode, Tone::Good),
        Some(datapath) => Cell::new(format!("{}, {} off", datapath.mode, datapath.off.len()), Tone::Warning),
    }
}

fn one(status: &Status) -> Result<()> {
    let mut table = Table::bare();
    let mut line = |name: &str, cell: Cell| table.row([name.into(), cell]);
    line("node", status.node.as_str().into());
    line("site", status.site.as_str().into());
    line("program", format!("{} {}", status.program, status.version).into());
    line("running", show::age(status.started, show::now()).into());
    line("control", link(&status.control));
    line("peers", format!("{} known, {}", status.peers.known, paths(status)).into());
    line("services", format!("{} with {} endpoints", status.services, status.endpoints).into());
    line("datapath", datapath(status));
    table.print()?;
    for missing in status.datapath.iter().flat_map(|datapath| &datapath.off) {
        show::line(format_args!("off: {}: {}", missing.what, missing.why))?;
    }
    Ok(())
}
