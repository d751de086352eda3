//! What a lab consists of, as YAML says it or as built in.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::nat::{Egress, NatKind};
use crate::wan::Wan;
use crate::{Error, Result};

/// Longest name of an interface (Linux).
const INTERFACE_NAME: usize = 15;

/// Segments, hosts and NATs of a lab.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Ethernet segments: a switch each.
    pub segments: Vec<String>,
    /// Hosts, in the order in which they are made.
    pub hosts: Vec<HostSpec>,
    /// NATs between two segments.
    #[serde(default)]
    pub nats: Vec<NatSpec>,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// Its name, and its hostname.
    pub name: String,
    /// Its interfaces: the first is `eth0`, the next `eth1`.
    pub interfaces: Vec<Interface>,
    /// Where its default route leads, if anywhere.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Where its default route for IPv6 leads, of a host that has one for each family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
    /// TCP ports that answer the machine's own namespace on a link of their own; none, no link.
    #[serde(default)]
    pub machine_ports: Vec<u16>,
}

/// An interface on a segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// The segment it is plugged into.
    pub segment: String,
    /// Its addresses with the length of their prefix.
    pub addresses: Vec<IpNet>,
    /// What the way to the segment does to packets; without it, they are there at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wan: Option<Wan>,
}

impl Interface {
    /// A plain one.
    pub fn new(segment: &str, addresses: Vec<IpNet>) -> Self {
        Self { segment: segment.into(), addresses, wan: None }
    }

    /// Its first IPv4 address.
    pub(crate) fn ipv4_net(&self) -> Option<IpNet> {
        self.addresses.iter().copied().find(|address| address.addr().is_ipv4())
    }
}

/// A router that translates what leaves by `outside`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatSpec {
    /// Its name.
    pub name: String,
    /// How it behaves.
    pub kind: NatKind,
    /// The side of the internet.
    pub outside: Interface,
    /// The side of the site.
    pub inside: Interface,
    /// Its default route, where the internet is more than one segment (a NAT behind a NAT).
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// What may leave the site.
    #[serde(default)]
    pub egress: Egress,
    /// Whether hosts inside reach each other at their outside addresses.
    #[serde(default)]
    pub hairpin: bool,
}

impl Topology {
    /// A cloud host and two sites behind a NAT each; both sites use the same range on purpose.
    pub fn two_sites(kind: NatKind) -> Self {
        let site = |letter: char, host: u8| {
            let lan = format!("lan-{letter}");
            let nat = NatSpec {
                name: format!("nat-{letter}"),
                kind,
                outside: Interface::new("internet", internet(host)),
                inside: Interface::new(&lan, vec![lan_address(1)]),
                gateway: None,
                egress: Egress::All,
                hairpin: false,
            };
            let edge = HostSpec {
                name: format!("edge-{letter}"),
                interfaces: vec![Interface::new(&lan, vec![lan_address(2)])],
                gateway: Some(lan_address(1).addr()),
                gateway6: None,
                machine_ports: Vec::new(),
            };
            (nat, edge)
        };
        let ((nat_a, edge_a), (nat_b, edge_b)) = (site('a', 21), site('b', 22));
        let cloud = HostSpec {
            name: "cloud".into(),
            interfaces: vec![Interface::new("internet", internet(10))],
            gateway: None,
            gateway6: None,
            machine_ports: vec![6443, 20007],
        };
        Self {
            segments: vec!["internet".into(), "lan-a".into(), "lan-b".into()],
            hosts: vec![cloud, edge_a, edge_b],
            nats: vec![nat_a, nat_b],
        }
    }

    /// The same two sites, whose hosts are on one more network together: as where two machines of different sites, or
    /// of different owners, stand in one rack. By it no NAT is passed.
    pub fn two_sites_on_one_lan(kind: NatKind) -> Self {
        let mut topology = Self::two_sites(kind);
        topology.segments.push("shared".into());
        let edges = topology.hosts.iter_mut().filter(|host| host.name.starts_with("edge-"));
        for (host, number) in edges.zip(1..) {
            let address = net(Ipv4Addr::new(192, 168, 50, number).into(), 24);
            host.interfaces.push(Interface::new("shared", vec![address]));
        }
        topology
    }

    /// Reads a topology and checks it.
    ///
    /// # Errors
    /// [`Error::Topology`] with the field or the name that is wrong.
    pub fn from_yaml(text: &str) -> Result<Self> {
        let topology: Self =
            serde_yaml_ng::from_str(text).map_err(|error| Error::Topology(error.to_string()))?;
        topology.check()?;
        Ok(topology)
    }

    /// Names must be usable as names of interfaces and be told apart; segments must exist.
    ///
    /// # Errors
    /// [`Error::Topology`] naming the offender.
    pub fn check(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        let names = self.segments.iter().chain(self.hosts.iter().map(|host| &host.name));
        for name in names.chain(self.nats.iter().map(|nat| &nat.name)) {
            // A host's end on a switch is named after it, with a digit for its interface.
            let usable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if name.is_empty() || name.len() > INTERFACE_NAME - 2 || !name.chars().all(usable) {
                return Err(Error::Topology(format!(
                    "name {name:?}: use 1 to {} of a-z, 0-9 and -",
                    INTERFACE_NAME - 2
                )));
            }
            if !seen.insert(name.as_str()) {
                return Err(Error::Topology(format!("name {name:?} is used twice")));
            }
        }
        for (owner, interface) in self.interfaces() {
            if !self.segments.contains(&interface.segment) {
                return Err(Error::Topology(format!(
                    "{owner}: there is no segment {:?}; segments: {}",
                    interface.segment,
                    self.segments.join(", ")
                )));
            }
            if let Some(wan) = &interface.wan {
                wan.check().map_err(|error| Error::Topology(format!("{owner}: wan: {error}")))?;
            }
        }
        Ok(())
    }

    /// Every interface with the name of whose it is.
    pub fn interfaces(&self) -> impl Iterator<Item = (&str, &Interface)> {
        let hosts =
            self.hosts.iter().flat_map(|host| host.interfaces.iter().map(|i| (host.name.as_str(), i)));
        let nats = self
            .nats
            .iter()
            .flat_map(|nat| [(nat.name.as_str(), &nat.outside), (nat.name.as_str(), &nat.inside)]);
        hosts.chain(nats)
    }

    /// Every interface, to be changed.
    pub(crate) fn interfaces_mut(&mut self) -> impl Iterator<Item = &mut Interface> {
        let hosts = self.hosts.iter_mut().flat_map(|host| &mut host.interfaces);
        hosts.chain(self.nats.iter_mut().flat_map(|nat| [&mut nat.outside, &mut nat.inside]))
    }

    /// Puts a WAN between every NAT and its outside.
    pub fn set_wans(&mut self, wan: &Wan) {
        self.nats.iter_mut().for_each(|nat| nat.outside.wan = Some(wan.clone()));
    }

    /// Who else is on a NAT's outside, with the addresses there and the IPv6 ranges behind.
    pub(crate) fn outside_of(&self, nat: &NatSpec) -> Vec<(String, Vec<IpNet>)> {
        let neighbours = self.neighbours(&nat.outside.segment, &nat.name);
        let ranges = |(name, addresses): (String, Vec<IpAddr>)| {
            let behind = self.nats.iter().filter(|other| other.name == name);
            let behind =
                behind.flat_map(|other| &other.inside.addresses).filter(|range| range.addr().is_ipv6());
            let own = addresses.into_iter().map(IpNet::from);
            let all = own.chain(behind.map(IpNet::trunc)).collect();
            (name, all)
        };
        neighbours.into_iter().map(ranges).collect()
    }

    /// The routes of a host or NAT: its default routes, and to the IPv6 ranges behind the NATs beside it, which
    /// are routed, not translated.
    pub fn routes(&self, name: &str) -> Vec<(IpNet, IpAddr)> {
        let host = self.hosts.iter().find(|host| host.name == name);
        let nat = self.nats.iter().find(|nat| nat.name == name);
        let gateways = [
            host.and_then(|host| host.gateway),
            host.and_then(|host| host.gateway6).map(IpAddr::from),
            nat.and_then(|nat| nat.gateway),
        ];
        let everywhere = |gateway: IpAddr| {
            let any = if gateway.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
            (net(any, 0), gateway)
        };
        let mut routes: Vec<_> = gateways.into_iter().flatten().map(everywhere).collect();
        let own = self.interfaces().filter(|(owner, _)| *owner == name).map(|(_, interface)| interface);
        for interface in own.filter(|own| own.addresses.iter().any(|address| address.addr().is_ipv6())) {
            let beside = self.nats.iter().filter(|nat| nat.name != name);
            for nat in beside.filter(|nat| nat.outside.segment == interface.segment) {
                let Some(via) = nat.outside.addresses.iter().map(IpNet::addr).find(IpAddr::is_ipv6) else {
                    continue;
                };
                let behind = nat.inside.addresses.iter().filter(|range| range.addr().is_ipv6());
                routes.extend(behind.map(|range| (range.trunc(), via)));
            }
        }
        routes
    }

    /// Who else is on `segment` than `name`, with the addresses there.
    pub fn neighbours(&self, segment: &str, name: &str) -> Vec<(String, Vec<IpAddr>)> {
        self.interfaces()
            .filter(|(owner, interface)| interface.segment == segment && *owner != name)
            .map(|(owner, interface)| {
                (owner.to_owned(), interface.addresses.iter().map(IpNet::addr).collect())
            })
            .collect()
    }
}

/// The internet of the built-in topology: TEST-NET-3 (RFC 5737) and a documentation prefix (RFC 3849).
fn internet(host: u8) -> Vec<IpNet> {
    // Read as hexadecimal, so that 203.0.113.21 and 2001:db8:113::21 look alike.
    let v6 =
        Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, u16::from(host / 10) * 16 + u16::from(host % 10));
    vec![net(Ipv4Addr::new(203, 0, 113, host).into(), 24), net(v6.into(), 64)]
}

fn lan_address(host: u8) -> IpNet {
    net(Ipv4Addr::new(192, 168, 10, host).into(), 24)
}

fn net(address: IpAddr, prefix: u8) -> IpNet {
    IpNet::new(address, prefix).expect("the built-in prefixes are in range")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_topology_is_sound_and_survives_yaml() {
        let topology = Topology::two_sites(NatKind::default());
        topology.check().unwrap();
        let text = serde_yaml_ng::to_string(&topology).unwrap();
        assert_eq!(Topology::from_yaml(&text).unwrap(), topology);
        assert!(text.contains("2001:db8:113::21/64"), "{text}");
    }

    #[test]
    fn two_sites_on_one_lan_are_neighbours_there() {
        let topology = Topology::two_sites_on_one_lan(NatKind::default());
        topology.check().unwrap();
        let address: IpAddr = [192, 168, 50, 2].into();
        assert_eq!(topology.neighbours("shared", "edge-a"), [("edge-b".to_owned(), vec![address])]);
    }

    #[test]
    fn neighbours_are_those_of_the_same_segment() {
        let topology = Topology::two_sites(NatKind::default());
        let names: Vec<_> =
            topology.neighbours("internet", "nat-a").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["cloud", "nat-b"]);
    }

    #[test]
    fn routes_lead_to_gateways_and_to_ipv6_behind_nats() {
        let mut topology = Topology::two_sites(NatKind::default());
        assert_eq!(topology.routes("cloud"), []);
        topology.nats[0].inside.addresses.push("2001:db8:a::1/64".parse().unwrap());
        topology.hosts[1].gateway6 = Some("2001:db8:a::1".parse().unwrap());
        let text =
            |name| topology.routes(name).iter().map(|(to, via)| format!("{to} {via}")).collect::<Vec<_>>();
        assert_eq!(text("cloud"), ["2001:db8:a::/64 2001:db8:113::21"]);
        assert_eq!(text("nat-b"), ["2001:db8:a::/64 2001:db8:113::21"]);
        assert_eq!(text("edge-a"), ["0.0.0.0/0 192.168.10.1", "::/0 2001:db8:a::1"]);
        assert_eq!(text("nat-a"), [""; 0]);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("segments: [net]\nhosts: [{name: a, interfaces: [{segment: lan, addresses: []}]}]", "lan"),
            ("segments: [a]\nhosts: [{name: a, interfaces: []}]", "twice"),
            ("segments: [a]\nhosts: [{name: a-name-too-long, interfaces: []}]", "a-name-too-long"),
            ("segments: [a]\nhosts: []\nroutes: []", "routes"),
            (
                "segments: [a]\nhosts: [{name: b, interfaces: [{segment: a, addresses: [], wan: {up: {loss: 101}}}]}]",
                "b: wan: up: loss=101",
            ),
            (
                "segments: [a]\nhosts: [{name: b, interfaces: [{segment: a, addresses: [10.0.0.300/8]}]}]",
                "addresses[0]",
            ),
        ] {
            let message = Topology::from_yaml(text).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }
}
