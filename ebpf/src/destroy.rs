//! Ending connections to a backend that is gone, in every network namespace of the cgroup.
//!
//! A socket that was pointed at a backend stays with it: a connected UDP socket would send into nothing
//! for ever, a TCP one until its time-out. Only sockets that our programs pointed there are ended, which
//! is told from what they noted: with the socket for TCP, by the socket's cookie for UDP.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;

use aya::maps::{HashMap, Map, MapData};
use edgeloom_model::Protocol;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::abi;
use crate::diag::{self, Found, Part};

/// Backends to be parted from.
pub(crate) type Gone = BTreeSet<(SocketAddr, Protocol)>;

/// Bytes of one answer of the kernel.
const BUFFER: usize = 64 * 1024;

/// What the programs noted.
pub(crate) struct Known {
    /// The map of what is kept with each socket.
    pub(crate) reverse: OwnedFd,
    /// The map of connected UDP sockets.
    pub(crate) pointed: OwnedFd,
}

type Pointed = HashMap<MapData, u64, abi::Backend>;

impl Known {
    fn pointed(&self) -> io::Result<Pointed> {
        let map = MapData::from_fd(self.pointed.try_clone()?).and_then(Map::from_map_data);
        map.and_then(HashMap::try_from).map_err(io::Error::other)
    }
}

/// Ends all connections to these backends from the processes of a cgroup and from this namespace, and
/// says how many there were. Blocks: it asks every network namespace in turn, from a thread of its own.
pub(crate) fn destroy(cgroup: &Path, known: &Known, gone: &Gone) -> io::Result<usize> {
    if gone.is_empty() {
        return Ok(0);
    }
    let pointed = known.pointed()?;
    let mut ended = 0;
    for namespace in namespaces(cgroup)?.values() {
        let here = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                destroy_here(known, &pointed, gone)
            });
            inside
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread that looks for sockets panicked")))
        });
        match here {
            Ok(count) => ended += count,
            // A namespace that goes away meanwhile has no sockets either.
            Err(error) => {
                tracing::debug!(%error, "the sockets of a network namespace could not be looked at")
            }
        }
    }
    Ok(ended)
}

/// The network namespaces of this thread and of the processes below a cgroup, by inode.
fn namespaces(cgroup: &Path) -> io::Result<BTreeMap<u64, File>> {
    let mut found = BTreeMap::new();
    let mut add = |path: &str| -> io::Result<()> {
        let inode = fs::metadata(path)?.ino();
        if let std::collections::btree_map::Entry::Vacant(entry) = found.entry(inode) {
            entry.insert(File::open(path)?);
        }
        Ok(())
    };
    add("/proc/thread-self/ns/net")?;
    let mut directories = vec![cgroup.to_owned()];
    while let Some(directory) = directories.pop() {
        let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines() {
            // It may have ended since.
            add(&format!("/proc/{process}/ns/net")).ok();
        }
        let children = fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok);
        directories.extend(children.map(|child| child.path()).filter(|path| path.is_dir()));
    }
    Ok(found)
}

fn destroy_here(known: &Known, pointed: &Pointed, gone: &Gone) -> io::Result<usize> {
    let mut ended = 0;
    for (protocol, number) in [(Protocol::Tcp, libc::IPPROTO_TCP), (Protocol::Udp, libc::IPPROTO_UDP)] {
        let backends: Vec<_> = gone.iter().filter(|(_, p)| *p == protocol).map(|(at, _)| *at).collect();
        if backends.is_empty() {
            continue;
        }
        let ours = |socket: &&Found| {
            let Some(backend) = backends.iter().find(|at| **at == socket.peer) else { return false };
            match protocol {
                Protocol::Tcp => socket.was_pointed_at(*backend),
                Protocol::Udp => {
                    pointed.get(&socket.cookie(), 0).is_ok_and(|noted| SocketAddr::from(noted) == *backend)
                }
            }
        };
        // An IPv6 socket may be connected to an IPv4 backend by its mapped address.
        for family in [libc::AF_INET, libc::AF_INET6] {
            let sockets = ask(&diag::list(family as u8, number as u8, known.reverse.as_raw_fd()))?;
            for socket in sockets.iter().filter(ours) {
                ended += usize::from(end(socket, number as u8)?);
            }
        }
    }
    Ok(ended)
}

/// Ends one socket; `false` when it was gone already.
fn end(socket: &Found, protocol: u8) -> io::Result<bool> {
    match ask(&diag::destroy(socket, protocol)) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sends one question, and collects the sockets of its answer.
fn ask(request: &[u8]) -> io::Result<Vec<Found>> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        Some(SockProtocol::NetlinkSockDiag),
    )?;
    let fd = netlink.as_fd().as_raw_fd();
    sendto(fd, request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    let mut found = Vec::new();
    loop {
        let length = recv(fd, &mut buffer, MsgFlags::empty())?;
        for part in diag::parts(&buffer[..length]) {
            match part {
                Part::Socket(socket) => found.push(socket),
                Part::Done | Part::Status(0) => return Ok(found),
                Part::Status(error) => return Err(io::Error::from_raw_os_error(-error)),
            }
        }
    }
}
