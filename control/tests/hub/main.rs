//! Hub and node together: over a wire in memory that is cut at random bytes, and over the real tunnel.

mod api;
mod cluster;
mod flow;
mod join;
mod wire;
