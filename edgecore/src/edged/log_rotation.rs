//! Rotation of container logs by size and count. The runtime writes them; it is asked to open the file anew
//! after the old one was moved, and where the file is not there: somebody removed it, or this process ended
//! between the two steps.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::context::Node;
use super::observed::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID};
use super::pod::PodId;
use super::sandbox;
use crate::cri::CriError;
use crate::cri::proto::{Container, ContainerId, ContainerState, ListContainersRequest};

/// How often sizes are looked at.
const INTERVAL: Duration = Duration::from_secs(10);

/// Limits of a container's logs.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// A file is rotated when it exceeds this many bytes.
    pub max_size: u64,
    /// Files kept, the one being written included.
    pub max_files: usize,
}

/// Rotates logs until `cancel`.
pub async fn run(node: Arc<Node>, rotation: Rotation, cancel: CancellationToken) {
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(error) = rotate_all(&node, rotation).await {
            tracing::warn!(%error, "logs were not rotated");
        }
    }
}

async fn rotate_all(node: &Node, rotation: Rotation) -> Result<(), CriError> {
    let listed = node.runtime.cri.list_containers(ListContainersRequest { filter: None }).await?;
    let running = listed.containers.iter().filter(|c| c.state() == ContainerState::Running);
    for container in running {
        let Some(log) = log_file(&node.log_root, container) else { continue };
        let request = ContainerId { container_id: container.id.clone() };
        let reopen = async || match node.runtime.cri.reopen_container_log(request).await {
            // It has ended since.
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        };
        if let Err(error) = tend(&log, rotation, OffsetDateTime::now_utc(), reopen).await {
            tracing::warn!(log = %log.display(), %error, "log not rotated; trying again");
        }
    }
    Ok(())
}

/// Why a log is not as it should be.
#[derive(Debug, thiserror::Error)]
enum Untended {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error("the runtime did not open it anew: {0}")]
    Reopen(#[from] CriError),
}

/// Has the log of a running container written to its file: `reopen` is the runtime's part.
async fn tend(
    log: &Path,
    rotation: Rotation,
    now: OffsetDateTime,
    reopen: impl AsyncFnOnce() -> Result<(), CriError>,
) -> Result<(), Untended> {
    match fs::metadata(log) {
        Ok(found) if found.len() < rotation.max_size => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(reopen().await?),
        Err(error) => return Err(error.into()),
    }
    let aside = move_aside(log, rotation.max_files, now)?;
    if let Err(error) = reopen().await {
        // The runtime still writes to the old file: that is the log, and is rotated the next time.
        if !log.exists() {
            fs::rename(aside, log)?;
        }
        return Err(error.into());
    }
    Ok(())
}

fn log_file(root: &Path, container: &Container) -> Option<PathBuf> {
    let label = |key: &str| container.labels.get(key).cloned();
    let id = PodId { namespace: label(POD_NAMESPACE)?, name: label(POD_NAME)?, uid: label(POD_UID)? };
    let attempt = container.metadata.as_ref()?.attempt;
    Some(sandbox::log_directory(root, &id).join(label(CONTAINER_NAME)?).join(format!("{attempt}.log")))
}

/// Moves the log to `NAME.TIME`, and says where that is; removes the oldest ones beyond `max_files`.
fn move_aside(log: &Path, max_files: usize, now: OffsetDateTime) -> io::Result<PathBuf> {
    let mut old = rotated(log)?;
    let keep = max_files.saturating_sub(2);
    for file in old.drain(..old.len().saturating_sub(keep)) {
        fs::remove_file(file)?;
    }
    let stamp = format!(
        "{:04}{:02}{:02}-{:02}{:02}{:02}",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second()
    );
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{stamp}"));
    fs::rename(log, &name)?;
    Ok(name.into())
}

/// Rotated files of a log, oldest first.
pub(crate) fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    let mut found: Vec<PathBuf> = entries
        .into_iter()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    Ok(found)
}

/// Removes a container's log with its rotated files.
pub(crate) fn remove(log: &Path) {
    for file in rotated(log).unwrap_or_default().iter().map(PathBuf::as_path).chain([log]) {
        let _ = fs::remove_file(file);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_oldest_go() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("0.log");
        for second in 0..6 {
            fs::write(&log, second.to_string()).unwrap();
            move_aside(&log, 3, OffsetDateTime::from_unix_timestamp(second).unwrap()).unwrap();
        }
        fs::write(&log, "now").unwrap();
        let kept: Vec<String> =
            rotated(&log).unwrap().iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        assert_eq!(kept, ["4", "5"]);
        remove(&log);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    const SMALL: Rotation = Rotation { max_size: 4, max_files: 3 };

    fn deaf() -> CriError {
        CriError::Incomplete { method: "ReopenContainerLog", what: "answer" }
    }

    #[tokio::test]
    async fn a_log_that_is_not_there_is_opened_anew() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("0.log");
        let failed = tend(&log, SMALL, OffsetDateTime::UNIX_EPOCH, async || Err(deaf())).await;
        assert!(matches!(failed, Err(Untended::Reopen(_))), "{failed:?}");
        let runtime = async || {
            fs::write(&log, "").unwrap();
            Ok(())
        };
        tend(&log, SMALL, OffsetDateTime::UNIX_EPOCH, runtime).await.unwrap();
        assert!(log.exists());
        let untouched = async || panic!("a small log stays as it is");
        tend(&log, SMALL, OffsetDateTime::UNIX_EPOCH, untouched).await.unwrap();
    }

    #[tokio::test]
    async fn a_log_that_the_runtime_goes_on_writing_keeps_its_name() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("0.log");
        fs::write(&log, "long").unwrap();
        let failed = tend(&log, SMALL, OffsetDateTime::UNIX_EPOCH, async || Err(deaf())).await;
        assert!(matches!(failed, Err(Untended::Reopen(_))), "{failed:?}");
        assert_eq!(fs::read_to_string(&log).unwrap(), "long");
        assert_eq!(rotated(&log).unwrap(), Vec::<PathBuf>::new());
        let runtime = async || {
            fs::write(&log, "new").unwrap();
            Ok(())
        };
        tend(&log, SMALL, OffsetDateTime::UNIX_EPOCH, runtime).await.unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "new");
        assert_eq!(fs::read_to_string(&rotated(&log).unwrap()[0]).unwrap(), "long");
    }

    #[test]
    fn a_containers_log() {
        let labels = [(POD_NAMESPACE, "ns"), (POD_NAME, "p"), (POD_UID, "u"), (CONTAINER_NAME, "c")];
        let container = Container {
            labels: HashMap::from(labels.map(|(key, value)| (key.to_owned(), value.to_owned()))),
            metadata: Some(crate::cri::proto::ContainerMetadata { name: "c".into(), attempt: 2 }),
            ..Container::default()
        };
        assert_eq!(log_file(Path::new("/l"), &container).unwrap(), Path::new("/l/ns_p_u/c/2.log"));
    }
}
