//! Says the same things to the embedded Kubernetes API and to a real kube-apiserver, and lists where
//! the answers differ.
//!
//! ```text
//!  script (cases of requests and kubectl commands) ─> target: embedded ─┐
//!                                                  └> target: real ─────┴─> normal form ─> compare ─> list
//! ```
//!
//! `KUBEBUILDER_ASSETS` names a folder with `kube-apiserver` and `etcd`; without it the script runs
//! against the embedded API alone and is held to the codes that the script expects.

mod compare;
mod known;
mod normal;
mod real;
mod run;
mod script;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use edgeloom_store::{ApiServer, ServerConfig};

/// Compares the embedded Kubernetes API with a real one.
#[derive(Parser)]
struct Arguments {
    /// Only the cases whose names contain this.
    #[arg(long)]
    only: Option<String>,
    /// Folder with kube-apiserver and etcd.
    #[arg(long, env = "KUBEBUILDER_ASSETS")]
    assets: Option<PathBuf>,
    /// Show whole answers where they differ.
    #[arg(long)]
    verbose: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let dir = tempfile::tempdir()?;
    let config = ServerConfig::new(dir.path().join("embedded"), "127.0.0.1:0".parse()?);
    let embedded = ApiServer::start(config, &prometheus::Registry::new()).await?;
    let ours = run::Target::new("embedded", &embedded.admin_kubeconfig()?, dir.path()).await?;
    let real = match &arguments.assets {
        Some(assets) => Some(real::Real::start(assets, &dir.path().join("real")).await?),
        None => None,
    };
    let theirs = match &real {
        Some(real) => Some(run::Target::new("real", &real.kubeconfig()?, dir.path()).await?),
        None => None,
    };
    let mut report = compare::Report::default();
    for case in script::cases() {
        if arguments.only.as_ref().is_some_and(|only| !case.name.contains(only.as_str())) {
            continue;
        }
        let answers = run::case(&ours, &case).await?;
        let others = match &theirs {
            Some(real) => Some(run::case(real, &case).await?),
            None => None,
        };
        report.add(&case, &answers, others.as_deref(), arguments.verbose);
    }
    report.print(theirs.is_some());
    drop((ours, theirs));
    if let Some(real) = real {
        real.stop();
    }
    embedded.shutdown(std::time::Duration::from_secs(5)).await;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
