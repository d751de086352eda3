//! The tunnel by itself, beneath Services and pods.

use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use edgeloom_lab::Lab;

use crate::command::{self, Done};
use crate::promise::Need;
use crate::world::{ROOT, World};

/// What ten million inputs may take on a machine that does other things as well.
const MANGLED: Duration = Duration::from_secs(900);

/// What the cells of the matrix may take: a minute where nothing else runs.
const MATRIX: Duration = Duration::from_secs(400);
/// Name of the matrix's lab.
const MATRIX_LAB: &str = "matrix";

/// What the ordeal may take: four times three quarters of a minute, which its transfer is given, and its lab.
const ORDEAL: Duration = Duration::from_secs(240);
const ORDEAL_LAB: &str = "ordeal";
/// How much it transfers, in MiB: two cores that do other things as well carry it at this rate.
const ORDEAL_MEBIBYTES: &str = "256";

/// What counting an idle edge may take: a little over two minutes, and its lab.
const IDLE: Duration = Duration::from_secs(240);
const IDLE_LAB: &str = "idle";

/// What the flooded relay may take: its lab, and half a minute.
const FAIR: Duration = Duration::from_secs(150);
const FAIR_LAB: &str = "fair";

/// Two nodes behind every pair of NATs, and in every other place.
pub(crate) fn matrix(world: &mut World) -> Result<()> {
    let done = in_lab(world, MATRIX_LAB, &["run", "--lab", MATRIX_LAB], MATRIX)?;
    ensure!(done.good, "cells are not as predicted: see the table; {}", done.err);
    Ok(())
}

/// One long transfer, while what carries it is taken away piece by piece.
pub(crate) fn ordeal(world: &mut World) -> Result<()> {
    let words = ["ordeal", "--lab", ORDEAL_LAB, "--mebibytes", ORDEAL_MEBIBYTES];
    let done = in_lab(world, ORDEAL_LAB, &words, ORDEAL)?;
    ensure!(done.good, "{}", done.err);
    Ok(())
}

/// A relay that one node floods, and what is left to another.
pub(crate) fn fair(world: &mut World) -> Result<()> {
    let done = in_lab(world, FAIR_LAB, &["fair", "--lab", FAIR_LAB], FAIR)?;
    ensure!(done.good, "{}", done.err);
    Ok(())
}

/// Runs the matrix program, which makes a lab of its own.
fn in_lab(world: &World, lab: &str, words: &[&str], limit: Duration) -> Result<Done> {
    let done = run_in_lab(Command::new(world.program("matrix")).args(words), lab, limit)?;
    show(&done.out);
    Ok(done)
}

fn run_in_lab(program: &mut Command, lab: &str, limit: Duration) -> Result<Done> {
    let done = command::run(program, "", limit);
    // A run that is killed leaves its lab.
    Lab::down(Path::new(ROOT), lab)?;
    done
}

fn show(out: &str) {
    println!("{}", out.lines().map(|line| format!("  | {line}\n")).collect::<String>());
}

/// Random and mangled input for every decoder, and for a running node. Beside it, where there may be labs, an idle edge
/// is counted, for the promise that follows: that takes time, and nothing else.
pub(crate) fn mangled_input(world: &mut World) -> Result<()> {
    let mut mangle = Command::new(world.program("edgeloom-fuzz"));
    let mut count = Command::new(world.program("matrix"));
    let (table, counted) = thread::scope(|scope| {
        let counting = Need::Root.missing().is_none().then(|| scope.spawn(|| count_idle(&mut count)));
        let table = command::run(&mut mangle, "", MANGLED);
        (table, counting.map(|counting| counting.join().unwrap_or_else(|panic| resume_unwind(panic))))
    });
    world.idle = counted;
    show(&table?.output("edgeloom-fuzz")?);
    Ok(())
}

fn count_idle(matrix: &mut Command) -> Result<Done> {
    run_in_lab(matrix.args(["idle", "--lab", IDLE_LAB]), IDLE_LAB, IDLE)
}

/// What an edge sends and receives of which nobody wants anything.
pub(crate) fn idle(world: &mut World) -> Result<()> {
    let counted = world.idle.take();
    let done = counted.unwrap_or_else(|| count_idle(&mut Command::new(world.program("matrix"))))?;
    show(&done.out);
    ensure!(done.good, "{}", done.err);
    Ok(())
}
