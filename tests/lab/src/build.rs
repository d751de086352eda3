//! Makes the parts of a lab and plugs them together, and changes them while it is up.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use nix::mount::{MsFlags, mount};

use crate::lab::mounts_below;
use crate::nat::{self, Egress, NatKind, Ruleset};
use crate::network::{self, Cable};
use crate::state::NatState;
use crate::topology::NatSpec;
use crate::wan::{Counts, Wan, WanLink};
use crate::{Error, Lab, Result, shell};

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

impl Lab {
    /// Makes a NAT behave otherwise from now on; it forgets its mappings.
    ///
    /// # Errors
    /// Where there is no such NAT.
    pub fn set_nat_kind(&mut self, name: &str, kind: NatKind) -> Result<()> {
        let (_, state) = self.nat(name)?;
        self.state.nats.insert(name.into(), NatState { kind, rebinds: 0, ..state });
        self.renew_nat(name)
    }

    /// Lets out from now on what `egress` says; the NAT forgets its mappings.
    ///
    /// # Errors
    /// Where there is no such NAT.
    pub fn set_egress(&mut self, name: &str, egress: Egress) -> Result<()> {
        let (_, state) = self.nat(name)?;
        self.state.nats.insert(name.into(), NatState { egress, ..state });
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

    /// Gives the outside of a NAT another IPv4 address, as a provider does; the NAT forgets its mappings.
    ///
    /// # Errors
    /// Where there is no such NAT, or its outside has no IPv4 address.
    pub fn set_nat_address(&mut self, name: &str, address: Ipv4Net) -> Result<()> {
        let (spec, state) = self.nat(name)?;
        let none = || Error::Machine(format!("{name}: its outside has no IPv4 address"));
        let old = state.address.map(IpNet::from).or_else(|| spec.outside.ipv4_net()).ok_or_else(none)?;
        let netns = self.netns(name);
        netns.ip(&format!("addr del {old} dev {}", nat::WAN))?;
        netns.ip(&format!("addr replace {address} dev {}", nat::WAN))?;
        self.set_routes(name)?;
        self.state.nats.insert(name.into(), NatState { address: Some(address), ..state });
        self.renew_nat(name)
    }

    /// Cuts the first link of a host or NAT (the NAT's is its outside), or restores it.
    ///
    /// # Errors
    /// Where nothing has that name.
    pub fn set_link(&self, name: &str, link: Link) -> Result<()> {
        let cable = self.first_cable(name)?;
        match link {
            Link::Cut => cable.cut(false),
            Link::Silent => cable.cut(true),
            Link::Whole => {
                cable.restore()?;
                // With the carrier the kernel dropped the routes.
                self.set_routes(name)
            }
        }
    }

    /// Changes the conditions of the WAN that is the first link of a host, or the outside link of a NAT.
    ///
    /// # Errors
    /// Where that link is no WAN, or a condition means nothing.
    pub fn set_wan(&mut self, name: &str, wan: &Wan) -> Result<()> {
        wan.check().map_err(|error| Error::Topology(format!("{name}: {error}")))?;
        let cable = self.first_cable(name)?;
        wan_of(name, &cable)?.set(wan)?;
        self.state.wans.insert(cable.port, wan.clone());
        self.state.save(&self.directory)
    }

    /// What passed the WAN that is the first link of a host, or the outside link of a NAT.
    ///
    /// # Errors
    /// Where that link is no WAN, or its process does not answer.
    pub fn wan_counts(&self, name: &str) -> Result<Counts> {
        wan_of(name, &self.first_cable(name)?)?.count()
    }

    fn first_cable(&self, name: &str) -> Result<Cable> {
        let found = self.cables().into_iter().find(|(owner, _, _)| owner == name);
        found.map(|(_, cable, _)| cable).ok_or_else(|| {
            let known: Vec<_> = self.cables().into_iter().map(|(owner, _, _)| owner).collect();
            Error::Unknown { what: "host or NAT", name: name.into(), known: known.join(", ") }
        })
    }

    /// Starts a killed host again: fresh namespaces, an empty /run, its disk as it was.
    ///
    /// # Errors
    /// Where there is no such host, or its processes do not die.
    pub fn boot(&self, name: &str) -> Result<()> {
        let host = self.host(name)?;
        self.unplug(name)?;
        host.make()?;
        self.connect(name)
    }

    pub(crate) fn make(&mut self) -> Result<()> {
        self.make_holder()?;
        for segment in &self.state.topology.segments {
            network::make_segment(&self.netns(segment))?;
        }
        for host in self.hosts() {
            if !host.is_up() {
                self.unplug(host.name())?;
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
            self.unplug(&spec.name)?;
            netns.remove();
            netns.create()?;
            network::forward(&netns)?;
        }
        self.connect(&spec.name)?;
        if fresh {
            netns.nft(&nat::render_counters(&self.state.topology.outside_of(spec)))?;
        }
        let known = self.state.nats.get(&spec.name).copied();
        if fresh || known.is_none_or(|nat| nat.kind != spec.kind || nat.egress != spec.egress) {
            self.state.nats.insert(spec.name.clone(), NatState::new(spec));
            self.renew_nat(&spec.name)?;
        }
        Ok(())
    }

    fn renew_nat(&self, name: &str) -> Result<()> {
        let (spec, state) = self.nat(name)?;
        self.state.save(&self.directory)?;
        let netns = self.netns(name);
        netns.nft(&self.ruleset(spec, state).render())?;
        shell::run(netns.command("conntrack").arg("-F")).map(drop)
    }

    pub(crate) fn nat(&self, name: &str) -> Result<(&NatSpec, NatState)> {
        let nats = &self.state.topology.nats;
        let spec = nats.iter().find(|nat| nat.name == name).ok_or_else(|| {
            let known: Vec<_> = nats.iter().map(|nat| nat.name.as_str()).collect();
            Error::Unknown { what: "NAT", name: name.into(), known: known.join(", ") }
        })?;
        let state = self.state.nats.get(name).copied();
        Ok((spec, state.unwrap_or(NatState::new(spec))))
    }

    fn ruleset(&self, spec: &NatSpec, state: NatState) -> Ruleset {
        let inside = self.state.topology.neighbours(&spec.inside.segment, &spec.name);
        let addresses = inside.into_iter().flat_map(|(_, addresses)| addresses);
        let own = || spec.outside.ipv4_net().map(|net| net.addr()).and_then(network::ipv4);
        Ruleset {
            kind: state.kind,
            address: state.address.map(|net| net.addr()).or_else(own).unwrap_or(Ipv4Addr::UNSPECIFIED),
            inside: addresses.filter_map(network::ipv4).collect(),
            rebinds: state.rebinds,
            egress: state.egress,
            hairpin: spec.hairpin,
        }
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
        self.set_routes(name)
    }

    fn unplug(&self, name: &str) -> Result<()> {
        for (_, cable, _) in self.cables().into_iter().filter(|(owner, _, _)| owner == name) {
            cable.unplug()?;
        }
        if let Some(link) = self.state.machine_links.get(name) {
            network::unlink_machine(link);
        }
        Ok(())
    }

    fn set_routes(&self, name: &str) -> Result<()> {
        let station = self.netns(name);
        self.state.topology.routes(name).iter().try_for_each(|route| network::route(&station, route))
    }

    /// Every cable with whose it is and the addresses at its end; a NAT's outside comes before its inside.
    fn cables(&self) -> Vec<(String, Cable, Vec<IpNet>)> {
        let topology = &self.state.topology;
        let mut plugged: BTreeMap<&str, usize> = BTreeMap::new();
        topology
            .interfaces()
            .map(|(owner, interface)| {
                let count = plugged.entry(owner).or_default();
                let number = *count;
                *count += 1;
                let is_nat = topology.nats.iter().any(|nat| nat.name == owner);
                let port = format!("{owner}.{number}");
                let wan = interface.wan.as_ref().map(|wan| {
                    let now = self.state.wans.get(&port).unwrap_or(wan).clone();
                    (WanLink::new(&self.cgroup(), &self.directory, &port), now)
                });
                let cable = Cable {
                    segment: self.netns(&interface.segment),
                    port,
                    station: self.netns(owner),
                    interface: match (is_nat, number) {
                        (true, 0) => nat::WAN.into(),
                        (true, _) => nat::LAN.into(),
                        (false, _) => format!("eth{number}"),
                    },
                    wan,
                };
                (owner.to_owned(), cable, interface.addresses.clone())
            })
            .collect()
    }
}

fn wan_of<'a>(name: &str, cable: &'a Cable) -> Result<&'a WanLink> {
    let none =
        || Error::Machine(format!("{name}: its link is no WAN; bring the lab up with one (`lab up --wan`)"));
    cable.wan.as_ref().map(|(link, _)| link).ok_or_else(none)
}
