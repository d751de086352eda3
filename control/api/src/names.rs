//! Names, ports and addresses that more than one program relies on.

use std::net::{IpAddr, Ipv4Addr};

/// API group of Edgeloom's own custom resources, annotations and labels.
pub const GROUP: &str = "edgeloom.io";
/// Namespace that holds all shared state of the control.
pub const SYSTEM_NAMESPACE: &str = "edgeloom-system";
/// Domain of the cluster's DNS names, unless configured otherwise.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// Overlay: UDP for QUIC and the forwarder, TCP for the same in TLS.
pub const OVERLAY_PORT: u16 = 20006;
/// Overlay in a WebSocket over TLS, at the control or a relay.
pub const WEBSOCKET_PORT: u16 = 443;
/// The control's HTTPS: fleet admin API and service discovery for Prometheus.
pub const ADMIN_PORT: u16 = 20007;
/// `/metrics`, `/healthz` and `/readyz` of every daemon.
pub const OPS_PORT: u16 = 20008;
/// The embedded Kubernetes API.
pub const API_PORT: u16 = 6443;
/// The Kubernetes API that an edge node serves to its own pods.
pub const EDGE_API_PORT: u16 = 10550;

/// Ports of the control on which it stands for the kubelets of the edge nodes, one a Node:
/// below NodePorts (30000) and the kernel's ephemeral ports (32768).
pub const KUBELET_PORTS: [std::ops::RangeInclusive<u16>; 2] = [19000..=19999, 20100..=29999];

/// Link-local address of the node-local DNS server (the one EdgeMesh's users know).
pub const DNS_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 96, 16));
/// Port of the node-local DNS server.
pub const DNS_PORT: u16 = 53;

/// Directory of the admin sockets, one `NAME.sock` a daemon.
pub const RUN_DIR: &str = "/run/edgeloom";
/// Directory of what a daemon must find again after a restart.
pub const STATE_DIR: &str = "/var/lib/edgeloom";
/// Directory of the configuration, one `NAME.yaml` a daemon.
pub const CONFIG_DIR: &str = "/etc/edgeloom";

/// Finalizer of an EdgeNode: the control writes a Revocation of its identity before it is gone.
pub const REVOKE_FINALIZER: &str = "edgeloom.io/revoke";
/// Node label of the standard topology key: the control sets it to the node's site where it is absent.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The Node condition that says that the zone's label differs from the site in the node's credential.
pub const SITE_MISMATCH_CONDITION: &str = "SiteMismatch";
/// Node label that marks a node as Edgeloom's.
pub const EDGE_NODE_LABEL: &str = "node-role.kubernetes.io/edge";
/// Node annotation that holds the node's own address at its site.
pub const SITE_ADDRESS_ANNOTATION: &str = "edgeloom.io/site-address";
/// Service annotation that keeps the client's address (PROXY protocol version 2).
pub const PROXY_PROTOCOL_ANNOTATION: &str = "edgeloom.io/proxy-protocol";
