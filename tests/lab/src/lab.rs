//! The lab as a whole: up, down, and what is in it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::Serialize;

use crate::cgroup::{Cgroup, Hierarchy};
use crate::nat::{self, Counters, NatKind, Ruleset};
use crate::network::{self, Cable, Netns};
use crate::state::{MachineLink, NatState, State};
use crate::topology::NatSpec;
use crate::{Error, Host, Process, Result, Topology, machine, shell};

/// Longest name of a lab: it is part of the names of interfaces on the machine.
const NAME: usize = 10;

/// A lab that is up, or on its way there.
#[derive(Debug)]
pub struct Lab {
    directory: PathBuf,
    hierarchy: Hierarchy,
    state: State,
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
        machine::check()?;
        topology.check()?;
        let directory = root.join(name);
        let state = match State::load(&directory)? {
            Some(state) if same_shape(&state.topology, topology) => {
                State { topology: topology.clone(), ..state }
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

    /// Makes a NAT behave otherwise from now on; it forgets its mappings.
    ///
    /// # Errors
    /// Where there is no such NAT.
    pub fn set_nat_kind(&mut self, name: &str, kind: NatKind) -> Result<()> {
        self.nat(name)?;
        self.state.nats.insert(name.into(), NatState { kind, rebinds: 0 });
        self.renew_nat(name)
    }

    /// Makes a NAT forget its mappings and map the ports of the overlay to others.
    ///
    /// # Errors
    /// Where there is no such NAT.
    pub fn rebind_nat(&mut self, name: &str) -> Result<()> {
        self.nat(name)?;
        if let Some(state) = self.state.nats.get_mut(name) {
            state.rebinds += 1;
        }
        self.renew_nat(name)
    }

    /// Cuts the first link of a host or NAT (the NAT's is its outside), or restores it.
    ///
    /// # Errors
    /// Where nothing has that name.
    pub fn set_link(&self, name: &str, link: Link) -> Result<()> {
        let cable = self.cables().into_iter().find(|(owner, _, _)| owner == name).ok_or_else(|| {
            let known: Vec<_> = self.cables().into_iter().map(|(owner, _, _)| owner).collect();
            Error::Unknown { what: "host or NAT", name: name.into(), known: known.join(", ") }
        })?;
        match link {
            Link::Cut => cable.1.cut(false),
            Link::Silent => cable.1.cut(true),
            Link::Whole => {
                cable.1.restore()?;
                // With the carrier the kernel dropped the routes.
                let station = &cable.1.station;
                self.gateway(name).map_or(Ok(()), |gateway| network::default_route(station, Some(gateway)))
            }
        }
    }

    /// Starts a killed host again: fresh namespaces, an empty /run, its disk as it was.
    ///
    /// # Errors
    /// Where there is no such host, or its processes do not die.
    pub fn boot(&self, name: &str) -> Result<()> {
        let host = self.host(name)?;
        self.unplug(name);
        host.make()?;
        self.connect(name)
    }

    fn make(&mut self) -> Result<()> {
        self.make_holder()?;
        for segment in &self.state.topology.segments {
            network::make_segment(&self.netns(segment))?;
        }
        for host in self.hosts() {
            if !host.is_up() {
                self.unplug(host.name());
                host.make()?;
            }
            self.connect(host.name())?;
        }
        for nat in self.state.topology.nats.clone() {
            self.make_nat(&nat)?;
        }
        Ok(())
    }

    /// Files that hold mount namespaces must not be on a mount that propagates.
    fn make_holder(&self) -> Result<()> {
        let holder = self.directory.join("ns");
        fs::create_dir_all(&holder).map_err(Error::io("create", &holder))?;
        if mounts_below(&holder)?.contains(&holder) {
            return Ok(());
        }
        let none = None::<&str>;
        let failed = |errno: nix::errno::Errno| Error::io("mount", &holder)(errno.into());
        mount(Some(&holder), &holder, none, MsFlags::MS_BIND, none).map_err(failed)?;
        mount(none, &holder, none, MsFlags::MS_PRIVATE, none).map_err(failed)
    }

    fn make_nat(&mut self, spec: &NatSpec) -> Result<()> {
        let netns = self.netns(&spec.name);
        let fresh = !netns.exists();
        if fresh {
            netns.remove();
            netns.create()?;
            network::forward(&netns)?;
        }
        self.connect(&spec.name)?;
        if fresh {
            let neighbours = self.state.topology.neighbours(&spec.outside.segment, &spec.name);
            netns.nft(
                &ruleset(spec, NatState { kind: spec.kind, rebinds: 0 }, &neighbours).render_counters(),
            )?;
        }
        let known = self.state.nats.get(&spec.name).copied();
        if fresh || known.is_none_or(|nat| nat.kind != spec.kind) {
            self.set_nat_kind(&spec.name, spec.kind)?;
        }
        Ok(())
    }

    fn renew_nat(&self, name: &str) -> Result<()> {
        let (spec, state) = self.nat(name)?;
        self.state.save(&self.directory)?;
        let netns = self.netns(name);
        netns.nft(&ruleset(spec, state, &[]).render())?;
        shell::run(netns.command("conntrack").arg("-F")).map(drop)
    }

    fn nat(&self, name: &str) -> Result<(&NatSpec, NatState)> {
        let nats = &self.state.topology.nats;
        let spec = nats.iter().find(|nat| nat.name == name).ok_or_else(|| {
            let known: Vec<_> = nats.iter().map(|nat| nat.name.as_str()).collect();
            Error::Unknown { what: "NAT", name: name.into(), known: known.join(", ") }
        })?;
        let state = self.state.nats.get(name).copied();
        Ok((spec, state.unwrap_or(NatState { kind: spec.kind, rebinds: 0 })))
    }

    /// Plugs in every cable of a host or NAT, and its link to the machine.
    fn connect(&self, name: &str) -> Result<()> {
        for (_, cable, addresses) in self.cables().into_iter().filter(|(owner, _, _)| owner == name) {
            cable.plug(&addresses)?;
        }
        let netns = self.netns(name);
        if let Some(link) = self.state.machine_links.get(name) {
            let spec = self.state.topology.hosts.iter().find(|host| host.name == name);
            network::link_machine(&netns, link, spec.map_or(&[], |host| &host.machine_ports))?;
        }
        network::default_route(&netns, self.gateway(name))
    }

    fn unplug(&self, name: &str) {
        for (_, cable, _) in self.cables().into_iter().filter(|(owner, _, _)| owner == name) {
            cable.unplug();
        }
        if let Some(link) = self.state.machine_links.get(name) {
            network::unlink_machine(link);
        }
    }

    fn gateway(&self, name: &str) -> Option<IpAddr> {
        let topology = &self.state.topology;
        let host = topology.hosts.iter().find(|host| host.name == name).and_then(|host| host.gateway);
        host.or_else(|| topology.nats.iter().find(|nat| nat.name == name).and_then(|nat| nat.gateway))
    }

    /// Every cable with whose it is and the addresses at its end; a NAT's outside comes before its inside.
    fn cables(&self) -> Vec<(String, Cable, Vec<ipnet::IpNet>)> {
        let topology = &self.state.topology;
        let mut plugged: BTreeMap<&str, usize> = BTreeMap::new();
        topology
            .interfaces()
            .map(|(owner, interface)| {
                let count = plugged.entry(owner).or_default();
                let number = *count;
                *count += 1;
                let is_nat = topology.nats.iter().any(|nat| nat.name == owner);
                let cable = Cable {
                    segment: self.netns(&interface.segment),
                    port: format!("{owner}.{number}"),
                    station: self.netns(owner),
                    interface: match (is_nat, number) {
                        (true, 0) => nat::WAN.into(),
                        (true, _) => nat::LAN.into(),
                        (false, _) => format!("eth{number}"),
                    },
                };
                (owner.to_owned(), cable, interface.addresses.clone())
            })
            .collect()
    }

    pub(crate) fn netns_path(&self, host: &Host) -> PathBuf {
        self.netns(host.name()).path()
    }

    fn netns(&self, name: &str) -> Netns {
        Netns::of(&self.state.name, name)
    }
}

/// State of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Carries.
    Whole,
    /// Without carrier, as an unplugged cable.
    Cut,
    /// With carrier, but nothing passes, as behind a dead uplink.
    Silent,
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

/// Whether two topologies differ in nothing but the kinds of their NATs.
fn same_shape(one: &Topology, other: &Topology) -> bool {
    let plain = |topology: &Topology| {
        let mut topology = topology.clone();
        topology.nats.iter_mut().for_each(|nat| nat.kind = NatKind::default());
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
    Ok(State { name: name.into(), topology: topology.clone(), machine_links, nats: BTreeMap::new() })
}

fn ruleset<'a>(spec: &NatSpec, state: NatState, neighbours: &'a [(String, Vec<IpAddr>)]) -> Ruleset<'a> {
    let address = spec.outside.addresses.iter().map(ipnet::IpNet::addr).find(IpAddr::is_ipv4);
    Ruleset {
        kind: state.kind,
        address: address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        neighbours,
        rebinds: state.rebinds,
    }
}

/// Network namespaces whose names say that they are the lab's.
fn netns_of(lab: &str) -> Result<Vec<Netns>> {
    let list = shell::words("ip netns list")?;
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    let ours = |name: &&str| name.strip_prefix(lab).is_some_and(|rest| rest.starts_with('-'));
    Ok(names.filter(ours).map(|name| Netns(name.to_owned())).collect())
}

/// What is mounted at or below `directory`, the deepest last.
fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>> {
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
