//! What a container said when it ended: its termination message, or the end of its log.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::observed::{Instance, TERMINATION_PATH, TERMINATION_POLICY};
use crate::cri::proto::ContainerStatus;
use crate::kubelet::logs::parse_line;

/// The most that is taken from the file.
const MAX_FILE: u64 = 4096;
/// The most that is taken from the log.
const MAX_LOG: usize = 2048;
/// The most lines that are taken from the log.
const MAX_LINES: usize = 80;

/// The container's last words, where it left any.
pub fn read(status: &ContainerStatus, instance: &Instance) -> Option<String> {
    let path = status.annotations.get(TERMINATION_PATH)?;
    let mount = status.mounts.iter().find(|mount| mount.container_path == *path)?;
    let text = head(Path::new(&mount.host_path)).unwrap_or_default();
    if !text.is_empty() {
        return Some(text);
    }
    let policy = status.annotations.get(TERMINATION_POLICY).map(String::as_str);
    let from_log = policy == Some("FallbackToLogsOnError") && instance.exit_code != 0;
    from_log.then(|| tail(Path::new(&instance.log_path))).flatten()
}

fn head(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn tail(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    // Twice as much, for what the log adds to each line.
    file.seek(SeekFrom::Start(length.saturating_sub(2 * MAX_LOG as u64 + 4096))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = last_lines(&bytes);
    (!text.is_empty()).then_some(text)
}

fn last_lines(log: &[u8]) -> String {
    let mut lines: Vec<&[u8]> = Vec::new();
    let mut size = 0;
    for line in log.split_inclusive(|byte| *byte == b'\n').rev() {
        let Some(entry) = parse_line(line) else { continue };
        size += entry.content.len() + 1;
        if size > MAX_LOG || lines.len() == MAX_LINES {
            break;
        }
        lines.push(entry.content);
    }
    lines.reverse();
    String::from_utf8_lossy(&lines.join(&b'\n')).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log() {
        let log = b"torn line\n2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr F two\n";
        assert_eq!(last_lines(log), "one\ntwo");
        let long: Vec<u8> =
            (0..200).flat_map(|n| format!("2026-01-01T00:00:00Z stdout F {n}\n").into_bytes()).collect();
        assert_eq!(last_lines(&long).lines().count(), MAX_LINES);
        assert!(last_lines(&long).ends_with("199"));
    }
}
