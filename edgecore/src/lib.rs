//! The edge node in one process.
//!
//! [`daemon`] wires what the other crates offer (overlay, session, mesh) with what stands here: [`edged`] brings
//! pods to what the cloud wants through [`cri`], with their [`volumes`]; [`kubelet`] answers for them; [`node`]
//! tells of the machine. [`supervisor`] runs all of it.

pub mod config;
pub mod cri;
pub mod daemon;
pub mod edged;
pub mod kubelet;
pub mod node;
pub mod reset;
pub mod store;
pub mod supervisor;
pub mod volumes;
