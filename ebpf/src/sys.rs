//! The system calls of bpf(2) that aya does not offer: updating and examining links, and a socket option.

#![expect(unsafe_code, reason = "bpf(2) and getsockopt(2) have no safe wrapper for these uses")]

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::sys::statfs::BPF_FS_MAGIC;

// Commands of bpf(2), from <linux/bpf.h>.
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;

/// `SO_NETNS_COOKIE`, kernel 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// What a link holds on to, from `struct bpf_link_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    /// Of a cgroup link the cgroup's id; of a netns link the namespace's inode, then the attach type.
    /// Zero when the object is gone.
    object: [u32; 2],
    rest: [u64; 8],
}

impl LinkInfo {
    /// The cgroup's id of a cgroup link.
    pub(crate) fn cgroup(&self) -> u64 {
        u64::from_ne_bytes(
            [self.object[0].to_ne_bytes(), self.object[1].to_ne_bytes()]
                .concat()
                .try_into()
                .unwrap_or_default(),
        )
    }

    /// The inode of the namespace of a netns link.
    pub(crate) fn netns(&self) -> u64 {
        self.object[0].into()
    }
}

/// Pins a map, program or link.
pub(crate) fn pin(object: &impl AsFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    #[repr(C)]
    struct Attr(u64, u32, u32);
    bpf(OBJ_PIN, &mut Attr(path.as_ptr() as u64, object.as_fd().as_raw_fd() as u32, 0)).map(drop)
}

/// Opens what is pinned at a path.
pub(crate) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    #[repr(C)]
    struct Attr(u64, u32, u32);
    bpf_fd(OBJ_GET, &mut Attr(path.as_ptr() as u64, 0, 0))
}

/// Attaches a program to a cgroup or network namespace for as long as the link lives.
pub(crate) fn link(program: &impl AsFd, target: &impl AsFd, attach_type: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr(u32, u32, u32, u32);
    let (program, target) = (program.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    bpf_fd(LINK_CREATE, &mut Attr(program as u32, target as u32, attach_type, 0))
}

/// Puts a program in the place of a link's, in one step.
pub(crate) fn update_link(link: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Attr(u32, u32, u32, u32);
    let (link, program) = (link.as_fd().as_raw_fd(), program.as_fd().as_raw_fd());
    bpf(LINK_UPDATE, &mut Attr(link as u32, program as u32, 0, 0)).map(drop)
}

/// What a link holds on to.
pub(crate) fn link_info(link: &impl AsFd) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    #[repr(C)]
    struct Attr(u32, u32, u64);
    let at = (&raw mut info) as u64;
    let mut attr = Attr(link.as_fd().as_raw_fd() as u32, size_of::<LinkInfo>() as u32, at);
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// The cookie of this thread's network namespace.
pub(crate) fn netns_cookie() -> io::Result<u64> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointers are to a u64 and its length, which outlive the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if done == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Whether a path is on a bpf file system.
pub(crate) fn on_bpffs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts a bpf file system on a directory, made if it is not there.
pub(crate) fn mount_bpffs(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path).ok();
    let flags =
        nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOEXEC;
    Ok(nix::mount::mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700"))?)
}

fn bpf_fd<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the commands used with this function return a new file descriptor, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a prefix of `union bpf_attr` laid out for the command, and what it points to
    // lives until the call returns; the kernel reads the size that is passed.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if done >= 0 { Ok(done) } else { Err(io::Error::last_os_error()) }
}
