//! A program that runs as long as the value lives.

use std::io::{BufRead as _, BufReader};
use std::process::{self, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// The program.
#[derive(Debug)]
pub(crate) struct Child(process::Child);

impl Child {
    /// Starts it.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("cannot run {}", program.display()))?))
    }

    /// Starts it and waits for the line by which it says that it is ready.
    pub(crate) fn spawn_until(command: &mut Command, ready: &str) -> Result<Self> {
        let mut child = Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
        let mut line = String::new();
        let stdout = child.0.stdout.take().context("no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.trim() == ready, "{:?} said {line:?}, not {ready:?}", command.get_program());
        Ok(child)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // One that has ended needs no signal.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
