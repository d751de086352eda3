//! Kinds of NAT after RFC 4787, rendered as nftables, and the counters kept on each.
//!
//! A kind is mapping × filter × whether the port is kept. Linux maps as its conntrack finds a free
//! tuple, which for one inside host and one source port is endpoint-independent with the port kept;
//! `fully-random` gives every flow a port of its own. What Linux does not filter by itself
//! (endpoint-independent and address-dependent filtering) is made of a table learnt from what leaves:
//! the outside port leads back to the inside address and port.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Name of the interface towards the internet in a NAT's namespace.
pub const WAN: &str = "wan";
/// Name of the interface towards the site.
pub const LAN: &str = "lan";
/// Source ports that a NAT with remapped ports maps by table, so that all destinations see one port.
/// They are those of the overlay and its neighbours; other ports get a random one a flow.
const REMAPPED_PORTS: std::ops::RangeInclusive<u16> = 20000..=20099;
/// Where the remapped ports begin for rebind 0; each rebind moves them on.
const REMAPPED_BASE: u16 = 31000;
/// Distance between the ports of two rebinds.
const REMAPPED_STEP: u16 = 200;

/// What decides the outside port of a flow (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Endpoint-independent: one outside port for an inside port, whatever the destination.
    EndpointIndependent,
    /// Address- and port-dependent: an outside port for each destination.
    AddressAndPortDependent,
}

/// Who may send to a mapped port (RFC 4787, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Anyone.
    EndpointIndependent,
    /// Whoever's address was sent to.
    AddressDependent,
    /// Whoever's address and port were sent to.
    AddressAndPortDependent,
}

/// How a NAT behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NatKind {
    /// What decides the outside port.
    pub mapping: Mapping,
    /// Who may send to it.
    pub filter: Filter,
    /// Whether the outside port equals the inside one while it is free.
    pub port_kept: bool,
}

impl NatKind {
    /// What most home routers are: endpoint-independent mapping, strict filter, port kept.
    pub const PORT_RESTRICTED: Self = Self {
        mapping: Mapping::EndpointIndependent,
        filter: Filter::AddressAndPortDependent,
        port_kept: true,
    };
    /// What carriers and many firewalls are: cannot be punched from another of its kind.
    pub const SYMMETRIC: Self = Self {
        mapping: Mapping::AddressAndPortDependent,
        filter: Filter::AddressAndPortDependent,
        port_kept: false,
    };
}

impl Default for NatKind {
    fn default() -> Self {
        Self::PORT_RESTRICTED
    }
}

impl FromStr for NatKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let full = match text {
            "cone" => "eim-eif-kept",
            "restricted" => "eim-adf-kept",
            "port-restricted" => "eim-apdf-kept",
            "symmetric" => "adm-apdf-remapped",
            other => other,
        };
        let unknown = || Error::NatKind(text.to_owned());
        let mut parts = full.split('-');
        let mapping = match parts.next() {
            Some("eim") => Mapping::EndpointIndependent,
            Some("adm") => Mapping::AddressAndPortDependent,
            _ => return Err(unknown()),
        };
        let filter = match parts.next() {
            Some("eif") => Filter::EndpointIndependent,
            Some("adf") => Filter::AddressDependent,
            Some("apdf") => Filter::AddressAndPortDependent,
            _ => return Err(unknown()),
        };
        let port_kept = match (mapping, parts.next()) {
            (Mapping::EndpointIndependent, None | Some("kept")) => true,
            (_, None | Some("remapped")) => false,
            _ => return Err(unknown()),
        };
        if parts.next().is_some() {
            return Err(unknown());
        }
        Ok(Self { mapping, filter, port_kept })
    }
}

impl TryFrom<String> for NatKind {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<NatKind> for String {
    fn from(kind: NatKind) -> Self {
        kind.to_string()
    }
}

impl std::fmt::Display for NatKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mapping = match self.mapping {
            Mapping::EndpointIndependent => "eim",
            Mapping::AddressAndPortDependent => "adm",
        };
        let filter = match self.filter {
            Filter::EndpointIndependent => "eif",
            Filter::AddressDependent => "adf",
            Filter::AddressAndPortDependent => "apdf",
        };
        write!(f, "{mapping}-{filter}-{}", if self.port_kept { "kept" } else { "remapped" })
    }
}

/// Packets and bytes (of IP packets) that a NAT saw on its outside, by neighbour there.
pub type Counters = BTreeMap<String, Traffic>;

/// Traffic with one neighbour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets sent to it.
    pub sent_packets: u64,
    /// Bytes sent to it.
    pub sent_bytes: u64,
    /// Packets received from it.
    pub received_packets: u64,
    /// Bytes received from it.
    pub received_bytes: u64,
}

/// What a ruleset is made from.
#[derive(Debug)]
pub struct Ruleset<'a> {
    /// Kind of NAT.
    pub kind: NatKind,
    /// The NAT's own outside IPv4 address.
    pub address: IpAddr,
    /// Who else is on the outside, for the counters.
    pub neighbours: &'a [(String, Vec<IpAddr>)],
    /// How often the NAT has forgotten its mappings: the ports of table-mapped flows move each time.
    pub rebinds: u16,
}

impl Ruleset<'_> {
    /// The ruleset of the filter and of the translation, which replaces an earlier one at once.
    pub fn render(&self) -> String {
        let mut text = String::from("table inet nat\ndelete table inet nat\ntable inet nat {\n");
        let filtered = self.kind.filter != Filter::AddressAndPortDependent;
        if filtered {
            text.push_str(LEARNT);
        }
        text.push_str(&self.remapped_ports());
        // Without the drop one early packet from outside makes a conntrack entry of the NAT itself,
        // and a kept port moves to another.
        let _ = write!(
            text,
            "  chain input {{\n    type filter hook input priority filter; policy accept;\n    \
             iifname {WAN} ct state new drop\n  }}\n  chain forward {{\n    \
             type filter hook forward priority filter; policy drop;\n    \
             iifname {LAN} oifname {WAN} accept\n    ct state established,related accept\n    \
             iifname {WAN} ct status dnat accept\n  }}\n"
        );
        let _ = write!(
            text,
            "  chain outwards {{\n    type nat hook postrouting priority srcnat; policy accept;\n{}  }}\n",
            self.translation()
        );
        if filtered {
            let _ = write!(
                text,
                "  chain inwards {{\n    type nat hook prerouting priority dstnat; policy accept;\n    \
                 iifname {WAN} {} dnat ip to meta l4proto . th dport map @inward\n  }}\n",
                match self.kind.filter {
                    Filter::AddressDependent => "meta l4proto . th dport . ip saddr @contacted",
                    _ => "meta l4proto { tcp, udp }",
                }
            );
        }
        text.push_str("}\n");
        text
    }

    /// The rulesets's counters: a table of their own, which a change of kind leaves alone.
    pub fn render_counters(&self) -> String {
        let mut text = String::from("table inet count {\n");
        let (mut sent, mut received) = (String::new(), String::new());
        for (name, addresses) in self.neighbours {
            let _ = writeln!(text, "  counter sent-{name} {{ }}\n  counter received-{name} {{ }}");
            for address in addresses {
                let family = if address.is_ipv4() { "ip" } else { "ip6" };
                let _ = writeln!(sent, "    oifname {WAN} {family} daddr {address} counter name sent-{name}");
                let _ = writeln!(
                    received,
                    "    iifname {WAN} {family} saddr {address} counter name received-{name}"
                );
            }
        }
        let _ = write!(
            text,
            "  chain sent {{\n    type filter hook postrouting priority 310; policy accept;\n{sent}  }}\n  \
             chain received {{\n    type filter hook prerouting priority raw; policy accept;\n{received}  }}\n}}\n"
        );
        text
    }

    /// Ports that are mapped by table: with the port remapped always, with the port kept after a rebind.
    fn remapped_ports(&self) -> String {
        let moved = !self.kind.port_kept || self.rebinds > 0;
        if self.kind.mapping != Mapping::EndpointIndependent || !moved {
            return String::new();
        }
        let base = REMAPPED_BASE + REMAPPED_STEP * (self.rebinds % 64);
        let elements: Vec<_> = REMAPPED_PORTS
            .map(|port| format!("{port} : {}", base + (port - REMAPPED_PORTS.start())))
            .collect();
        format!(
            "  map ports {{ type inet_service : inet_service; elements = {{ {} }} }}\n",
            elements.join(", ")
        )
    }

    fn translation(&self) -> String {
        let table = if self.remapped_ports().is_empty() {
            String::new()
        } else {
            format!("    oifname {WAN} meta l4proto udp snat ip to {} : udp sport map @ports\n", self.address)
        };
        let flags = if self.kind.port_kept { "" } else { " fully-random" };
        format!("{table}    oifname {WAN} masquerade{flags}\n")
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

/// Reads the counters from `nft -j list counters`.
///
/// # Errors
/// [`Error::Machine`] where the answer is not what nft is known to say.
pub fn parse_counters(json: &str) -> Result<Counters> {
    let unexpected = || Error::Machine(format!("unexpected answer of `nft -j list counters`: {json}"));
    let document: serde_json::Value = serde_json::from_str(json).map_err(|_| unexpected())?;
    let mut counters = Counters::new();
    for entry in document["nftables"].as_array().ok_or_else(unexpected)? {
        let counter = &entry["counter"];
        let Some((direction, peer)) = counter["name"].as_str().and_then(|name| name.split_once('-')) else {
            continue;
        };
        let packets = counter["packets"].as_u64().ok_or_else(unexpected)?;
        let bytes = counter["bytes"].as_u64().ok_or_else(unexpected)?;
        let traffic = counters.entry(peer.to_owned()).or_default();
        match direction {
            "sent" => (traffic.sent_packets, traffic.sent_bytes) = (packets, bytes),
            _ => (traffic.received_packets, traffic.received_bytes) = (packets, bytes),
        }
    }
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset(kind: &str, rebinds: u16) -> String {
        let neighbours = [("nat-b".to_owned(), vec!["203.0.113.22".parse().unwrap()])];
        let ruleset = Ruleset {
            kind: kind.parse().unwrap(),
            address: "203.0.113.21".parse().unwrap(),
            neighbours: &neighbours,
            rebinds,
        };
        ruleset.render()
    }

    #[test]
    fn kinds_survive_their_text() {
        for text in [
            "eim-eif-kept",
            "eim-adf-kept",
            "eim-apdf-kept",
            "eim-eif-remapped",
            "eim-adf-remapped",
            "eim-apdf-remapped",
            "adm-eif-remapped",
            "adm-adf-remapped",
            "adm-apdf-remapped",
        ] {
            assert_eq!(text.parse::<NatKind>().unwrap().to_string(), text);
        }
        assert_eq!("symmetric".parse::<NatKind>().unwrap(), NatKind::SYMMETRIC);
        assert_eq!("adm-apdf".parse::<NatKind>().unwrap(), NatKind::SYMMETRIC);
        assert_eq!("port-restricted".parse::<NatKind>().unwrap(), NatKind::default());
        for text in ["", "eim", "adm-apdf-kept", "eim-apdf-kept-x", "full"] {
            assert!(text.parse::<NatKind>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_symmetric_nat_randomises_every_flow() {
        assert!(!ruleset("port-restricted", 0).contains("random"));
        assert!(!ruleset("port-restricted", 0).contains("map ports"));
        assert!(ruleset("symmetric", 0).contains("masquerade fully-random"));
        assert!(!ruleset("symmetric", 3).contains("map ports"));
        assert!(ruleset("eim-apdf-remapped", 0).contains("20006 : 31006"));
    }

    #[test]
    fn a_rebind_moves_the_port() {
        assert!(ruleset("port-restricted", 1).contains("20006 : 31206"));
        assert!(ruleset("port-restricted", 2).contains("20006 : 31406"));
        assert!(ruleset("eim-apdf-remapped", 65).contains("20006 : 31206"));
    }

    #[test]
    fn only_a_lax_filter_lets_strangers_in() {
        assert!(!ruleset("port-restricted", 0).contains("dnat ip to"));
        assert!(ruleset("cone", 0).contains("wan meta l4proto { tcp, udp } dnat ip to"));
        assert!(ruleset("restricted", 0).contains("@contacted dnat ip to"));
    }

    #[test]
    fn counters_are_read_by_direction_and_neighbour() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"counter": {"family": "inet", "name": "sent-nat-b", "table": "count", "packets": 2, "bytes": 99}},
            {"counter": {"family": "inet", "name": "received-nat-b", "table": "count", "packets": 1, "bytes": 7}}]}"#;
        let expected = Traffic { sent_packets: 2, sent_bytes: 99, received_packets: 1, received_bytes: 7 };
        assert_eq!(parse_counters(json).unwrap(), Counters::from([("nat-b".to_owned(), expected)]));
        assert!(parse_counters("{}").is_err());
    }
}
