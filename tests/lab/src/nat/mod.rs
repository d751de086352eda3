//! NATs after RFC 4787, rendered as nftables, and the counters kept on each.
//!
//! A [kind](NatKind) is mapping × filter × whether the port is kept. Linux maps as its conntrack finds a free
//! tuple, which for one inside host and one source port is endpoint-independent with the port kept;
//! `fully-random` gives every flow a port of its own. What Linux does not do by itself is made of tables: where
//! more than one host is inside, or the port is not kept, the ports of the overlay are mapped by a fixed one;
//! endpoint-independent and address-dependent filtering and hairpinning rest on one learnt from what leaves, in
//! which the outside port leads back to the inside address and port.

mod counters;
mod kind;
mod ruleset;

pub(crate) use counters::render as render_counters;
pub use counters::{Counters, Traffic, parse_counters};
pub use kind::{Filter, Mapping, NatKind};
pub use ruleset::Egress;
pub(crate) use ruleset::Ruleset;

/// Name of the interface towards the internet in a NAT's namespace.
pub const WAN: &str = "wan";
/// Name of the interface towards the site.
pub const LAN: &str = "lan";
