//! Services in the kernel: the eBPF programs of `programs/` and what loads and feeds them.
//!
//! The mesh agent derives a [`Desired`] from its model and hands it to a [`Steering`]: the kernel's
//! ([`Datapath`]) or, in tests, the in-memory double ([`Memory`]). Near Services are translated at the
//! socket by cgroup hooks, so their bytes meet no proxy. Far ones are routed to this host and handed to
//! the agent's sockets ([`AgentSockets`]) by `sk_lookup`, with the address called intact.
//!
//! ```text
//! Desired ─> Table (what differs) ─> Maps ─> programs in the kernel
//!        └─> routes (AnyIP)          └ pinned, with the links: near calls outlive the agent
//! ```

mod abi;
mod attach;
mod cgroup;
mod datapath;
mod desired;
mod destroy;
mod diag;
mod error;
mod kernel;
mod maps;
mod memory;
mod metrics;
mod pin;
mod route;
pub mod sockets;
mod status;
mod sys;
mod table;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use async_trait::async_trait;
use edgeloom_model::Protocol;

pub use datapath::{Datapath, LoadConfig};
pub use desired::{Desired, Frontend, Target};
pub use error::Error;
pub use kernel::Capacity;
pub use maps::MapError;
pub use memory::Memory;
pub use metrics::Metrics;
pub use status::{Counters, Feature, State, Status};
pub use table::Applied;

/// Carries out what the agent wants done with Services.
#[async_trait]
pub trait Steering: Send {
    /// Makes the datapath hold what is desired, and nothing else. What is the same is not touched, so
    /// calling it often is cheap; running connections are not disturbed. Frontends that do not fit are
    /// listed in [`Applied::failed`] and keep what they had.
    ///
    /// After a start call it first with a complete picture: what a predecessor left in the kernel is
    /// kept until then, and what is absent then is removed.
    async fn apply(&mut self, desired: &Desired) -> Result<Applied, Error>;

    /// The sockets that take what is far. The kernel keeps them for as long as they are open; until they
    /// are given, and after they close, far calls are refused.
    fn set_agent_sockets(&mut self, sockets: AgentSockets<'_>) -> Result<(), Error>;

    /// Ends connections that were pointed at near backends which are really gone (not: which still
    /// terminate), and says how many. [`Steering::apply`] does it by itself for the connected UDP sockets
    /// of a backend that it no longer chooses: nothing else would tell them.
    async fn end_connections(&mut self, gone: &BTreeSet<(SocketAddr, Protocol)>) -> Result<usize, Error>;

    /// What works here, what does not and why, and the counters.
    fn status(&mut self) -> Status;
}

/// The agent's sockets for far traffic, one a protocol and family: listening TCP sockets, and UDP sockets
/// with `IP_RECVORIGDSTADDR` or `IPV6_RECVORIGDSTADDR`. `getsockname` of an accepted connection, and the
/// control message of a datagram, tell the address that was called. A family that is `None` refuses.
#[derive(Clone, Copy, Debug, Default)]
pub struct AgentSockets<'a> {
    /// Listener bound to an IPv4 address, as 127.0.0.1.
    pub tcp4: Option<BorrowedFd<'a>>,
    /// Listener bound to an IPv6 address, as ::1.
    pub tcp6: Option<BorrowedFd<'a>>,
    /// UDP socket bound to an IPv4 address.
    pub udp4: Option<BorrowedFd<'a>>,
    /// UDP socket bound to an IPv6 address, with `IPV6_FREEBIND`.
    pub udp6: Option<BorrowedFd<'a>>,
}
