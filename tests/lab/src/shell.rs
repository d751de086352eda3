//! Calls of the machine's own programs (ip, nft, nsenter), with their complaint in the error.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::{Error, Result};

/// Runs `command` to its end and returns what it wrote to standard output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    feed(command, "")
}

/// As [`run`], with `input` on standard input.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<String> {
    let line = format!("{command:?}").replace('"', "");
    let started = || Error::io("run", command_name(&line));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(started())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading its input says why by its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(started())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let complaint = if complaint.is_empty() { output.status.to_string() } else { complaint };
    Err(Error::Command { command: line, output: complaint })
}

/// Runs a command line without quoting: words are split at white space.
pub(crate) fn words(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    run(command.args(words))
}

/// As [`words`], where a failure means that there was nothing to do.
pub(crate) fn try_words(line: &str) {
    let _ = words(line);
}

fn command_name(line: &str) -> String {
    line.split_whitespace().next().unwrap_or_default().to_owned()
}
