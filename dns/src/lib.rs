//! The node's DNS: the cluster's names from the model, everything else from upstream servers.
//!
//! [`Zone`] renders the model as the Kubernetes DNS specification 1.1.0 has it; it is pure, looks records
//! up when they are asked for, and so costs nothing to make anew with each snapshot of the model.
//! [`Server`] answers over UDP and TCP from the latest zone, and forwards, with a cache, what is not the
//! cluster's. The cluster's names need no network: they are answered the same with the uplink cut.
//!
//! ```text
//! packet ─> message (decode, refuse) ─> Zone ── foreign ─> cache ─> upstreams
//!        <─ message (encode, truncate) <─┴─────────────────┘
//! ```

mod address;
mod cache;
mod forward;
mod message;
mod metrics;
mod resolve;
mod server;
mod transport;
mod upstream;
mod zone;

pub use message::{answer, passed_on};
pub use server::{Server, ServerConfig, ServerError};
pub use zone::{Lookup, Zone, ZoneError};
