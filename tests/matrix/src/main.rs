//! Two nodes of the real tunnel behind every pair of NATs and in every other place, each with what RFC 4787
//! predicts of it.
//!
//! [`cells`] is what is tried and what is predicted; [`place`] makes the lab for it; [`run`] starts a relay and,
//! cell by cell, two nodes ([`process`], [`node`]) and compares; [`report`] tells. [`ordeal`] is one long transfer
//! while things fail, [`fair`] a relay that one node floods, [`idle`] what it costs to be there. A node is this same
//! program.

mod cells;
mod cluster;
mod fair;
mod idle;
mod node;
mod ordeal;
mod place;
mod process;
mod proxy;
mod report;
mod run;
mod transfer;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Directory of labs.
pub(crate) const LABS: &str = "/var/lib/edgeloom-lab";

/// NATs and networks, and the paths that the tunnel finds through them.
#[derive(Debug, Parser)]
#[command(name = "matrix", version)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the cells in a lab of their own, and compare what is found with what is predicted.
    Run {
        /// Only cells whose names contain one of these, with commas between them.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Name of the lab.
        #[arg(long, default_value = "matrix")]
        lab: String,
        /// Write the results here, as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Put the table into this page, between its marks.
        #[arg(long)]
        page: Option<PathBuf>,
    },
    /// Transfer much between two sites while relay, NAT, uplink and direct path fail one after the other.
    Ordeal {
        /// Name of the lab.
        #[arg(long, default_value = "ordeal")]
        lab: String,
        /// How much, in MiB. The uplinks are as fast as takes three quarters of a minute.
        #[arg(long, default_value_t = 1024, env = "TRANSFER_MIB")]
        mebibytes: u64,
    },
    /// Flood a relay of a set rate from one node, and see what is left to another.
    Fair {
        /// Name of the lab.
        #[arg(long, default_value = "fair")]
        lab: String,
    },
    /// Count what an idle edge sends and receives, and hold it to its bound.
    Idle {
        /// Name of the lab.
        #[arg(long, default_value = "idle")]
        lab: String,
    },
    /// Print the cells and their predictions, as JSON.
    List,
    /// Be a node; the run starts it.
    #[command(hide = true)]
    Node(node::NodeArguments),
    /// Be an HTTP proxy; the run starts it.
    #[command(hide = true)]
    Proxy {
        /// Where it listens.
        listen: std::net::SocketAddr,
    },
}

fn main() -> ExitCode {
    match act(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("matrix: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is as it should be.
fn act(cli: Cli) -> Result<bool> {
    match cli.command {
        Verb::List => {
            println!("{}", serde_json::to_string_pretty(&cells::all())?);
            Ok(true)
        }
        Verb::Run { only, lab, json, page } => {
            let wanted = |name: &str| only.is_empty() || only.iter().any(|part| name.contains(part.as_str()));
            let cells = cells::all().into_iter().filter(|cell| wanted(&cell.name)).collect();
            let results = run::run(&lab, cells)?;
            report::print(&results);
            json.map_or(Ok(()), |path| report::write_json(&results, &path))?;
            page.map_or(Ok(()), |path| report::write_page(&results, &path))?;
            Ok(results.iter().all(|(cell, outcome)| outcome.is_good(cell)))
        }
        Verb::Ordeal { lab, mebibytes } => {
            let received = ordeal::run(&lab, mebibytes << 20)?;
            println!(
                "{} bytes arrived whole in {:.1} s, SHA-256 {}; longest standstill {:.0} ms",
                received.bytes,
                received.ms / 1000.0,
                received.sha256,
                received.longest_gap_ms
            );
            Ok(true)
        }
        Verb::Fair { lab } => fair::run(&lab).map(|()| true),
        Verb::Idle { lab } => idle::run(&lab).map(|()| true),
        Verb::Proxy { listen } => proxy::serve(listen).map(|()| true),
        Verb::Node(arguments) => {
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(node::run(&arguments))?;
            Ok(true)
        }
    }
}
