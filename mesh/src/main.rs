//! `mesh-agent`: configuration, logging, signals.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use edgeloom_mesh::daemon::{self, Config};
use edgeloom_mesh::program;

/// Where the configuration is looked for.
const CONFIG: &str = "/etc/edgeloom/mesh-agent.yaml";

const EXAMPLES: &str = "Examples:
  mesh-agent --set control.addresses=[203.0.113.10] --set control.token=TOKEN
  mesh-agent --config /etc/edgeloom/mesh-agent.yaml --print-config

A token comes from `meshctl token create --site SITE` on the side of the control. What is logged is set by
RUST_LOG, such as RUST_LOG=debug. Every field of the configuration can be set by environment too:
overlay.direct is EDGELOOM_OVERLAY__DIRECT.";

/// The mesh agent of Edgeloom, for a node that runs a kubelet of its own.
///
/// Joins the mesh with a token and makes Services that span sites work on this node, with the cloud there
/// or gone. A node that runs edgecore has the agent in it and needs no other.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    /// Configuration file
    #[arg(long, default_value = CONFIG)]
    config: PathBuf,
    #[command(flatten)]
    flags: program::Flags,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    program::log();
    program::exit(daemon::NAME, start(&cli))
}

fn start(cli: &Cli) -> anyhow::Result<()> {
    let config: Config = program::read(&cli.config, &cli.flags.set)?;
    if cli.flags.print_config {
        return Ok(program::print(&config)?);
    }
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(program::until_signal(async |stop| Ok(daemon::run(config, stop).await?)))
}
