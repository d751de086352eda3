//! Programs that the scenarios call, each with a limit to its time.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// What a program did.
#[derive(Debug)]
pub(crate) struct Done {
    /// Whether it ended with 0.
    pub(crate) good: bool,
    /// What it ended with; none if it was killed.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error, and that the time was up where it was.
    pub(crate) err: String,
}

/// Runs a command to its end, or kills it after `limit`.
pub(crate) fn run(command: &mut Command, input: &str, limit: Duration) -> anyhow::Result<Done> {
    let line = format!("{command:?}").replace('"', "");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {line}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read says why by its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    let (over, watchdog) = watch(pid, limit);
    let output = child.wait_with_output()?;
    drop(over);
    let late = watchdog.join().unwrap_or(false);
    let mut err = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if late {
        err.push_str(&format!(" (killed after {} s)", limit.as_secs()));
    }
    let (good, code) = (output.status.success(), output.status.code());
    Ok(Done { good, code, out: String::from_utf8_lossy(&output.stdout).into_owned(), err })
}

/// Kills the process after `limit` unless the sender is dropped before; says whether it did.
fn watch(pid: nix::unistd::Pid, limit: Duration) -> (std::sync::mpsc::Sender<()>, thread::JoinHandle<bool>) {
    let (over, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        let late = ended.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        late
    });
    (over, watchdog)
}

impl Done {
    /// Its output, or an error with what it complained about.
    pub(crate) fn output(self, what: &str) -> anyhow::Result<String> {
        if self.good {
            return Ok(self.out);
        }
        let complaint = if self.err.is_empty() { self.out } else { self.err };
        bail!("{what}: {}", complaint.trim())
    }

    /// Both outputs, for searching.
    pub(crate) fn text(&self) -> String {
        format!("{}\n{}", self.out, self.err)
    }
}

/// Tries until it succeeds, and gives the last error when the time is up.
pub(crate) fn eventually<T>(
    limit: Duration,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() >= limit => {
                return Err(error.context(format!("still so after {} s", limit.as_secs())));
            }
            Err(_) => thread::sleep(Duration::from_millis(250)),
        }
    }
}
