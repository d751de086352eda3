//! Hub and node together: over a wire in memory that is cut at random bytes, over the real tunnel, and with the
//! embedded API.

#![expect(unreachable_pub, reason = "the modules of one test have nobody else to be reachable for")]
#![expect(clippy::unwrap_used, reason = "the helpers of a test")]

mod api;
mod cluster;
mod embedded;
mod flow;
mod idle;
mod join;
mod membership;
mod wire;
