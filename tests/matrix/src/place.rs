//! The lab: one internet with a relay, and a piece of it for every place.
//!
//! Each way from a site to the internet takes 5 ms, so a round trip between two sites takes 20 ms, directly and
//! by the relay.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use edgeloom_lab::nat::Egress;
use edgeloom_lab::topology::{HostSpec, Interface, NatSpec};
use edgeloom_lab::{Conditions, NatKind, Topology, Wan};
use ipnet::IpNet;

use crate::cells::Place;

const INTERNET: &str = "internet";
/// Milliseconds from a site to the internet.
pub(crate) const WAY: f64 = 5.0;
/// The relays.
pub(crate) const RELAYS: [&str; 2] = ["relay", "relay2"];
const RELAY_ADDRESSES: [&str; 2] = ["203.0.113.10/24", "203.0.113.11/24"];
/// The proxy, on its LAN.
const PROXY: &str = "192.168.10.9/24";
pub(crate) const PROXY_LISTEN: &str = "192.168.10.9:3128";
const RELAY6: &str = "2001:db8:113::10/64";

/// One place in the lab, with room for one cell at a time.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    pub(crate) place: Place,
    /// The two hosts.
    pub(crate) hosts: [String; 2],
    /// The NATs that get the cell's kinds.
    pub(crate) nats: Vec<String>,
    /// The first host's outermost NAT, whose counters show the way that bytes take.
    pub(crate) gate: String,
    /// What the second host is behind, as a neighbour of the gate; empty where it is behind the same.
    pub(crate) across: String,
    /// What nodes listen on.
    pub(crate) listen: SocketAddr,
    /// Where the relays are reached.
    pub(crate) relays: [SocketAddr; 2],
    /// Where anybody reaches the second node, if anywhere.
    pub(crate) public: Option<SocketAddr>,
    /// The host that is a proxy for the first node, if one is.
    pub(crate) proxy: Option<String>,
}

/// The topology, with so many lanes of pairs and one of every other place in `places`.
pub(crate) fn lanes(pairs: usize, places: &[Place]) -> (Topology, Vec<Lane>) {
    let mut builder = Builder::new();
    let others: Vec<Place> = places.iter().copied().filter(|place| *place != Place::Pair).collect();
    let lanes = std::iter::repeat_n(Place::Pair, pairs).chain(others);
    let lanes = lanes.enumerate().map(|(number, place)| builder.lane(number, place)).collect();
    (builder.topology, lanes)
}

struct Builder {
    topology: Topology,
    /// Last byte of the next address on the internet.
    next: u8,
}

/// The families of addresses that a site has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Families {
    V4,
    V6,
    Both,
}

impl Builder {
    fn new() -> Self {
        let relay = |name: &str, addresses: Vec<IpNet>| HostSpec {
            name: name.into(),
            interfaces: vec![Interface::new(INTERNET, addresses)],
            gateway: None,
            gateway6: None,
            machine_ports: Vec::new(),
        };
        let hosts = vec![
            relay(RELAYS[0], vec![net(RELAY_ADDRESSES[0]), net(RELAY6)]),
            relay(RELAYS[1], vec![net(RELAY_ADDRESSES[1])]),
        ];
        Self { topology: Topology { segments: vec![INTERNET.into()], hosts, nats: Vec::new() }, next: 20 }
    }

    fn lane(&mut self, number: usize, place: Place) -> Lane {
        let names = ["a", "b"].map(|side| format!("{side}{number}"));
        let families = match place {
            Place::Ipv6 => Families::V6,
            Place::DualStack => Families::Both,
            _ => Families::V4,
        };
        let [a, b] = names.clone();
        let (nats, gate, across) = match place {
            Place::Cgn => {
                let (carrier, segment) = self.carrier(number, false);
                self.site(&a, &segment, families, Some(2));
                self.site(&b, INTERNET, families, None);
                (vec![carrier.clone(), nat(&b)], carrier, nat(&b))
            }
            Place::SharedCgn | Place::Hairpin => {
                let (carrier, segment) = self.carrier(number, place == Place::Hairpin);
                self.site(&a, &segment, families, Some(2));
                self.site(&b, &segment, families, Some(3));
                (vec![carrier.clone()], carrier, String::new())
            }
            Place::OneLan => {
                self.site(&a, INTERNET, families, None);
                self.host(&b, &lan(&a), families, number, 3);
                (vec![nat(&a)], nat(&a), String::new())
            }
            Place::PublicPeer => {
                self.site(&a, INTERNET, families, None);
                (vec![nat(&a)], nat(&a), b.clone())
            }
            _ => {
                self.site(&a, INTERNET, families, None);
                self.site(&b, INTERNET, families, None);
                (vec![nat(&a), nat(&b)], nat(&a), nat(&b))
            }
        };
        let public = (place == Place::PublicPeer).then(|| self.public_host(&b));
        if place == Place::SmallMtu {
            self.shrink(&gate);
        }
        let proxy = (place == Place::Proxy).then(|| self.proxy(number, &lan(&a)));
        let v6 = families == Families::V6;
        let any = if families == Families::V4 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let relay = |text: &str| SocketAddr::new(net(text).addr(), 20006);
        let relays = [relay(if v6 { RELAY6 } else { RELAY_ADDRESSES[0] }), relay(RELAY_ADDRESSES[1])];
        let listen = SocketAddr::new(any, 20006);
        Lane { place, hosts: names, nats, gate, across, listen, relays, public, proxy }
    }

    /// A NAT with a LAN behind it and a host on that, plugged into `upstream`; `carried` is its place behind a
    /// carrier's NAT.
    fn site(&mut self, host: &str, upstream: &str, families: Families, carried: Option<u8>) {
        let number = self.topology.nats.len();
        let outside = match carried {
            Some(last) => Interface::new(upstream, vec![v4([100, 64, 0, last], 24)]),
            None => self.internet(families),
        };
        let gateway = carried.map(|_| IpAddr::from([100, 64, 0, 1]));
        self.topology.segments.push(lan(host));
        let mut inside = Vec::new();
        if families != Families::V6 {
            inside.push(v4([192, 168, 10, 1], 24));
        }
        if families != Families::V4 {
            inside.push(v6(number, 1));
        }
        self.topology.nats.push(spec(&nat(host), outside, Interface::new(&lan(host), inside), gateway));
        self.host(host, &lan(host), families, number, 2);
    }

    fn host(&mut self, name: &str, segment: &str, families: Families, number: usize, last: u8) {
        let mut addresses = Vec::new();
        if families != Families::V6 {
            addresses.push(v4([192, 168, 10, last], 24));
        }
        if families != Families::V4 {
            addresses.push(v6(number, u16::from(last)));
        }
        let gateway6 = match v6(number, 1).addr() {
            IpAddr::V6(address) if families != Families::V4 => Some(address),
            _ => None,
        };
        self.topology.hosts.push(HostSpec {
            name: name.into(),
            interfaces: vec![Interface::new(segment, addresses)],
            gateway: (families != Families::V6).then_some(IpAddr::from([192, 168, 10, 1])),
            gateway6,
            machine_ports: Vec::new(),
        });
    }

    /// A carrier's NAT, and the segment behind it.
    fn carrier(&mut self, number: usize, hairpin: bool) -> (String, String) {
        let (name, segment) = (format!("nc{number}"), format!("c{number}"));
        self.topology.segments.push(segment.clone());
        let outside = self.internet(Families::V4);
        let inside = Interface::new(&segment, vec![v4([100, 64, 0, 1], 24)]);
        self.topology.nats.push(NatSpec { hairpin, ..spec(&name, outside, inside, None) });
        (name, segment)
    }

    fn public_host(&mut self, name: &str) -> SocketAddr {
        let interface = self.internet(Families::V4);
        let address = SocketAddr::new(interface.addresses[0].addr(), 20006);
        self.topology.hosts.push(HostSpec {
            name: name.into(),
            interfaces: vec![interface],
            gateway: None,
            gateway6: None,
            machine_ports: Vec::new(),
        });
        address
    }

    /// A host on a LAN and on the internet.
    fn proxy(&mut self, number: usize, segment: &str) -> String {
        let outside = self.internet(Families::V4);
        let name = format!("p{number}");
        self.topology.hosts.push(HostSpec {
            name: name.clone(),
            interfaces: vec![Interface::new(segment, vec![net(PROXY)]), outside],
            gateway: None,
            gateway6: None,
            machine_ports: Vec::new(),
        });
        name
    }

    /// An end on the internet, as far away as every other.
    fn internet(&mut self, families: Families) -> Interface {
        let last = self.next;
        self.next += 1;
        let mut addresses = vec![v4([203, 0, 113, last], 24)];
        if families != Families::V4 {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 1, u16::from(last));
            addresses.push(IpNet::new(address.into(), 64).expect("64 is a length"));
        }
        let wan = Wan::both(Conditions { delay: WAY, ..Conditions::default() });
        Interface { wan: Some(wan), ..Interface::new(INTERNET, addresses) }
    }

    /// Larger packets vanish outside that NAT, both ways.
    fn shrink(&mut self, name: &str) {
        let found = self.topology.nats.iter_mut().find(|nat| nat.name == name);
        if let Some(wan) = found.and_then(|nat| nat.outside.wan.as_mut()) {
            (wan.up.mtu, wan.down.mtu) = (Some(1280), Some(1280));
        }
    }
}

fn nat(host: &str) -> String {
    format!("n{host}")
}

fn lan(host: &str) -> String {
    format!("l{host}")
}

fn spec(name: &str, outside: Interface, inside: Interface, gateway: Option<IpAddr>) -> NatSpec {
    let (name, kind) = (name.into(), NatKind::PORT_RESTRICTED);
    NatSpec { name, kind, outside, inside, gateway, egress: Egress::All, hairpin: false }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("the addresses written here are sound")
}

fn v4(bytes: [u8; 4], length: u8) -> IpNet {
    IpNet::new(Ipv4Addr::from(bytes).into(), length).expect("a length below 33")
}

/// Of the range of that site.
fn v6(number: usize, last: u16) -> IpNet {
    let site = u16::try_from(number).expect("few sites");
    IpNet::new(Ipv6Addr::new(0x2001, 0xdb8, 0xa, site, 0, 0, 0, last).into(), 64).expect("64 is a length")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: [Place; 9] = [
        Place::Proxy,
        Place::SmallMtu,
        Place::Cgn,
        Place::SharedCgn,
        Place::Hairpin,
        Place::OneLan,
        Place::PublicPeer,
        Place::Ipv6,
        Place::DualStack,
    ];

    #[test]
    fn every_place_is_sound() {
        let (topology, lanes) = lanes(4, &OTHERS);
        topology.check().unwrap();
        assert_eq!(lanes.len(), 4 + OTHERS.len());
        for lane in lanes {
            for name in &lane.hosts {
                assert!(topology.hosts.iter().any(|host| host.name == *name), "{name}");
            }
            for name in lane.nats.iter().chain([&lane.gate]) {
                assert!(topology.nats.iter().any(|nat| nat.name == *name), "{name}");
            }
        }
    }
}
