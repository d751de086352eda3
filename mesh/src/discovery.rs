//! Keeps the model: follows the node's store of objects, and publishes a snapshot after each batch of
//! changes.
//!
//! Works the same with the cloud gone: what the store has on disk is all there is to begin with.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use edgeloom_api::kind::{EDGE_NODE, ENDPOINT_SLICE, Kind, NODE, POD, SERVICE};
use edgeloom_client::{Change, Subscription};
use edgeloom_model::{Counts, Family, Model, NodeName, ObjectKind};
use prometheus::{IntCounter, IntGaugeVec, Opts, Registry};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::snapshot::{Place, Snapshot};

/// The kinds that discovery follows.
pub(crate) static KINDS: [&Kind; 5] = [&SERVICE, &ENDPOINT_SLICE, &EDGE_NODE, &NODE, &POD];

/// How long changes are gathered before they are published: a rollout comes as a burst, and a single
/// change may wait this long of the 250 ms that it has from the API to the datapath.
const GATHER: Duration = Duration::from_millis(5);

/// Follows the store.
pub(crate) struct Discovery {
    pub(crate) place: Arc<Place>,
    /// The node's own addresses.
    pub(crate) addresses: watch::Receiver<Vec<IpAddr>>,
    /// Nodes of the own site whose pods answer by their own addresses of a family.
    pub(crate) routed: watch::Receiver<BTreeSet<(NodeName, Family)>>,
    /// Where the newest snapshot is found.
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    /// Counts the snapshots, to wake who renders them; 0 until there is a complete one.
    pub(crate) published: watch::Sender<u64>,
    pub(crate) metrics: Metrics,
}

impl Discovery {
    /// Runs until `stop` is cancelled.
    pub(crate) async fn run(mut self, mut changes: Subscription, stop: CancellationToken) {
        let mut model = Arc::new(Model::default());
        let (mut complete, mut due) = (false, None);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = wait(due), if complete && due.is_some() => {
                    due = None;
                    self.publish(&model);
                }
                change = changes.next() => {
                    complete |= change == Change::Synced;
                    if self.take(&mut model, &change) {
                        due.get_or_insert_with(|| Instant::now() + GATHER);
                    }
                }
                Ok(()) = self.addresses.changed() => due = Some(Instant::now()),
                Ok(()) = self.routed.changed() => due = Some(Instant::now()),
            }
        }
    }

    /// Takes a change in; says whether there is something new to publish.
    fn take(&self, model: &mut Arc<Model>, change: &Change) -> bool {
        match change {
            Change::Synced => true,
            Change::Put(object) => match Arc::make_mut(model).put(object) {
                Ok(changed) => changed,
                Err(error) => {
                    self.metrics.refused.inc();
                    tracing::warn!(%error, "an object is passed over, its last good version stays");
                    false
                }
            },
            Change::Delete { kind, namespace, name, .. } => {
                let known = ObjectKind::find(&kind.api_version(), kind.kind);
                known.is_some_and(|kind| Arc::make_mut(model).delete(kind, namespace, name))
            }
        }
    }

    fn publish(&mut self, model: &Arc<Model>) {
        self.metrics.sizes(model.counts());
        self.snapshot.store(Arc::new(Snapshot {
            place: self.place.clone(),
            model: model.clone(),
            routed: self.routed.borrow_and_update().clone(),
            addresses: self.addresses.borrow_and_update().clone(),
        }));
        self.published.send_modify(|count| *count += 1);
    }
}

async fn wait(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What discovery counts.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    objects: IntGaugeVec,
    refused: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let objects = Opts::new("edgeloom_mesh_objects", "What the mesh's model holds, by kind.");
        let objects = IntGaugeVec::new(objects, &["kind"])?;
        registry.register(Box::new(objects.clone()))?;
        let refused = IntCounter::new(
            "edgeloom_mesh_objects_refused_total",
            "Objects that were malformed and passed over.",
        )?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self { objects, refused })
    }

    fn sizes(&self, counts: Counts) {
        let Counts { services, slices, endpoints, members } = counts;
        let sizes = [("service", services), ("slice", slices), ("endpoint", endpoints), ("member", members)];
        for (kind, size) in sizes {
            self.objects.with_label_values(&[kind]).set(i64::try_from(size).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use edgeloom_client::{Metastore, Update};
    use edgeloom_model::Site;
    use serde_json::{Value, json};

    use super::*;

    fn service(name: &str, ip: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
               "spec": {"clusterIPs": [ip], "ports": [{"port": 80}]}})
    }

    struct Bench {
        store: Metastore,
        snapshot: Arc<ArcSwap<Snapshot>>,
        published: watch::Receiver<u64>,
        _addresses: watch::Sender<Vec<IpAddr>>,
        routed: watch::Sender<BTreeSet<(NodeName, Family)>>,
        metrics: Metrics,
        _folder: tempfile::TempDir,
    }

    async fn bench(objects: Vec<Value>) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let store = Metastore::open(folder.path().join("store.db")).unwrap();
        store.apply(objects.into_iter().map(Update::Put).collect()).await.unwrap();
        let (node, site) = (NodeName::new("a1").unwrap(), Site::new("a").unwrap());
        let place = Arc::new(Place { node, site, exports: Vec::new() });
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::empty(place.clone())));
        let (addresses, addresses_seen) = watch::channel(Vec::new());
        let (routed, routed_seen) = watch::channel(BTreeSet::new());
        let (published, published_seen) = watch::channel(0);
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let discovery = Discovery {
            place,
            addresses: addresses_seen,
            routed: routed_seen,
            snapshot: snapshot.clone(),
            published,
            metrics: metrics.clone(),
        };
        tokio::spawn(discovery.run(store.subscribe(&KINDS), CancellationToken::new()));
        Bench {
            store,
            snapshot,
            published: published_seen,
            _addresses: addresses,
            routed,
            metrics,
            _folder: folder,
        }
    }

    #[tokio::test]
    async fn the_first_snapshot_is_complete_and_each_change_makes_another() {
        let many =
            (0..500u32).map(|i| service(&format!("s{i}"), &format!("10.96.{}.{}", i / 250, i % 250 + 1)));
        let mut bench = bench(many.collect()).await;
        bench.published.changed().await.unwrap();
        assert_eq!(bench.snapshot.load().model.counts().services, 500);
        bench.store.apply(vec![Update::Put(service("new", "10.96.9.9"))]).await.unwrap();
        bench.published.changed().await.unwrap();
        assert_eq!(bench.snapshot.load().model.counts().services, 501);
        bench.routed.send_replace([(NodeName::new("a2").unwrap(), Family::V4)].into());
        bench.published.changed().await.unwrap();
        assert_eq!(bench.snapshot.load().routed.len(), 1);
    }

    #[tokio::test]
    async fn a_malformed_object_is_counted_and_nothing_else_is_lost() {
        let mut bench = bench(vec![service("bad", "10.96.0.300"), service("good", "10.96.0.1")]).await;
        bench.published.changed().await.unwrap();
        assert_eq!(bench.snapshot.load().model.counts().services, 1);
        assert_eq!(bench.metrics.refused.get(), 1);
    }
}
