//! The node itself: what it has ([`machine`], [`address`]), what it tells of itself ([`status`], [`report`]),
//! and the network of its pods ([`network`]).

pub mod address;
pub mod cni;
pub mod machine;
pub mod masquerade;
pub mod network;
pub mod report;
pub mod status;
