//! Removing a directory, and nothing but it: what is mounted in it is taken off, never emptied.
//!
//! A hostPath that is bound into a pod's directory may lie on the same file system, so device numbers tell
//! nothing; and paths of mountinfo are resolved, where those of a configuration need not be. The kernel is asked
//! instead, entry by entry: `openat2` with `RESOLVE_NO_XDEV` does not step onto anything mounted.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Mounts on top of each other that are taken off one place; more of them means that somebody adds to them.
const STACKED: usize = 1024;

/// Takes a mount off a place.
type Unmount<'a> = &'a dyn Fn(&Path) -> io::Result<()>;

/// Removes `root` with all below it, after whatever is mounted there was unmounted. Where something stays
/// mounted, that is the error, and nothing in it was touched. A `root` that is not there is no error.
pub fn remove(root: &Path) -> io::Result<()> {
    remove_with(root, &unmount)
}

fn remove_with(root: &Path, unmount: Unmount<'_>) -> io::Result<()> {
    let Some((parent, name)) = split(root)? else { return Ok(()) };
    remove_entry(&parent, name, unmount)
}

/// Whether something is mounted at `path`, bind mounts included. Nothing is where there is no `path`.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let Some((parent, name)) = split(path)? else { return Ok(false) };
    match open(&parent, name) {
        Err(Errno::EXDEV) => Ok(true),
        Ok(_) | Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The directory that holds `path`, if it is there, and the name in it.
fn split(path: &Path) -> io::Result<Option<(File, &OsStr)>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        let message = format!("{} names no entry of a directory", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    };
    match File::open(parent) {
        Ok(parent) => Ok(Some((parent, name))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The entry itself: no symlink is followed, and `EXDEV` says that something is mounted on it.
fn open(parent: &File, name: &OsStr) -> nix::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV);
    openat2(parent, name, how).map(File::from)
}

fn remove_entry(parent: &File, name: &OsStr, unmount: Unmount<'_>) -> io::Result<()> {
    let Some(entry) = open_unmounted(parent, name, unmount)? else { return Ok(()) };
    let is_dir = entry.metadata()?.is_dir();
    if is_dir {
        for child in fs::read_dir(by_descriptor(&entry))? {
            remove_entry(&entry, &child?.file_name(), unmount)?;
        }
    }
    let flag = if is_dir { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
    match unlinkat(parent, name, flag) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(named(parent, name, "not removed", error.into())),
    }
}

/// Opens the entry, with what is mounted on it taken off; `None` where it is gone.
fn open_unmounted(parent: &File, name: &OsStr, unmount: Unmount<'_>) -> io::Result<Option<File>> {
    for _ in 0..STACKED {
        match open(parent, name) {
            Ok(entry) => return Ok(Some(entry)),
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::EXDEV) => {}
            Err(error) => return Err(named(parent, name, "not opened", error.into())),
        }
        unmount(&by_descriptor(parent).join(name))
            .map_err(|error| named(parent, name, "something is mounted here and stays so", error))?;
    }
    Err(named(parent, name, "something is mounted here again and again", io::ErrorKind::ResourceBusy.into()))
}

/// A path that leads to what is open, wherever it was moved meanwhile.
fn by_descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn named(parent: &File, name: &OsStr, what: &str, error: io::Error) -> io::Error {
    let path = fs::read_link(by_descriptor(parent)).unwrap_or_default().join(name);
    io::Error::new(error.kind(), format!("{}: {what}: {error}", path.display()))
}

fn unmount(point: &Path) -> io::Result<()> {
    // A recursive bind shares what is mounted below it with the host: without this, it would be unmounted there
    // too.
    mount(None::<&str>, point, None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)?;
    umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    Ok(())
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
