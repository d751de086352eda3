//! `edgecore`: configuration, logging, signals.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use edgecore::config::Config;
use edgecore::{daemon, reset};
use edgeloom_mesh::program;

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
    #[command(flatten)]
    flags: program::Flags,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    program::log();
    program::exit("edgecore", execute(cli))
}

fn execute(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Some(Command::Reset { config }) => {
            let config: Config = program::read(&config, &[])?;
            for path in reset::reset(&config.state_dir).context("cannot reset the node")? {
                println!("removed {}", path.display());
            }
            Ok(())
        }
        None => run(&cli.run),
    }
}

fn run(cli: &Run) -> anyhow::Result<()> {
    let config: Config = program::read(&cli.config, &cli.flags.set)?;
    if cli.flags.print_config {
        return Ok(program::print(&config)?);
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build()?;
    runtime.block_on(program::until_signal(async |stop| Ok(daemon::run(config, stop).await?)))
}

/// Threads of the runtime: what crosses sites is encrypted on as many cores as there are, and a thread more costs
/// memory, so there is a bound.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 8)
}
