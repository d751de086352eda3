//! The cloud side of Edgeloom: hub, join and CA, relay, the nodes' kubelet ports, the admin API.
//!
//! It works for a Kubernetes API, the user's own or the embedded one, and knows it only through `kube`.

pub mod access;
pub mod admin;
pub mod cluster;
pub mod config;
pub mod daemon;
pub mod embedded;
pub mod forward;
pub mod https;
pub mod hub;
pub mod install;
pub mod join;
pub mod kubelet;
pub mod member;
pub mod nodes;
pub mod removal;
pub mod serving;
pub mod tls;

/// Field manager of what the control writes.
pub const MANAGER: &str = "edgeloom-control";
