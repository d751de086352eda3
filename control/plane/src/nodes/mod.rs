//! Controllers of Nodes: their pod ranges, and what happens when they fall silent.

mod health;
pub(crate) mod heard;
pub(crate) mod ipam;
pub(crate) mod lifecycle;
mod ranges;
