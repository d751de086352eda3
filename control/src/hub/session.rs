//! One node's session: its inventory against what it needs, then changes down and writes up.
//!
//! Four loops run side by side until the stream breaks or another session of the node takes over. The sender
//! takes dirty keys one after the other, reads each object's present state, and sends it as long as the window
//! is open; what changes meanwhile waits as a key, so a slow node costs a bounded amount. The reader never waits
//! for the API: writes queue up to the window that the protocol allows, and a worker does them in order.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use edgeloom_api::hub::{
    Alive, CloseReason, Closing, Delete, FromControl, FromNode, Hello, Key, Put, Synced, VERSION, Version,
    WRITE_WINDOW, Welcome, WriteUp, digest,
};
use edgeloom_api::kind::{CONFIG_MAP, EDGE_NODE, POD, SECRET};
use edgeloom_api::message::{MAX_MESSAGE, MessageError};
use edgeloom_tunnel::frames::{self, FrameError};
use edgeloom_tunnel::identity::Verified;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use super::Shared;
use super::dirty::{Dirty, Item};
use super::listener::Listener;
use super::membership::NoMember;
use super::outlet::Outlet;
use super::window::Window;
use super::writes::Writes;

/// How long a node may take over one message of its inventory: all of it takes a slow link as long as it takes.
const INVENTORY: Duration = Duration::from_secs(60);
/// Most objects that a node may say it holds.
const MAX_INVENTORY: usize = 1_000_000;
/// Messages that wait for the stream.
const OUTGOING: usize = 16;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("sending: {0}")]
    Send(#[from] io::Error),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("the node ended it")]
    Ended,
    #[error("the node does not keep to the protocol: {0}")]
    Protocol(&'static str),
    #[error("the node was silent when its inventory was due")]
    Silent,
    #[error(transparent)]
    NoMember(#[from] NoMember),
    #[error("the cluster's objects are not known to the control yet")]
    NotReady,
}

impl Broken {
    /// What the node is told, where there is anything that it does not know.
    pub(super) fn closing(&self) -> Option<Closing> {
        let reason = match self {
            Self::NoMember(_) => CloseReason::NoMember,
            Self::NotReady => CloseReason::NotReady,
            Self::Protocol(_) | Self::Message(_) | Self::Silent => CloseReason::Protocol,
            Self::Frame(_) | Self::Send(_) | Self::Ended => return None,
        };
        Some(Closing { reason, message: self.to_string() })
    }
}

/// A session as one side of a stream.
pub(super) struct Serve<'a> {
    pub(super) shared: &'a Shared,
    pub(super) node: &'a Verified,
}

impl Serve<'_> {
    /// Holds the session until it breaks, and says why.
    pub(super) async fn hold<R, W>(&self, hello: Hello, mut read: R, outlet: &mut Outlet<W>) -> Broken
    where
        R: AsyncRead + Send + Unpin,
        W: AsyncWrite + Send + Unpin,
    {
        let kinds: BTreeSet<String> = hello.kinds.into_iter().collect();
        let dirty = match self.greet(&hello.digest, &kinds, &mut read, outlet).await {
            Ok(dirty) => dirty,
            Err(broken) => return broken,
        };
        let (out, outgoing) = mpsc::channel(OUTGOING);
        // One place more than the protocol allows, so that the one too many is noticed.
        let (writes, queued) = mpsc::channel(WRITE_WINDOW + 1);
        let (applied, acknowledged) = watch::channel(0);
        let (alive, asked) = watch::channel(0u64);
        let (beat, beaten) = watch::channel(());
        let loops = async {
            tokio::try_join!(
                self.read(Listener::new(read), applied, writes, alive, beat),
                self.send(&dirty, &kinds, acknowledged, out.clone()),
                self.write_up(queued, beaten, out.clone()),
                answer_alive(asked, out.clone()),
                write_out(outlet, outgoing),
            )
        };
        match loops.await {
            Ok((never, ..)) => match never {},
            Err(broken) => broken,
        }
    }

    /// Answers the hello and marks what differs.
    async fn greet<R, W>(
        &self,
        held: &[u8],
        kinds: &BTreeSet<String>,
        read: &mut R,
        outlet: &mut Outlet<W>,
    ) -> Result<Arc<Dirty>, Broken>
    where
        R: AsyncRead + Send + Unpin,
        W: AsyncWrite + Send + Unpin,
    {
        let name = self.node.node.as_str();
        // Followed before it is read, so that no change falls between.
        let dirty = self.shared.cache.follow(name);
        let desired = self.shared.cache.desired(name, kinds);
        let same = digest(desired.iter().map(|(key, version)| (key, version))) == *held;
        let release = env!("CARGO_PKG_VERSION").to_owned();
        let welcome = Welcome { version: VERSION, release, inventory: !same, beats: true };
        outlet.say(&welcome.into()).await?;
        outlet.flush().await?;
        if !same {
            let held = inventory(read).await?;
            for key in differing(desired, held) {
                dirty.mark(key);
            }
        }
        dirty.mark_synced();
        Ok(dirty)
    }

    async fn read<R: AsyncRead + Unpin>(
        &self,
        mut read: R,
        applied: watch::Sender<u64>,
        writes: mpsc::Sender<WriteUp>,
        alive: watch::Sender<u64>,
        beat: watch::Sender<()>,
    ) -> Result<Infallible, Broken> {
        loop {
            let message = frames::read(&mut read, MAX_MESSAGE).await?.ok_or(Broken::Ended)?;
            match FromNode::decode(&message)? {
                FromNode::Applied(message) => {
                    applied.send_replace(message.seq);
                }
                FromNode::WriteUp(write) => {
                    writes.try_send(write).map_err(|_| Broken::Protocol("more writes than its window"))?;
                }
                FromNode::Alive(_) => alive.send_modify(|asked| *asked += 1),
                FromNode::Beat(_) => {
                    beat.send_replace(());
                }
                FromNode::Unknown(_) => {}
                FromNode::Hello(_) | FromNode::Inventory(_) | FromNode::Request(_) => {
                    return Err(Broken::Protocol("a message out of turn"));
                }
            }
        }
    }

    /// Sends what changes, of the kinds that the node knows.
    async fn send(
        &self,
        dirty: &Dirty,
        kinds: &BTreeSet<String>,
        mut acknowledged: watch::Receiver<u64>,
        out: mpsc::Sender<FromControl>,
    ) -> Result<Infallible, Broken> {
        let mut window = Window::default();
        loop {
            if !window.acknowledge(*acknowledged.borrow_and_update()) {
                return Err(Broken::Protocol("it acknowledged what was never sent"));
            }
            if !window.is_open() {
                acknowledged.changed().await.map_err(|_| Broken::Ended)?;
                continue;
            }
            let message = match dirty.next().await {
                Item::Synced => Synced { seq: window.send(0) }.into(),
                Item::Key(key) if !kinds.contains(&key.kind) => continue,
                Item::Key(key) => self.present(key, &mut window),
            };
            out.send(message).await.map_err(|_| Broken::Ended)?;
        }
    }

    /// The object's present state for this node.
    fn present(&self, key: Key, window: &mut Window) -> FromControl {
        let metrics = &self.shared.metrics;
        metrics.sent.inc();
        match self.shared.cache.needed(self.node.node.as_str(), &key) {
            Some(entry) => {
                metrics.sent_bytes.inc_by(entry.json.len() as u64);
                Put { seq: window.send(entry.json.len()), object: entry.json.clone() }.into()
            }
            None => Delete { seq: window.send(0), key }.into(),
        }
    }

    async fn write_up(
        &self,
        queued: mpsc::Receiver<WriteUp>,
        beaten: watch::Receiver<()>,
        out: mpsc::Sender<FromControl>,
    ) -> Result<Infallible, Broken> {
        let mut writes = Writes::new(self.shared, self.node, queued, beaten);
        loop {
            for written in writes.next().await.ok_or(Broken::Ended)? {
                if let Some(reason) = &written.refused {
                    tracing::warn!(node = %self.node.node, reason, "a node's write was refused");
                }
                out.send(written.into()).await.map_err(|_| Broken::Ended)?;
            }
        }
    }
}

async fn inventory<R: AsyncRead + Unpin>(read: &mut R) -> Result<BTreeMap<Key, Version>, Broken> {
    let mut held = BTreeMap::new();
    loop {
        let read = tokio::time::timeout(INVENTORY, frames::read(read, MAX_MESSAGE)).await;
        let message = read.map_err(|_| Broken::Silent)??.ok_or(Broken::Ended)?;
        let FromNode::Inventory(part) = FromNode::decode(&message)? else {
            return Err(Broken::Protocol("something else than its inventory"));
        };
        held.extend(part.entries);
        if held.len() > MAX_INVENTORY {
            return Err(Broken::Protocol("an inventory without end"));
        }
        if part.last {
            return Ok(held);
        }
    }
}

/// The keys that have to be sent for a node that holds `held` to hold `desired`: what makes pods work goes
/// before the pods.
fn differing(desired: Vec<(Key, Version)>, mut held: BTreeMap<Key, Version>) -> Vec<Key> {
    let mut keys: Vec<Key> = desired
        .into_iter()
        .filter(|(key, version)| held.remove(key).as_ref() != Some(version))
        .map(|(key, _)| key)
        .collect();
    keys.extend(held.into_keys());
    keys.sort_by_key(rank);
    keys
}

fn rank(key: &Key) -> u8 {
    if key.is(&EDGE_NODE) {
        0
    } else if key.is(&SECRET) || key.is(&CONFIG_MAP) {
        1
    } else if key.is(&POD) {
        3
    } else {
        2
    }
}

async fn answer_alive(
    mut asked: watch::Receiver<u64>,
    out: mpsc::Sender<FromControl>,
) -> Result<Infallible, Broken> {
    loop {
        asked.changed().await.map_err(|_| Broken::Ended)?;
        asked.mark_unchanged();
        out.send(Alive {}.into()).await.map_err(|_| Broken::Ended)?;
    }
}

async fn write_out<W: AsyncWrite + Unpin>(
    outlet: &mut Outlet<W>,
    mut outgoing: mpsc::Receiver<FromControl>,
) -> Result<Infallible, Broken> {
    while let Some(message) = outgoing.recv().await {
        outlet.say(&message).await?;
        if outgoing.is_empty() {
            outlet.flush().await?;
        }
    }
    Err(Broken::Ended)
}

pub(super) async fn say<W: AsyncWrite + Unpin>(write: &mut W, message: &FromControl) -> Result<(), Broken> {
    frames::write(write, &message.encode()?).await.map_err(Broken::from)
}

#[cfg(test)]
mod tests {
    use edgeloom_api::kind::{Kind, SERVICE};

    use super::*;

    fn entry(kind: &'static Kind, name: &str, version: &str) -> (Key, Version) {
        let version = Version { uid: "u".into(), resource_version: version.into() };
        (Key::new(kind, "shop", name), version)
    }

    #[test]
    fn only_what_differs_is_sent_and_pods_last() {
        let desired = vec![
            entry(&CONFIG_MAP, "menu", "1"),
            entry(&POD, "changed", "2"),
            entry(&POD, "same", "1"),
            entry(&SERVICE, "new", "1"),
        ];
        let held = [entry(&POD, "changed", "1"), entry(&POD, "same", "1"), entry(&POD, "gone", "1")];
        let names: Vec<String> =
            differing(desired, held.into_iter().collect()).into_iter().map(|key| key.name).collect();
        assert_eq!(names, ["menu", "new", "changed", "gone"]);
    }
}
