//! Opening streams: on the connection that has the fewest, and on another where those that there are do not suffice.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::select_all;
use libp2p::PeerId;
use quinn::{Connection, ConnectionError};

use super::dial::Dialler;
use super::usage::Usage;
use super::{Connections, Key};
use crate::Stream;
use crate::alpn::Alpn;
use crate::error::OpenError;

/// How long after one more connection could not be made, or was refused, the next is tried; twice as long each time,
/// since each costs both ends a handshake, and what the peer allows seldom changes.
const AGAIN: Duration = Duration::from_secs(10);
const LONGEST_AGAIN: Duration = Duration::from_secs(600);

/// Connections that are dialled beside those that there are.
#[derive(Debug, Default)]
pub(super) struct Growing(Mutex<HashMap<Key, Growth>>);

#[derive(Debug, Default)]
struct Growth {
    dialling: bool,
    /// When the last one failed, and how long nothing is tried from then on.
    failed: Option<(Instant, Duration)>,
}

impl Growth {
    fn rests(&self, now: Instant) -> bool {
        self.failed.is_some_and(|(at, pause)| now.saturating_duration_since(at) < pause)
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        let old = |(at, _)| now.saturating_duration_since(at) >= LONGEST_AGAIN * 2;
        !self.dialling && self.failed.is_none_or(old)
    }
}

impl Growing {
    /// Whether another may be dialled; if so it counts as being so until [`Growing::end`].
    fn begin(&self, key: Key, now: Instant) -> bool {
        let mut growing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        growing.retain(|_, growth| !growth.is_forgotten(now));
        let growth = growing.entry(key).or_default();
        let may = !growth.dialling && !growth.rests(now);
        growth.dialling |= may;
        may
    }

    /// Forgets how often it failed.
    fn forget(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// It was dialled, or failed at that time.
    fn end(&self, key: &Key, failed: Option<Instant>) {
        let mut growing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let growth = growing.entry(*key).or_default();
        let pause = growth.failed.map_or(AGAIN, |(_, pause)| (pause * 2).min(LONGEST_AGAIN));
        *growth = Growth { dialling: false, failed: failed.map(|at| (at, pause)) };
    }
}

/// The connections with a peer, in the order in which a new stream tries them.
pub(super) struct Candidates {
    pub(super) connections: Vec<(Connection, Arc<Usage>)>,
    /// Another one is wanted.
    pub(super) wants_more: bool,
    /// Another one is allowed.
    pub(super) may_grow: bool,
}

impl Connections {
    /// Opens a stream on a connection to `peer`, whose path works at `address`. Where no connection has room, what comes
    /// first is taken: a place on one of them, or another connection.
    ///
    /// # Errors
    /// If no place becomes free within the dialler's patience, or a connection is lost at that moment; then it may be
    /// tried again.
    pub(crate) async fn open(
        self: &Arc<Self>,
        dialler: &Dialler,
        peer: PeerId,
        alpn: Alpn,
        address: SocketAddr,
    ) -> Result<Stream, OpenError> {
        let placed = tokio::time::timeout(dialler.patience, self.place(dialler, (peer, alpn), address));
        match placed.await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(OpenError::Lost(peer.into(), error.to_string())),
            Err(_) => Err(OpenError::NoRoom { peer: peer.into(), alpn, waited: dialler.patience }),
        }
    }

    async fn place(
        self: &Arc<Self>,
        dialler: &Dialler,
        key: Key,
        address: SocketAddr,
    ) -> Result<Stream, ConnectionError> {
        loop {
            let mut registered = pin!(self.registered.notified());
            registered.as_mut().enable();
            let candidates = self.candidates(&key);
            let mut lost = None;
            for (connection, usage) in &candidates.connections {
                match connection.open_bi().now_or_never() {
                    Some(Ok(halves)) => {
                        if candidates.wants_more && candidates.may_grow {
                            self.grow(dialler, key, address);
                        }
                        return Ok(Stream::counted(halves, usage.open()));
                    }
                    Some(Err(error)) => lost = Some(error),
                    None => {}
                }
            }
            if let Some(error) = lost {
                return Err(error);
            }
            if candidates.may_grow {
                self.grow(dialler, key, address);
            }
            if candidates.connections.is_empty() {
                // What was dialled is gone already; whoever asks tries again.
                return Err(ConnectionError::LocallyClosed);
            }
            let opening = candidates.connections.iter().map(|(connection, usage)| {
                Box::pin(connection.open_bi().map(move |opened| opened.map(|halves| (halves, usage))))
            });
            tokio::select! {
                (opened, ..) = select_all(opening) => {
                    let (halves, usage) = opened?;
                    return Ok(Stream::counted(halves, usage.open()));
                }
                () = registered => {}
            }
        }
    }

    /// Dials one more connection in the background, unless that is being done. It is offered to streams once the peer
    /// has taken it.
    fn grow(self: &Arc<Self>, dialler: &Dialler, key: Key, address: SocketAddr) {
        if self.stop.is_cancelled() || !self.growing.begin(key, Instant::now()) {
            return;
        }
        let (connections, dialler) = (self.clone(), dialler.clone());
        self.tasks.spawn(async move {
            let (peer, alpn) = key;
            let dialled = connections.connect_beside(&dialler, peer, alpn, address);
            let dialled = connections.stop.run_until_cancelled(dialled).await;
            let mut failed = None;
            if let Some(Err(error)) = dialled {
                tracing::info!(%peer, %alpn, %error, "streams are many, and no other connection could be made");
                failed = Some(Instant::now());
                if matches!(error, OpenError::NoMemory { .. }) {
                    // That is not the peer's refusal, which may last: other connections end.
                    connections.growing.forget(&key);
                }
            }
            connections.growing.end(&key, failed);
            // Who waits may dial the next: it may have been refused while this one, that others took, was not done.
            connections.registered.notify_waiters();
        });
    }
}

#[cfg(test)]
mod tests;
