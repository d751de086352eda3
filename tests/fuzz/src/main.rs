//! Random and mangled input for whatever reads bytes from the network: the decoders one by one, then a running
//! node on loopback.
//!
//! [`mutate::Mutator`] makes inputs from a seed, [`targets`] feeds them to the decoders, [`live`] to the socket of a
//! node that meanwhile serves a peer. Each ends with the memory that it left behind. An input that breaks a decoder
//! is printed, so that it can become a test.

mod live;
mod memory;
mod mutate;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use mutate::Mutator;
use targets::{TARGETS, Target};

/// Memory that a target may hold after all its inputs above what it held after the first tenth of them: what an
/// allocator keeps back, and no more.
const GROWTH: u64 = 8 << 20;

/// Address space that a target may take above what the process ever had: tables that are made once, and the largest
/// thing that an input of a few KiB can stand for, but not what an input only announces.
const ASKED: u64 = 4 << 20;

/// Feeds random and mangled input to every decoder, and to a running node.
#[derive(Parser)]
struct Arguments {
    /// Inputs for the frame decoder; the others get a share of it, the dear ones a small one.
    #[arg(long, default_value_t = 10_000_000)]
    inputs: u64,
    /// Datagrams for the running node.
    #[arg(long, default_value_t = 200_000)]
    datagrams: u64,
    /// What the inputs follow from; the same seed gives the same inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this target, or `live` for the running node.
    #[arg(long)]
    target: Option<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let wanted = |name: &str| arguments.target.as_deref().is_none_or(|target| target == name);
    ensure!(
        TARGETS.iter().any(|target| wanted(target.name)) || wanted("live"),
        "no target of that name; there are {} and live",
        TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ")
    );
    println!("seed {}", arguments.seed);
    let [inputs, accepted, rate] = ["INPUTS", "ACCEPTED", "A SECOND"];
    println!(
        "{:<12} {inputs:>12} {accepted:>9} {rate:>12} {:>13} {:>12}",
        "TARGET", "MEMORY GREW", "ASKED FOR"
    );
    for target in TARGETS.iter().filter(|target| wanted(target.name)) {
        exercise(target, arguments.inputs / target.one_in, arguments.seed)
            .with_context(|| format!("target {}", target.name))?;
    }
    if wanted("live") {
        live::run(arguments.datagrams, arguments.seed).context("the running node")?;
    }
    Ok(())
}

/// Feeds `inputs` inputs to a target.
fn exercise(target: &Target, inputs: u64, seed: u64) -> Result<()> {
    let mut mutator = Mutator::new(seed, (target.corpus)()?, target.longest);
    let before = memory::peak()?;
    let started = Instant::now();
    let mut accepted = 0;
    let mut held = 0;
    for number in 0..inputs {
        if number == inputs / 10 {
            held = memory::anonymous()?;
        }
        let input = mutator.next();
        match catch_unwind(AssertUnwindSafe(|| (target.feed)(input))) {
            Ok(taken) => accepted += u64::from(taken),
            Err(_) => bail!("input {number} broke it: {}", hex(input)),
        }
    }
    let grew = memory::anonymous()?.saturating_sub(held);
    let asked = memory::peak()?.saturating_sub(before);
    row(target.name, inputs, Some(accepted), started, (grew, Some(asked)));
    ensure!(grew <= GROWTH, "memory grew by {} KiB, {} are allowed", grew >> 10, GROWTH >> 10);
    ensure!(asked <= ASKED, "{} KiB of memory were asked for, {} are allowed", asked >> 10, ASKED >> 10);
    Ok(())
}

/// One line of the table; `memory` is by how many bytes it grew, and how many more than ever were asked for.
fn row(name: &str, inputs: u64, accepted: Option<u64>, started: Instant, (grew, asked): (u64, Option<u64>)) {
    let accepted = accepted.map_or("-".to_owned(), |some| format!("{} %", some * 100 / inputs.max(1)));
    let asked = asked.map_or("-".to_owned(), |some| format!("{} KiB", some >> 10));
    let rate = inputs as f64 / started.elapsed().as_secs_f64();
    println!("{name:<12} {inputs:>12} {accepted:>9} {rate:>12.0} {:>9} KiB {asked:>12}", grew >> 10);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
