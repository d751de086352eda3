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

/// Two nodes behind every pair of NATs, and in every other place.
pub(crate) fn matrix(world: &mut World) -> Result<()> {
    let mut program = Command::new(world.program("matrix"));
    let done = command::run(program.args(["run", "--lab", MATRIX_LAB]), "", MATRIX);
    // A run that is killed leaves its lab.
    Lab::down(Path::new(ROOT), MATRIX_LAB)?;
    let done = done?;
    println!("{}", done.out.lines().map(|line| format!("  | {line}\n")).collect::<String>());
    ensure!(done.good, "cells are not as predicted: see the table; {}", done.err);
    Ok(())
}

/// Random and mangled input for every decoder, and for a running node.
pub(crate) fn mangled_input(world: &mut World) -> Result<()> {
    let table = command::run(&mut Command::new(world.program("edgeloom-fuzz")), "", MANGLED)?;
    let table = table.output("edgeloom-fuzz")?;
    println!("{}", table.lines().map(|line| format!("  | {line}\n")).collect::<String>());
    Ok(())
}
