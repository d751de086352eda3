//! Far Services beside plain TCP, nebula and raw quinn, in one run over the same ways.
//!
//! [`rows`] is what is measured and what is to be reached; [`system`] brings up the quickstart's hosts with what is
//! compared beside them, and takes one sample; [`run`] alternates; [`stats`] and [`report`] make the table. [`load`]
//! is the client and the server of every way, which are this same program; [`agents`] reads what programs cost.
//! [`tunnels`] measures the memory of tunnels alone, without hosts and agents.

mod agents;
mod load;
mod nebula;
mod report;
mod rows;
mod run;
mod stats;
mod system;
mod tunnels;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use crate::run::Manner;

/// Measures far Services beside plain TCP, TCP with TLS, raw quinn and nebula.
///
/// Brings up the quickstart's cloud host and two sites in network namespaces, built with the release profile, and
/// runs one client and one server over each way in turn: through the agents (a pod at site A calls a Service whose
/// pod runs at site B), and straight between the two hosts by forwarded ports. Needs root, and about 40 minutes for
/// all rows; `--only` and `--quick` take less. nebula is taken where it is installed (apt-get install nebula).
///
/// BUILD=no in the environment takes the other programs as they were built before, in place of building them.
///
/// Build it first: cargo build --release -p edgeloom-bench -p edgeloom-lab
#[derive(Debug, Parser)]
#[command(name = "bench", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Verb>,
    /// Only rows whose names begin with one of these, with commas between them.
    #[arg(long, value_delimiter = ',', value_name = "ROW")]
    only: Vec<String>,
    /// One short round of each row: to see that all works. Its figures mean little.
    #[arg(long)]
    quick: bool,
    /// Print the names of the rows and what they are about, and do nothing.
    #[arg(long)]
    list: bool,
    /// Take the rows that are not run now from what earlier runs wrote with --json; the first file counts.
    #[arg(long = "with", value_delimiter = ',', value_name = "FILE")]
    earlier: Vec<PathBuf>,
    /// Run nothing: show, and write anew, what --with brings.
    #[arg(long, requires = "earlier")]
    no_run: bool,
    /// Write the results here, as JSON with every sample.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put the table into this page, between its marks.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Name of the lab; one of that name that is up is removed.
    #[arg(long, default_value = "bench", env = "BENCH_LAB")]
    lab: String,
    /// Leave the lab up.
    #[arg(long)]
    keep: bool,
    /// Where the repository is.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../.."), hide_default_value = true)]
    repository: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Be the server; the run starts it.
    #[command(hide = true)]
    Serve {
        /// Folder with the certificate.
        #[arg(long)]
        folder: PathBuf,
    },
    /// Hold tunnels; the run starts it.
    #[command(hide = true)]
    Hold(tunnels::Holder),
    /// Be the client; the run starts it.
    #[command(hide = true)]
    Load(load::Order),
}

fn main() -> ExitCode {
    match act(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(cli: Cli) -> Result<()> {
    match cli.command {
        Some(Verb::Serve { folder }) => runtime()?.block_on(load::serve(&folder)),
        Some(Verb::Hold(holder)) => runtime()?.block_on(tunnels::hold(&holder)),
        Some(Verb::Load(order)) => {
            if let Some(report) = runtime()?.block_on(load::run(order))? {
                println!("{}", serde_json::to_string(&report)?);
            }
            Ok(())
        }
        None => measure(&cli),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

fn measure(cli: &Cli) -> Result<()> {
    let wanted =
        |name: &str| cli.only.is_empty() || cli.only.iter().any(|part| name.starts_with(part.as_str()));
    let rows: Vec<_> = rows::all().into_iter().filter(|row| wanted(&row.name)).collect();
    ensure!(!rows.is_empty(), "--only {}: no such row; `bench --list` shows all", cli.only.join(","));
    if cli.list {
        for row in rows {
            println!("{:<14} {} ({})", row.name, row.figures[0].what, row.under);
        }
        return Ok(());
    }
    let mut earlier = Vec::new();
    for path in &cli.earlier {
        earlier.extend(report::read_json(path)?);
    }
    let new = if cli.no_run { Vec::new() } else { run_rows(cli, rows)? };
    let outcomes = report::merge(new, earlier);
    report::print(&outcomes);
    cli.json.as_deref().map_or(Ok(()), |path| report::write_json(&outcomes, path))?;
    cli.page.as_deref().map_or(Ok(()), |path| report::write_page(&outcomes, path))
}

fn run_rows(cli: &Cli, rows: Vec<rows::Row>) -> Result<Vec<run::Outcome>> {
    ensure!(
        !cfg!(debug_assertions),
        "this is a debug build; build with: cargo build --release -p edgeloom-bench -p edgeloom-lab"
    );
    let repository = cli.repository.canonicalize()?;
    let manner = Manner { repository: &repository, lab: &cli.lab, quick: cli.quick, keep: cli.keep };
    run::run(manner, rows)
}
