//! edged: the pods of this node, brought to what the cloud wants of them through the container runtime.
//!
//! ```text
//! store ──changes──> Edged ──wanted──> Worker (one a pod) ──CRI──> runtime
//!                      ^                  └──status, events──> outbox
//!                      └──relist (1 s)──────────────────────── runtime
//! ```
//! Everything is level-triggered: a worker compares what is wanted with what the runtime holds, whoever made
//! it. So a restart adopts what runs, and what changed while nobody looked is found at the next look.

pub mod backoff;
pub mod cgroup;
pub mod cluster;
pub mod container;
pub mod context;
pub mod dns;
pub mod env;
pub mod events;
pub mod fields;
pub mod gc;
mod gone;
pub mod image_name;
pub mod images;
pub mod last_words;
pub mod log_rotation;
pub mod metrics;
pub mod objects;
pub mod observed;
pub mod plan;
pub mod pod;
pub mod probes;
pub mod pull_secrets;
pub mod resources;
pub mod runtime;
pub mod sandbox;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod worker;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use edgeloom_api::kind::{self, Kind};
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::cluster::{Change, Report};
use self::gone::Gone;
use self::pod::{Pod, PodId};
use self::runtime::Summary;
use self::worker::{Wanted, Worker};
use crate::cri::CriError;
use crate::volumes::payload;

pub use self::context::Node;
pub use self::gc::run as collect_garbage;
pub use self::images::Images;
pub use self::log_rotation::Rotation;
pub use self::log_rotation::run as rotate_logs;
pub use self::metrics::Metrics;
pub use self::runtime::Runtime;

/// How often the runtime is asked for everything: kubelet's interval, and what a crash costs at most.
const RELIST: Duration = Duration::from_secs(1);
/// How long a worker that panicked rests.
const AFTER_PANIC: Duration = Duration::from_secs(5);

static WATCHED: [&Kind; 4] = [&kind::NODE, &kind::CONFIG_MAP, &kind::SECRET, &kind::POD];

/// The pods of the node.
pub struct Edged {
    node: Arc<Node>,
    cancel: CancellationToken,
    workers: HashMap<String, Handle>,
    tasks: JoinSet<String>,
    /// The listing under way, if one is: a runtime that does not answer must not hold up the rest.
    listing: JoinSet<Result<BTreeMap<String, Summary>, CriError>>,
    /// Uids by namespace and name, as the cloud wants them.
    wanted: HashMap<(String, String), String>,
    gone: Gone,
    /// What the cloud is told of them again.
    telling: JoinSet<()>,
    fingerprints: HashMap<String, u64>,
    synced: bool,
    /// Why the runtime did not answer, when it last did not.
    deaf: Option<String>,
    /// Whether directories of pods that nobody knows were removed.
    swept: bool,
}

/// A worker, as the manager holds it.
struct Handle {
    wanted: watch::Sender<Wanted>,
    poke: Arc<Notify>,
    task: tokio::task::AbortHandle,
    id: PodId,
}

impl Edged {
    /// Runs the node's pods until `cancel`; they go on running after it.
    pub async fn run(node: Arc<Node>, cancel: CancellationToken) {
        let mut changes = node.cluster.subscribe(&WATCHED);
        let mut edged = Self::new(node, cancel.clone());
        let mut relist = tokio::time::interval(RELIST);
        relist.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                change = changes.next() => edged.change(change),
                Some(ended) = edged.tasks.join_next_with_id() => edged.ended(ended),
                Some(listed) = edged.listing.join_next() => edged.listed(listed),
                _ = relist.tick() => edged.relist(),
            }
        }
        // Each worker hears of `cancel` itself and leaves its pod as it is.
        while edged.tasks.join_next().await.is_some() {}
        while edged.telling.join_next().await.is_some() {}
    }

    fn new(node: Arc<Node>, cancel: CancellationToken) -> Self {
        Self {
            node,
            cancel,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            listing: JoinSet::new(),
            wanted: HashMap::new(),
            gone: Gone::default(),
            telling: JoinSet::new(),
            fingerprints: HashMap::new(),
            synced: false,
            deaf: None,
            swept: false,
        }
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Synced => self.synced = true,
            Change::Put(object) => match object["kind"].as_str() {
                Some("Pod") => self.put_pod(&object),
                Some("Node") => self.node_changed(&object),
                Some("ConfigMap") => self.data_changed(&kind::CONFIG_MAP, &object),
                Some("Secret") => self.data_changed(&kind::SECRET, &object),
                _ => {}
            },
            Change::Delete { kind, namespace, name } if kind.kind == "Pod" => {
                if let Some(uid) = self.wanted.remove(&(namespace, name)) {
                    self.gone.forget(&uid);
                    if let Some(handle) = self.workers.get(&uid) {
                        handle.wanted.send_replace(Wanted::Nothing);
                    }
                }
            }
            Change::Delete { .. } => {}
        }
    }

    fn put_pod(&mut self, object: &Arc<Value>) {
        let pod = match Pod::parse(object) {
            Ok(pod) => Arc::new(pod),
            Err(error) => {
                tracing::error!(%error, "the pod cannot be run; correct it and apply it again");
                return;
            }
        };
        let facts = self.node.facts.load();
        if pod.spec.node_name.as_deref().is_some_and(|name| name != facts.node) {
            return;
        }
        drop(facts);
        let key = (pod.id.namespace.clone(), pod.id.name.clone());
        let before = self.wanted.insert(key, pod.id.uid.clone());
        if let Some(before) = before.filter(|before| *before != pod.id.uid) {
            self.gone.forget(&before);
            if let Some(handle) = self.workers.get(&before) {
                handle.wanted.send_replace(Wanted::Nothing);
            }
        }
        if self.gone.contains(&pod.id.uid) {
            return;
        }
        match self.workers.get(&pod.id.uid) {
            Some(handle) => {
                handle.wanted.send_replace(Wanted::Pod(pod));
            }
            None => self.spawn(pod.id.clone(), Wanted::Pod(pod), Duration::ZERO),
        }
    }

    fn node_changed(&self, object: &Value) {
        let facts = self.node.facts.load();
        if object["metadata"]["name"] != facts.node {
            return;
        }
        let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
        let labels: BTreeMap<String, String> =
            labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
        if labels != facts.node_labels {
            let facts = fields::Facts { node_labels: labels, ..fields::Facts::clone(&facts) };
            self.node.facts.store(Arc::new(facts));
        }
    }

    /// Has the pods that show this object look again.
    fn data_changed(&self, kind: &'static Kind, object: &Value) {
        self.node.data.fetch_add(1, Ordering::AcqRel);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        for handle in self.workers.values() {
            let refers = match &*handle.wanted.borrow() {
                Wanted::Pod(pod) => {
                    object["metadata"]["namespace"] == *pod.id.namespace
                        && payload::references(pod).iter().any(|(k, n)| *k == kind && n == name)
                }
                Wanted::Nothing => false,
            };
            if refers {
                handle.poke.notify_one();
            }
        }
    }

    fn spawn(&mut self, id: PodId, wanted: Wanted, rest: Duration) {
        let (sender, receiver) = watch::channel(wanted);
        let poke = Arc::new(Notify::new());
        let worker = Worker::new(Arc::clone(&self.node), id.clone(), receiver, Arc::clone(&poke));
        let cancel = self.cancel.clone();
        let uid = id.uid.clone();
        let task = self.tasks.spawn(async move {
            tokio::time::sleep(rest).await;
            worker.run(cancel).await;
            uid
        });
        self.workers.insert(id.uid.clone(), Handle { wanted: sender, poke, task, id });
    }

    fn ended(&mut self, ended: Result<(tokio::task::Id, String), JoinError>) {
        match ended {
            Ok((_, uid)) => {
                let Some(handle) = self.workers.remove(&uid) else { return };
                self.fingerprints.remove(&uid);
                let key = (handle.id.namespace.clone(), handle.id.name.clone());
                if self.wanted.get(&key) != Some(&uid) {
                    return;
                }
                let wanted = handle.wanted.borrow().clone();
                match wanted {
                    // Wanted again, by the time that it had ended.
                    Wanted::Pod(pod) if !pod.is_deleted() => {
                        self.spawn(handle.id, Wanted::Pod(pod), Duration::ZERO);
                    }
                    _ => self.gone.insert(handle.id, Instant::now()),
                }
            }
            Err(error) => {
                let found = self.workers.iter().find(|(_, handle)| handle.task.id() == error.id());
                let Some(uid) = found.map(|(uid, _)| uid.clone()) else { return };
                let Some(handle) = self.workers.remove(&uid) else { return };
                tracing::error!(pod = %handle.id, %error, "a pod's worker failed and is started again");
                let wanted = handle.wanted.borrow().clone();
                self.spawn(handle.id, wanted, AFTER_PANIC);
            }
        }
    }

    fn relist(&mut self) {
        self.node.metrics.pods.set(i64::try_from(self.workers.len()).unwrap_or(i64::MAX));
        self.tell_of_gone();
        if self.listing.is_empty() {
            let node = Arc::clone(&self.node);
            self.listing.spawn(async move {
                let _timer = node.metrics.relist_seconds.start_timer();
                node.runtime.summary().await
            });
        }
    }

    /// Tells the cloud again of pods that have ended here long ago and still stand there.
    fn tell_of_gone(&mut self) {
        while self.telling.try_join_next().is_some() {}
        // Told while the cloud is away, it would only wear the disk.
        if !self.telling.is_empty() || !self.node.cluster.is_connected() {
            return;
        }
        let due = self.gone.due(Instant::now());
        if due.is_empty() {
            return;
        }
        let node = Arc::clone(&self.node);
        self.telling.spawn(async move {
            for PodId { namespace, name, uid } in due {
                tracing::info!(namespace, name, uid, "the cloud is told again that this pod has ended");
                if let Err(error) = node.cluster.report(Report::PodGone { namespace, name, uid }).await {
                    tracing::warn!(%error, "the end of a pod was not told");
                }
            }
        });
    }

    fn listed(&mut self, listed: Result<Result<BTreeMap<String, Summary>, CriError>, JoinError>) {
        let failed = match listed {
            Ok(Ok(all)) => {
                if self.deaf.take().is_some() {
                    tracing::info!("the container runtime answers again");
                }
                return self.compare(all);
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.node.metrics.relist_failures.inc();
        if self.deaf.as_ref() != Some(&failed) {
            tracing::error!(error = failed, "pods cannot be looked after");
            self.deaf = Some(failed);
        }
    }

    fn compare(&mut self, all: BTreeMap<String, Summary>) {
        for (uid, handle) in &self.workers {
            let now = all.get(uid).map(|summary| summary.fingerprint);
            let before = match now {
                Some(now) => self.fingerprints.insert(uid.clone(), now),
                None => self.fingerprints.remove(uid),
            };
            if now != before {
                handle.poke.notify_one();
            }
        }
        if !self.synced {
            return;
        }
        if !std::mem::replace(&mut self.swept, true) {
            let known = all.keys().chain(self.workers.keys()).map(String::as_str).collect();
            gc::remove_unknown_directories(&self.node, &known);
        }
        for (uid, summary) in all {
            if !self.workers.contains_key(&uid) {
                tracing::info!(pod = %summary.id, "the cloud does not want this pod: it is ended");
                self.spawn(summary.id, Wanted::Nothing, Duration::ZERO);
            }
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
#[path = "live_tests.rs"]
pub(crate) mod live_tests;
