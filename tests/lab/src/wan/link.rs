//! A link's process, as the lab sees it: started, asked and ended.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::control::{self, Counts, Question};
use super::{Emulation, Wan};
use crate::cgroup::Cgroup;
use crate::{Error, Result, host};

/// How long the process may take to listen.
const START: Duration = Duration::from_secs(10);
/// Niceness of the process.
const PRIORITY: &str = "-15";
/// Longest path of a Unix socket (unix(7)), less its terminator.
const SOCKET_PATH: usize = 107;

/// The process of one emulated cable.
#[derive(Debug)]
pub(crate) struct WanLink {
    cgroup: Cgroup,
    directory: PathBuf,
    port: String,
}

impl WanLink {
    /// The one of the cable whose end at the switch is `port`; `lab` is the lab's cgroup and `directory` its own.
    pub(crate) fn new(lab: &Cgroup, directory: &Path, port: &str) -> Self {
        // A dot keeps it apart from hosts.
        let cgroup = lab.child("wan.links").child(port);
        Self { cgroup, directory: directory.join("links"), port: port.to_owned() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.join(format!("{}.sock", self.port))
    }

    /// Changes the conditions of a process that runs; starts one between the two ends if none does.
    pub(crate) fn start(
        &self,
        station: (String, String),
        segment: (String, String),
        wan: &Wan,
    ) -> Result<()> {
        if !self.cgroup.processes().is_empty() && self.set(wan).is_ok() {
            return Ok(());
        }
        self.end()?;
        let socket = self.socket();
        if socket.as_os_str().len() > SOCKET_PATH {
            return Err(Error::Machine(format!(
                "{}: too long for a Unix socket; give the labs a shorter directory",
                socket.display()
            )));
        }
        fs::create_dir_all(&self.directory).map_err(Error::io("create", &self.directory))?;
        self.cgroup.create()?;
        let emulation = Emulation { station, segment, socket, wan: wan.clone() };
        let text = serde_json::to_string(&emulation).expect("an emulation has no maps");
        let program = program()?;
        let log = self.directory.join(format!("{}.log", self.port));
        let shell = host::enter("sh", &self.cgroup, Vec::new())?;
        // Ahead of what the lab runs: a busy host must not make the link slower.
        let words = ["nice", "-n", PRIORITY, &program.to_string_lossy(), "emulate", &text];
        host::start(shell, &words, &log)?;
        let deadline = Instant::now() + START;
        while self.count().is_err() {
            if self.cgroup.processes().is_empty() || Instant::now() > deadline {
                let what = format!("the WAN of {} does not start", self.port);
                return Err(Error::Timeout {
                    what,
                    seconds: START.as_secs(),
                    log: log.display().to_string(),
                });
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends the process, if there is one.
    pub(crate) fn end(&self) -> Result<()> {
        self.cgroup.kill()?;
        match fs::remove_file(self.socket()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", self.socket())(error))
            }
            _ => Ok(()),
        }
    }

    /// Changes the conditions.
    pub(crate) fn set(&self, wan: &Wan) -> Result<Counts> {
        control::ask(&self.socket(), &Question::Set(wan.clone()))
    }

    /// What passed.
    pub(crate) fn count(&self) -> Result<Counts> {
        control::ask(&self.socket(), &Question::Count)
    }
}

/// The program `lab`, which every user of this library has beside its own: tests have theirs one folder below.
fn program() -> Result<PathBuf> {
    let own = env::current_exe().map_err(Error::io("find", "the running program"))?;
    let candidates = own.ancestors().skip(1).take(2).map(|folder| folder.join("lab"));
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        Error::Machine(format!("there is no program `lab` beside {}: build edgeloom-lab", own.display()))
    })
}
