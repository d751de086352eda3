//! What peers, connections and streams cost in memory: tunnels alone, on the loopback interface, without a lab.
//!
//! Two processes of this program hold tunnels: one a single tunnel, the one that is measured, the other as many as it is
//! to have peers. They are told on standard input what to do, a line each, and say `done` when it is done.

mod hold;

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

pub(crate) use hold::{Holder, hold};

use crate::agents;
use crate::load::Load;
use crate::rows::Sample;

/// Time in which memory comes to rest.
const SETTLE: Duration = Duration::from_secs(3);
/// What stands in a process before it is measured: its first peer brings what all share.
const FIRST: &str = "first";

/// Runs one of the loads that are about tunnels.
pub(crate) fn measure(load: Load) -> Result<Sample> {
    let folder = tempfile::Builder::new().prefix("edgeloom-bench").tempdir()?;
    hold::create(folder.path())?;
    let memory = match load {
        Load::Peers { count } => peers(folder.path(), count)?,
        Load::Streams { count } => streams(folder.path(), count)?,
        _ => bail!("{}: not a load of tunnels", load.words().join(" ")),
    };
    let (Load::Peers { count } | Load::Streams { count }) = load else { bail!("no count") };
    Ok(Sample { value: count as f64, memory: Some(memory), ..Sample::default() })
}

/// KiB for a peer with a connection: where the one tunnel dials, and where it is dialled.
fn peers(folder: &Path, count: usize) -> Result<[f64; 2]> {
    let mut grown = [0.0; 2];
    for (side, grown) in grown.iter_mut().enumerate() {
        let names: Vec<String> = (0..count).map(|number| format!("m{side}-{number}")).collect();
        let all: Vec<&str> = std::iter::once(FIRST).chain(names.iter().map(String::as_str)).collect();
        let mut one = Process::start(folder, &[&format!("one{side}")])?;
        let mut many = Process::start(folder, &all)?;
        let [from, to] = if side == 0 { [&mut one, &mut many] } else { [&mut many, &mut one] };
        let dial = |from: &mut Process, to: &Process, only: bool| {
            from.tell(&format!("dial {} {}", if only { 1 } else { count + 1 }, to.places.join(" ")))
        };
        dial(from, to, true)?;
        let measured = if side == 0 { from.pid() } else { to.pid() };
        let before = settled(measured)?;
        dial(from, to, false)?;
        *grown = (settled(measured)? - before) / count as f64;
    }
    Ok(grown)
}

/// KiB for an idle stream that carried a block each way: at the end that opened it, and at the other.
fn streams(folder: &Path, count: usize) -> Result<[f64; 2]> {
    let (mut one, other) = (Process::start(folder, &["a"])?, Process::start(folder, &["b"])?);
    one.tell(&format!("dial 1 {}", other.places.join(" ")))?;
    let pids = [one.pid(), other.pid()];
    let memory = || -> Result<[f64; 2]> { Ok([settled(pids[0])?, agents::anonymous_kib(pids[1])?]) };
    let before = memory()?;
    one.tell(&format!("open {count} {}", other.places.join(" ")))?;
    let after = memory()?;
    Ok([0, 1].map(|side| (after[side] - before[side]) / count as f64))
}

fn settled(pid: i32) -> Result<f64> {
    thread::sleep(SETTLE);
    agents::anonymous_kib(pid)
}

/// A process that holds tunnels.
struct Process {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    /// Its tunnels, as `NAME=ADDRESS`.
    places: Vec<String>,
}

impl Process {
    fn start(folder: &Path, names: &[&str]) -> Result<Self> {
        let places: Vec<String> =
            names.iter().map(|name| format!("{name}={}", edgeloom_ports::free())).collect();
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("hold").arg("--folder").arg(folder).args(&places);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take().context("no output")?);
        let mut process = Self { child, input, lines: BufReader::new(output).lines(), places };
        process.done("start")?;
        Ok(process)
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.input.as_mut().context("no input")?, "{line}")?;
        self.done(line.split(' ').next().unwrap_or_default())
    }

    fn done(&mut self, what: &str) -> Result<()> {
        let said = self.lines.next().with_context(|| format!("{what}: the process ended"))??;
        ensure!(said == "done", "{what}: {said}");
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended needs no signal.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
