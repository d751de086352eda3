//! The cgroups of a lab: `edgeloom-lab/LAB/HOST`, with `system` for processes and `kubepods` for pods.
//!
//! A host's own cgroup stays empty, because in a pure cgroup2 tree one that holds processes can give
//! its children no controllers, and it is where the host's eBPF programs attach.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Error, Result};

/// Where the lab's cgroups begin in each hierarchy.
const ROOT: &str = "edgeloom-lab";
/// A killed process may still hold its cgroup while the kernel tears it down.
const REMOVAL: Duration = Duration::from_secs(20);

/// What is mounted on /sys/fs/cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchy {
    /// cgroup2 alone, as on a fresh Debian 12 or Ubuntu.
    Pure,
    /// One hierarchy a controller, and cgroup2 without controllers on `unified`; each name is a
    /// directory below /sys/fs/cgroup, with the option that mounts it.
    Hybrid(Vec<(String, String)>),
}

impl Hierarchy {
    /// Looks at what the machine has mounted.
    ///
    /// # Errors
    /// [`Error::Machine`] where there is no cgroup2 to attach eBPF programs to.
    pub fn detect() -> Result<Self> {
        let mounts =
            fs::read_to_string("/proc/self/mountinfo").map_err(Error::io("read", "/proc/self/mountinfo"))?;
        Self::parse(&mounts).ok_or_else(|| {
            Error::Machine("no cgroup2 on /sys/fs/cgroup or /sys/fs/cgroup/unified: mount one there".into())
        })
    }

    fn parse(mountinfo: &str) -> Option<Self> {
        let mut controllers = Vec::new();
        let mut unified = false;
        for line in mountinfo.lines() {
            let (place, kind) = line.split_once(" - ")?;
            let Some(point) = place.split(' ').nth(4) else { continue };
            let mut kind = kind.split(' ');
            match (kind.next(), point.strip_prefix("/sys/fs/cgroup")) {
                (Some("cgroup2"), Some("")) => return Some(Self::Pure),
                (Some("cgroup2"), Some("/unified")) => unified = true,
                (Some("cgroup"), Some(name)) => {
                    let options = kind.nth(1).unwrap_or_default();
                    controllers.push((name.trim_start_matches('/').to_owned(), mount_option(options)));
                }
                _ => {}
            }
        }
        unified.then_some(Self::Hybrid(controllers))
    }

    /// The cgroup2 directory.
    fn unified(&self) -> PathBuf {
        match self {
            Self::Pure => "/sys/fs/cgroup".into(),
            Self::Hybrid(_) => "/sys/fs/cgroup/unified".into(),
        }
    }

    /// The directory of every hierarchy, cgroup2 first.
    fn roots(&self) -> Vec<PathBuf> {
        let mut roots = vec![self.unified()];
        if let Self::Hybrid(controllers) = self {
            roots.extend(controllers.iter().map(|(name, _)| Path::new("/sys/fs/cgroup").join(name)));
        }
        roots
    }

    /// Shell commands that mount the hierarchies in a host's own mount and cgroup namespace.
    pub(crate) fn mount_script(&self) -> String {
        let Self::Hybrid(controllers) = self else {
            return "mount -t cgroup2 cgroup2 /sys/fs/cgroup\n".into();
        };
        let mut script = String::from("mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup\n");
        for (name, option) in controllers {
            script.push_str(&format!(
                "mkdir /sys/fs/cgroup/{name}\nmount -t cgroup -o {option} cgroup /sys/fs/cgroup/{name}\n"
            ));
        }
        script + "mkdir /sys/fs/cgroup/unified\nmount -t cgroup2 cgroup2 /sys/fs/cgroup/unified\n"
    }
}

/// What `mount -o` wants, from the super options of a mounted hierarchy: `rw,cpu,cpuacct` or `rw,xattr,name=systemd`.
fn mount_option(super_options: &str) -> String {
    let known =
        |option: &&str| !matches!(*option, "rw" | "ro" | "xattr") && !option.starts_with("release_agent");
    let options: Vec<_> = super_options.split(',').filter(known).collect();
    match options.iter().find(|option| option.starts_with("name=")) {
        Some(name) => format!("none,{name}"),
        None => options.join(","),
    }
}

/// One cgroup, by its path below the roots of all hierarchies.
#[derive(Debug, Clone)]
pub(crate) struct Cgroup {
    hierarchy: Hierarchy,
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup of a whole lab.
    pub(crate) fn of_lab(hierarchy: Hierarchy, lab: &str) -> Self {
        Self { hierarchy, path: Path::new(ROOT).join(lab) }
    }

    /// A cgroup below this one.
    pub(crate) fn child(&self, name: &str) -> Self {
        Self { hierarchy: self.hierarchy.clone(), path: self.path.join(name) }
    }

    /// Its directory in the cgroup2 tree.
    pub(crate) fn unified(&self) -> PathBuf {
        self.hierarchy.unified().join(&self.path)
    }

    /// Makes it and its ancestors in every hierarchy, able to hold processes.
    pub(crate) fn create(&self) -> Result<()> {
        for root in self.hierarchy.roots() {
            let mut directory = root.clone();
            for part in &self.path {
                let parent = directory.clone();
                directory.push(part);
                match fs::create_dir(&directory) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(Error::io("create cgroup", &directory)(error));
                    }
                    _ => inherit_cpuset(&parent, &directory),
                }
            }
        }
        Ok(())
    }

    /// Gives its children the controllers it has itself (cgroup2 alone; it must hold no process).
    pub(crate) fn delegate(&self) {
        if self.hierarchy != Hierarchy::Pure {
            return;
        }
        let mut directory = self.hierarchy.unified();
        enable_controllers(&directory);
        for part in &self.path {
            directory.push(part);
            enable_controllers(&directory);
        }
    }

    /// Its `cgroup.procs` in every hierarchy, open for writing: "0" moves the writer.
    pub(crate) fn entrances(&self) -> Result<Vec<File>> {
        let open = |root: PathBuf| {
            let path = root.join(&self.path).join("cgroup.procs");
            OpenOptions::new().write(true).open(&path).map_err(Error::io("open", &path))
        };
        self.hierarchy.roots().into_iter().map(open).collect()
    }

    /// Every process in it and below it.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        for directory in subtree(&self.unified()) {
            let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw));
        }
        found
    }

    /// Kills every process in it and below it, and waits until they are gone.
    pub(crate) fn kill(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVAL;
        let at_once = self.unified().join("cgroup.kill");
        while !self.processes().is_empty() {
            if fs::write(&at_once, "1").is_err() {
                // Kernels before 5.14; what forks meanwhile is met in the next round.
                for pid in self.processes() {
                    let _ = kill(pid, Signal::SIGKILL);
                }
            }
            if Instant::now() > deadline {
                return Err(Error::Machine(format!(
                    "processes {:?} of {} do not die; look at their state in /proc",
                    self.processes(),
                    self.unified().display()
                )));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Removes it with all below it from every hierarchy.
    pub(crate) fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVAL;
        for root in self.hierarchy.roots() {
            for directory in subtree(&root.join(&self.path)).into_iter().rev() {
                while let Err(error) = fs::remove_dir(&directory) {
                    if error.kind() == io::ErrorKind::NotFound {
                        break;
                    }
                    if Instant::now() > deadline {
                        return Err(Error::io("remove cgroup", &directory)(error));
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            }
            // Shared by all labs: goes with the last of them.
            let _ = fs::remove_dir(root.join(ROOT));
        }
        Ok(())
    }
}

/// A directory and all below it, each before its children.
fn subtree(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let entries = fs::read_dir(&found[next]).into_iter().flatten().flatten();
        found.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        next += 1;
    }
    found
}

/// A cpuset (version 1) without processors and memory nodes takes no process.
fn inherit_cpuset(parent: &Path, child: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if child.join("cpuset.sched_load_balance").exists()
            && let Ok(value) = fs::read_to_string(parent.join(file))
        {
            let _ = fs::write(child.join(file), value.trim());
        }
    }
}

/// One by one, since one that is refused (of real-time processes, for instance) must not keep the others out.
fn enable_controllers(directory: &Path) {
    let controllers = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pure_tree_is_known_by_its_mount() {
        let text = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(Hierarchy::parse(text), Some(Hierarchy::Pure));
    }

    #[test]
    fn a_hybrid_tree_gives_the_options_that_mount_it_again() {
        let text = "\
24 1 0:5 / / rw - ext4 /dev/vda rw
25 24 0:20 / /sys/fs/cgroup rw - tmpfs tmpfs rw
26 25 0:21 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
27 25 0:22 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
28 25 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        let expected = [("cpu,cpuacct", "cpu,cpuacct"), ("systemd", "none,name=systemd")]
            .map(|(name, option)| (name.to_owned(), option.to_owned()));
        assert_eq!(Hierarchy::parse(text), Some(Hierarchy::Hybrid(expected.into())));
    }

    #[test]
    fn without_cgroup2_there_is_no_lab() {
        let text = "26 25 0:21 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(Hierarchy::parse(text), None);
    }
}
