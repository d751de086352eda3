//! `edgeloom-control`: configuration, logging, signals.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use edgeloom_api::config::{Sources, load};
use edgeloom_control::config::Config;
use edgeloom_control::{cluster, daemon, install};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The cloud side of Edgeloom.
///
/// Admits edge nodes, carries to them what the Kubernetes API asks of them and back what they report,
/// relays between them, and stands for their kubelets, so that `kubectl logs` and `exec` work. Without
/// `--kubeconfig` it brings a small Kubernetes API of its own, on port 6443.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

/// Where the configuration is looked for.
const CONFIG: &str = "/etc/edgeloom/control.yaml";

const EXAMPLES: &str = "Examples:
  edgeloom-control                                  with the embedded API
  edgeloom-control --kubeconfig /etc/edgeloom/k8s.conf
  edgeloom-control install --kubeconfig ~/.kube/config     once, as administrator of the cluster
  edgeloom-control --set site=frankfurt --print-config";

#[derive(Subcommand)]
enum Command {
    /// Apply the namespace, custom resources and RBAC that the control needs of a cluster
    Install {
        /// Kubeconfig of an administrator
        #[arg(long, env = "KUBECONFIG")]
        kubeconfig: Option<PathBuf>,
        /// Configuration file, whose kubeconfig is taken where none is given
        #[arg(long, default_value = CONFIG)]
        config: PathBuf,
        /// Print the objects as YAML instead of applying them
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Args)]
struct Run {
    /// Configuration file
    #[arg(long, default_value = CONFIG)]
    config: PathBuf,
    /// Kubeconfig of the cluster to work for; without one, the embedded API is started
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Set a field of the configuration: path.to.field=value; can be repeated
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Print the configuration in use, and end
    #[arg(long)]
    print_config: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match execute(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // For an operator, whatever RUST_BACKTRACE says: no frames.
            eprintln!("edgeloom-control: {}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error, and those of its causes that it does not say itself.
fn describe(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.contains(&cause) {
        true => said,
        false if said.is_empty() => cause,
        false => format!("{said}: {cause}"),
    })
}

async fn execute(cli: Cli) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    match cli.command {
        Some(Command::Install { dry_run: true, .. }) => {
            print!("{}", install::yaml()?);
            Ok(())
        }
        Some(Command::Install { kubeconfig, config, .. }) => apply(kubeconfig, &config).await,
        None => run(cli.run).await,
    }
}

async fn apply(kubeconfig: Option<PathBuf>, config: &Path) -> anyhow::Result<()> {
    let path = kubeconfig.map_or_else(|| Ok(read(config, &[])?.kubeconfig), |path| anyhow::Ok(Some(path)))?;
    let path = path.context("which cluster? give --kubeconfig, or set KUBECONFIG")?;
    install::install(&cluster::connect(&path).await?).await?;
    println!("installed: namespace, custom resources and RBAC of edgeloom-control");
    Ok(())
}

async fn run(cli: Run) -> anyhow::Result<()> {
    let mut config = read(&cli.config, &cli.set)?;
    config.kubeconfig = cli.kubeconfig.or(config.kubeconfig);
    if cli.print_config {
        print!("{}", serde_yaml_ng::to_string(&config)?);
        return Ok(());
    }
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let running = daemon::run(config, stop.clone());
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return ended,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    // A second signal does not wait for the drain.
    tokio::select! {
        ended = running => ended,
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
