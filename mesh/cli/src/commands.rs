//! One module a command.

mod bench;
mod peers;
mod ping;
mod services;
mod status;
mod token;
mod trace;

use anyhow::{Context as _, Result};
use edgeloom_api::admin::{FleetNode, node_path};
use edgeloom_model::NodeName;

use crate::args::{Args, Command};
use crate::connect::{Source, connect};
use crate::fleet;
use crate::http::Client;

/// Runs the command of the line.
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let source = connect(args).await?;
    match &args.command {
        Command::Status { node } => status::run(source, node.as_ref(), args.output).await,
        Command::Peers { node } => peers::run(source, node.as_ref(), args.output).await,
        Command::Services { node, namespace } => {
            services::run(source, node.as_ref(), namespace.as_deref(), args.output).await
        }
        Command::Ping { node, count, from } => {
            ping::run(source, node, *count, from.as_ref(), args.output).await
        }
        Command::Trace { node, from } => trace::run(source, node, from.as_ref(), args.output).await,
        Command::Bench { node, from, seconds, streams } => {
            bench::run(source, node, from.as_ref(), *seconds, *streams, args.output).await
        }
        Command::Token(command) => token::run(source, command, args.output).await,
    }
}

/// Asking a daemon for another node than its own makes no sense.
fn own_node_only(node: Option<&edgeloom_model::NodeName>, option: &str) -> anyhow::Result<()> {
    match node {
        None => Ok(()),
        Some(node) => anyhow::bail!(
            "{option} {node}: a node's socket answers for that node alone; leave out --socket to ask the control"
        ),
    }
}

/// Whom to ask for what a node finds out about another, and under which path: the daemon behind the socket, or
/// `from` by way of the control.
async fn asked(
    source: Source,
    path: &str,
    node: &NodeName,
    from: Option<&NodeName>,
) -> Result<(Client, String)> {
    match source {
        Source::Daemon(daemon) => {
            own_node_only(from, "--from")?;
            Ok((daemon, format!("{path}/{node}")))
        }
        Source::Control(control) => {
            let from = match from {
                Some(from) => from.to_string(),
                None => {
                    let chosen = choose(&fleet::nodes(&control).await?, node.as_str())?;
                    eprintln!("from {chosen} (--from NODE to choose):");
                    chosen
                }
            };
            Ok((control, node_path(&from, &format!("{path}/{node}"))))
        }
    }
}

/// A connected node, best at another site than the one that is called.
fn choose(nodes: &[FleetNode], node: &str) -> Result<String> {
    let site = nodes.iter().find(|known| known.node == node).map(|known| known.site.as_str());
    let able =
        |known: &&FleetNode| known.session.connected && known.node != node && !fleet::is_control(known);
    let mut able: Vec<_> = nodes.iter().filter(able).collect();
    able.sort_by_key(|known| Some(known.site.as_str()) == site);
    let chosen = able.first().context("no other node is connected that could try it")?;
    Ok(chosen.node.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeloom_api::admin::Link;

    fn node(name: &str, site: &str, connected: bool, role: &str) -> FleetNode {
        FleetNode {
            node: name.to_owned(),
            site: site.to_owned(),
            roles: vec![role.to_owned()],
            session: Link { connected, since: None },
            revoked: false,
        }
    }

    #[test]
    fn the_sender_is_connected_and_best_elsewhere() {
        let nodes = [
            node("cloud", "hq", true, "control"),
            node("b1", "b", true, "edge"),
            node("b2", "b", true, "edge"),
            node("c1", "c", false, "edge"),
            node("d1", "d", true, "edge"),
        ];
        assert_eq!(choose(&nodes, "b1").unwrap(), "d1");
        assert_eq!(choose(&nodes[..4], "b1").unwrap(), "b2");
        assert!(choose(&nodes[..2], "b1").is_err());
    }
}
