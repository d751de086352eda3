//! `edgeloom-control`: configuration, logging, signals.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use edgeloom_control::config::Config;
use edgeloom_control::{cluster, daemon, install};
use edgeloom_mesh::program;

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
    #[command(flatten)]
    flags: program::Flags,
}

#[tokio::main]
async fn main() -> ExitCode {
    program::exit(edgeloom_control::MANAGER, execute(Cli::parse()).await)
}

async fn execute(cli: Cli) -> anyhow::Result<()> {
    program::log();
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
    let path = kubeconfig.map_or_else(
        || Ok(program::read::<Config>(config, &[])?.kubeconfig),
        |path| anyhow::Ok(Some(path)),
    )?;
    let path = path.context("which cluster? give --kubeconfig, or set KUBECONFIG")?;
    install::install(&cluster::connect(&path).await?).await?;
    println!("installed: namespace, custom resources and RBAC of edgeloom-control");
    Ok(())
}

async fn run(cli: Run) -> anyhow::Result<()> {
    let mut config: Config = program::read(&cli.config, &cli.flags.set)?;
    config.kubeconfig = cli.kubeconfig.or(config.kubeconfig);
    if cli.flags.print_config {
        return Ok(program::print(&config)?);
    }
    program::until_signal(|stop| daemon::run(config, stop)).await
}
