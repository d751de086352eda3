//! Settings of a node's daemon: the section `mesh`, which is the agent's, and those that every node has.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use edgeloom_api::names;
use edgeloom_tunnel::Limits;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::uplink::Carriers;

/// How the agent on a node works. Every field has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Ranges that Service addresses come from.
    pub service_cidrs: Vec<IpNet>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Where the node-local DNS server listens. A link-local address is put on an interface of its own.
    pub dns_listen: Vec<SocketAddr>,
    /// DNS servers for all other names; by default those of the host.
    pub dns_upstreams: Vec<SocketAddr>,
    /// cgroup2 directory whose sockets are served; by default the host's root.
    pub cgroup: Option<PathBuf>,
    /// bpffs directory where the datapath outlives the agent; absent: it ends with the agent.
    pub pin: Option<PathBuf>,
    /// Machines of the site that callers at other sites may reach through this node, as `CIDR:PORTS`, such
    /// as `192.168.10.0/24:502,8080-8090`.
    pub exports: Vec<Export>,
    /// Most TCP connections at a time, each way.
    pub max_connections: usize,
    /// Most UDP flows at a time, each way.
    pub max_udp_flows: usize,
    /// A UDP flow that carried nothing for so many seconds is forgotten.
    pub udp_idle_seconds: u64,
    /// An endpoint that did not answer a connect for so many milliseconds counts as failed.
    pub connect_timeout_ms: u64,
    /// Install routes to the pods of other nodes of the own site that answer on the LAN.
    pub lan_routes: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            service_cidrs: vec![
                IpNet::new_assert([10, 96, 0, 0].into(), 12),
                IpNet::new_assert([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0].into(), 108),
            ],
            cluster_domain: names::CLUSTER_DOMAIN.to_owned(),
            dns_listen: vec![SocketAddr::new(names::DNS_ADDRESS, names::DNS_PORT)],
            dns_upstreams: Vec::new(),
            cgroup: None,
            pin: Some(PathBuf::from("/sys/fs/bpf/edgeloom")),
            exports: Vec::new(),
            // At 2 KiB a connection that is idle, about 20 MB.
            max_connections: 10_000,
            max_udp_flows: 4096,
            // RFC 4787 (REQ-5) asks NATs for two minutes at least; agents that restart recover sooner.
            udp_idle_seconds: 120,
            connect_timeout_ms: 5_000,
            lan_routes: true,
        }
    }
}

/// The control, and how to join it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Control {
    /// Where it is: `HOST` or `HOST:PORT`; needed at the first start only.
    pub addresses: Vec<String>,
    /// Token of `meshctl token create --site SITE`; needed at the first start only.
    #[serde(serialize_with = "secret")]
    pub token: Option<String>,
    /// Give up joining a control that does not answer after so many seconds.
    pub patience_seconds: u64,
}

/// The overlay's socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Overlay {
    /// UDP address and port.
    pub listen: SocketAddr,
    /// What is done where UDP is blocked.
    pub carriers: Carriers,
    /// Whether to look for direct paths; otherwise everything goes through relays.
    pub direct: bool,
    /// What carries TCP connections to nodes on the LAN.
    pub lan_tcp: LanTcp,
    /// Interfaces whose addresses are never told to peers; a trailing `*` matches any ending.
    pub exclude_interfaces: Vec<String>,
    /// Megabits a second that this node sends to others, all in all. By default as many as go.
    pub rate_mbit: Option<u32>,
    /// What others may take of this node.
    pub limits: Limits,
}

impl Overlay {
    /// Whether flows may go over TCP on the LAN.
    pub fn uses_lan_tcp(&self) -> bool {
        self.lan_tcp == LanTcp::Auto
    }

    /// Bytes a second that this node sends.
    pub fn rate(&self) -> Option<u64> {
        self.rate_mbit.map(|megabits| u64::from(megabits) * 125_000)
    }
}

/// What carries TCP connections to nodes on the LAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LanTcp {
    /// QUIC, as everywhere: a running connection moves when the path does, and none breaks when the LAN fails.
    #[default]
    Never,
    /// TCP with TLS where both nodes are set to this and it was measured to be clearly faster. What runs over it
    /// breaks when the LAN fails; new connections go another way. Not together with `rateMbit`.
    Auto,
}

/// Plain HTTP for operators: `/metrics`, `/healthz`, `/readyz`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Ops {
    /// Where it listens.
    pub listen: SocketAddr,
}

impl fmt::Debug for Control {
    /// Says of the token no more than that it is set: what a log holds is read by others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| NOT_SHOWN);
        f.debug_struct("Control")
            .field("addresses", &self.addresses)
            .field("token", &token)
            .field("patience_seconds", &self.patience_seconds)
            .finish()
    }
}

/// What stands for a secret that is set.
const NOT_SHOWN: &str = "(set, not shown)";

/// Says of a secret no more than that it is set: what `--print-config` prints is shown to others.
fn secret<S: Serializer>(secret: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|_| NOT_SHOWN).serialize(serializer)
}

impl Default for Control {
    fn default() -> Self {
        Self { addresses: Vec::new(), token: None, patience_seconds: 120 }
    }
}

impl Default for Overlay {
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, names::OVERLAY_PORT));
        Self {
            listen,
            carriers: Carriers::default(),
            direct: true,
            lan_tcp: LanTcp::default(),
            exclude_interfaces: Vec::new(),
            rate_mbit: None,
            limits: Limits::default(),
        }
    }
}

impl Default for Ops {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, names::OPS_PORT)) }
    }
}

/// A range of addresses with the ports that are open to other sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    range: IpNet,
    ports: Vec<(u16, u16)>,
}

impl Export {
    /// Whether a target may be dialled for a caller at another site, by TCP and UDP alike.
    pub fn allows(&self, target: SocketAddr) -> bool {
        let ip: IpAddr = target.ip().to_canonical();
        let open = |(low, high): &(u16, u16)| (*low..=*high).contains(&target.port());
        self.range.contains(&ip) && self.ports.iter().any(open)
    }
}

impl FromStr for Export {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!("{text:?}: {what}; expected CIDR:PORTS, such as 192.168.10.0/24:502,8080-8090")
        };
        let (range, ports) = text.rsplit_once(':').ok_or_else(|| wrong("no ports"))?;
        let range = range.trim_matches(['[', ']']);
        let range = range.parse().map_err(|_| wrong("the range is no CIDR"))?;
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        let span = |text: &str| {
            let (low, high) = text.split_once('-').unwrap_or((text, text));
            let (low, high) = (port(low)?, port(high)?);
            (low <= high).then_some((low, high))
        };
        let ports: Option<Vec<_>> = ports.split(',').map(span).collect();
        Ok(Self { range, ports: ports.ok_or_else(|| wrong("the ports are none from 1 to 65535"))? })
    }
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.range {
            IpNet::V4(range) => write!(f, "{range}:")?,
            IpNet::V6(range) => write!(f, "[{range}]:")?,
        }
        for (index, (low, high)) in self.ports.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if low == high { write!(f, "{comma}{low}")? } else { write!(f, "{comma}{low}-{high}")? }
        }
        Ok(())
    }
}

impl Serialize for Export {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Export {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        let control = Control { token: Some("abc.def".to_owned()), ..Control::default() };
        let shown = serde_yaml_ng::to_string(&control).unwrap();
        assert!(shown.contains("token: (set, not shown)") && !shown.contains("abc"), "{shown}");
        let logged = format!("{control:?}");
        assert!(logged.contains("not shown") && !logged.contains("abc"), "{logged}");
        assert!(serde_yaml_ng::to_string(&Control::default()).unwrap().contains("token: null"));
    }

    #[test]
    fn exports() {
        for text in ["192.168.10.0/24:502,8080-8090", "[fd00::/64]:1-65535"] {
            let export: Export = text.parse().unwrap();
            assert_eq!(export.to_string(), text);
        }
        let export: Export = "192.168.10.0/24:502,8080-8090".parse().unwrap();
        for (target, want) in [
            ("192.168.10.7:502", true),
            ("192.168.10.7:8085", true),
            ("192.168.10.7:503", false),
            ("192.168.11.7:502", false),
            ("[::ffff:192.168.10.7]:502", true),
        ] {
            assert_eq!(export.allows(target.parse().unwrap()), want, "{target}");
        }
        for wrong in ["", "192.168.10.0/24", "192.168.10.0/24:", "x:1", "10.0.0.0/8:0", "10.0.0.0/8:9-8"] {
            assert!(wrong.parse::<Export>().unwrap_err().contains("expected CIDR:PORTS"), "{wrong}");
        }
    }

    #[test]
    fn every_default_is_read_back() {
        let text = serde_json::to_string(&Settings::default()).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), Settings::default());
        assert!(serde_json::from_str::<Settings>(r#"{"exprots": []}"#).is_err());
    }
}
