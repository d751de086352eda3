//! The admin API of daemons: JSON over HTTP/1.1.
//!
//! Each daemon answers on its Unix socket `/run/edgeloom/NAME.sock` at the paths of this module. The
//! control answers on its HTTPS (port 20007) with the same for each node below [`node_path`], and with
//! the fleet: [`NODES`] and [`TOKENS`]. An answer that is no success has a [`Failure`] as its body.
//!
//! Units stand in the names: times are RFC 3339, durations `…Ms` or `…Seconds`, sizes bytes.

mod diagnosis;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use diagnosis::{
    Attempt, MAX_BENCH_SECONDS, MAX_BENCH_STREAMS, Measurement, Phase, RoundTrips, Sighting, Trace,
};

/// A point in time, RFC 3339 in JSON.
pub type Timestamp = time::OffsetDateTime;

/// `GET`: [`Status`].
pub const STATUS: &str = "/v1/status";
/// `GET`: a list of [`Peer`].
pub const PEERS: &str = "/v1/peers";
/// `GET`: a list of [`Service`].
pub const SERVICES: &str = "/v1/services";
/// `POST`, with the node's name behind it and `?count=N`: a list of [`Echo`].
pub const PING: &str = "/v1/ping";
/// `POST`, with the node's name behind it: a [`Trace`].
pub const TRACE: &str = "/v1/trace";
/// `POST`, with the node's name behind it and `?phase=latency|send|receive&seconds=N&streams=N`: a
/// [`Measurement`].
pub const BENCH: &str = "/v1/bench";
/// The control only. `GET`: a list of [`FleetNode`].
pub const NODES: &str = "/v1/nodes";
/// The control only. `GET`: a list of [`Token`]; `POST` with [`TokenRequest`]: [`NewToken`]; `DELETE` with
/// the token's id behind it.
pub const TOKENS: &str = "/v1/tokens";
/// What stands before the paths on an edge's kubelet server, by which the control reaches them.
pub const KUBELET_PREFIX: &str = "/edgeloom";

/// Most echoes that one ping asks for.
pub const MAX_ECHOES: u32 = 1000;

/// Path on the control of what a node answers at `path`, such as [`STATUS`].
pub fn node_path(node: &str, path: &str) -> String {
    format!("{NODES}/{node}{}", path.trim_start_matches("/v1"))
}

/// A daemon and what it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Name of its node.
    pub node: String,
    /// Site of the node.
    pub site: String,
    /// The program: `edgecore`, `mesh-agent` or `edgeloom-control`.
    pub program: String,
    /// Version of the program.
    pub version: String,
    /// When it started.
    #[serde(with = "time::serde::rfc3339")]
    pub started: Timestamp,
    /// Its session with the control.
    pub control: Link,
    /// The kernel's part, where the daemon has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datapath: Option<Datapath>,
    /// Services that it knows.
    pub services: usize,
    /// Endpoints that it knows.
    pub endpoints: usize,
    /// Its peers, by how they are reached.
    pub peers: PeerCounts,
}

/// A session that may be up or down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Whether it is up.
    pub connected: bool,
    /// Since when it has been so, or since the daemon started; absent where nobody kept the time.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// The kernel's part of the mesh on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Datapath {
    /// How Services are served: `ebpf`, or what stands in for it.
    pub mode: String,
    /// What this kernel or this set-up lacks.
    pub off: Vec<Missing>,
}

/// A feature that is off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What.
    pub what: String,
    /// Why, and what would mend it.
    pub why: String,
}

/// Peers by how they are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCounts {
    /// All members known, without the own node.
    pub known: usize,
    /// With a direct path.
    pub direct: usize,
    /// Through a relay.
    pub relayed: usize,
    /// With a route on the LAN to their pods, whether or not a path over the overlay is in use besides.
    #[serde(default)]
    pub near: usize,
}

/// A member of the mesh, seen from a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Name of the node.
    pub node: String,
    /// Its site.
    pub site: String,
    /// Its libp2p peer id.
    pub peer_id: String,
    /// Whether a connection is open.
    pub connected: bool,
    /// The path in use.
    pub path: Path,
    /// Whether its pods are reached by their own addresses, over a route on the LAN: calls to them need no path.
    #[serde(default)]
    pub near: bool,
    /// `tcp` or `wss` where this node's packets to it leave over TCP, because UDP is blocked; `tcp` with a path `lan`
    /// where TCP connections to it go over TCP, because that is faster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<String>,
    /// Smoothed round trip time of the path, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// Share of the recent probes on the path that were lost, 0 to 1.
    pub loss: f64,
    /// The same of a better path, where that is not gone by because it loses so much more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_over_loss: Option<f64>,
    /// Bytes sent to it over any path, packet headers of the overlay included.
    pub sent_bytes: u64,
    /// Bytes received from it over any path.
    pub received_bytes: u64,
    /// When the path last changed.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub last_change: Option<Timestamp>,
}

/// The path beneath the connection to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Path {
    /// Straight to the peer.
    Direct {
        /// Address and port of the peer as seen from here.
        address: String,
        /// `lan`, `public` or `punched`; `tcp` or `wss` between a relay and a node whose UDP is blocked.
        by: String,
    },
    /// Through a relay.
    Relayed {
        /// Node name of the relay, or its peer id where the name is not known.
        relay: String,
    },
    /// None in use or known.
    None,
}

impl Path {
    /// The kind of path in a word: `lan`, `public`, `punched`, `tcp`, `wss`, `relayed` or `none`.
    pub fn word(&self) -> &str {
        match self {
            Self::Direct { by, .. } => by,
            Self::Relayed { .. } => "relayed",
            Self::None => "none",
        }
    }

    /// Address of the peer or name of the relay; empty without a path.
    pub fn via(&self) -> &str {
        match self {
            Self::Direct { address, .. } => address,
            Self::Relayed { relay } => relay,
            Self::None => "",
        }
    }
}

/// A Service, seen from a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `Headless` or `ExternalName`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Cluster, external and ingress addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Endpoints that callers here reach by their own addresses.
    pub near: usize,
    /// Endpoints that callers here reach through another node's agent.
    pub far: usize,
    /// Of these, how many failed lately and are passed over for now.
    pub set_aside: usize,
    /// What a caller here meets.
    pub health: Health,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name; empty for the only one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its number.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// Its number at the nodes' own addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
}

/// What a caller of a Service meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Health {
    /// Endpoints that answer.
    Ok,
    /// Some endpoints failed lately.
    Degraded,
    /// All failed lately, or there are none: callers are refused.
    Unavailable,
    /// Another proxy's by label, or an ExternalName: not served here.
    NotServed,
}

impl Health {
    /// The value in words, as on screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
            Self::NotServed => "not served",
        }
    }
}

/// One answer, or none, to a ping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Echo {
    /// Counted from 1.
    pub sequence: u32,
    /// Round trip time in milliseconds; absent if nothing came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// The path that it went by.
    pub path: Path,
    /// What went wrong, if nothing came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A node as the control knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetNode {
    /// Its name.
    pub node: String,
    /// Its site.
    pub site: String,
    /// `edge`, `control`, `relay`.
    pub roles: Vec<String>,
    /// Its session with the control.
    pub session: Link,
    /// Whether it was expelled.
    pub revoked: bool,
}

/// What a new join token should allow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// Site that nodes join with it.
    pub site: String,
    /// How long it can be used, in seconds.
    pub ttl_seconds: u64,
    /// How often it can be used.
    pub uses: u32,
    /// The only node name that may join with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// A join token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// By which it is named and revoked.
    pub id: String,
    /// Site that nodes join with it.
    pub site: String,
    /// The only node name that may join with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How often it can be used yet.
    pub uses_left: u32,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339")]
    pub expires: Timestamp,
}

/// A join token, as it is shown once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewToken {
    /// What a node is given to join.
    pub token: String,
    /// What is remembered of it.
    #[serde(flatten)]
    pub details: Token,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What failed, on what.
    pub error: String,
    /// What to check or do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_of_a_node_on_the_control() {
        assert_eq!(node_path("edge-b", STATUS), "/v1/nodes/edge-b/status");
        assert_eq!(node_path("edge-b", &format!("{PING}/edge-a")), "/v1/nodes/edge-b/ping/edge-a");
    }

    #[test]
    fn what_a_reader_of_the_json_sees() {
        let peer = Peer {
            node: "edge-b".to_owned(),
            site: "berlin".to_owned(),
            peer_id: "12D3Koo".to_owned(),
            connected: true,
            path: Path::Direct { address: "203.0.113.22:20006".to_owned(), by: "punched".to_owned() },
            near: false,
            carrier: None,
            rtt_ms: Some(20.5),
            loss: 0.0,
            passed_over_loss: None,
            sent_bytes: 1,
            received_bytes: 2,
            last_change: Some(Timestamp::UNIX_EPOCH),
        };
        let value = serde_json::to_value(&peer).unwrap();
        assert_eq!(
            value,
            json!({
                "node": "edge-b", "site": "berlin", "peerId": "12D3Koo", "connected": true,
                "path": {"kind": "direct", "address": "203.0.113.22:20006", "by": "punched"}, "near": false,
                "rttMs": 20.5, "loss": 0.0, "sentBytes": 1, "receivedBytes": 2,
                "lastChange": "1970-01-01T00:00:00Z",
            })
        );
        assert_eq!(serde_json::from_value::<Peer>(value).unwrap(), peer);
        assert_eq!(serde_json::to_value(Path::None).unwrap(), json!({"kind": "none"}));
    }

    #[test]
    fn a_token_request_with_an_unknown_field_is_refused() {
        let request = json!({"site": "a", "ttlSeconds": 1, "uses": 1, "ttl": "24h"});
        assert!(serde_json::from_value::<TokenRequest>(request).is_err());
    }
}
