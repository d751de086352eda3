//! What the node has to tell the cloud, durable until the cloud has taken it.
//!
//! A file of its own, so that a damaged metastore costs no report. Writes whose last value counts (status,
//! lease, annotations) take the place of their predecessor, merged with it where they are patches; there are
//! never more of them than objects, and none is dropped. The end of a pod is kept once, however often it is
//! told. Events are each kept, in order; the oldest are dropped, and counted, above a limit. The session reads
//! by ascending number and removes what the control has answered.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use edgeloom_api::hub::Write;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use crate::db::{self, Done, StoreError, Writer};

/// Events kept while the cloud is away: some hours of a node in trouble, and less than a megabyte.
pub const MAX_EVENTS: u64 = 1_000;

// AUTOINCREMENT: a number is never used twice, so that a late answer removes nothing newer.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS writes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, object TEXT UNIQUE, event INTEGER NOT NULL, body TEXT NOT NULL)";

/// Handle to the outbox; clones share it.
#[derive(Clone, Debug)]
pub struct Outbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    writer: Writer<Job>,
    shared: Arc<Shared>,
    added: watch::Receiver<u64>,
    moved_aside: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Shared {
    pending: AtomicU64,
    dropped_events: AtomicU64,
}

#[derive(Debug)]
enum Job {
    Put(Box<Write>, Done<()>),
    Remove(Vec<u64>, Done<()>),
    Read { after: u64, limit: usize, done: Done<Vec<(u64, Write)>> },
}

impl Outbox {
    /// Opens the outbox at `path`, making it where there is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path.as_ref(), MAX_EVENTS)
    }

    fn open_with(path: &Path, max_events: u64) -> Result<Self, StoreError> {
        let (connection, moved_aside) = db::open(path, SCHEMA)?;
        if let Some(aside) = &moved_aside {
            tracing::error!(outbox = %path.display(), moved = %aside.display(), "the outbox was damaged; what it held is lost to the cloud");
        }
        let shared = Arc::new(Shared::default());
        let (sender, added) = watch::channel(0);
        let mut disk = Disk {
            connection,
            path: path.to_owned(),
            shared: Arc::clone(&shared),
            added: sender,
            max_events,
        };
        disk.count().map_err(|error| StoreError::sqlite(path, &error))?;
        let writer = Writer::spawn("outbox", move |batch| disk.work(batch))
            .map_err(|error| StoreError::Open { path: path.to_owned(), reason: error.to_string() })?;
        Ok(Self(Arc::new(Inner { writer, shared, added, moved_aside })))
    }

    /// Keeps `write`; it is on disk when this returns.
    pub async fn put(&self, write: Write) -> Result<(), StoreError> {
        self.0.writer.run(|done| Job::Put(Box::new(write), done)).await
    }

    /// Up to `limit` writes with numbers above `after`, ascending.
    pub(crate) async fn read(&self, after: u64, limit: usize) -> Result<Vec<(u64, Write)>, StoreError> {
        self.0.writer.run(|done| Job::Read { after, limit, done }).await
    }

    /// Removes writes that the control has answered. One that was replaced meanwhile stays.
    pub(crate) async fn remove(&self, ids: Vec<u64>) -> Result<(), StoreError> {
        self.0.writer.run(|done| Job::Remove(ids, done)).await
    }

    /// Changes whenever a write was added.
    pub(crate) fn added(&self) -> watch::Receiver<u64> {
        self.0.added.clone()
    }

    /// Writes that wait.
    pub fn pending(&self) -> u64 {
        self.0.shared.pending.load(Ordering::Relaxed)
    }

    /// Events that were dropped since the start because there were too many.
    pub fn dropped_events(&self) -> u64 {
        self.0.shared.dropped_events.load(Ordering::Relaxed)
    }

    /// Where a damaged file was moved when this one was opened.
    pub fn moved_aside(&self) -> Option<&Path> {
        self.0.moved_aside.as_deref()
    }
}

/// The writer thread's side.
struct Disk {
    connection: Connection,
    path: PathBuf,
    shared: Arc<Shared>,
    added: watch::Sender<u64>,
    max_events: u64,
}

/// Where the result of a job that changes something goes, after the commit.
type Changed = oneshot::Sender<Result<(), StoreError>>;

impl Disk {
    fn work(&mut self, batch: Vec<Job>) {
        let mut changes = Vec::new();
        let mut reads = Vec::new();
        for job in batch {
            match job {
                Job::Read { after, limit, done } => reads.push((after, limit, done)),
                job => changes.push(job),
            }
        }
        if !changes.is_empty() {
            self.change(changes);
        }
        for (after, limit, done) in reads {
            let result =
                read(&self.connection, after, limit).map_err(|error| StoreError::sqlite(&self.path, &error));
            let _ = done.send(result);
        }
    }

    fn change(&mut self, jobs: Vec<Job>) {
        let (result, answers) = self.commit(jobs);
        if result.is_ok() {
            if let Err(error) = self.count() {
                tracing::warn!(%error, "cannot count what waits in the outbox");
            }
            self.added.send_modify(|changes| *changes += 1);
        }
        let result = result.map_err(|error| StoreError::sqlite(&self.path, &error));
        for done in answers {
            // Whoever asked may have gone.
            let _ = done.send(result.clone());
        }
    }

    fn commit(&mut self, jobs: Vec<Job>) -> (rusqlite::Result<()>, Vec<Changed>) {
        let mut answers = Vec::with_capacity(jobs.len());
        let mut work = Vec::with_capacity(jobs.len());
        for job in jobs {
            match job {
                Job::Put(write, done) => {
                    answers.push(done);
                    work.push(Ok(write));
                }
                Job::Remove(ids, done) => {
                    answers.push(done);
                    work.push(Err(ids));
                }
                // `work` has sorted these out.
                Job::Read { .. } => {}
            }
        }
        let dropped = self.transact(work);
        if let Ok(dropped) = &dropped {
            self.shared.dropped_events.fetch_add(*dropped, Ordering::Relaxed);
        }
        (dropped.map(drop), answers)
    }

    /// Does the work in one transaction; returns the number of events that had to go.
    fn transact(&mut self, work: Vec<Result<Box<Write>, Vec<u64>>>) -> rusqlite::Result<u64> {
        let transaction = self.connection.transaction()?;
        for item in work {
            match item {
                Ok(write) => put(&transaction, *write)?,
                Err(ids) => {
                    let mut delete = transaction.prepare_cached("DELETE FROM writes WHERE id = ?1")?;
                    for id in ids {
                        delete.execute([id.cast_signed()])?;
                    }
                }
            }
        }
        let dropped = transaction
            .prepare_cached(
                "DELETE FROM writes WHERE event AND id NOT IN
                 (SELECT id FROM writes WHERE event ORDER BY id DESC LIMIT ?1)",
            )?
            .execute([self.max_events.cast_signed()])?;
        transaction.commit()?;
        Ok(dropped as u64)
    }

    fn count(&self) -> rusqlite::Result<()> {
        let pending: i64 = self.connection.query_row("SELECT count(*) FROM writes", [], |row| row.get(0))?;
        self.shared.pending.store(pending.cast_unsigned(), Ordering::Relaxed);
        Ok(())
    }
}

fn put(transaction: &Transaction<'_>, write: Write) -> rusqlite::Result<()> {
    let event = matches!(write, Write::Event { .. });
    let object = write.object();
    let write = match &object {
        Some(object) => merge(take(transaction, object)?, write),
        None => write,
    };
    let body = serde_json::to_string(&write)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    transaction
        .prepare_cached("INSERT INTO writes (object, event, body) VALUES (?1, ?2, ?3)")?
        .execute(params![object, event, body])?;
    Ok(())
}

/// Removes and returns the write that waits for `object`.
fn take(transaction: &Transaction<'_>, object: &str) -> rusqlite::Result<Option<Write>> {
    let body: Option<String> = transaction
        .prepare_cached("DELETE FROM writes WHERE object = ?1 RETURNING body")?
        .query_row([object], |row| row.get(0))
        .optional()?;
    Ok(body.and_then(|body| serde_json::from_str(&body).ok()))
}

fn read(connection: &Connection, after: u64, limit: usize) -> rusqlite::Result<Vec<(u64, Write)>> {
    let mut select =
        connection.prepare_cached("SELECT id, body FROM writes WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let rows = select.query_map(params![after.cast_signed(), limit as i64], |row| {
        let body: String = row.get(1)?;
        // What an older release cannot read it hands on as unknown, and the control answers it.
        let id: i64 = row.get(0)?;
        Ok((id.cast_unsigned(), serde_json::from_str(&body).unwrap_or(Write::Unknown)))
    })?;
    rows.collect()
}

/// The one write that does what `earlier` and then `later` would.
fn merge(earlier: Option<Write>, later: Write) -> Write {
    match (earlier, later) {
        (
            Some(Write::Status { uid: old_uid, status: mut merged, .. }),
            Write::Status { kind, namespace, name, uid, status },
        ) if old_uid == uid => {
            compose(&mut merged, status);
            Write::Status { kind, namespace, name, uid, status: merged }
        }
        (
            Some(Write::NodeAnnotations { annotations: mut merged }),
            Write::NodeAnnotations { annotations },
        ) => {
            merged.extend(annotations);
            Write::NodeAnnotations { annotations: merged }
        }
        (_, later) => later,
    }
}

/// Puts the merge patch `later` behind `earlier` (RFC 7396): nulls stay, for they remove.
fn compose(earlier: &mut Value, later: Value) {
    match (earlier, later) {
        (Value::Object(earlier), Value::Object(later)) => {
            for (key, value) in later {
                match earlier.get_mut(&key) {
                    Some(slot) => compose(slot, value),
                    None => {
                        earlier.insert(key, value);
                    }
                }
            }
        }
        (slot, later) => *slot = later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(name: &str, uid: &str, status: Value) -> Write {
        let (kind, namespace) = ("Pod".to_owned(), "shop".to_owned());
        Write::Status { kind, namespace, name: name.to_owned(), uid: uid.to_owned(), status }
    }

    fn event(n: u32) -> Write {
        Write::Event { event: json!({"metadata": {"name": format!("e{n}")}}) }
    }

    fn end(name: &str) -> Write {
        Write::DeletePod { namespace: "shop".into(), name: name.into(), uid: "u".into() }
    }

    async fn all(outbox: &Outbox) -> Vec<Write> {
        outbox.read(0, 10_000).await.unwrap().into_iter().map(|(_, write)| write).collect()
    }

    #[tokio::test]
    async fn the_last_status_counts_and_every_event_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.db");
        let outbox = Outbox::open(&path).unwrap();
        outbox
            .put(status("a", "1", json!({"phase": "Pending", "message": "x", "c": {"a": 1}})))
            .await
            .unwrap();
        outbox.put(event(1)).await.unwrap();
        outbox.put(end("b")).await.unwrap();
        outbox
            .put(status("a", "1", json!({"phase": "Running", "message": null, "c": {"b": 2}})))
            .await
            .unwrap();
        outbox.put(event(2)).await.unwrap();
        let merged = status("a", "1", json!({"phase": "Running", "message": null, "c": {"a": 1, "b": 2}}));
        let expected = [event(1), end("b"), merged, event(2)];
        assert_eq!(all(&outbox).await, expected);
        drop(outbox);
        let outbox = Outbox::open(&path).unwrap();
        assert_eq!(all(&outbox).await, expected);
        assert_eq!(outbox.pending(), 4);
    }

    #[tokio::test]
    async fn the_end_of_a_pod_that_is_told_again_waits_once() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path().join("o.db")).unwrap();
        for name in ["a", "b", "a"] {
            outbox.put(end(name)).await.unwrap();
        }
        assert_eq!(all(&outbox).await, [end("b"), end("a")]);
    }

    #[tokio::test]
    async fn a_pod_made_anew_does_not_inherit_the_status_of_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path().join("o.db")).unwrap();
        outbox.put(status("a", "1", json!({"message": "old"}))).await.unwrap();
        outbox.put(status("a", "2", json!({"phase": "Running"}))).await.unwrap();
        assert_eq!(all(&outbox).await, [status("a", "2", json!({"phase": "Running"}))]);
    }

    #[tokio::test]
    async fn an_answer_to_what_was_replaced_removes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path().join("o.db")).unwrap();
        outbox.put(status("a", "1", json!({"phase": "Pending"}))).await.unwrap();
        let sent = outbox.read(0, 10).await.unwrap();
        outbox.put(status("a", "1", json!({"phase": "Running"}))).await.unwrap();
        outbox.remove(vec![sent[0].0]).await.unwrap();
        let left = outbox.read(sent[0].0, 10).await.unwrap();
        assert_eq!(left[0].1, status("a", "1", json!({"phase": "Running"})));
        outbox.remove(vec![left[0].0]).await.unwrap();
        assert_eq!(outbox.pending(), 0);
        // Numbers go on after a restart of an empty outbox.
        drop(outbox);
        let outbox = Outbox::open(folder.path().join("o.db")).unwrap();
        outbox.put(event(1)).await.unwrap();
        assert!(outbox.read(0, 1).await.unwrap()[0].0 > left[0].0);
    }

    #[tokio::test]
    async fn too_many_events_lose_the_oldest_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open_with(&folder.path().join("o.db"), 3).unwrap();
        outbox.put(end("b")).await.unwrap();
        for n in 0..10 {
            outbox.put(event(n)).await.unwrap();
        }
        assert_eq!(all(&outbox).await, [end("b"), event(7), event(8), event(9)]);
        assert_eq!(outbox.dropped_events(), 7);
    }

    #[tokio::test]
    async fn many_writers_share_a_commit_and_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path().join("o.db")).unwrap();
        let mut added = outbox.added();
        let puts = (0..300).map(|n| outbox.put(event(n)));
        for result in futures::future::join_all(puts).await {
            result.unwrap();
        }
        assert!(added.has_changed().unwrap() && *added.borrow_and_update() > 0);
        assert_eq!(outbox.pending(), 300);
    }

    #[tokio::test]
    async fn a_damaged_file_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("o.db");
        std::fs::write(&path, vec![7; 5000]).unwrap();
        let outbox = Outbox::open(&path).unwrap();
        assert!(outbox.moved_aside().is_some());
        outbox.put(event(1)).await.unwrap();
        assert_eq!(all(&outbox).await, [event(1)]);
    }
}
