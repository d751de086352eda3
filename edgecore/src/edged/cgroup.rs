//! The cgroups that runc leaves behind: it removes a container's, never the pod's above it.

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// Removes a pod's cgroup from every hierarchy, where it is empty.
pub fn remove(cgroup: &str) {
    let relative = cgroup.trim_start_matches('/');
    if relative.is_empty() || relative.split('/').any(|part| part == "..") {
        return;
    }
    for hierarchy in hierarchies(Path::new(ROOT)) {
        remove_empty(&hierarchy.join(relative));
    }
}

/// The unified root, and the roots below it where controllers are mounted one by one.
fn hierarchies(root: &Path) -> Vec<PathBuf> {
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// A cgroup that holds processes refuses to be removed, and so do those above it.
fn remove_empty(path: &Path) {
    let below = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    for child in below.filter(|child| child.is_dir()) {
        remove_empty(&child);
    }
    let _ = fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_ones_are_removed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("pod/a/b")).unwrap();
        fs::create_dir_all(root.path().join("pod/busy")).unwrap();
        fs::write(root.path().join("pod/busy/file"), "").unwrap();
        remove_empty(&root.path().join("pod"));
        assert!(!root.path().join("pod/a").exists());
        assert!(root.path().join("pod/busy").exists());
    }
}
