//! What a NAT saw on its outside, by neighbour there.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::WAN;
use crate::{Error, Result};

/// Packets and bytes (of IP packets) that a NAT saw on its outside, by neighbour there: what was sent to it, not what
/// neighbours say to all on that network.
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

/// The ruleset that counts: a table of its own, which a change of kind leaves alone.
pub(crate) fn render(neighbours: &[(String, Vec<IpNet>)]) -> String {
    let mut text = String::from("table inet count {\n");
    let (mut sent, mut received) = (String::new(), String::new());
    for (name, addresses) in neighbours {
        let _ = writeln!(text, "  counter sent-{name} {{ }}\n  counter received-{name} {{ }}");
        for address in addresses {
            let family = if address.addr().is_ipv4() { "ip" } else { "ip6" };
            let _ = writeln!(sent, "    oifname {WAN} {family} daddr {address} counter name sent-{name}");
            let _ = writeln!(
                received,
                "    iifname {WAN} meta pkttype host {family} saddr {address} counter name received-{name}"
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
