//! The hub: carries to every node the objects that it needs, and from it what it reports.
//!
//! ```text
//! API ──watches──> cache ──dirty keys──> session ──hub/1──> node
//!     <──writes── uplink <──authorised── session <──hub/1──
//! ```
//! [`Hub::accept`] takes `hub/1` streams of verified nodes. The node's own digest is the only record of what it
//! holds, so a control that restarts has nothing to remember. The hub also tells the control's own tunnel who is
//! a member, for it is what follows the EdgeNodes.

mod authorise;
mod cache;
mod dirty;
mod listener;
mod members;
mod membership;
mod metrics;
mod outlet;
mod parked;
mod request;
mod selection;
mod session;
mod uplink;
mod watch;
mod window;
mod writes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edgeloom_api::hub::{Failure, FromNode, Hello, Reply};
use edgeloom_api::message::MAX_MESSAGE;
use edgeloom_model::NodeName;
use edgeloom_tunnel::identity::{Role, Verified};
use edgeloom_tunnel::{PeerId, Tunnel, frames};
use prometheus::Registry;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::join::JoinService;
use cache::Cache;
use metrics::Metrics;
use outlet::Outlet;
use session::{Broken, Serve, say};

/// How long a node may take to say what a stream is for.
const FIRST_WORD: Duration = Duration::from_secs(15);
/// How long an answer may take to leave.
const LAST_WORD: Duration = Duration::from_secs(15);
/// How long a node waits for the hub to know the cluster: less than it waits for a greeting.
const READY: Duration = Duration::from_secs(10);

/// Why the hub did not start.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The metrics are registered already.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Handle to the hub; clones share it.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

struct Shared {
    client: kube::Client,
    cache: Arc<Cache>,
    join: JoinService,
    metrics: Metrics,
    sessions: Mutex<HashMap<NodeName, Held>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A session that stands: of which machine, and what ends it.
struct Held {
    peer: PeerId,
    end: CancellationToken,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    /// Starts the watches. With `tunnel`, its members and whom it believes follow the EdgeNodes.
    pub fn start(
        client: kube::Client,
        join: JoinService,
        tunnel: Option<Tunnel>,
        registry: &Registry,
    ) -> Result<Self, HubError> {
        let shared = Arc::new(Shared {
            client,
            cache: Arc::default(),
            join,
            metrics: Metrics::new(registry)?,
            sessions: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        for kind in selection::WATCHED {
            let (cache, metrics, stop) =
                (Arc::clone(&shared.cache), shared.metrics.clone(), shared.stop.clone());
            shared.tasks.spawn(watch::follow(kind, shared.client.clone(), cache, metrics, stop));
        }
        shared.tasks.spawn(members::follow(Arc::clone(&shared), tunnel));
        Ok(Self(shared))
    }

    /// Whether the cluster's objects are known, so that nodes can be served.
    pub fn ready(&self) -> tokio::sync::watch::Receiver<bool> {
        self.0.cache.ready()
    }

    /// Nodes with a session.
    pub fn connected(&self) -> Vec<NodeName> {
        self.0.sessions().keys().cloned().collect()
    }

    /// Serves a `hub/1` stream of `from` in a task of its own.
    pub fn accept<R, W>(&self, from: Arc<Verified>, read: R, write: W)
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let shared = Arc::clone(&self.0);
        self.0.tasks.spawn(async move {
            let stop = shared.stop.clone();
            tokio::select! {
                () = shared.serve(&from, read, write) => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Ends every session and task and waits for them.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Shared {
    async fn serve<R, W>(&self, from: &Verified, mut read: R, mut write: W)
    where
        R: AsyncRead + Send + Unpin,
        W: AsyncWrite + Send + Unpin,
    {
        if let Err(refusal) = from.require(Role::Edge) {
            tracing::warn!(%refusal, "a hub stream was refused");
            return;
        }
        let first = tokio::time::timeout(FIRST_WORD, frames::read(&mut read, MAX_MESSAGE)).await;
        let Ok(Ok(Some(first))) = first else { return };
        match FromNode::decode(&first) {
            Ok(FromNode::Hello(hello)) => {
                let mut outlet = Outlet::new(write);
                let broken = match self.admit(from).await {
                    Ok(()) => self.hold(from, hello, read, &mut outlet).await,
                    Err(refused) => refused,
                };
                tracing::info!(node = %from.node, peer = %from.peer, %broken, "a node is gone");
                if let Some(closing) = broken.closing() {
                    // A node that does not take it finds the stream ended.
                    let _ = tokio::time::timeout(LAST_WORD, outlet.close(closing)).await;
                }
            }
            Ok(FromNode::Request(asked)) => {
                let result = match self.admit(from).await {
                    Ok(()) => request::answer(self, from, asked).await,
                    Err(refused) => {
                        let code = if matches!(refused, Broken::NoMember(_)) { 403 } else { 503 };
                        Err(Failure { code, message: refused.to_string() })
                    }
                };
                let reply = Reply { result };
                let answered = async {
                    say(&mut write, &reply.into()).await?;
                    write.shutdown().await.map_err(Broken::from)
                };
                match tokio::time::timeout(LAST_WORD, answered).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(node = %from.node, %error, "an answer did not arrive"),
                    Err(_) => tracing::debug!(node = %from.node, "an answer was not taken"),
                }
            }
            Ok(_) => tracing::debug!(node = %from.node, "a stream began out of turn"),
            Err(error) => {
                tracing::debug!(node = %from.node, %error, "a stream began with what is no message")
            }
        }
    }

    /// Lets members pass, once it is known here who they are.
    async fn admit(&self, from: &Verified) -> Result<(), Broken> {
        let mut ready = self.cache.ready();
        let waited = tokio::time::timeout(READY, ready.wait_for(|ready| *ready)).await;
        waited.map_err(|_| Broken::NotReady)?.map_err(|_| Broken::NotReady)?;
        Ok(self.await_member(from).await?)
    }

    /// Holds a member's session to its end.
    async fn hold<R, W>(&self, from: &Verified, hello: Hello, read: R, outlet: &mut Outlet<W>) -> Broken
    where
        R: AsyncRead + Send + Unpin,
        W: AsyncWrite + Send + Unpin,
    {
        let end = self.enter(from);
        tracing::info!(node = %from.node, release = hello.release, "a node is connected");
        let serve = Serve { shared: self, node: from };
        let broken = tokio::select! {
            broken = serve.hold(hello, read, outlet) => broken,
            () = end.cancelled() => self.require_member(from).map_or_else(Broken::from, |()| Broken::Ended),
        };
        self.leave(&from.node, &end);
        broken
    }

    /// Makes this the node's session; an older one, which the node has given up or is about to, ends.
    fn enter(&self, from: &Verified) -> CancellationToken {
        let own = CancellationToken::new();
        let mut sessions = self.sessions();
        let held = Held { peer: from.peer, end: own.clone() };
        if let Some(older) = sessions.insert(from.node.clone(), held) {
            older.end.cancel();
        }
        self.metrics.opened.inc();
        self.metrics.sessions.set(i64::try_from(sessions.len()).unwrap_or(i64::MAX));
        own
    }

    fn leave(&self, node: &NodeName, own: &CancellationToken) {
        let mut sessions = self.sessions();
        // A session that was replaced finds another one in its place.
        if !own.is_cancelled() {
            sessions.remove(node);
        }
        self.metrics.sessions.set(i64::try_from(sessions.len()).unwrap_or(i64::MAX));
    }

    /// Ends the sessions of those who are no members any more.
    fn expel_all_but(&self, is_member: impl Fn(&NodeName, &PeerId) -> bool) {
        self.sessions().retain(|node, held| {
            let stays = is_member(node, &held.peer);
            if !stays {
                tracing::info!(%node, peer = %held.peer, "no member any more; its session ends");
                held.end.cancel();
            }
            stays
        });
    }

    // A poisoned lock guards a map that every holder leaves whole.
    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<NodeName, Held>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
