//! Segments, the links into them, and the link to the machine, by `ip` and `nft`.
//!
//! A segment is a bridge in a namespace of its own. Both ends of a link are made in their namespaces,
//! so that no name of theirs is ever seen on the machine.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};

use crate::state::MachineLink;
use crate::wan::{Wan, WanLink};
use crate::{Error, Result, shell};

/// The bridge of a segment.
const SWITCH: &str = "br0";
/// A host's end of its link to the machine.
pub(crate) const MACHINE: &str = "machine";

/// A network namespace of the lab, by the name under which `ip netns` shows it.
#[derive(Debug, Clone)]
pub(crate) struct Netns(pub(crate) String);

impl Netns {
    /// The namespace of a segment, host or NAT.
    pub(crate) fn of(lab: &str, name: &str) -> Self {
        Self(format!("{lab}-{name}"))
    }

    /// The file that holds it.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.0)
    }

    /// Whether it is there.
    pub(crate) fn exists(&self) -> bool {
        shell::words(&format!("ip -n {} link show lo", self.0)).is_ok()
    }

    /// Makes it, with its loopback up.
    pub(crate) fn create(&self) -> Result<()> {
        shell::words(&format!("ip netns add {}", self.0))?;
        // Whoever looks whether its own link-local address is taken asks for no neighbour's meanwhile.
        let script = "for conf in all default; do
            [ ! -e /proc/sys/net/ipv6/conf/$conf ] || echo 0 > /proc/sys/net/ipv6/conf/$conf/accept_dad
        done";
        shell::run(self.command("sh").args(["-c", script]))?;
        self.ip("link set lo up")
    }

    /// Removes it; what is in it goes with it.
    pub(crate) fn remove(&self) {
        if self.path().exists() {
            shell::try_words(&format!("ip netns del {}", self.0));
            // A file left by a reboot of the machine is no mount, and `ip` refuses it.
            let _ = std::fs::remove_file(self.path());
        }
    }

    /// Runs `ip` with these words in it.
    pub(crate) fn ip(&self, words: &str) -> Result<()> {
        shell::words(&format!("ip -n {} {words}", self.0)).map(drop)
    }

    /// A command that runs in it, and in the machine's other namespaces.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Gives a ruleset to nft.
    pub(crate) fn nft(&self, ruleset: &str) -> Result<()> {
        shell::feed(self.command("nft").args(["-f", "-"]), ruleset).map(drop)
    }

    /// Runs `work` in a thread that is in this network namespace, and stays so for no longer.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).map_err(Error::io("enter", self.path()))?;
        let inside = || setns(&file, CloneFlags::CLONE_NEWNET).map(|()| work());
        let entered = thread::scope(|scope| scope.spawn(inside).join());
        let entered = entered.map_err(|_| Error::Machine(format!("{}: the work there panicked", self.0)))?;
        entered.map_err(|errno| Error::io("enter", self.path())(errno.into()))
    }

    /// Makes a TAP device that outlives its process.
    fn add_tap(&self, name: &str) -> Result<()> {
        self.ip(&format!("tuntap add dev {name} mode tap"))?;
        self.ip(&format!("link set {name} txqueuelen {TAP_QUEUE}"))
    }

    /// Whether it has an interface of that name.
    fn has(&self, interface: &str) -> bool {
        self.ip(&format!("link show {interface}")).is_ok()
    }
}

/// Makes a segment's namespace and its bridge, unless they are there.
pub(crate) fn make_segment(segment: &Netns) -> Result<()> {
    if segment.exists() && segment.has(SWITCH) {
        return Ok(());
    }
    segment.remove();
    segment.create()?;
    segment.ip(&format!("link add {SWITCH} type bridge mcast_snooping 0"))?;
    segment.ip(&format!("link set {SWITCH} up"))
}

/// Packets that a TAP device holds for its process: 120 ms at 1 Gbit/s.
const TAP_QUEUE: usize = 10_000;

/// A cable between a segment and an interface of a host or a NAT.
#[derive(Debug)]
pub(crate) struct Cable {
    pub(crate) segment: Netns,
    /// The end at the switch.
    pub(crate) port: String,
    pub(crate) station: Netns,
    /// The end at the host or NAT.
    pub(crate) interface: String,
    /// The WAN that it is, with its present conditions; otherwise it carries at once whatever it is given.
    pub(crate) wan: Option<(WanLink, Wan)>,
}

impl Cable {
    /// Plugs it in and gives the station's end its addresses, unless that has been done.
    pub(crate) fn plug(&self, addresses: &[IpNet]) -> Result<()> {
        let Self { segment, port, station, interface, wan } = self;
        if !(segment.has(port) && station.has(interface)) {
            self.unplug()?;
            match wan {
                Some(_) => {
                    segment.add_tap(port)?;
                    station.add_tap(interface)?;
                }
                None => segment
                    .ip(&format!("link add {port} type veth peer name {interface} netns {}", station.0))?,
            }
        }
        if let Some((link, wan)) = wan {
            link.start((station.0.clone(), interface.clone()), (segment.0.clone(), port.clone()), wan)?;
        }
        self.restore()?;
        station.ip(&format!("link set {interface} up"))?;
        for address in addresses {
            let flags = if address.addr().is_ipv6() { " nodad" } else { "" };
            station.ip(&format!("addr replace {address} dev {interface}{flags}"))?;
        }
        Ok(())
    }

    /// Removes both ends, and the process between them.
    pub(crate) fn unplug(&self) -> Result<()> {
        if let Some((link, _)) = &self.wan {
            link.end()?;
            let _ = self.station.ip(&format!("link del {}", self.interface));
        }
        let _ = self.segment.ip(&format!("link del {}", self.port));
        Ok(())
    }

    /// Cuts it: the station loses its carrier, or, `silent`, only what it sends and should receive.
    pub(crate) fn cut(&self, silent: bool) -> Result<()> {
        if !silent && self.wan.is_none() {
            return self.segment.ip(&format!("link set {} down", self.port));
        }
        self.segment.ip(&format!("link set {} nomaster", self.port))?;
        if silent {
            return Ok(());
        }
        // Of a TAP device the carrier is taken up to a second later.
        self.station.ip(&format!("link set {} carrier off", self.interface))
    }

    /// Undoes a cut of either sort.
    pub(crate) fn restore(&self) -> Result<()> {
        if self.wan.is_some() {
            self.station.ip(&format!("link set {} carrier on", self.interface))?;
        }
        self.segment.ip(&format!("link set {} master {SWITCH} up", self.port))
    }
}

/// The address, if it is of IPv4.
pub(crate) fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// Gives `station` a route: to where, and by which neighbour.
pub(crate) fn route(station: &Netns, (to, via): &(IpNet, IpAddr)) -> Result<()> {
    let family = if via.is_ipv4() { "-4" } else { "-6" };
    station.ip(&format!("{family} route replace {to} via {via}"))
}

/// Links a host to the machine's own namespace; only `ports` answer there.
pub(crate) fn link_machine(host: &Netns, link: &MachineLink, ports: &[u16]) -> Result<()> {
    let MachineLink { interface, machine, host: address } = link;
    if !(host.has(MACHINE) && shell::words(&format!("ip link show {interface}")).is_ok()) {
        unlink_machine(link);
        shell::words(&format!("ip link add {interface} type veth peer name {MACHINE} netns {}", host.0))?;
    }
    shell::words(&format!("ip addr replace {machine}/30 dev {interface}"))?;
    shell::words(&format!("ip link set {interface} up"))?;
    let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
    host.nft(&format!(
        "table inet machine-link\ndelete table inet machine-link\ntable inet machine-link {{
  chain input {{
    type filter hook input priority -10; policy accept;
    iifname {MACHINE} ct state established,related accept
    iifname {MACHINE} meta l4proto icmp accept
    iifname {MACHINE} tcp dport {{ {} }} accept
    iifname {MACHINE} drop
  }}
  chain forward {{
    type filter hook forward priority -10; policy accept;
    iifname {MACHINE} drop
    oifname {MACHINE} drop
  }}
}}\n",
        ports.join(", ")
    ))?;
    host.ip(&format!("addr replace {address}/30 dev {MACHINE}"))?;
    host.ip(&format!("link set {MACHINE} up"))
}

/// Removes the link to the machine.
pub(crate) fn unlink_machine(link: &MachineLink) {
    shell::try_words(&format!("ip link del {}", link.interface));
}

/// Lets a NAT forward; everything else about it is its ruleset.
pub(crate) fn forward(nat: &Netns) -> Result<()> {
    // A machine without IPv6 has nothing to forward there.
    let script = "echo 1 > /proc/sys/net/ipv4/ip_forward
        all=/proc/sys/net/ipv6/conf/all/forwarding
        [ ! -e $all ] || echo 1 > $all";
    shell::run(nat.command("sh").args(["-c", script]))
        .map(drop)
        .map_err(|error| Error::Machine(format!("{}: forwarding cannot be switched on: {error}", nat.0)))
}
