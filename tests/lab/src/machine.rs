//! What the lab needs of the machine that it runs on.

use std::env;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::{Error, Result, Topology, shell};

/// The programs that the lab calls, with the Debian package of each.
const PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
];
/// Links to the machine are taken from here, a /30 each.
const LINKS: [u8; 3] = [172, 31, 255];

/// What WANs are made with.
const TUN: &str = "/dev/net/tun";

/// Fails with everything that is missing, and the line that installs it.
pub(crate) fn check(topology: &Topology) -> Result<()> {
    if !Uid::effective().is_root() {
        return Err(Error::Machine("a lab needs root: network namespaces, mounts and cgroups".into()));
    }
    let has_wan = topology.interfaces().any(|(_, interface)| interface.wan.is_some());
    if has_wan && !Path::new(TUN).exists() {
        return Err(Error::Machine(format!("a WAN needs {TUN}, which this machine lacks: modprobe tun")));
    }
    let missing: Vec<_> = PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    Err(Error::Machine(format!(
        "not found: {}; install with: apt-get install {}",
        programs.join(", "),
        packages.join(" ")
    )))
}

/// Finds a program in PATH, or where root's PATH usually leads and a user's does not.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<_> = env::split_paths(&path).collect();
    directories.extend(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"].map(PathBuf::from));
    directories.into_iter().map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// First directory of `candidates` that holds `file`.
pub(crate) fn first_with(candidates: &[&str], file: &str) -> Option<PathBuf> {
    candidates.iter().map(Path::new).find(|directory| directory.join(file).exists()).map(Path::to_owned)
}

/// The machine's and the host's address of a /30 that nothing on the machine uses.
pub(crate) fn free_link(taken: &[Ipv4Addr]) -> Result<(Ipv4Addr, Ipv4Addr)> {
    let used = shell::words("ip -4 -o addr show")?;
    let address = |last: u8| Ipv4Addr::new(LINKS[0], LINKS[1], LINKS[2], last);
    (0..64u8)
        .map(|link| (address(link * 4 + 1), address(link * 4 + 2)))
        .find(|(machine, _)| !used.contains(&format!("inet {machine}/")) && !taken.contains(machine))
        .ok_or_else(|| Error::Machine("every /30 of 172.31.255.0/24 is in use on this machine".into()))
}
