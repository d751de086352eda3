//! One session over one stream: hello, what differs, then changes down and writes up until the stream breaks.
//!
//! Four loops run side by side. The reader sorts what comes; the applier stores changes in batches and then
//! acknowledges them; the sender keeps a window of the outbox under way; the writer owns the stream's sending
//! half. A slow disk holds up the reader, and through the stream's flow control the control.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use edgeloom_api::hub::{
    Alive, Applied, Beat, CloseReason, Closing, FromControl, FromNode, Hello, INVENTORY_CHUNK, Inventory,
    Key, VERSION, Version, WRITE_WINDOW, Welcome, WriteUp, Written, digest,
};
use edgeloom_api::kind;
use edgeloom_api::message::{MAX_MESSAGE, MessageError};
use edgeloom_tunnel::frames::{self, FrameError};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Session, Stage};
use crate::db::StoreError;
use crate::metastore::Update;
use crate::overlay::Pipe;

/// How long the control may take to greet.
const GREETING: Duration = Duration::from_secs(15);
/// Changes that wait for the disk.
const CHANGES: usize = 256;
/// Messages that wait for the stream.
const OUTGOING: usize = 16;
/// Time without a word, while an answer is due, after which a sign of life is asked for.
const ASK_AFTER: Duration = Duration::from_secs(10);
/// Time without a word, while an answer is due, after which the session is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(25);
/// Pause before a change is stored again that the disk refused.
const DISK_RETRY: Duration = Duration::from_secs(5);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("sending: {0}")]
    Send(#[from] std::io::Error),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("the control ended it")]
    Ended,
    #[error("the control ended it: {}", .0.message)]
    Closed(Closing),
    #[error("the control is silent")]
    Silent,
    #[error("the control does not keep to the protocol: {0}")]
    Protocol(&'static str),
    #[error("the node's own store: {0}")]
    Store(#[from] StoreError),
}

impl Broken {
    /// Whether it will not get better by itself.
    pub(super) fn needs_the_operator(&self) -> bool {
        matches!(self, Self::Closed(Closing { reason: CloseReason::NoMember, .. }))
    }
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

pub(super) struct Link<'a> {
    pub(super) session: &'a Session,
}

/// A change with the number by which it is acknowledged.
enum Incoming {
    Change(u64, Option<Update>),
    Synced(u64),
}

/// Whether an answer is due, and when the control was last heard.
struct Pulse {
    due: AtomicBool,
    heard: Mutex<Instant>,
}

impl Pulse {
    fn beat(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn silence(&self) -> Duration {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

impl Link<'_> {
    /// Holds the session until it breaks, and says why.
    pub(super) async fn hold(&self, pipe: Pipe) -> Broken {
        let Pipe { mut read, mut write } = pipe;
        match tokio::time::timeout(GREETING, self.greet(&mut read, &mut write)).await {
            Ok(Ok(())) => {}
            Ok(Err(broken)) => return broken,
            Err(_) => return Broken::Silent,
        }
        // Before anybody knows that there is a session: none is to be missed.
        let beats = self.session.0.beat.subscribe();
        self.session.stage(Stage::Connected);
        self.session.0.metrics.sessions.inc();
        let (changes, incoming) = mpsc::channel(CHANGES);
        let (out, outgoing) = mpsc::channel(OUTGOING);
        let (answers, answered) = mpsc::channel(WRITE_WINDOW);
        let pulse = Pulse { due: AtomicBool::new(false), heard: Mutex::new(Instant::now()) };
        let loops = async {
            tokio::try_join!(
                self.read(read, changes, answers, &pulse),
                self.apply(incoming, out.clone()),
                self.send(out.clone(), answered, &pulse),
                listen(out.clone(), &pulse),
                beat(beats, out.clone()),
                write_out(write, outgoing),
            )
        };
        match loops.await {
            Ok((never, ..)) => match never {},
            Err(broken) => broken,
        }
    }

    async fn greet(&self, read: &mut Reader, write: &mut Writer) -> Result<(), Broken> {
        let held = self.session.0.store.inventory();
        let hello = Hello {
            version: VERSION,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            kinds: kind::ALL.iter().map(|kind| kind.to_string()).collect(),
            digest: digest(held.iter().map(|(key, version)| (key, version))).to_vec().into(),
        };
        say(write, &hello.into()).await?;
        write.flush().await?;
        let welcome = frames::read(read, MAX_MESSAGE).await?.ok_or(Broken::Ended)?;
        let Welcome { inventory, release, beats, .. } = match FromControl::decode(&welcome)? {
            FromControl::Welcome(welcome) => welcome,
            FromControl::Closing(closing) => return Err(Broken::Closed(closing)),
            _ => return Err(Broken::Protocol("it did not answer the hello")),
        };
        tracing::info!(release, differs = inventory, "the control is connected");
        self.session.0.takes_beats.store(beats, Ordering::Relaxed);
        if inventory {
            for part in inventory_parts(held) {
                say(write, &part.into()).await?;
            }
            write.flush().await?;
        }
        Ok(())
    }

    async fn read(
        &self,
        mut read: Reader,
        changes: mpsc::Sender<Incoming>,
        answers: mpsc::Sender<Written>,
        pulse: &Pulse,
    ) -> Result<Infallible, Broken> {
        loop {
            let message = frames::read(&mut read, MAX_MESSAGE).await?.ok_or(Broken::Ended)?;
            pulse.beat();
            let change = match FromControl::decode(&message)? {
                FromControl::Put(put) => Incoming::Change(put.seq, parse(&put.object)),
                FromControl::Delete(delete) => Incoming::Change(delete.seq, deletion(delete.key)),
                FromControl::Synced(synced) => Incoming::Synced(synced.seq),
                FromControl::Written(written) => {
                    answers.send(written).await.map_err(|_| Broken::Ended)?;
                    continue;
                }
                FromControl::Closing(closing) => return Err(Broken::Closed(closing)),
                FromControl::Alive(_) | FromControl::Unknown(_) => continue,
                FromControl::Welcome(_) | FromControl::Reply(_) => {
                    return Err(Broken::Protocol("a message out of turn"));
                }
            };
            changes.send(change).await.map_err(|_| Broken::Ended)?;
        }
    }

    /// Stores what comes, as much at a time as waits, and acknowledges it after the commit.
    async fn apply(
        &self,
        mut incoming: mpsc::Receiver<Incoming>,
        out: mpsc::Sender<FromNode>,
    ) -> Result<Infallible, Broken> {
        let mut batch = Vec::new();
        while incoming.recv_many(&mut batch, CHANGES).await > 0 {
            let (mut updates, mut last, mut synced) = (Vec::with_capacity(batch.len()), 0, false);
            for change in batch.drain(..) {
                match change {
                    Incoming::Change(seq, update) => {
                        updates.extend(update);
                        last = seq;
                    }
                    Incoming::Synced(seq) => (synced, last) = (true, seq),
                }
            }
            self.store(updates).await?;
            out.send(Applied { seq: last }.into()).await.map_err(|_| Broken::Ended)?;
            if synced {
                self.session.stage(Stage::Synced);
            }
        }
        Err(Broken::Ended)
    }

    async fn store(&self, updates: Vec<Update>) -> Result<(), Broken> {
        let shared = &self.session.0;
        let count = updates.len() as u64;
        loop {
            match shared.store.apply(updates.clone()).await {
                Ok(()) => break,
                // Neither is mended by another try.
                Err(error @ (StoreError::Closed | StoreError::Object(_))) => return Err(error.into()),
                Err(error) => {
                    tracing::error!(%error, "cannot store what the control sent; trying again in {} s", DISK_RETRY.as_secs());
                    tokio::time::sleep(DISK_RETRY).await;
                }
            }
        }
        shared.metrics.changes.inc_by(count);
        shared.metrics.objects.set(i64::try_from(shared.store.len()).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Keeps a window of the outbox under way, from its beginning: what was sent in an earlier session and not
    /// answered is sent again.
    async fn send(
        &self,
        out: mpsc::Sender<FromNode>,
        mut answered: mpsc::Receiver<Written>,
        pulse: &Pulse,
    ) -> Result<Infallible, Broken> {
        let shared = &self.session.0;
        let mut added = shared.outbox.added();
        let (mut after, mut under_way) = (0, BTreeSet::new());
        let mut answers = Vec::new();
        loop {
            added.mark_unchanged();
            let room = WRITE_WINDOW - under_way.len();
            for (id, write) in shared.outbox.read(after, room).await? {
                (after, _) = (id, under_way.insert(id));
                out.send(WriteUp { id, write }.into()).await.map_err(|_| Broken::Ended)?;
            }
            pulse.due.store(!under_way.is_empty(), Ordering::Relaxed);
            shared.metrics.pending.set(shared.outbox.pending().cast_signed());
            let (told, dropped) = (&shared.metrics.dropped_events, shared.outbox.dropped_events());
            told.inc_by(dropped.saturating_sub(told.get()));
            tokio::select! {
                count = answered.recv_many(&mut answers, WRITE_WINDOW) => {
                    if count == 0 {
                        return Err(Broken::Ended);
                    }
                    self.take_answers(&mut answers, &mut under_way).await?;
                }
                _ = added.changed(), if under_way.len() < WRITE_WINDOW => {}
            }
        }
    }

    async fn take_answers(
        &self,
        answers: &mut Vec<Written>,
        under_way: &mut BTreeSet<u64>,
    ) -> Result<(), Broken> {
        let metrics = &self.session.0.metrics;
        let mut done = Vec::with_capacity(answers.len());
        for Written { id, refused } in answers.drain(..) {
            if !under_way.remove(&id) {
                continue;
            }
            metrics.writes.inc();
            if let Some(reason) = refused {
                metrics.refused_writes.inc();
                tracing::warn!(id, reason, "the control refused a write of this node for good");
            }
            done.push(id);
        }
        self.session.0.outbox.remove(done).await.map_err(Broken::from)
    }
}

/// Asks for a sign of life where an answer is overdue, and gives up where none comes.
async fn listen(out: mpsc::Sender<FromNode>, pulse: &Pulse) -> Result<Infallible, Broken> {
    let mut since_due: Option<Instant> = None;
    loop {
        tokio::time::sleep(ASK_AFTER / 2).await;
        if !pulse.due.load(Ordering::Relaxed) {
            since_due = None;
            continue;
        }
        let due = since_due.get_or_insert_with(Instant::now).elapsed();
        let silence = pulse.silence().min(due);
        if silence > GIVE_UP_AFTER {
            return Err(Broken::Silent);
        }
        if silence > ASK_AFTER {
            out.send(Alive {}.into()).await.map_err(|_| Broken::Ended)?;
        }
    }
}

async fn beat(mut asked: watch::Receiver<()>, out: mpsc::Sender<FromNode>) -> Result<Infallible, Broken> {
    loop {
        asked.changed().await.map_err(|_| Broken::Ended)?;
        out.send(Beat {}.into()).await.map_err(|_| Broken::Ended)?;
    }
}

async fn write_out(mut write: Writer, mut outgoing: mpsc::Receiver<FromNode>) -> Result<Infallible, Broken> {
    while let Some(message) = outgoing.recv().await {
        say(&mut write, &message).await?;
        if outgoing.is_empty() {
            write.flush().await?;
        }
    }
    Err(Broken::Ended)
}

async fn say(write: &mut Writer, message: &FromNode) -> Result<(), Broken> {
    frames::write(write, &message.encode()?).await.map_err(Broken::from)
}

fn inventory_parts(mut held: Vec<(Key, Version)>) -> Vec<Inventory> {
    let mut parts = Vec::new();
    while held.len() > INVENTORY_CHUNK {
        let rest = held.split_off(INVENTORY_CHUNK);
        parts.push(Inventory { entries: std::mem::replace(&mut held, rest), last: false });
    }
    parts.push(Inventory { entries: held, last: true });
    parts
}

/// What cannot be read is passed over, and acknowledged, lest it be sent for ever.
fn parse(object: &[u8]) -> Option<Update> {
    match serde_json::from_slice::<Value>(object) {
        Ok(object) if Key::of(&object).is_some() => Some(Update::Put(object)),
        Ok(object) => {
            tracing::warn!(kind = %object["kind"], "the control sent an object of a kind unknown here");
            None
        }
        Err(error) => {
            tracing::error!(%error, "the control sent an object that does not parse");
            None
        }
    }
}

/// What is of a kind unknown here was never stored.
fn deletion(key: Key) -> Option<Update> {
    if kind::ALL.iter().any(|kind| key.is(kind)) {
        return Some(Update::Delete(key));
    }
    tracing::warn!(kind = key.kind, "the control deleted an object of a kind unknown here");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_an_unknown_kind_is_passed_over() {
        assert!(matches!(deletion(Key::new(&kind::POD, "shop", "web")), Some(Update::Delete(_))));
        let key = Key { kind: "devices.newer.io".into(), namespace: "shop".into(), name: "lamp".into() };
        assert!(deletion(key).is_none());
        let object = br#"{"apiVersion": "newer.io/v1", "kind": "Device", "metadata": {"name": "lamp"}}"#;
        assert!(parse(object).is_none() && parse(b"{").is_none());
    }
}
