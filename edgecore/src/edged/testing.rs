//! A cluster in memory and a node of it, for tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use edgeloom_api::kind::Kind;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::cluster::{Change, Changes, Cluster, ClusterError, Report};
use super::events::Recorder;
use super::fields::Facts;
use super::observed::{Instance, State};
use super::{Images, Metrics, Node, Runtime};
use crate::cri::Cri;

/// The node `edge-t` with its state below `root`; the runtime at `socket` need not be there.
pub(crate) fn node(memory: &Arc<Memory>, socket: &Path, root: &Path) -> Node {
    let cluster: Arc<dyn Cluster> = Arc::clone(memory) as _;
    let cri = Cri::new(socket).unwrap();
    let recorder = Arc::new(Recorder::new(Arc::clone(&cluster), "edge-t"));
    let facts = Facts { node: "edge-t".into(), host_ips: vec!["192.168.77.2".into()], ..Facts::default() };
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    Node {
        images: Images::new(cri.clone(), Arc::clone(&cluster), Arc::clone(&recorder), metrics.clone()),
        metrics,
        cluster,
        recorder,
        runtime: Runtime::new(cri),
        facts: ArcSwap::from_pointee(facts),
        pods: root.join("pods"),
        log_root: PathBuf::from("/var/log/pods"),
        cgroup_root: "/kubepods".into(),
        cluster_servers: vec!["169.254.96.16".into()],
        cluster_domain: "cluster.local".into(),
        resolv_conf: "/etc/resolv.conf".into(),
        memory: 1 << 30,
        data: 0.into(),
    }
}

/// A container `name` whose id is its name and its attempt.
pub(crate) fn instance(name: &str, attempt: u32, state: State, exit_code: i32) -> Instance {
    Instance {
        id: format!("{name}{attempt}"),
        name: name.into(),
        sandbox: "p".into(),
        attempt,
        state,
        created: i64::from(attempt) + 1,
        started: 1_700_000_000_000_000_000,
        finished: if state == State::Exited { 1_700_000_001_000_000_000 } else { 0 },
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "docker.io/library/x:1".into(),
        image_ref: "docker.io/library/x@sha256:00".into(),
        hash: String::new(),
        grace: None,
        log_path: String::new(),
    }
}

type Key = (&'static str, String, String);

#[derive(Default)]
pub(crate) struct Memory {
    objects: Mutex<BTreeMap<Key, Arc<Value>>>,
    followers: Mutex<Vec<mpsc::UnboundedSender<Change>>>,
    pub(crate) reports: Mutex<Vec<Report>>,
    pub(crate) offline: std::sync::atomic::AtomicBool,
    pub(crate) takes_beats: std::sync::atomic::AtomicBool,
    pub(crate) beats: std::sync::atomic::AtomicUsize,
}

impl Memory {
    pub(crate) fn put(&self, kind: &'static Kind, object: Value) {
        let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
        let object = Arc::new(object.clone());
        let key = (kind.kind, field("namespace"), field("name"));
        self.objects.lock().unwrap().insert(key, Arc::clone(&object));
        self.followers.lock().unwrap().retain(|f| f.send(Change::Put(Arc::clone(&object))).is_ok());
    }
}

impl Memory {
    /// The pod of this name.
    pub(crate) fn list_one(&self, name: &str) -> Arc<Value> {
        self.get(&edgeloom_api::kind::POD, "shop", name).unwrap().unwrap()
    }

    /// Removes every pod.
    pub(crate) fn clear(&self) {
        let mut objects = self.objects.lock().unwrap();
        let pods: Vec<Key> = objects.keys().filter(|key| key.0 == "Pod").cloned().collect();
        for key in pods {
            objects.remove(&key);
            let kind = &edgeloom_api::kind::POD;
            let change = Change::Delete { kind, namespace: key.1, name: key.2 };
            self.followers.lock().unwrap().retain(|f| f.send(change.clone()).is_ok());
        }
    }
}

struct Follower(mpsc::UnboundedReceiver<Change>);

impl Changes for Follower {
    fn next(&mut self) -> BoxFuture<'_, Change> {
        async {
            match self.0.recv().await {
                Some(change) => change,
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}

impl Cluster for Memory {
    fn get(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, ClusterError> {
        let key = (kind.kind, namespace.to_owned(), name.to_owned());
        Ok(self.objects.lock().unwrap().get(&key).cloned())
    }

    fn list(&self, kind: &'static Kind) -> Result<Vec<Arc<Value>>, ClusterError> {
        let objects = self.objects.lock().unwrap();
        Ok(objects
            .iter()
            .filter(|(key, _)| key.0 == kind.kind)
            .map(|(_, object)| Arc::clone(object))
            .collect())
    }

    fn subscribe(&self, kinds: &[&'static Kind]) -> Box<dyn Changes> {
        let (sender, receiver) = mpsc::unbounded_channel();
        for object in kinds.iter().flat_map(|kind| self.list(kind).unwrap()) {
            sender.send(Change::Put(object)).unwrap();
        }
        sender.send(Change::Synced).unwrap();
        self.followers.lock().unwrap().push(sender);
        Box::new(Follower(receiver))
    }

    fn report(&self, report: Report) -> BoxFuture<'_, Result<(), ClusterError>> {
        self.reports.lock().unwrap().push(report);
        std::future::ready(Ok(())).boxed()
    }

    fn request_token(&self, _: &str, _: &str, _: Value) -> BoxFuture<'_, Result<Value, ClusterError>> {
        let answer = if self.is_connected() {
            Ok(json!({"status": {"token": "token", "expirationTimestamp": "2100-01-01T00:00:00Z"}}))
        } else {
            Err(ClusterError("the control is not reached".into()))
        };
        std::future::ready(answer).boxed()
    }

    fn beat(&self) -> bool {
        self.beats.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.takes_beats.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn is_connected(&self) -> bool {
        !self.offline.load(std::sync::atomic::Ordering::Relaxed)
    }
}
