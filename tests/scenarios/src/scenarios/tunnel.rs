//! The tunnel by itself, beneath Services and pods.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::command;
use crate::world::World;

/// What ten million inputs may take on a machine that does other things as well.
const MANGLED: Duration = Duration::from_secs(900);

/// Random and mangled input for every decoder, and for a running node.
pub(crate) fn mangled_input(world: &mut World) -> Result<()> {
    let table = command::run(&mut Command::new(world.program("edgeloom-fuzz")), "", MANGLED)?;
    let table = table.output("edgeloom-fuzz")?;
    println!("{}", table.lines().map(|line| format!("  | {line}\n")).collect::<String>());
    Ok(())
}
