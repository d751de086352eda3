//! One host: its namespaces, its own directories, and how a process is started in it.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use nix::unistd::Pid;

use crate::cgroup::{Cgroup, Hierarchy};
use crate::network::Netns;
use crate::{Error, Process, Result, shell};

/// A host's own directories: where the host sees them, and their name below the host's directory.
const DIRECTORIES: [(&str, &str); 4] =
    [("/etc/edgeloom", "edgeloom"), ("/var/log", "log"), ("/run", "run"), ("/var/lib", "lib")];
/// The namespaces held by files; the network namespace is `ip netns`'s.
const HELD: [&str; 3] = ["mnt", "uts", "cgroup"];

/// Runs once in a host's fresh namespaces: `$1` is the hostname, `$2` the host's directory.
/// `/var/lib` comes last, since the host's directory is usually below it.
const SETUP: &str = r#"
hostname "$1"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$2/etc,workdir=$2/etc.work" /etc
mkdir -p /etc/edgeloom
mount -t sysfs sysfs /sys
mount -t securityfs securityfs /sys/kernel/security 2>/dev/null || true
mount -t bpf bpf /sys/fs/bpf
"#;

/// A host of a lab.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    /// Its directories, one per entry of [`DIRECTORIES`].
    directory: PathBuf,
    /// The files that hold its namespaces.
    namespaces: PathBuf,
    netns: Netns,
    cgroup: Cgroup,
    hierarchy: Hierarchy,
}

impl Host {
    pub(crate) fn new(lab: &str, directory: &Path, hierarchy: &Hierarchy, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            directory: directory.join("hosts").join(name),
            namespaces: directory.join("ns").join(name),
            netns: Netns::of(lab, name),
            cgroup: Cgroup::of_lab(hierarchy.clone(), lab).child(name),
            hierarchy: hierarchy.clone(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its cgroup2 directory, as the machine sees it; in the host it is the root of the tree.
    pub fn cgroup(&self) -> PathBuf {
        self.cgroup.unified()
    }

    /// Where the machine finds a file of the host's own directories.
    ///
    /// # Errors
    /// [`Error::Machine`] for a path that is in none of them.
    pub fn path(&self, inside: &str) -> Result<PathBuf> {
        let inside = inside.replacen("/var/run/", "/run/", 1);
        DIRECTORIES
            .iter()
            .find_map(|(mounted, own)| {
                let rest = inside.strip_prefix(mounted)?;
                (rest.is_empty() || rest.starts_with('/'))
                    .then(|| self.directory.join(own).join(rest.trim_start_matches('/')))
            })
            .ok_or_else(|| {
                let own: Vec<_> = DIRECTORIES.iter().map(|(mounted, _)| *mounted).collect();
                Error::Machine(format!("{inside} is not the host's own; its own are {}", own.join(", ")))
            })
    }

    /// Whether its namespaces are there.
    pub fn is_up(&self) -> bool {
        self.netns.exists() && HELD.iter().all(|kind| is_namespace(&self.namespaces.join(kind)))
    }

    /// A command that will run in all of the host's namespaces and in its cgroup.
    ///
    /// # Errors
    /// Where the host is not up.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut namespaces = vec![(open(&self.netns.path())?, CloneFlags::CLONE_NEWNET)];
        // The mount namespace comes last: it hides the files of the others.
        for (kind, flag) in [
            ("uts", CloneFlags::CLONE_NEWUTS),
            ("cgroup", CloneFlags::CLONE_NEWCGROUP),
            ("mnt", CloneFlags::CLONE_NEWNS),
        ] {
            namespaces.push((open(&self.namespaces.join(kind))?, flag));
        }
        enter(program, &self.cgroup.child("system"), namespaces)
    }

    /// Runs a command line in the host to its end and returns its standard output.
    ///
    /// # Errors
    /// Where it cannot be started or ends with an error, with what it wrote to standard error.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let (program, arguments) = arguments.split_first().unwrap_or((&"true", &[]));
        shell::run(self.command(program)?.args(arguments))
    }

    /// Starts a program that stays: in a session of its own, its output appended to `log` (a path of
    /// the machine), without a tie to the caller. Returns its process id.
    ///
    /// # Errors
    /// Where the log cannot be opened or the host is not up.
    pub fn start(&self, command_line: &[&str], log: &Path) -> Result<Pid> {
        start(self.command("sh")?, command_line, log)
    }

    /// Every process of the host, those of its pods included.
    pub fn processes(&self) -> Vec<Process> {
        self.cgroup.processes().into_iter().filter_map(Process::read).collect()
    }

    /// The host's own processes (not its pods') of that program.
    pub fn processes_named(&self, program: &str) -> Vec<Process> {
        self.processes().into_iter().filter(|process| !process.in_pod && process.name == program).collect()
    }

    /// Sends a signal to each of the host's own processes of that program; returns how many there were.
    ///
    /// # Errors
    /// Where there is none.
    pub fn signal(&self, program: &str, signal: Signal) -> Result<usize> {
        let processes = self.processes_named(program);
        if processes.is_empty() {
            let known: Vec<_> = self.processes().into_iter().filter(|p| !p.in_pod).map(|p| p.name).collect();
            return Err(Error::Unknown { what: "process", name: program.into(), known: known.join(", ") });
        }
        for process in &processes {
            // One that has just ended needs no signal.
            let _ = kill(Pid::from_raw(process.pid), signal);
        }
        Ok(processes.len())
    }

    /// Kills everything that runs in it, pods and shims too, as a power cut does.
    ///
    /// # Errors
    /// Where a process does not die.
    pub fn kill(&self) -> Result<()> {
        self.cgroup.kill()
    }

    /// Makes its directories, cgroup and namespaces, with nothing in /run, as after a start of a machine.
    pub(crate) fn make(&self) -> Result<()> {
        self.remove_namespaces()?;
        self.make_directories()?;
        self.cgroup.create()?;
        self.netns.create()?;
        self.make_namespaces()?;
        // The cgroup is empty again only now, and what holds processes can delegate nothing.
        self.cgroup.delegate();
        self.cgroup.child("system").create()?;
        self.cgroup.child("kubepods").create()
    }

    /// Unmounts its namespaces and removes its network namespace; its directories stay.
    pub(crate) fn remove_namespaces(&self) -> Result<()> {
        self.kill()?;
        for kind in HELD {
            let file = self.namespaces.join(kind);
            while is_namespace(&file) {
                umount2(&file, MntFlags::MNT_DETACH)
                    .map_err(|errno| Error::io("unmount", &file)(errno.into()))?;
            }
        }
        self.netns.remove();
        Ok(())
    }

    fn make_directories(&self) -> Result<()> {
        let run = self.directory.join("run");
        if run.exists() {
            fs::remove_dir_all(&run).map_err(Error::io("empty", &run))?;
        }
        let own = DIRECTORIES.iter().map(|(_, own)| *own);
        for name in own.chain(["etc", "etc.work", "log/pods", "run/netns"]) {
            let path = self.directory.join(name);
            fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        }
        let name = &self.name;
        for (file, text) in [
            ("hostname", format!("{name}\n")),
            ("machine-id", format!("{}\n", self.machine_id())),
            ("hosts", format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n")),
            ("resolv.conf", "# This host has no resolver.\n".to_owned()),
        ] {
            let path = self.directory.join("etc").join(file);
            fs::write(&path, text).map_err(Error::io("write", &path))?;
        }
        Ok(())
    }

    /// 32 hexadecimal digits, the same at each start.
    fn machine_id(&self) -> String {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (&self.netns.0, salt).hash(&mut hasher);
            hasher.finish()
        };
        format!("{:016x}{:016x}", half(0), half(1))
    }

    fn make_namespaces(&self) -> Result<()> {
        fs::create_dir_all(&self.namespaces).map_err(Error::io("create", &self.namespaces))?;
        for kind in HELD {
            let file = self.namespaces.join(kind);
            fs::write(&file, "").map_err(Error::io("write", &file))?;
        }
        let held = |kind: &str| self.namespaces.join(kind).display().to_string();
        let network = vec![(open(&self.netns.path())?, CloneFlags::CLONE_NEWNET)];
        // In the host's own cgroup, so that it becomes the root of the cgroup namespace.
        let mut unshare = enter("unshare", &self.cgroup, network)?;
        unshare
            .arg(format!("--mount={}", held("mnt")))
            .arg(format!("--uts={}", held("uts")))
            .arg(format!("--cgroup={}", held("cgroup")))
            .args(["sh", "-euc", &self.setup_script(), "sh", &self.name])
            .arg(&self.directory);
        shell::run(&mut unshare).map(drop)
    }

    fn setup_script(&self) -> String {
        let mut script = format!("{SETUP}{}", self.hierarchy.mount_script());
        for (mounted, own) in DIRECTORIES {
            script.push_str(&format!("mount --bind \"$2/{own}\" {mounted}\n"));
        }
        script
    }
}

/// A command that will run in a cgroup and in these namespaces.
pub(crate) fn enter(program: &str, cgroup: &Cgroup, namespaces: Vec<(File, CloneFlags)>) -> Result<Command> {
    let entrances = cgroup.entrances()?;
    let mut command = Command::new(program);
    let enter = move || {
        for entrance in &entrances {
            nix::unistd::write(entrance, b"0")?;
        }
        for (file, flag) in &namespaces {
            setns(file, *flag)?;
        }
        Ok(())
    };
    #[expect(
        unsafe_code,
        reason = "namespaces are entered between fork and exec; the closure makes system calls on open \
                  files only, and neither allocates nor locks"
    )]
    unsafe {
        command.pre_exec(enter);
    }
    Ok(command)
}

/// Starts a program that stays by way of `shell`, a command that runs `sh`; as [`Host::start`].
pub(crate) fn start(mut shell: Command, command_line: &[&str], log: &Path) -> Result<Pid> {
    let output = File::options().create(true).append(true).open(log).map_err(Error::io("open", log))?;
    shell.args(["-c", r#"setsid "$@" >&2 </dev/null & echo $!"#, "sh"]).args(command_line);
    let started = shell.stdin(Stdio::null()).stderr(output).output().map_err(Error::io("run", "sh"))?;
    let pid = String::from_utf8_lossy(&started.stdout)
        .trim()
        .parse()
        .map_err(|_| Error::Machine(format!("{} was not started", command_line.join(" "))))?;
    Ok(Pid::from_raw(pid))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|source| Error::Io {
        what: format!("cannot enter {}; is the host up?", path.display()),
        source,
    })
}

fn is_namespace(file: &Path) -> bool {
    statfs(file).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_host_are_found_from_the_machine() {
        let host = Host::new("t", Path::new("/state"), &Hierarchy::Pure, "edge-a");
        let path = |inside| host.path(inside).map(|path| path.display().to_string());
        assert_eq!(path("/run/edgeloom/x.sock").unwrap(), "/state/hosts/edge-a/run/edgeloom/x.sock");
        assert_eq!(path("/var/run/x").unwrap(), "/state/hosts/edge-a/run/x");
        assert_eq!(
            path("/etc/edgeloom/edgecore.yaml").unwrap(),
            "/state/hosts/edge-a/edgeloom/edgecore.yaml"
        );
        assert!(path("/etc/passwd").is_err());
        assert!(path("/running").is_err());
    }
}
