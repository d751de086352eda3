//! The system under test: the quickstart's, in a lab of its own, brought up when the first scenario asks.

mod calls;
mod faults;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use edgeloom_lab::{Host, Lab, Topology};
use tempfile::NamedTempFile;

use crate::command::{self, Done, eventually};
use crate::mechanism::Mechanism;

pub(crate) use calls::ORDERS;
pub(crate) use faults::fault;

/// Directory of labs.
pub(crate) const ROOT: &str = "/var/lib/edgeloom-lab";
/// What bring-up may take when everything is built.
const BRING_UP: Duration = Duration::from_secs(300);
/// What one call of kubectl or curl may take.
pub(crate) const CALL: Duration = Duration::from_secs(15);

/// Something to do when the scenario is over.
type Undo = Box<dyn FnOnce(&mut World) -> Result<()>>;

/// The system, and what a scenario has done to it.
pub(crate) struct World {
    repository: PathBuf,
    /// Name of the lab.
    pub(crate) name: String,
    /// Another arrangement of its hosts than the quickstart's own.
    topology: Option<NamedTempFile>,
    /// How long the cloud is gone where it is gone for long.
    pub(crate) offline_seconds: u64,
    /// What an idle edge was counted to pass, beside another scenario.
    pub(crate) idle: Option<Result<Done>>,
    lab: Option<Lab>,
    /// Whether it could not be brought up; it is not tried twice.
    broken: bool,
    /// What mends it, the last first.
    undo: Vec<Undo>,
    /// What mends what was sabotaged before the scenario began.
    mend: Vec<Undo>,
    sabotage: Option<Mechanism>,
}

impl World {
    /// Nothing is up yet.
    pub(crate) fn new(repository: &Path, name: &str, offline_seconds: u64) -> Self {
        let repository = repository.canonicalize().unwrap_or_else(|_| repository.to_owned());
        Self {
            repository,
            name: name.to_owned(),
            topology: None,
            offline_seconds,
            idle: None,
            lab: None,
            broken: false,
            undo: Vec::new(),
            mend: Vec::new(),
            sabotage: None,
        }
    }

    /// The same system in a lab of its own, whose hosts are arranged otherwise. Nothing is up yet.
    pub(crate) fn another(&self, name: &str, topology: &Topology) -> Result<Self> {
        let mut file = NamedTempFile::new()?;
        // JSON is YAML.
        file.write_all(serde_json::to_string(topology)?.as_bytes())?;
        let world = Self::new(&self.repository, name, self.offline_seconds);
        Ok(Self { topology: Some(file), ..world })
    }

    /// The mechanism that is broken in every scenario from now on.
    pub(crate) fn sabotage(&mut self, mechanism: Option<Mechanism>) {
        self.sabotage = mechanism;
    }

    /// Brings the system up, if it is not, and breaks what is to be broken.
    pub(crate) fn ready(&mut self) -> Result<()> {
        if self.broken {
            bail!("the system did not come up: see the first failure");
        }
        if self.lab.is_none() {
            let up = self.bring_up();
            self.broken = up.is_err();
            up?;
        }
        let broken = self.sabotage.map_or(Ok(()), |mechanism| mechanism.break_it(self));
        self.mend = std::mem::take(&mut self.undo);
        broken
    }

    /// Runs the quickstart: brings everything up, or makes it whole.
    pub(crate) fn bring_up(&mut self) -> Result<()> {
        let out = self.quickstart("up")?.output("deploy/quickstart.sh up")?;
        println!("{}", out.lines().map(|line| format!("  | {line}\n")).collect::<String>());
        self.lab = Some(Lab::open(Path::new(ROOT), &self.name)?);
        Ok(())
    }

    /// Calls the quickstart with these words.
    pub(crate) fn quickstart(&self, words: &str) -> Result<Done> {
        let mut script = Command::new(self.repository.join("deploy/quickstart.sh"));
        script.args(words.split_whitespace()).env("LAB_NAME", &self.name);
        if let Some(topology) = &self.topology {
            script.env("TOPOLOGY", topology.path());
        }
        command::run(&mut script, "", BRING_UP)
    }

    /// Starts the control alone, as the quickstart does.
    pub(crate) fn start_control(&self) -> Result<()> {
        self.quickstart("__step start_control")?.output("starting the control").map(drop)
    }

    /// Starts what runs on an edge host alone, as the quickstart does.
    pub(crate) fn start_edge(&self, host: &str) -> Result<()> {
        self.quickstart(&format!("__step start_edge {host}"))?.output("starting the edge").map(drop)
    }

    /// The lab has been taken down by other means.
    pub(crate) fn forget(&mut self) {
        self.lab = None;
        self.undo.clear();
        self.mend.clear();
    }

    /// Removes the lab, if there is one.
    pub(crate) fn down(&mut self) -> Result<()> {
        match self.lab.take() {
            Some(_) => Ok(Lab::down(Path::new(ROOT), &self.name)?),
            None => Ok(()),
        }
    }

    /// The lab.
    pub(crate) fn lab(&self) -> Result<&Lab> {
        self.lab.as_ref().context("the lab is not up")
    }

    fn lab_mut(&mut self) -> Result<&mut Lab> {
        self.lab.as_mut().context("the lab is not up")
    }

    /// A host of the lab.
    pub(crate) fn host(&self, name: &str) -> Result<Host> {
        Ok(self.lab()?.host(name)?)
    }

    /// A program of this workspace.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.repository.join("target/debug").join(name)
    }

    /// A file of the repository.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.repository.join(path)
    }

    fn kubeconfig(&self) -> PathBuf {
        Path::new(ROOT).join(&self.name).join("admin.conf")
    }

    /// Mends what was sabotaged, then what the scenario broke, which may need the former; of each the last first. Waits
    /// until the call across sites works again.
    pub(crate) fn undo(&mut self) -> Result<()> {
        if self.undo.is_empty() && self.mend.is_empty() {
            return Ok(());
        }
        let mut failure = None;
        while let Some(undo) = self.mend.pop().or_else(|| self.undo.pop()) {
            if let Err(error) = undo(self) {
                failure.get_or_insert(error.context("the lab could not be mended"));
            }
        }
        let settled = eventually(Duration::from_secs(60), || self.expect_orders());
        failure.map_or(settled.context("after the scenario"), Err)
    }

    /// Something to do when the scenario is over.
    pub(crate) fn afterwards(&mut self, undo: impl FnOnce(&mut Self) -> Result<()> + 'static) {
        self.undo.push(Box::new(undo));
    }
}
