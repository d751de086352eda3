//! One module a command.

mod peers;
mod ping;
mod services;
mod status;
mod token;

use crate::args::{Args, Command};
use crate::connect::connect;

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
