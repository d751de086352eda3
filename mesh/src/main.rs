//! `mesh-agent`: configuration, logging, signals.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use edgeloom_api::config::{Sources, load};
use edgeloom_mesh::daemon::{self, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

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
    /// Set a field of the configuration: path.to.field=value; can be repeated
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Print the configuration in use, and end
    #[arg(long)]
    print_config: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    match start(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Each error says its cause itself.
            eprintln!("mesh-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: &Cli) -> anyhow::Result<()> {
    let config = read(&cli.config, &cli.set)?;
    if cli.print_config {
        print!("{}", serde_yaml_ng::to_string(&config)?);
        return Ok(());
    }
    tokio::runtime::Runtime::new()?.block_on(until_signal(config))
}

async fn until_signal(config: Config) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut running = Box::pin(daemon::run(config, stop.clone()));
    tokio::select! {
        ended = &mut running => return ended.map_err(Into::into),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    // A second signal does not wait for the drain.
    tokio::select! {
        ended = running => ended.map_err(Into::into),
        _ = terminate.recv() => anyhow::bail!("stopped before the drain was over"),
        _ = interrupt.recv() => anyhow::bail!("stopped before the drain was over"),
    }
}

fn read(path: &Path, set: &[String]) -> anyhow::Result<Config> {
    let name = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => anyhow::bail!("cannot read {name}: {error}"),
    };
    let file = text.as_deref().map(|text| (name.as_str(), text));
    Ok(load(&Sources { file, env: std::env::vars().collect(), set })?)
}
