//! The edge node in one process.

pub mod cri;
pub mod edged;
pub mod kubelet;
pub mod node;
pub mod volumes;
