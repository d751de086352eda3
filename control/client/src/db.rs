//! One SQLite file with one writer thread: what metastore and outbox share.
//!
//! Jobs wait in a bounded queue; the thread takes all that wait, up to a limit, and does them in one
//! transaction, so that many callers share one sync to disk. A caller hears of its job after the commit. A batch
//! that panics is undone and its callers hear of it; the thread goes on.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

/// Jobs that wait for the writer; senders wait beyond that.
const QUEUE: usize = 256;
/// Jobs of one transaction.
const BATCH: usize = 256;

/// Why the node's store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be opened, moved or created.
    #[error("{path}: {reason}; check the directory's permissions and the file system")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The disk is full.
    #[error("{0}: no space left on the device; free some, the write is tried again")]
    Full(PathBuf),
    /// SQLite failed otherwise.
    #[error("{path}: {reason}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
    /// What was to be stored is not an object of a known kind.
    #[error("not a Kubernetes object of a known kind: {0}")]
    Object(String),
    /// The job, or one that shared its transaction, hit a fault of this program. It was not done.
    #[error("a fault in the node's store, which the log shows; it was not written")]
    Fault,
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(crate) fn sqlite(path: &Path, error: &rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(path.to_owned()),
            _ => Self::Sqlite { path: path.to_owned(), reason: error.to_string() },
        }
    }

    fn open(path: &Path, error: impl ToString) -> Self {
        Self::Open { path: path.to_owned(), reason: error.to_string() }
    }
}

/// Whether the file itself is at fault, so that only a new one helps.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Opens the file at `path` with `schema`. A damaged one is moved aside, beside itself, and a new one made:
/// the second value says where the damaged one is.
pub(crate) fn open(path: &Path, schema: &str) -> Result<(Connection, Option<PathBuf>), StoreError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| StoreError::open(path, error))?;
    }
    match try_open(path, schema) {
        Ok(connection) => Ok((connection, None)),
        Err(error) if is_damage(&error) => {
            let aside = move_aside(path).map_err(|error| StoreError::open(path, error))?;
            let connection = try_open(path, schema).map_err(|error| StoreError::open(path, error))?;
            Ok((connection, Some(aside)))
        }
        Err(error) => Err(StoreError::open(path, error)),
    }
}

fn try_open(path: &Path, schema: &str) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // An acknowledgement promises that the change survives a power cut.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -512)?;
    connection.execute_batch(schema)?;
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if check == "ok" {
        return Ok(connection);
    }
    let damage = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(rusqlite::Error::SqliteFailure(damage, Some(check)))
}

/// Moves a database and its side files to names that say when; nothing of it is used again.
pub(crate) fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let aside = with_suffix(path, &format!(".damaged-{seconds}"));
    std::fs::rename(path, &aside)?;
    for side in ["-wal", "-shm"] {
        match std::fs::remove_file(with_suffix(path, side)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Where a job's result goes.
pub(crate) type Done<R> = oneshot::Sender<Result<R, StoreError>>;

/// The queue to a writer thread. Dropping it lets the thread finish what waits, and waits for it.
#[derive(Debug)]
pub(crate) struct Writer<J> {
    queue: Option<mpsc::Sender<J>>,
    thread: Option<JoinHandle<()>>,
}

impl<J: Send + 'static> Writer<J> {
    /// Starts a thread that hands batches of jobs, never empty, to `work`.
    pub(crate) fn spawn(name: &str, mut work: impl FnMut(Vec<J>) + Send + 'static) -> io::Result<Self> {
        let (queue, mut jobs) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let mut batch = Vec::new();
            while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
                let jobs = std::mem::take(&mut batch);
                // The transaction was rolled back, and the jobs that were dropped say so to their callers.
                if catch_unwind(AssertUnwindSafe(|| work(jobs))).is_err() {
                    tracing::error!(
                        "a store's writer thread panicked and goes on; what it had to write is not done"
                    );
                }
            }
        })?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Queues the job that `make` builds around where its result goes, and waits for the result.
    pub(crate) async fn run<R>(&self, make: impl FnOnce(Done<R>) -> J) -> Result<R, StoreError> {
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        let (done, result) = oneshot::channel();
        queue.send(make(done)).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Fault)?
    }
}

impl<J> Drop for Writer<J> {
    fn drop(&mut self) {
        self.queue = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a store's writer thread had panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_answered_and_the_thread_goes_on() {
        let work = |jobs: Vec<Done<u32>>| {
            for done in jobs {
                done.send(Ok(7)).unwrap();
            }
        };
        let mut first = true;
        let writer = Writer::spawn("test", move |jobs| {
            assert!(!std::mem::take(&mut first), "a fault");
            work(jobs);
        });
        let writer = writer.unwrap();
        assert!(matches!(writer.run(|done| done).await, Err(StoreError::Fault)));
        assert_eq!(writer.run(|done| done).await.unwrap(), 7);
    }
}
