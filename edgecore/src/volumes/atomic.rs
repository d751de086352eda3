//! Files that change all at once under a reader's eyes.
//!
//! As kubelet does it: content goes into a directory named by its time; `..data` is a symlink to it that is
//! replaced by rename; each visible name is a symlink through `..data`. Whoever watches `..data` sees whole
//! versions only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use time::OffsetDateTime;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, where it is not root.
    pub uid: Option<u32>,
}

/// Files by path relative to the volume.
pub type Files = BTreeMap<String, File>;

/// Whether a path stays inside the volume and leaves the names of the mechanism alone.
pub fn is_valid(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Makes `directory` show `files`. Returns whether anything changed. `gid` owns what is written.
pub fn write(directory: &Path, files: &Files, gid: Option<u32>, now: OffsetDateTime) -> io::Result<bool> {
    if let Some(path) = files.keys().find(|path| !is_valid(path)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {path:?}")));
    }
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    let old = fs::read_link(directory.join(DATA)).ok();
    if old.as_deref().is_some_and(|old| is_same(&directory.join(old), files)) {
        link_names(directory, files)?;
        return Ok(false);
    }
    let name = version_name(directory, now);
    let version = directory.join(&name);
    fs::create_dir(&version)?;
    fs::set_permissions(&version, fs::Permissions::from_mode(0o755))?;
    for (path, file) in files {
        write_file(&version, path, file, gid)?;
    }
    let temporary = directory.join(NEW_DATA);
    remove_file_if_there(&temporary)?;
    symlink(&name, &temporary)?;
    fs::rename(&temporary, directory.join(DATA))?;
    link_names(directory, files)?;
    remove_old(directory, &name)?;
    Ok(true)
}

fn version_name(directory: &Path, now: OffsetDateTime) -> String {
    let stem = format!(
        "..{:04}_{:02}_{:02}_{:02}_{:02}_{:02}",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second()
    );
    (now.nanosecond()..)
        .map(|n| format!("{stem}.{n}"))
        .find(|name| !directory.join(name).exists())
        .expect("a directory does not hold every number")
}

fn write_file(version: &Path, path: &str, file: &File, gid: Option<u32>) -> io::Result<()> {
    let full = version.join(path);
    if let Some(parent) = full.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut handle = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&full)?;
    handle.write_all(&file.content)?;
    std::os::unix::fs::fchown(&handle, file.uid, gid)?;
    // With a group, the group may read what the owner may.
    let shared = if gid.is_some() { (file.mode & 0o600) >> 3 } else { 0 };
    handle.set_permissions(fs::Permissions::from_mode(file.mode | shared))
}

fn is_same(version: &Path, files: &Files) -> bool {
    let Ok(present) = listing(version, Path::new("")) else { return false };
    present.iter().eq(files.keys())
        && files
            .iter()
            .all(|(path, file)| fs::read(version.join(path)).is_ok_and(|content| content == file.content))
}

fn listing(root: &Path, below: &Path) -> io::Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            all.extend(listing(root, &path)?);
        } else {
            all.insert(path.to_string_lossy().into_owned());
        }
    }
    Ok(all)
}

/// First components of the paths are what a reader sees.
fn visible(files: &Files) -> BTreeSet<&str> {
    files.keys().filter_map(|path| path.split('/').next()).collect()
}

fn link_names(directory: &Path, files: &Files) -> io::Result<()> {
    let wanted = visible(files);
    for name in &wanted {
        let link = directory.join(name);
        let target = PathBuf::from(DATA).join(name);
        if fs::read_link(&link).ok().as_deref() != Some(&target) {
            remove_file_if_there(&link)?;
            symlink(&target, &link)?;
        }
    }
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            remove_file_if_there(&directory.join(name.as_ref()))?;
        }
    }
    Ok(())
}

fn remove_old(directory: &Path, current: &str) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("..") && name != current && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn remove_file_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |content: &str| File { content: content.into(), mode: 0o640, uid: None };
        list.iter().map(|(path, content)| ((*path).to_owned(), file(content))).collect()
    }

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(second).unwrap()
    }

    #[test]
    fn versions_replace_each_other_whole() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("v");
        assert!(write(&dir, &files(&[("a", "1"), ("d/b", "2"), ("gone", "x")]), None, at(0)).unwrap());
        assert_eq!(fs::read_link(dir.join("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(fs::read_to_string(dir.join("d/b")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o640);

        assert!(!write(&dir, &files(&[("a", "1"), ("d/b", "2"), ("gone", "x")]), None, at(1)).unwrap());

        let before = fs::read_link(dir.join(DATA)).unwrap();
        assert!(write(&dir, &files(&[("a", "3"), ("d/b", "2")]), None, at(0)).unwrap());
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert!(!dir.join("gone").exists() && !dir.join(&before).exists());
        let versions = fs::read_dir(&dir).unwrap().flatten().filter(|e| e.file_type().unwrap().is_dir());
        assert_eq!(versions.count(), 1);
    }

    #[test]
    fn what_a_crash_left_is_mended() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &files(&[("a", "1")]), None, at(0)).unwrap();
        fs::remove_file(root.path().join("a")).unwrap();
        symlink("nowhere", root.path().join(NEW_DATA)).unwrap();
        assert!(!write(root.path(), &files(&[("a", "1")]), None, at(5)).unwrap());
        assert_eq!(fs::read_to_string(root.path().join("a")).unwrap(), "1");
        assert!(write(root.path(), &files(&[("a", "2")]), None, at(6)).unwrap());
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        for path in ["../x", "/x", "a/../../x", "..data", "", "a/./../b"] {
            let error = write(Path::new("/nonexistent"), &files(&[(path, "")]), None, at(0)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
        }
    }
}
