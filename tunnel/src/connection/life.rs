//! Connections that live longer than the credentials they were made with.
//!
//! TLS shows a credential once, in the handshake. So before either end's credential runs out, whoever dialled a
//! connection dials another: both ends show what they have by then, new streams take the new connection, and
//! what was seen counts for the old one too, which is of the same key. Its streams go on until they end, and it
//! is closed when it falls idle. A peer that does not renew is parted from when its credential has ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::dial::Dialler;
use super::{Connections, Entry, Key};
use crate::alpn::Alpn;
use crate::engine::Handle;
use crate::identity::Verified;

/// How often connections are looked at.
const EVERY: Duration = Duration::from_secs(30);
/// How long before the end of a credential its connections are renewed: this share of its life, at most so long.
/// Credentials are renewed at two thirds of their life.
const SHARE_LEFT: u64 = 6;
const MOST_LEFT: Duration = Duration::from_secs(3600);
/// How often a connection is renewed in that time while the credentials stay what they are.
const TRIES: u32 = 8;

impl Entry {
    fn ends(&self) -> SystemTime {
        self.peer.expires.min(self.shown_until)
    }
}

/// What the ends of a new connection showed each other counts for the older ones of the same peer.
pub(super) fn follow(open: &mut HashMap<Key, Vec<Entry>>, new: &Entry) {
    for alpn in Alpn::ALL {
        for old in open.get_mut(&(new.peer.peer, alpn)).into_iter().flatten() {
            // Who became another, by name, site or role, is that on new connections only.
            if new.peer.is_same_member(&old.peer) && new.peer.expires > old.peer.expires {
                old.peer = new.peer.clone();
            }
            old.shown_until = old.shown_until.max(new.shown_until);
        }
    }
}

impl Connections {
    /// When the credential ends that this node shows `peer` now.
    pub(super) fn shown_until(&self, peer: &Verified) -> SystemTime {
        let ends = self.guard.credential().map(|credential| credential.claims().expires);
        ends.and_then(|at| UNIX_EPOCH.checked_add(Duration::from_secs(at))).unwrap_or(peer.expires)
    }

    /// Renews connections in time, and closes those of peers that are no longer trusted, until the end.
    pub(crate) async fn keep_alive(self: Arc<Self>, dialler: Dialler, engine: Handle) {
        let mut every = tokio::time::interval(EVERY);
        while self.stop.run_until_cancelled(every.tick()).await.is_some() {
            let now = SystemTime::now();
            if let Some(trust) = self.guard.trust() {
                self.recheck(&trust, now);
            }
            for key in self.ending(now, Instant::now()) {
                let renewing = self.renew(&dialler, &engine, key);
                if self.stop.run_until_cancelled(renewing).await.is_none() {
                    return;
                }
            }
        }
    }

    /// The connections of this node's making that want another.
    pub(super) fn ending(&self, now: SystemTime, at: Instant) -> Vec<Key> {
        let margin = self.margin();
        let settled = |entry: &Entry| {
            entry.ends() > now + margin || at.saturating_duration_since(entry.since) < margin / TRIES
        };
        let open = self.lock();
        let ending = open.iter().filter(|(_, entries)| {
            let mut usable = entries.iter().filter(|entry| entry.connection.close_reason().is_none());
            entries.iter().any(|entry| entry.dialled) && !usable.any(settled)
        });
        ending.map(|(key, _)| *key).collect()
    }

    fn margin(&self) -> Duration {
        let life = self.guard.credential().map_or(0, |credential| {
            let claims = credential.claims();
            claims.expires.saturating_sub(claims.not_before)
        });
        Duration::from_secs(life / SHARE_LEFT).min(MOST_LEFT)
    }

    pub(super) async fn renew(self: &Arc<Self>, dialler: &Dialler, engine: &Handle, (peer, alpn): Key) {
        let renewed = async {
            let address = engine.path(peer, dialler.patience).await?;
            self.connect_beside(dialler, peer, alpn, address).await
        };
        if let Err(error) = renewed.await {
            tracing::info!(%peer, %alpn, %error, "a connection is not renewed yet; it is tried again");
        }
    }
}

#[cfg(test)]
mod tests;
