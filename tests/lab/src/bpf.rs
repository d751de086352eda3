//! Detaches a host's `sk_lookup` program, to show that what rests on it fails; says which eBPF programs a process
//! holds, and whether one is still there.
//!
//! aya shows links and cannot detach another program's, so the commands of bpf(2) are called here.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::libc;

use crate::{Error, Lab, Result};

/// Commands of bpf(2), from `enum bpf_cmd`.
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_GET_FD_BY_ID: libc::c_int = 30;
const LINK_GET_NEXT_ID: libc::c_int = 31;
const LINK_DETACH: libc::c_int = 34;
/// `BPF_LINK_TYPE_NETNS`: a link to a network namespace.
const TYPE_NETNS: u32 = 5;
/// `BPF_SK_LOOKUP`, from `enum bpf_attach_type`.
const ATTACH_SK_LOOKUP: u32 = 36;

/// The head of `union bpf_attr`, as far as these commands read and write it, in words of 32 bits.
type Attributes = [u32; 32];

impl Lab {
    /// Detaches every `sk_lookup` program from the network namespace of a host; returns how many there were.
    ///
    /// # Errors
    /// Where there is no such host or the kernel refuses.
    pub fn detach_sk_lookup(&self, host: &str) -> Result<usize> {
        let netns = self.netns_path(&self.host(host)?);
        let inode = fs::metadata(&netns).map_err(Error::io("look at", &netns))?.ino();
        detach(inode).map_err(|source| Error::Io { what: "cannot detach sk_lookup".into(), source })
    }
}

/// Ids of the eBPF programs that a process holds, by itself or by a link.
pub fn programs_of(pid: i32) -> Vec<u32> {
    let open = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let texts = open.filter_map(|file| fs::read_to_string(file.path()).ok());
    texts.filter_map(|text| program(&text)).collect()
}

/// The program of a descriptor, as its `fdinfo` says.
fn program(fdinfo: &str) -> Option<u32> {
    fdinfo.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
}

/// Whether the machine has an eBPF program of this id.
///
/// # Errors
/// Where the kernel refuses to say.
pub fn has_program(id: u32) -> Result<bool> {
    let failed = |source| Error::Io { what: format!("cannot look for the eBPF program {id}"), source };
    Ok(open_by_id(PROG_GET_FD_BY_ID, id).map_err(failed)?.is_some())
}

fn detach(netns: u64) -> io::Result<usize> {
    let mut detached = 0;
    let mut id = 0;
    while let Some(next) = next_link(id)? {
        id = next;
        let Some(link) = open_link(id)? else { continue };
        let info = link_info(&link)?;
        // The fields of the union begin at the 16th byte.
        let (kind, inode, attached) = (info[0], info[4], info[5]);
        if kind == TYPE_NETNS && attached == ATTACH_SK_LOOKUP && u64::from(inode) == netns {
            bpf(LINK_DETACH, &mut attributes(&[descriptor(&link)]))?;
            detached += 1;
        }
    }
    Ok(detached)
}

fn next_link(id: u32) -> io::Result<Option<u32>> {
    let mut attributes = attributes(&[id]);
    match bpf(LINK_GET_NEXT_ID, &mut attributes) {
        Ok(_) => Ok(Some(attributes[1])),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `None` for a link that has gone meanwhile.
fn open_link(id: u32) -> io::Result<Option<OwnedFd>> {
    open_by_id(LINK_GET_FD_BY_ID, id)
}

/// `None` where there is no such object.
fn open_by_id(command: libc::c_int, id: u32) -> io::Result<Option<OwnedFd>> {
    match bpf(command, &mut attributes(&[id])) {
        #[expect(unsafe_code, reason = "the kernel has just given this descriptor to nobody else")]
        Ok(descriptor) => Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn link_info(link: &OwnedFd) -> io::Result<Attributes> {
    let mut info: Attributes = [0; 32];
    let address = info.as_mut_ptr() as u64;
    let length = u32::try_from(size_of::<Attributes>()).expect("128 bytes");
    // A pointer takes two words, in the order of the machine.
    let pointer: [u32; 2] = {
        let bytes = address.to_ne_bytes();
        let half = |from: usize| {
            u32::from_ne_bytes([bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]])
        };
        [half(0), half(4)]
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attributes(&[descriptor(link), length, pointer[0], pointer[1]]))?;
    Ok(info)
}

fn descriptor(link: &OwnedFd) -> u32 {
    u32::try_from(link.as_raw_fd()).expect("an open descriptor is not negative")
}

fn attributes(words: &[u32]) -> Attributes {
    let mut attributes = [0; 32];
    attributes[..words.len()].copy_from_slice(words);
    attributes
}

fn bpf(command: libc::c_int, attributes: &mut Attributes) -> io::Result<libc::c_int> {
    #[expect(
        unsafe_code,
        reason = "libc has no wrapper for bpf(2); the attributes are as long as said, and the one pointer in \
                  them (of OBJ_GET_INFO_BY_FD) leads to a buffer that outlives the call"
    )]
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of::<Attributes>()) };
    let result = Errno::result(result).map_err(io::Error::from)?;
    Ok(libc::c_int::try_from(result).expect("bpf(2) returns an int"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_names_its_program() {
        let link =
            "pos:\t0\nflags:\t02000002\nlink_type:\tcgroup\nlink_id:\t7\nprog_tag:\tab\nprog_id:\t42\n";
        assert_eq!(program(link), Some(42));
        assert_eq!(program("pos:\t0\nmap_id:\t9\n"), None);
    }

    #[test]
    fn attributes_are_padded_with_zeros() {
        let attributes = attributes(&[1, 2]);
        assert_eq!(attributes[..3], [1, 2, 0]);
        assert!(attributes[2..].iter().all(|word| *word == 0));
    }
}
