//! `edgecore`: configuration, logging, signals.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use edgecore::config::Config;
use edgecore::{daemon, reset};
use edgeloom_api::config::{Sources, load};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// An edge node of Edgeloom, in one process.
///
/// Joins the cluster with a token, runs the pods that the Kubernetes API places on this node in the local
/// container runtime, and makes Services that span sites work on it. It goes on with all of it when the
/// cloud cannot be reached.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

/// Where the configuration is looked for.
const CONFIG: &str = "/etc/edgeloom/edgecore.yaml";

const EXAMPLES: &str = "Examples:
  edgecore --set control.addresses=[203.0.113.10] --set control.token=TOKEN
  edgecore --config /etc/edgeloom/edgecore.yaml
  edgecore --set cri.socket=/run/k3s/containerd/containerd.sock --print-config
  edgecore reset                                    before joining another cluster

A token comes from `meshctl token create --site SITE` on the side of the control.

Environment:
  RUST_LOG=debug             what is logged
  EDGELOOM_PODS__MAX=50      a field of the configuration, here pods.max";

#[derive(Subcommand)]
enum Command {
    /// Forget the node's identity and credential, so that it can join again
    Reset {
        /// Configuration file
        #[arg(long, default_value = CONFIG)]
        config: PathBuf,
    },
}

#[derive(Args)]
struct Run {
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

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    match cli.command {
        Some(Command::Reset { config }) => {
            let config = read(&config, &[])?;
            for path in reset::reset(&config.state_dir).context("cannot reset the node")? {
                println!("removed {}", path.display());
            }
            Ok(())
        }
        None => run(&cli.run),
    }
}

fn run(cli: &Run) -> anyhow::Result<()> {
    let config = read(&cli.config, &cli.set)?;
    if cli.print_config {
        print!("{}", serde_yaml_ng::to_string(&config)?);
        return Ok(());
    }
    // Two threads carry what an edge node has to; each more costs memory.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(until_signal(config))
}

async fn until_signal(config: Config) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let running = Box::pin(daemon::run(config, stop.clone()));
    tokio::pin!(running);
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
        Err(error) => return Err(error).with_context(|| format!("reading {name}")),
    };
    let file = text.as_deref().map(|text| (name.as_str(), text));
    Ok(load(&Sources { file, env: std::env::vars().collect(), set })?)
}
