//! Several hosts on one machine, for the quickstart and the scenarios.
//!
//! A [`Topology`] names segments, hosts and NATs. [`Lab::up`] makes each of them a network namespace;
//! a host gets mount, UTS and cgroup namespaces too, with its own `/run`, `/var/lib`, `/var/log`,
//! `/etc`, machine-id, hostname and `/sys/fs/bpf`, so that a container runtime and a datapath in it
//! see nothing of the machine's or of another host's. Hosts hold
//! only what [`Host::command`] starts in them, and a host is killed by killing what is in its cgroup.
//!
//! The way from a host or NAT to its segment may be a [`Wan`], with delay, loss and rate ([`wan`]): the one
//! thing that runs by itself, a process for each such way.
//!
//! What is up is written to `STATE/lab.json` before it is made, so that [`Lab::down`] finds and removes
//! all of it, after a half-failed [`Lab::up`] and after a reboot of the machine as well. Several labs
//! run side by side: every name outside a namespace begins with the lab's.

mod bpf;
mod build;
mod capture;
mod cgroup;
pub mod containerd;
mod error;
mod fault;
mod host;
mod lab;
mod machine;
pub mod nat;
mod network;
mod process;
mod shell;
mod state;
pub mod topology;
pub mod wan;

pub use bpf::{has_program, programs_of};
pub use build::Link;
pub use capture::Capture;
pub use cgroup::Hierarchy;
pub use error::{Error, Result};
pub use fault::Fault;
pub use host::Host;
pub use lab::{HostStatus, Lab, Status};
pub use nat::{Counters, NatKind};
pub use process::Process;
pub use topology::Topology;
pub use wan::{Conditions, Wan};
