//! The tunnel by itself, beneath Services and pods.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use edgeloom_lab::Lab;

use crate::command;
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
fn in_lab(world: &World, lab: &str, words: &[&str], limit: Duration) -> Result<command::Done> {
    let mut program = Command::new(world.program("matrix"));
    let done = command::run(program.args(words), "", limit);
    // A run that is killed leaves its lab.
    Lab::down(Path::new(ROOT), lab)?;
    let done = done?;
    println!("{}", done.out.lines().map(|line| format!("  | {line}\n")).collect::<String>());
    Ok(done)
}

/// Random and mangled input for every decoder, and for a running node.
pub(crate) fn mangled_input(world: &mut World) -> Result<()> {
    let table = command::run(&mut Command::new(world.program("edgeloom-fuzz")), "", MANGLED)?;
    let table = table.output("edgeloom-fuzz")?;
    println!("{}", table.lines().map(|line| format!("  | {line}\n")).collect::<String>());
    Ok(())
}
