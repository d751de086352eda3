//! Forgetting who the node is, so that it can join again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What makes the node that it is; its pods' directories stay until it is told that nobody wants them.
const FORGOTTEN: [&str; 5] = ["membership.json", "identity.key", "metastore", "outbox", "complete"];

/// Removes identity, credential and the cluster's objects. Returns what was removed.
pub fn reset(state_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(state_dir) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut removed = Vec::new();
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if FORGOTTEN.iter().any(|forgotten| name.starts_with(forgotten)) {
            fs::remove_file(entry.path())?;
            removed.push(entry.path());
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_stay() {
        let root = tempfile::tempdir().unwrap();
        for name in ["membership.json", "identity.key", "metastore.db", "metastore.db-wal", "outbox.db"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        fs::create_dir(root.path().join("pods")).unwrap();
        assert_eq!(reset(root.path()).unwrap().len(), 5);
        assert!(root.path().join("pods").exists());
        assert!(reset(&root.path().join("absent")).unwrap().is_empty());
    }
}
