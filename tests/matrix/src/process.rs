//! Nodes as processes in hosts of the lab.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use edgeloom_lab::Lab;

use crate::node::Event;
use crate::place::PROXY_LISTEN;

/// Events that wait to be read.
const EVENTS: usize = 1024;

/// A node; it ends with this value.
pub(crate) struct Node {
    name: String,
    peer: Option<String>,
    child: Child,
    stdin: Option<ChildStdin>,
    events: Receiver<Event>,
    reader: Option<JoinHandle<()>>,
}

/// What a node is started with, beside the names of the run.
#[derive(Debug, Clone)]
pub(crate) struct Start<'a> {
    pub(crate) folder: &'a std::path::Path,
    pub(crate) host: &'a str,
    pub(crate) name: &'a str,
    pub(crate) site: &'a str,
    /// Further words.
    pub(crate) words: Vec<String>,
}

impl Node {
    /// Starts one in a host.
    pub(crate) fn start(lab: &Lab, start: &Start<'_>) -> Result<Self> {
        let own = std::env::current_exe()?;
        let mut command = lab.command(start.host, &own.to_string_lossy())?;
        command.args(["node", "--name", start.name, "--site", start.site, "--folder"]).arg(start.folder);
        Self::spawn(start.name, command.args(&start.words))
    }

    fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let (sender, events) = sync_channel(EVENTS);
        let stdout = child.stdout.take().context("no standard output")?;
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str(&line) else {
                    eprintln!("a node says {line:?}");
                    continue;
                };
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Ok(Self { name: name.to_owned(), peer: None, child, stdin, events, reader: Some(reader) })
    }

    /// Starts a proxy in a host; it says nothing.
    pub(crate) fn proxy(lab: &Lab, host: &str) -> Result<Self> {
        let mut command = lab.command(host, &std::env::current_exe()?.to_string_lossy())?;
        Self::spawn("the proxy", command.args(["proxy", PROXY_LISTEN]))
    }

    /// Tells it something.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the node was told to end")?;
        writeln!(stdin, "{line}").with_context(|| format!("node {} does not listen", self.name))
    }

    /// Waits until it listens.
    pub(crate) fn await_up(&mut self, limit: Duration) -> Result<()> {
        let up = self.expect("it does not listen", limit, |event| match event {
            Event::Up { peer } => Some(peer),
            _ => None,
        })?;
        self.peer = Some(up);
        Ok(())
    }

    /// Its peer id, once it was awaited.
    pub(crate) fn peer(&self) -> Option<&str> {
        self.peer.as_deref()
    }

    /// The next event before `deadline`; `None` where there is none.
    pub(crate) fn next(&self, deadline: Instant) -> Result<Option<Event>> {
        match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                bail!("node {} ended; RUST_LOG=debug says more", self.name)
            }
        }
    }

    /// Waits for an event of which `want` makes something.
    pub(crate) fn expect<T>(
        &self,
        what: &str,
        limit: Duration,
        mut want: impl FnMut(Event) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        while let Some(event) = self.next(deadline)? {
            if let Event::Failed { error } = &event {
                bail!("{}: {error}", self.name);
            }
            if let Some(found) = want(event) {
                return Ok(found);
            }
        }
        bail!("{}: {what}: not within {} s", self.name, limit.as_secs())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stdin = None;
        // It would end by itself; a run has no time for its manners.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Closed before it is joined: the reader may wait for room.
        let (_, empty) = sync_channel(1);
        self.events = empty;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
