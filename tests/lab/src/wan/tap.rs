//! TAP devices: the end of a cable whose frames a process reads and writes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

const DEVICE: &str = "/dev/net/tun";

mod call {
    use nix::libc;

    // `_IOW('T', 202, int)` in linux/if_tun.h; what it points at is an ifreq.
    nix::ioctl_write_ptr_bad!(
        tunsetiff,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
}

/// Opens the TAP device of that name in the network namespace of the calling thread; reads do not block.
pub(super) fn open(name: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE)?;
    let mut field = [0; libc::IFNAMSIZ];
    if name.len() >= field.len() {
        return Err(io::Error::other(format!("{name} is too long for an interface")));
    }
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI).expect("both flags are below 2^15");
    let request =
        libc::ifreq { ifr_name: field, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    #[expect(
        unsafe_code,
        reason = "TUNSETIFF reads the request, which outlives the call, and writes back into it \
                                    no more than the name"
    )]
    unsafe {
        call::tunsetiff(file.as_raw_fd(), &raw const request)?;
    }
    Ok(file)
}
