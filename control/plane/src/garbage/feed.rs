//! What the garbage collector sees: the metadata of every kind, watched, kinds that come and go included.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt;
use kube::Client;
use kube::api::{Api, DynamicObject, PartialObjectMeta};
use kube::core::ApiResource;
use kube::discovery::{Discovery, verbs};
use kube::runtime::{WatchStreamExt, watcher};
use tokio_util::sync::CancellationToken;

use super::{Controller, Graph};
use crate::events::Events;
use crate::queue::Queue;
use crate::watch::Watches;

/// How often new kinds are looked for; a kind that came is collected so much later.
const KINDS: Duration = Duration::from_secs(30);
/// Kinds that own nothing, are owned by nothing that matters, and change all the time.
const LEFT_OUT: [&str; 1] = ["Event"];

/// The collector and its queue, fed by watches that run as tasks of `watches`.
pub(crate) fn start(client: &Client, watches: &Watches) -> (Controller, Arc<Queue<String>>) {
    let graph = Arc::new(Mutex::new(Graph::default()));
    let queue = Arc::new(Queue::new());
    let feeder = Feeder {
        client: client.clone(),
        watches: watches.clone(),
        graph: graph.clone(),
        queue: queue.clone(),
    };
    watches.tasks.spawn(feeder.run());
    let events = Events::new(client.clone(), "garbage-collector-controller");
    (Controller { client: client.clone(), graph, queue: queue.clone(), events }, queue)
}

#[derive(Clone)]
struct Feeder {
    client: Client,
    watches: Watches,
    graph: Arc<Mutex<Graph>>,
    queue: Arc<Queue<String>>,
}

impl Feeder {
    /// Keeps one watch for each kind that is served.
    async fn run(self) {
        let mut watched: HashMap<String, CancellationToken> = HashMap::new();
        loop {
            match self.kinds().await {
                Ok(kinds) => self.adjust(&mut watched, kinds),
                Err(error) => tracing::warn!(%error, "listing the kinds to collect; trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(KINDS) => {}
                () = self.watches.stop.cancelled() => return,
            }
        }
    }

    async fn kinds(&self) -> Result<Vec<ApiResource>, kube::Error> {
        let discovery = Discovery::new(self.client.clone()).run().await?;
        let all = discovery.groups().flat_map(|group| group.recommended_resources());
        let kept = all.filter(|(resource, capabilities)| {
            capabilities.supports_operation(verbs::WATCH) && !LEFT_OUT.contains(&resource.kind.as_str())
        });
        Ok(kept.map(|(resource, _)| resource).collect())
    }

    fn adjust(&self, watched: &mut HashMap<String, CancellationToken>, kinds: Vec<ApiResource>) {
        let name = |kind: &ApiResource| format!("{}/{}", kind.api_version, kind.plural);
        let served: HashSet<String> = kinds.iter().map(name).collect();
        watched.retain(|kind, stop| {
            let kept = served.contains(kind);
            if !kept {
                stop.cancel();
            }
            kept
        });
        for kind in kinds {
            watched.entry(name(&kind)).or_insert_with(|| {
                let stop = self.watches.stop.child_token();
                self.watches.tasks.spawn(self.clone().watch(kind, stop.clone()));
                stop
            });
        }
    }

    async fn watch(self, kind: ApiResource, stop: CancellationToken) {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.client.clone(), &kind);
        let events = watcher(api, watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut before = HashSet::new();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = stop.cancelled() => break,
            };
            match event {
                Some(Ok(event)) => self.take(&kind, event, &mut before),
                Some(Err(error)) => tracing::debug!(kind = kind.kind, %error, "watching metadata"),
                None => break,
            }
        }
        // The kind is not served any more, or the collector ends: what it had may be gone, or not.
        let mut graph = self.graph();
        let kind = graph.of_kind(&kind);
        let concerned: Vec<String> = kind.iter().flat_map(|uid| graph.forget(uid)).collect();
        drop(graph);
        self.add(concerned);
    }

    fn take(
        &self,
        kind: &ApiResource,
        event: watcher::Event<PartialObjectMeta<DynamicObject>>,
        before: &mut HashSet<String>,
    ) {
        match event {
            watcher::Event::Init => *before = self.graph().of_kind(kind),
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                object.metadata.uid.as_ref().map(|uid| before.remove(uid));
                let concerned = self.graph().put(kind, object.metadata);
                self.add(concerned);
            }
            watcher::Event::InitDone => std::mem::take(before).iter().for_each(|uid| self.gone(uid)),
            watcher::Event::Delete(object) => {
                if let Some(uid) = object.metadata.uid {
                    self.gone(&uid);
                }
            }
        }
    }

    fn gone(&self, uid: &str) {
        let concerned = self.graph().remove(uid);
        self.add(concerned);
    }

    fn add(&self, keys: Vec<String>) {
        keys.into_iter().for_each(|key| self.queue.add(key));
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().expect("no holder of this lock panics")
    }
}
