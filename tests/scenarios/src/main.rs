//! What Edgeloom promises, each promise with the scenario that holds it to it.
//!
//! The promises stand in [`registry`]. Those about the whole system share one lab, brought up by the
//! quickstart itself ([`world`]); each leaves it as it found it. [`runner`] runs them and prints the list;
//! with `--sabotage` it breaks each mechanism once and expects every scenario that claims it to fail.

mod command;
mod mechanism;
mod promise;
mod registry;
mod runner;
mod scenarios;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::runner::Report;
use crate::world::World;

/// Runs the scenarios and prints the list of promises.
#[derive(Debug, Parser)]
#[command(name = "scenarios")]
struct Cli {
    /// Only the promises whose names contain one of these, with commas between them.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Break each mechanism once and expect the scenarios that claim it to fail.
    #[arg(long)]
    sabotage: bool,
    /// Print the promises without running anything.
    #[arg(long)]
    list: bool,
    /// Seconds for which the cloud is gone in the scenario of its absence; every lease and TTL is shorter than 360.
    #[arg(long, default_value_t = 360, env = "OFFLINE_SECONDS")]
    offline_seconds: u64,
    /// Leave the lab up at the end.
    #[arg(long)]
    keep: bool,
    /// A check that was run before, for the list: NAME=passed, NAME=failed, or NAME=skipped: REASON.
    #[arg(long = "also", value_name = "NAME=RESULT")]
    also: Vec<String>,
    /// Name of the lab; the quickstart's own has another.
    #[arg(long, default_value = "scenarios", env = "SCENARIOS_LAB")]
    lab: String,
    /// The repository.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))]
    repository: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let wanted = |name: &str| cli.only.is_empty() || cli.only.iter().any(|only| name.contains(only.as_str()));
    let promises: Vec<_> = registry::promises().into_iter().filter(|p| wanted(p.name)).collect();
    if cli.list {
        promises.iter().for_each(|promise| println!("{:<26} {}", promise.name, promise.sentence));
        return ExitCode::SUCCESS;
    }
    if promises.is_empty() {
        let names: Vec<_> = registry::promises().iter().map(|promise| promise.name).collect();
        eprintln!(
            "scenarios: no promise is called {}; there are: {}",
            cli.only.join(" or "),
            names.join(", ")
        );
        return ExitCode::FAILURE;
    }
    let mut report = Report::default();
    cli.also.iter().for_each(|line| report.add_check(line));
    let mut world = World::new(&cli.repository, &cli.lab, cli.offline_seconds);
    if cli.sabotage {
        runner::sabotage(&promises, &mut world, &mut report);
    } else {
        runner::run(&promises, &mut world, &mut report);
    }
    if !cli.keep
        && let Err(error) = world.down()
    {
        report.add_failure("the lab goes away", &error);
    }
    report.print();
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
