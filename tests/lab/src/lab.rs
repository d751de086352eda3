//! The lab as a whole: up, down, and what is in it.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};
use serde::Serialize;

use crate::cgroup::{Cgroup, Hierarchy};
use crate::nat::{self, Counters, Egress, NatKind};
use crate::network::{self, Netns};
use crate::state::{MachineLink, State};
use crate::wan::Wan;
use crate::{Error, Host, Process, Result, Topology, machine, shell};

/// Longest name of a lab: it is part of the names of interfaces on the machine.
const NAME: usize = 10;

/// A lab that is up, or on its way there.
#[derive(Debug)]
pub struct Lab {
    pub(crate) directory: PathBuf,
    hierarchy: Hierarchy,
    pub(crate) state: State,
}

/// What a lab consists of at the moment.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Its name, with which its network namespaces begin.
    pub name: String,
    /// Its directory.
    pub directory: PathBuf,
    /// `hybrid` or `pure`: how the machine has mounted its cgroups.
    pub cgroups: &'static str,
    /// Its hosts.
    pub hosts: Vec<HostStatus>,
    /// Kind of each NAT.
    pub nats: BTreeMap<String, String>,
}

/// A host at the moment.
#[derive(Debug, Serialize)]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// Whether its namespaces are there.
    pub up: bool,
    /// The address at which the machine's own namespace reaches it, if it does.
    pub machine_address: Option<Ipv4Addr>,
    /// Its cgroup2 directory.
    pub cgroup: PathBuf,
    /// What runs in it.
    pub processes: Vec<Process>,
}

impl Lab {
    /// Brings a lab up, or makes whole what is there of it; NATs get the kinds that `topology` says.
    ///
    /// # Errors
    /// Where the machine lacks something, or a lab of that name is up with another topology.
    pub fn up(root: &Path, name: &str, topology: &Topology) -> Result<Self> {
        check_name(root, name)?;
        topology.check()?;
        machine::check(topology)?;
        let directory = root.join(name);
        let state = match State::load(&directory)? {
            Some(state) if same_shape(&state.topology, topology) => {
                State { topology: topology.clone(), wans: BTreeMap::new(), ..state }
            }
            Some(_) => {
                return Err(Error::Machine(format!(
                    "lab {name:?} is up with another topology; take it down first (`lab down`)"
                )));
            }
            None => plan(name, topology)?,
        };
        let mut lab = Self { directory, hierarchy: Hierarchy::detect()?, state };
        lab.state.save(&lab.directory)?;
        lab.make()?;
        Ok(lab)
    }

    /// A lab that was brought up before.
    ///
    /// # Errors
    /// [`Error::NotUp`] where there is none.
    pub fn open(root: &Path, name: &str) -> Result<Self> {
        check_name(root, name)?;
        let directory = root.join(name);
        let state = State::load(&directory)?.ok_or_else(|| Error::NotUp(directory.display().to_string()))?;
        Ok(Self { directory, hierarchy: Hierarchy::detect()?, state })
    }

    /// Removes everything of the lab of that name, whole or not; nothing there is no error.
    ///
    /// # Errors
    /// Where something cannot be removed: what it is, and why.
    pub fn down(root: &Path, name: &str) -> Result<()> {
        check_name(root, name)?;
        let directory = root.join(name);
        let cgroup = Cgroup::of_lab(Hierarchy::detect()?, name);
        cgroup.kill()?;
        if let Ok(Some(state)) = State::load(&directory) {
            state.machine_links.values().for_each(network::unlink_machine);
        }
        remove_mounts(&directory)?;
        for netns in netns_of(name)? {
            netns.remove();
        }
        cgroup.remove()?;
        if directory.exists() {
            fs::remove_dir_all(&directory).map_err(Error::io("remove", &directory))?;
        }
        // Shared by all labs: goes with the last of them.
        let _ = fs::remove_dir(root);
        Ok(())
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it was made from.
    pub fn topology(&self) -> &Topology {
        &self.state.topology
    }

    /// A host by its name.
    ///
    /// # Errors
    /// [`Error::Unknown`] with the names there are.
    pub fn host(&self, name: &str) -> Result<Host> {
        self.hosts().find(|host| host.name() == name).ok_or_else(|| {
            let known: Vec<_> = self.state.topology.hosts.iter().map(|host| host.name.as_str()).collect();
            Error::Unknown { what: "host", name: name.into(), known: known.join(", ") }
        })
    }

    /// All its hosts.
    pub fn hosts(&self) -> impl Iterator<Item = Host> {
        self.state.topology.hosts.iter().map(|spec| self.host_of(&spec.name))
    }

    fn host_of(&self, name: &str) -> Host {
        Host::new(&self.state.name, &self.directory, &self.hierarchy, name)
    }

    /// A command in a host (all its namespaces), a NAT or a segment (their network namespace).
    ///
    /// # Errors
    /// Where nothing has that name, or the host is not up.
    pub fn command(&self, name: &str, program: &str) -> Result<Command> {
        let topology = &self.state.topology;
        if topology.nats.iter().any(|nat| nat.name == name) || topology.segments.iter().any(|s| s == name) {
            return Ok(self.netns(name).command(program));
        }
        self.host(name)?.command(program)
    }

    /// Runs `work` in the network namespace of a host, NAT or segment: a socket made there stays there.
    ///
    /// # Errors
    /// Where nothing has that name.
    pub fn within<T: Send>(&self, name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns(name).within(work)
    }

    /// The address at which the machine's own namespace reaches a host.
    ///
    /// # Errors
    /// Where the host has no such link.
    pub fn machine_address(&self, host: &str) -> Result<Ipv4Addr> {
        self.state.machine_links.get(host).map(|link| link.host).ok_or_else(|| {
            Error::Machine(format!(
                "host {host:?} has no link to the machine (machine_ports in its topology)"
            ))
        })
    }

    /// What it consists of at the moment.
    pub fn status(&self) -> Status {
        let host = |host: Host| HostStatus {
            name: host.name().to_owned(),
            up: host.is_up(),
            machine_address: self.machine_address(host.name()).ok(),
            cgroup: host.cgroup(),
            processes: host.processes(),
        };
        Status {
            name: self.state.name.clone(),
            directory: self.directory.clone(),
            cgroups: if self.hierarchy == Hierarchy::Pure { "pure" } else { "hybrid" },
            hosts: self.hosts().map(host).collect(),
            nats: self.state.nats.iter().map(|(name, nat)| (name.clone(), nat.kind.to_string())).collect(),
        }
    }

    /// What a NAT saw on its outside since it was made, by neighbour.
    ///
    /// # Errors
    /// Where there is no such NAT.
    pub fn counters(&self, nat: &str) -> Result<Counters> {
        self.nat(nat)?;
        let mut command = self.netns(nat).command("nft");
        nat::parse_counters(&shell::run(command.args(["-j", "list", "counters", "table", "inet", "count"]))?)
    }

    pub(crate) fn cgroup(&self) -> Cgroup {
        Cgroup::of_lab(self.hierarchy.clone(), &self.state.name)
    }

    pub(crate) fn netns_path(&self, host: &Host) -> PathBuf {
        self.netns(host.name()).path()
    }

    pub(crate) fn netns(&self, name: &str) -> Netns {
        Netns::of(&self.state.name, name)
    }
}

fn check_name(root: &Path, name: &str) -> Result<()> {
    // A dash would let one lab's namespaces look like another's.
    let usable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.is_empty() || name.len() > NAME || !name.chars().all(usable) {
        return Err(Error::Machine(format!("name of a lab {name:?}: use 1 to {NAME} of a-z and 0-9")));
    }
    let odd = root.to_string_lossy().contains([',', ':', ' ', '"']);
    if odd || !root.is_absolute() || root.starts_with("/run") || root.starts_with("/var/run") {
        return Err(Error::Machine(format!(
            "directory of labs {}: use an absolute path outside /run, without blanks, commas and colons",
            root.display()
        )));
    }
    Ok(())
}

/// Whether two topologies differ in nothing but the kinds of their NATs, what these let out, and what their WANs do.
fn same_shape(one: &Topology, other: &Topology) -> bool {
    let plain = |topology: &Topology| {
        let mut topology = topology.clone();
        for nat in &mut topology.nats {
            (nat.kind, nat.egress) = (NatKind::default(), Egress::All);
        }
        topology.interfaces_mut().filter_map(|i| i.wan.as_mut()).for_each(|wan| *wan = Wan::default());
        topology
    };
    plain(one) == plain(other)
}

fn plan(name: &str, topology: &Topology) -> Result<State> {
    let mut machine_links = BTreeMap::new();
    let mut taken = Vec::new();
    for host in topology.hosts.iter().filter(|host| !host.machine_ports.is_empty()) {
        let (machine, address) = machine::free_link(&taken)?;
        let interface = format!("el{}-{name}", taken.len());
        taken.push(machine);
        machine_links.insert(host.name.clone(), MachineLink { interface, machine, host: address });
    }
    let (topology, nats, wans) = (topology.clone(), BTreeMap::new(), BTreeMap::new());
    Ok(State { name: name.into(), topology, machine_links, nats, wans })
}

/// Network namespaces whose names say that they are the lab's.
fn netns_of(lab: &str) -> Result<Vec<Netns>> {
    let list = shell::words("ip netns list")?;
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    let ours = |name: &&str| name.strip_prefix(lab).is_some_and(|rest| rest.starts_with('-'));
    Ok(names.filter(ours).map(|name| Netns(name.to_owned())).collect())
}

/// What is mounted at or below `directory`, the deepest last.
pub(crate) fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let text =
        fs::read_to_string("/proc/self/mountinfo").map_err(Error::io("read", "/proc/self/mountinfo"))?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    Ok(points.filter(|point| point.starts_with(directory)).collect())
}

fn remove_mounts(directory: &Path) -> Result<()> {
    for point in mounts_below(directory)?.into_iter().rev() {
        umount2(&point, MntFlags::MNT_DETACH).map_err(|errno| Error::io("unmount", &point)(errno.into()))?;
    }
    Ok(())
}
