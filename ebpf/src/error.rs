//! What can go wrong, said to the operator.

use std::io;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::maps::MapError;

/// Why the datapath could not be loaded or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open cgroup {path}: {source}; name the cgroup2 directory whose processes are served")]
    Cgroup { path: PathBuf, source: io::Error },
    #[error(
        "{path} is no cgroup2 directory (a hybrid host has them below /sys/fs/cgroup/unified); name the one \
         whose processes are served"
    )]
    NotCgroup2 { path: PathBuf },
    #[error(
        "no cgroup2 file system is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`"
    )]
    NoCgroup2,
    #[error(
        "cannot pin under {path}: {source}; a bpf file system of its own is needed there, see `mount -t bpf`"
    )]
    Pin { path: PathBuf, source: io::Error },
    #[error("the kernel did not take the eBPF programs: {0}; root, or CAP_BPF with CAP_NET_ADMIN, is needed")]
    Load(#[from] aya::EbpfError),
    #[error("eBPF program `{program}`: {source}")]
    Program { program: &'static str, source: Box<aya::programs::ProgramError> },
    #[error("cannot attach eBPF program `{program}`: {source}")]
    Attach { program: &'static str, source: io::Error },
    #[error("the compiled eBPF object has no `{0}`: this build is broken")]
    Missing(&'static str),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("cannot give the agent's {socket} socket to the kernel: {reason}")]
    Socket { socket: &'static str, reason: String },
    #[error("cannot route {range} to this host: {reason}")]
    Route { range: IpNet, reason: String },
    #[error("cannot change the routes of this host: {0}")]
    Netlink(String),
    #[error("cannot look for connections to backends that are gone: {0}")]
    Destroy(io::Error),
}
