//! The thread that writes: takes work from a bounded queue, runs what is waiting in one transaction, each
//! piece in a savepoint of its own, commits once, then publishes the changes and answers.
//!
//! A piece that panics is undone and answered like one that failed; the others stand. Where a panic leaves a commit
//! that nobody was told of, the thread ends: writes are refused, and the health checks say so.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use rusqlite::Connection;
use time::{Duration, OffsetDateTime};
use tokio::sync::{mpsc, oneshot};

use super::feed::Feed;
use super::metrics::Metrics;
use super::prepare::timestamp;
use super::sqlite;
use super::txn::Txn;
use crate::error::{Error, Reason, Result};

/// Pieces of work that may wait: beyond it, callers do.
const QUEUE: usize = 256;
/// Pieces of work that share a commit: bounds how long the first one waits for the last.
const BATCH: usize = 128;
/// How long an Event is kept after it was last seen, as the real server does.
const EVENT_LIFE: Duration = Duration::hours(1);
/// Commits between two compactions of the history.
const COMPACT_EVERY: u32 = 512;

/// What to run inside the transaction, and how to answer after the commit.
trait Work: Send {
    fn run(&mut self, txn: &mut Txn<'_>) -> bool;
    fn done(self: Box<Self>, commit: Result<()>);
}

struct Call<T, F> {
    run: Option<F>,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
    dry_run: bool,
}

impl<T: Send, F: FnOnce(&mut Txn<'_>) -> Result<T> + Send> Work for Call<T, F> {
    /// Whether what it wrote stays.
    fn run(&mut self, txn: &mut Txn<'_>) -> bool {
        // Whatever a panic leaves of the transaction, the savepoint undoes.
        let caught = |run: F| catch_unwind(AssertUnwindSafe(|| run(txn))).unwrap_or_else(|_| Err(fault()));
        self.result = self.run.take().map(caught);
        !self.dry_run && matches!(self.result, Some(Ok(_)))
    }

    fn done(self: Box<Self>, commit: Result<()>) {
        let result = self.result.unwrap_or_else(|| Err(Error::internal("the write did not run")));
        // A caller that went away does not want the answer; its write stands.
        let _ = self.reply.send(commit.and(result));
    }
}

/// What a caller hears of a panic; the panic itself is on standard error.
fn fault() -> Error {
    Error::internal("a fault in the API server, which its log shows; the write was not done")
}

/// Sends work to the thread.
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn Work>>,
}

/// Learns the kinds anew from what is stored.
pub(super) type KindsChanged = Box<dyn Fn(&Connection) -> Result<()> + Send>;

/// What the thread needs besides the connection.
pub(super) struct Setup {
    pub(super) connection: Connection,
    pub(super) feed: Feed,
    pub(super) history: u64,
    pub(super) metrics: Metrics,
    /// Called after a commit that changed the set of kinds, before anybody is answered.
    pub(super) kinds_changed: KindsChanged,
}

impl Writer {
    /// Starts the thread; it ends when the last `Writer` is dropped.
    pub(super) fn start(setup: Setup) -> Result<(Self, JoinHandle<()>)> {
        let (queue, inbox) = mpsc::channel(QUEUE);
        let version = sqlite::newest(&setup.connection)?;
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || serve(&setup, inbox, version))
            .map_err(|error| Error::internal(format_args!("cannot start the writer thread: {error}")))?;
        Ok((Self { queue }, thread))
    }

    /// Whether the thread still takes work.
    pub(super) fn is_running(&self) -> bool {
        !self.queue.is_closed()
    }

    /// Runs `work` in a transaction; the answer comes when it is durable. With `dry_run` nothing stays.
    pub(super) async fn call<T, F>(&self, dry_run: bool, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Txn<'_>) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Box::new(Call { run: Some(work), result: None, reply, dry_run });
        let closed = || Error::new(Reason::ServiceUnavailable, "the store is shut down");
        self.queue.send(call).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

fn serve(setup: &Setup, mut inbox: mpsc::Receiver<Box<dyn Work>>, mut version: u64) {
    let mut commits = 0;
    while let Some(first) = inbox.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = inbox.try_recv()
        {
            batch.push(next);
        }
        commits += 1;
        setup.metrics.writes.inc_by(batch.len() as u64);
        let started = setup.metrics.commit.start_timer();
        let compact = commits % COMPACT_EVERY == 0;
        let caught = catch_unwind(AssertUnwindSafe(|| transact(setup, &mut batch, version, compact)));
        started.observe_duration();
        let (outcome, is_whole) = match caught {
            Ok(outcome) => (outcome, true),
            Err(_) => (Err(fault()), abandon(&setup.connection)),
        };
        let outcome = outcome.map(|new_version| version = new_version);
        setup.metrics.version.set(version.cast_signed());
        if let Err(error) = &outcome {
            setup.metrics.failed.inc();
            tracing::error!(%error, "a batch of writes failed: check the disk under the object database");
        }
        for work in batch {
            work.done(outcome.clone());
        }
        if !is_whole {
            tracing::error!("the object database is written no more: a commit was not published; restart");
            return;
        }
    }
}

/// Undoes the transaction that a panic left open. False where it was committed already.
fn abandon(connection: &Connection) -> bool {
    let is_open = !connection.is_autocommit();
    if is_open {
        roll_back(connection);
    }
    is_open
}

/// Runs a batch; on error nothing of it stands.
fn transact(setup: &Setup, batch: &mut [Box<dyn Work>], version: u64, compact: bool) -> Result<u64> {
    let connection = &setup.connection;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    match run(setup, batch, version, compact) {
        Ok(txn) => {
            let kinds_changed = txn.kinds_changed;
            let (version, events) = txn.finish();
            if let Err(error) = connection.execute_batch("COMMIT") {
                roll_back(connection);
                return Err(error.into());
            }
            if kinds_changed && let Err(error) = (setup.kinds_changed)(connection) {
                // The commit stands, and has to be told.
                tracing::error!(%error, "custom kinds were not read anew; they are at the next change of one");
            }
            setup.feed.publish(version, events);
            Ok(version)
        }
        Err(error) => {
            roll_back(connection);
            Err(error)
        }
    }
}

fn roll_back(connection: &Connection) {
    if let Err(error) = connection.execute_batch("ROLLBACK") {
        tracing::error!(%error, "could not roll a transaction back");
    }
}

fn run<'c>(setup: &'c Setup, batch: &mut [Box<dyn Work>], version: u64, compact: bool) -> Result<Txn<'c>> {
    let connection = &setup.connection;
    let mut txn = Txn::new(connection, version);
    for work in batch {
        let mark = txn.mark();
        connection.execute_batch("SAVEPOINT work")?;
        if !work.run(&mut txn) {
            connection.execute_batch("ROLLBACK TO work")?;
            txn.back_to(&mark);
        }
        connection.execute_batch("RELEASE work")?;
    }
    if compact {
        txn.expire_events(&timestamp(OffsetDateTime::now_utc() - EVENT_LIFE))?;
        txn.compact(setup.history)?;
    }
    Ok(txn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(kinds_changed: KindsChanged) -> (Writer, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let connection = sqlite::open_writer(&dir.path().join("objects.db")).unwrap();
        let feed = Feed::new(0);
        let metrics = Metrics::new(None).unwrap();
        let setup = Setup { connection, feed, history: 10, metrics, kinds_changed };
        (Writer::start(setup).unwrap().0, dir)
    }

    fn write(txn: &mut Txn<'_>, name: &str) -> Result<()> {
        let sql = "INSERT INTO objects (kind, namespace, name, version, body) VALUES ('x', '', ?1, 1, '{}')";
        Ok(txn.connection().execute(sql, [name]).map(drop)?)
    }

    async fn names(writer: &Writer) -> String {
        let read = |txn: &mut Txn<'_>| {
            let sql = "SELECT coalesce(group_concat(name), '') FROM objects";
            Ok(txn.connection().query_row(sql, [], |row| row.get(0))?)
        };
        writer.call(false, read).await.unwrap()
    }

    #[tokio::test]
    async fn work_that_panics_is_undone_and_the_rest_goes_on() {
        let (writer, _dir) = start(Box::new(|_| Ok(())));
        let faulty = |txn: &mut Txn<'_>| -> Result<()> {
            write(txn, "half")?;
            panic!("a fault")
        };
        let (before, faulty, after) = tokio::join!(
            writer.call(false, |txn| write(txn, "before")),
            writer.call(false, faulty),
            writer.call(false, |txn| write(txn, "after")),
        );
        assert!(before.is_ok() && after.is_ok());
        assert!(faulty.unwrap_err().to_string().contains("a fault in the API server"));
        assert_eq!(names(&writer).await, "after,before", "in the order of keys");
        assert!(writer.is_running());
    }

    #[tokio::test]
    async fn a_commit_that_nobody_was_told_of_is_the_last() {
        let (writer, _dir) = start(Box::new(|_| panic!("a fault")));
        let change = |txn: &mut Txn<'_>| {
            txn.kinds_changed = true;
            Ok(())
        };
        assert!(writer.call(false, change).await.is_err());
        let late = writer.call(false, |_| Ok(())).await.unwrap_err();
        assert_eq!(late.reason(), Reason::ServiceUnavailable);
        assert!(!writer.is_running());
    }
}
