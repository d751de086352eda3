//! Volumes that are places of the host: hostPath, emptyDir, and sub-paths of volumes.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};

use super::tree::is_mount_point;

/// Checks a hostPath against its type, making what an `...OrCreate` type asks for.
pub fn check_host_path(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("hostPath {shown} must not contain '..'"));
    }
    let make = |result: io::Result<()>| result.map_err(|error| format!("{shown}: {error}"));
    match kind {
        "DirectoryOrCreate" if !path.exists() => make(fs::create_dir_all(path))?,
        "FileOrCreate" if !path.exists() => make(fs::File::create(path).map(drop))?,
        _ => {}
    }
    let is = |test: fn(&fs::FileType) -> bool| fs::metadata(path).is_ok_and(|meta| test(&meta.file_type()));
    let (fits, what) = match kind {
        "" => return Ok(()),
        "Directory" | "DirectoryOrCreate" => (is(fs::FileType::is_dir), "a directory"),
        "File" | "FileOrCreate" => (is(fs::FileType::is_file), "a file"),
        "Socket" => (is(fs::FileType::is_socket), "a socket file"),
        "CharDevice" => (is(fs::FileType::is_char_device), "a character device"),
        "BlockDevice" => (is(fs::FileType::is_block_device), "a block device"),
        other => return Err(format!("hostPath type {other:?} is not known")),
    };
    if fits { Ok(()) } else { Err(format!("hostPath type check failed: {shown} is not {what}")) }
}

/// Makes an emptyDir: a directory that anyone may write, in memory where that is asked for.
pub fn make_empty_dir(path: &Path, memory: Option<u64>, gid: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(path)?;
    if let Some(size) = memory
        && !is_mount_point(path)?
    {
        let options = if size > 0 { format!("size={size},mode=0777") } else { "mode=0777".to_owned() };
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
    }
    std::os::unix::fs::chown(path, None, gid)?;
    let sticky = if gid.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(path, fs::Permissions::from_mode(sticky))
}

/// Binds `volume/sub` to `target`, following symlinks only inside the volume; whoever writes into the volume
/// meanwhile cannot lead it outside.
pub fn bind_sub_path(volume: &Path, sub: &str, target: &Path) -> Result<(), String> {
    let shown = format!("subPath {sub:?}");
    let relative = Path::new(sub);
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("{shown} must be a relative path without '..'"));
    }
    let said = |error: io::Error| format!("{shown}: {error}");
    if is_mount_point(target).map_err(said)? {
        return Ok(());
    }
    let root = fs::File::open(volume).map_err(said)?;
    let how = OpenHow::new().flags(OFlag::O_PATH).resolve(ResolveFlag::RESOLVE_BENEATH);
    let found = match openat2(&root, relative, how) {
        Err(nix::errno::Errno::ENOENT) => {
            make_beneath(&root, relative).map_err(said)?;
            openat2(&root, relative, how)
        }
        found => found,
    };
    let found = found.map_err(|error| said(error.into()))?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let is_dir = fs::metadata(&source).map_err(said)?.is_dir();
    if is_dir {
        fs::create_dir_all(target).map_err(said)?;
    } else {
        fs::create_dir_all(target.parent().unwrap_or(target)).map_err(said)?;
        // Never cut short: it could be what another process has bound here meanwhile.
        fs::OpenOptions::new().append(true).create(true).open(target).map_err(said)?;
    }
    mount(Some(&source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|error| said(error.into()))
}

/// Makes the directories of `relative` one by one, never through a symlink that leads outside.
fn make_beneath(root: &fs::File, relative: &Path) -> io::Result<()> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY).resolve(ResolveFlag::RESOLVE_BENEATH);
    let mut done = PathBuf::new();
    let mut parent = openat2(root, ".", how)?;
    for part in relative.components() {
        match nix::sys::stat::mkdirat(
            &parent,
            part.as_os_str(),
            nix::sys::stat::Mode::from_bits_truncate(0o750),
        ) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        done.push(part);
        parent = openat2(root, &done, how)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_path_types() {
        let root = tempfile::tempdir().unwrap();
        let (dir, file, made) = (root.path(), root.path().join("f"), root.path().join("new/dir"));
        fs::write(&file, "").unwrap();
        for (path, kind, fits) in [
            (dir, "", true),
            (dir, "Directory", true),
            (dir, "File", false),
            (&file, "File", true),
            (&file, "Directory", false),
            (&root.path().join("absent"), "", true),
            (&root.path().join("absent"), "Directory", false),
            (&made, "DirectoryOrCreate", true),
            (dir, "Socket", false),
            (dir, "Nonsense", false),
        ] {
            assert_eq!(check_host_path(path, kind).is_ok(), fits, "{} {kind}", path.display());
        }
        assert!(made.is_dir());
        assert!(check_host_path(Path::new("/a/../b"), "").is_err());
    }

    #[test]
    fn a_sub_path_that_leaves_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("v");
        fs::create_dir(&volume).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("escape")).unwrap();
        for sub in ["../x", "/etc", "escape", "escape/x"] {
            assert!(bind_sub_path(&volume, sub, &root.path().join("t")).is_err(), "{sub}");
        }
    }
}
