//! The node's side of `hub/1`: one session with the control after the other, for ever.
//!
//! One task dials, holds a session ([`link`]) until it breaks, and dials again after a jittered pause; one follows
//! the EdgeNodes and tells the overlay who is a member; one renews the credential. They end with
//! [`Session::shutdown`].

mod link;
mod renewal;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use edgeloom_api::hub::{Answer, Failure, FromControl, FromNode, Request};
use edgeloom_api::kind::{EDGE_NODE, REVOCATION, SITE};
use edgeloom_api::message::MAX_MESSAGE;
use edgeloom_tunnel::frames;
use edgeloom_tunnel::identity::TrustError;
use prometheus::Registry;
use rand::Rng as _;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::members;
use crate::membership::Membership;
use crate::metastore::Metastore;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::overlay::{Overlay, Pipe};
use link::Link;

/// How long a question may take.
const ANSWER: Duration = Duration::from_secs(15);
/// How long changes of members are gathered before the overlay is told.
const SETTLE: Duration = Duration::from_millis(20);

/// Why a request has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no session with the control.
    #[error("the control is not connected")]
    Disconnected,
    /// The control did not answer in time.
    #[error("the control did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The control or the API said no.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The answer was not one to the question, or none at all.
    #[error("the control's answer: {0}")]
    Answer(String),
}

/// Why a session cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The CA is not usable.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The metrics are registered already.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Pauses before dialling again; each is drawn between half and all of what it grew to.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The first pause.
    pub min: Duration,
    /// The longest: how late a node may notice that the control is back.
    pub max: Duration,
}

impl Default for Pace {
    /// Ten thousand nodes that dial within four seconds are 2,500 handshakes a second.
    fn default() -> Self {
        Self { min: Duration::from_millis(200), max: Duration::from_secs(4) }
    }
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Away,
    Connected,
    Synced,
}

/// Handle to the session; clones share it.
#[derive(Clone, Debug)]
pub struct Session(Arc<Shared>);

struct Shared {
    overlay: Arc<dyn Overlay>,
    store: Metastore,
    outbox: Outbox,
    metrics: Metrics,
    connected: watch::Sender<bool>,
    synced: watch::Sender<bool>,
    /// Changes when the control is to be told that the node is well.
    beat: watch::Sender<()>,
    takes_beats: AtomicBool,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("connected", &self.connected).finish_non_exhaustive()
    }
}

impl Session {
    /// Starts the session of a node that has joined. It needs a tokio runtime.
    pub fn start(
        membership: Membership,
        overlay: Arc<dyn Overlay>,
        store: Metastore,
        outbox: Outbox,
        registry: &Registry,
    ) -> Result<Self, SessionError> {
        Self::start_with(Pace::default(), membership, overlay, store, outbox, registry)
    }

    /// [`Session::start`] with other pauses.
    pub fn start_with(
        pace: Pace,
        membership: Membership,
        overlay: Arc<dyn Overlay>,
        store: Metastore,
        outbox: Outbox,
        registry: &Registry,
    ) -> Result<Self, SessionError> {
        membership.trust()?;
        let shared = Shared {
            overlay,
            store,
            outbox,
            metrics: Metrics::new(registry)?,
            connected: watch::Sender::new(false),
            synced: watch::Sender::new(false),
            beat: watch::Sender::new(()),
            takes_beats: AtomicBool::new(false),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let session = Self(Arc::new(shared));
        session.spawn(session.clone().dial_for_ever(pace));
        session.spawn(session.clone().follow_members(membership.clone()));
        session.spawn(renewal::run(session.clone(), membership));
        session.0.tasks.close();
        Ok(session)
    }

    /// Whether there is a session with the control, and when that changes.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.0.connected.subscribe()
    }

    /// Whether the metastore holds what the control does, but for changes on their way; and when that changes.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.0.synced.subscribe()
    }

    /// Has the control renew the node's Lease. False where it does not do that: there is no session, or it is older.
    pub fn beat(&self) -> bool {
        let taken = *self.0.connected.borrow() && self.0.takes_beats.load(Ordering::Relaxed);
        if taken {
            self.0.beat.send_replace(());
        }
        taken
    }

    /// Asks the control for an object and waits for it; fails at once where there is no session.
    pub async fn request(&self, request: Request) -> Result<Value, RequestError> {
        match self.ask(request).await? {
            Answer::Object(object) => Ok(object),
            Answer::Credential(_) => {
                Err(RequestError::Answer("a credential where an object was expected".to_owned()))
            }
        }
    }

    /// Ends the tasks and waits for them. What the outbox holds stays for the next start.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.wait().await;
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.0.stop.clone();
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = stop.cancelled() => {}
            }
        });
    }

    async fn ask(&self, request: Request) -> Result<Answer, RequestError> {
        if !*self.0.connected.borrow() {
            return Err(RequestError::Disconnected);
        }
        tokio::time::timeout(ANSWER, self.ask_now(request))
            .await
            .map_err(|_| RequestError::Timeout(ANSWER))?
    }

    async fn ask_now(&self, request: Request) -> Result<Answer, RequestError> {
        let broken = |error: &dyn std::fmt::Display| RequestError::Answer(error.to_string());
        let Pipe { mut read, mut write } =
            self.0.overlay.open_hub().await.map_err(|_| RequestError::Disconnected)?;
        let bytes = FromNode::Request(request).encode().map_err(|error| broken(&error))?;
        frames::write(&mut write, &bytes).await.map_err(|_| RequestError::Disconnected)?;
        let answer = frames::read(&mut read, MAX_MESSAGE).await.map_err(|error| broken(&error))?;
        let answer = answer.ok_or(RequestError::Disconnected)?;
        match FromControl::decode(&answer).map_err(|error| broken(&error))? {
            FromControl::Reply(reply) => Ok(reply.result?),
            _ => Err(RequestError::Answer("it is no reply".to_owned())),
        }
    }

    async fn dial_for_ever(self, pace: Pace) {
        let mut pause = pace.min;
        loop {
            let reached = self.dial_once().await;
            self.stage(Stage::Away);
            // A session that stood is followed by a quick try; what fails again and again, by slower ones.
            pause = if reached == Stage::Synced { pace.min } else { (pause * 2).min(pace.max) };
            let jittered = rand::rng().random_range(pause / 2..=pause);
            tokio::time::sleep(jittered).await;
        }
    }

    /// Holds one session until it breaks; says how far it came.
    async fn dial_once(&self) -> Stage {
        let pipe = match self.0.overlay.open_hub().await {
            Ok(pipe) => pipe,
            Err(error) => {
                tracing::debug!(%error, "the control is not reached");
                return Stage::Away;
            }
        };
        let link = Link { session: self };
        let broken = link.hold(pipe).await;
        let reached = self.reached();
        if broken.needs_the_operator() {
            tracing::error!(%broken, "the cluster does not take this node for a member");
        } else {
            tracing::info!(%broken, "the session with the control ended");
        }
        reached
    }

    fn reached(&self) -> Stage {
        match (*self.0.connected.borrow(), *self.0.synced.borrow()) {
            (_, true) => Stage::Synced,
            (true, false) => Stage::Connected,
            (false, false) => Stage::Away,
        }
    }

    fn stage(&self, stage: Stage) {
        let set = |sender: &watch::Sender<bool>, value: bool| {
            sender.send_if_modified(|current| std::mem::replace(current, value) != value);
        };
        set(&self.0.connected, stage >= Stage::Connected);
        set(&self.0.synced, stage >= Stage::Synced);
        self.0.metrics.connected.set(i64::from(stage >= Stage::Connected));
    }

    /// Tells the overlay who is a member and what the site allows, now and whenever it changes.
    async fn follow_members(self, membership: Membership) {
        let mut changes = self.0.store.subscribe(&[&EDGE_NODE, &REVOCATION, &SITE]);
        let mut told = None;
        loop {
            while changes.try_next().is_some() {}
            let members = members::of(&self.0.store, &membership.node).with(&membership);
            if told.as_ref() != Some(&members) {
                if let Ok(trust) = membership.trust() {
                    self.0.overlay.set_trust(trust.with_revoked(members.revoked.clone()));
                }
                self.0.overlay.set_relays(members.relays.clone());
                self.0.overlay.set_peers(members.peers.clone());
                told = Some(members);
            }
            if let Some(bounds) = members::bounds(&self.0.store, &membership.site) {
                self.0.overlay.set_bounds(bounds);
            }
            changes.next().await;
            tokio::time::sleep(SETTLE).await;
        }
    }
}
