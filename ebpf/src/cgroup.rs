//! Which cgroup the near hooks belong to.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, FsType, fstatfs};

use crate::error::Error;

/// The host's cgroup2 root. An agent in a cgroup namespace of its own sees it through its first process.
pub(crate) fn host_root() -> Result<PathBuf, Error> {
    for process in ["1", "self"] {
        let Ok(mounts) = fs::read_to_string(format!("/proc/{process}/mountinfo")) else { continue };
        let Some(mount) = cgroup2_mount(&mounts) else { continue };
        let path = Path::new("/proc").join(process).join("root").join(mount.trim_start_matches('/'));
        if path.is_dir() {
            return Ok(path);
        }
    }
    Err(Error::NoCgroup2)
}

/// The mount point of a cgroup2 file system in a mountinfo(5) table.
fn cgroup2_mount(mountinfo: &str) -> Option<&str> {
    mountinfo.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let point = fields.split(' ').nth(4)?;
        kind.starts_with("cgroup2 ").then_some(point)
    })
}

/// Opens a cgroup and tells its id.
pub(crate) fn open(path: &Path) -> Result<(File, u64), Error> {
    let read = || -> io::Result<(File, u64, FsType)> {
        let file = File::open(path)?;
        let (id, kind) = (file.metadata()?.ino(), fstatfs(&file)?.filesystem_type());
        Ok((file, id, kind))
    };
    let (file, id, kind) = read().map_err(|source| Error::Cgroup { path: path.to_owned(), source })?;
    // The kernel would call it a bad file descriptor.
    if kind != CGROUP2_SUPER_MAGIC {
        return Err(Error::NotCgroup2 { path: path.to_owned() });
    }
    Ok((file, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_cgroup_is_named() {
        for path in ["/proc", env!("CARGO_MANIFEST_DIR")] {
            let error = open(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(path) && error.contains("no cgroup2"), "{error}");
        }
    }

    #[test]
    fn the_cgroup2_mount_is_found_on_hybrid_and_pure_hosts() {
        let hybrid = "\
25 30 0:22 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755\n\
26 25 0:23 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw\n\
27 25 0:24 / /sys/fs/cgroup/cpu rw shared:11 - cgroup cgroup rw,cpu\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified"));
        let pure = "26 25 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(cgroup2_mount(pure), Some("/sys/fs/cgroup"));
        assert_eq!(cgroup2_mount("27 25 0:24 / /x rw - cgroup cgroup rw,cpu\n"), None);
    }
}
