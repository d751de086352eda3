//! A NAT as a ruleset of nftables.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Filter, LAN, Mapping, NatKind, WAN};

/// Source ports that are mapped by table: those of the overlay and its neighbours. Of a NAT that does not keep
/// ports, others get a random one a flow.
const TABLE_PORTS: std::ops::RangeInclusive<u16> = 20000..=20099;
/// Where the outside ports of the first inside host begin, and how far apart those of two rebinds are.
const TABLE_BASE: u16 = 31000;
const TABLE_STEP: u16 = 100;
/// Rebinds after which ports come again; the next inside host's ports begin behind.
const REBINDS: u16 = 64;
/// Inside hosts that have ports of their own: what fits below 65536.
const INSIDE: u16 = 5;

/// What may leave a site.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Egress {
    /// Everything.
    #[default]
    All,
    /// Everything but UDP.
    NoUdp,
    /// TCP to port 443 only.
    Https,
    /// Nothing; a proxy on the LAN may have a way of its own.
    None,
}

/// What a ruleset is made from.
#[derive(Debug)]
pub(crate) struct Ruleset {
    /// Kind of NAT.
    pub(crate) kind: NatKind,
    /// The NAT's own outside IPv4 address.
    pub(crate) address: Ipv4Addr,
    /// IPv4 addresses on its inside.
    pub(crate) inside: Vec<Ipv4Addr>,
    /// How often it has forgotten its mappings: the ports of table-mapped flows move each time.
    pub(crate) rebinds: u16,
    /// What may leave.
    pub(crate) egress: Egress,
    /// Whether inside hosts reach each other at their outside addresses (RFC 4787, section 6).
    pub(crate) hairpin: bool,
}

impl Ruleset {
    /// The ruleset of the filter and of the translation, which replaces an earlier one at once.
    pub(crate) fn render(&self) -> String {
        let mut text = String::from("table inet nat\ndelete table inet nat\ntable inet nat {\n");
        let lax = self.kind.filter != Filter::AddressAndPortDependent;
        if lax || self.hairpin {
            text.push_str(LEARNT);
        }
        if self.first_destination_keeps() {
            text.push_str(FIRST);
        }
        text.push_str(&self.port_table());
        // Without the drop one early packet from outside makes a conntrack entry of the NAT itself,
        // and a kept port moves to another.
        let _ = write!(
            text,
            "  chain input {{\n    type filter hook input priority filter; policy accept;\n    \
             iifname {WAN} ct state new meta l4proto != ipv6-icmp drop\n  }}\n  chain forward {{\n    \
             type filter hook forward priority filter; policy drop;\n{}    \
             iifname {LAN} oifname {WAN} accept\n    ct state established,related accept\n    \
             ct status dnat accept\n  }}\n",
            self.egress()
        );
        let _ = write!(
            text,
            "  chain outwards {{\n    type nat hook postrouting priority srcnat; policy accept;\n{}  }}\n",
            self.translation()
        );
        text.push_str(&self.inwards());
        text.push_str("}\n");
        text
    }

    fn egress(&self) -> String {
        match self.egress {
            Egress::All => String::new(),
            Egress::NoUdp => format!("    iifname {LAN} meta l4proto udp drop\n"),
            Egress::Https => format!(
                "    iifname {LAN} meta l4proto != tcp drop\n    iifname {LAN} tcp dport != 443 drop\n"
            ),
            Egress::None => format!("    iifname {LAN} drop\n"),
        }
    }

    /// Ports that are mapped by table: all where they are not kept or no longer; else those of every inside host
    /// but the first, whose ports are taken.
    fn port_table(&self) -> String {
        if self.kind.mapping != Mapping::EndpointIndependent {
            return String::new();
        }
        let moved = !self.kind.port_kept || self.rebinds > 0;
        let hosts = (0..INSIDE).zip(&self.inside).filter(|(index, _)| moved || *index > 0);
        let mut elements = Vec::new();
        for (index, host) in hosts {
            let base = TABLE_BASE + TABLE_STEP * (index * REBINDS + self.rebinds % REBINDS);
            elements.extend(
                TABLE_PORTS.map(|port| format!("{host} . {port} : {}", base + (port - TABLE_PORTS.start()))),
            );
        }
        if elements.is_empty() {
            return String::new();
        }
        format!(
            "  map ports {{ type ipv4_addr . inet_service : inet_service; elements = {{ {} }} }}\n",
            elements.join(", ")
        )
    }

    /// Whether the first destination of a port sees it kept, and every other one another.
    fn first_destination_keeps(&self) -> bool {
        self.kind.mapping == Mapping::AddressAndPortDependent && self.kind.port_kept && self.rebinds == 0
    }

    fn translation(&self) -> String {
        let mut text = String::new();
        let address = self.address;
        let table = !self.port_table().is_empty();
        let mut way = |from: &str, otherwise: &str| {
            if table {
                let _ = writeln!(
                    text,
                    "    {from} meta l4proto udp snat ip to {address} : ip saddr . udp sport map @ports"
                );
            }
            let _ = writeln!(text, "    {from} {otherwise}");
        };
        if self.hairpin {
            way(&format!("iifname {LAN} oifname {LAN} ct status dnat"), &format!("snat ip to {address}"));
        }
        let outwards = format!("oifname {WAN} meta nfproto ipv4");
        if self.first_destination_keeps() {
            let flow = "meta l4proto . ip saddr . th sport";
            let to = "ip daddr . th dport";
            let udp_tcp = "meta l4proto { tcp, udp }";
            for rule in [
                format!("{flow} . {to} @first masquerade"),
                format!("{flow} @taken masquerade fully-random"),
                format!("{udp_tcp} add @taken {{ {flow} }} add @first {{ {flow} . {to} }} masquerade"),
            ] {
                way(&outwards, &rule);
            }
        }
        let kept = self.kind.port_kept && self.kind.mapping == Mapping::EndpointIndependent;
        way(&outwards, if kept { "masquerade" } else { "masquerade fully-random" });
        text
    }

    /// What comes in, or back in, without having been asked for.
    fn inwards(&self) -> String {
        let leads_back = "dnat ip to meta l4proto . th dport map @inward";
        let mut rules = String::new();
        let from = match self.kind.filter {
            Filter::EndpointIndependent => Some("meta l4proto { tcp, udp }"),
            Filter::AddressDependent => Some("meta l4proto . th dport . ip saddr @contacted"),
            Filter::AddressAndPortDependent => None,
        };
        if let Some(from) = from {
            let _ = writeln!(rules, "    iifname {WAN} {from} {leads_back}");
        }
        if self.hairpin {
            let _ = writeln!(
                rules,
                "    iifname {LAN} ip daddr {} meta l4proto {{ tcp, udp }} {leads_back}",
                self.address
            );
        }
        if rules.is_empty() {
            return rules;
        }
        format!(
            "  chain inwards {{\n    type nat hook prerouting priority dstnat; policy accept;\n{rules}  }}\n"
        )
    }
}

/// Learns from what leaves, after the translation, whom each outside port belongs to and has spoken to.
const LEARNT: &str = "  map inward {
    type inet_proto . inet_service : ipv4_addr . inet_service
    flags dynamic,timeout; timeout 120s; size 65535
  }
  set contacted {
    type inet_proto . inet_service . ipv4_addr
    flags dynamic,timeout; timeout 120s; size 65535
  }
  chain learn {
    type filter hook postrouting priority 300; policy accept;
    oifname wan meta l4proto { tcp, udp } update @contacted { meta l4proto . th sport . ip daddr }
    oifname wan meta l4proto { tcp, udp } update @inward { meta l4proto . th sport : ct original ip saddr . ct original proto-src }
  }
";

/// The first destination of each inside address and port. The chain that translates sees a flow's first packet only.
const FIRST: &str = "  set taken {
    type inet_proto . ipv4_addr . inet_service
    flags dynamic,timeout; timeout 1h; size 65535
  }
  set first {
    type inet_proto . ipv4_addr . inet_service . ipv4_addr . inet_service
    flags dynamic,timeout; timeout 1h; size 65535
  }
";

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset(kind: &str, rebinds: u16) -> Ruleset {
        Ruleset {
            kind: kind.parse().unwrap(),
            address: Ipv4Addr::new(203, 0, 113, 21),
            inside: vec![Ipv4Addr::new(192, 168, 10, 2)],
            rebinds,
            egress: Egress::All,
            hairpin: false,
        }
    }

    fn text(kind: &str, rebinds: u16) -> String {
        ruleset(kind, rebinds).render()
    }

    #[test]
    fn only_a_mapping_by_destination_randomises_flows() {
        assert!(!text("port-restricted", 0).contains("random"));
        assert!(!text("port-restricted", 0).contains("map ports"));
        assert!(text("symmetric", 0).contains("masquerade fully-random"));
        assert!(!text("symmetric", 3).contains("map ports"));
        assert!(text("eim-apdf-remapped", 0).contains("192.168.10.2 . 20006 : 31006"));
        assert!(text("adm-apdf-kept", 0).contains("@first masquerade\n"));
        assert!(!text("adm-apdf-kept", 1).contains("@first masquerade\n"));
    }

    #[test]
    fn a_rebind_moves_the_port() {
        assert!(text("port-restricted", 1).contains("20006 : 31106"));
        assert!(text("port-restricted", 2).contains("20006 : 31206"));
        assert!(text("eim-apdf-remapped", 65).contains("20006 : 31106"));
    }

    #[test]
    fn a_second_host_never_has_the_ports_of_the_first() {
        let mut shared = ruleset("port-restricted", 0);
        shared.inside = (2..9).map(|host| Ipv4Addr::new(192, 168, 10, host)).collect();
        let text = shared.render();
        assert!(!text.contains("192.168.10.2 . 20006"), "the first keeps its port");
        assert!(text.contains("192.168.10.3 . 20006 : 37406"));
        assert!(text.contains("192.168.10.6 . 20099 : 56699"));
    }

    #[test]
    fn only_a_lax_filter_lets_strangers_in() {
        assert!(!text("port-restricted", 0).contains("dnat ip to"));
        assert!(text("cone", 0).contains("iifname wan meta l4proto { tcp, udp } dnat ip to"));
        assert!(text("restricted", 0).contains("@contacted dnat ip to"));
    }

    #[test]
    fn hairpinning_and_egress_are_asked_for() {
        let mut special = ruleset("port-restricted", 0);
        assert!(!special.render().contains("iifname lan oifname lan"));
        special.hairpin = true;
        special.egress = Egress::Https;
        let text = special.render();
        assert!(text.contains("iifname lan ip daddr 203.0.113.21"), "{text}");
        assert!(text.contains("iifname lan oifname lan ct status dnat snat ip to 203.0.113.21"), "{text}");
        assert!(text.contains("tcp dport != 443 drop"), "{text}");
    }
}
