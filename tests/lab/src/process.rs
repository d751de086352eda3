//! Processes of a host, as /proc shows them.

use std::fs;
use std::path::Path;

use nix::unistd::Pid;
use serde::Serialize;

/// A process of a host or of one of its pods.
#[derive(Debug, Clone, Serialize)]
pub struct Process {
    /// Its id in the machine's own PID namespace.
    pub pid: i32,
    /// Name of its program, without the directory.
    pub name: String,
    /// Whether it runs in one of the host's pods.
    pub in_pod: bool,
}

impl Process {
    /// Looks a process up; `None` if it has gone.
    pub(crate) fn read(pid: Pid) -> Option<Self> {
        let directory = Path::new("/proc").join(pid.to_string());
        let line = fs::read(directory.join("cmdline")).ok()?;
        let program = line.split(|byte| *byte == 0).next()?;
        let program = String::from_utf8_lossy(program);
        let name = Path::new(program.as_ref()).file_name()?.to_string_lossy().into_owned();
        let cgroups = fs::read_to_string(directory.join("cgroup")).unwrap_or_default();
        let unified = cgroups.lines().find(|line| line.starts_with("0::")).unwrap_or_default();
        Some(Self { pid: pid.as_raw(), name, in_pod: unified.contains("/kubepods") })
    }
}
