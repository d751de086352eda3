//! With a real container runtime. Run as root where one listens:
//! `EDGECORE_TEST_CRI=/run/containerd/containerd.sock EDGECORE_TEST_IMAGE=docker.io/library/busybox:1`.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use super::*;
use crate::edged::cluster::Report;
use crate::edged::testing::{self, Memory};

pub(crate) struct Live {
    pub(crate) memory: Arc<Memory>,
    pub(crate) node: Arc<Node>,
    image: String,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

impl Live {
    pub(crate) fn new(root: &Path) -> Self {
        let memory = Arc::new(Memory::default());
        let node = testing::node(&memory, Path::new(&variable("EDGECORE_TEST_CRI")), root);
        std::fs::create_dir_all(&node.pods).unwrap();
        Self { memory, node: Arc::new(node), image: variable("EDGECORE_TEST_IMAGE") }
    }

    pub(crate) fn put(&self, name: &str, uid: &str, spec: Value) {
        self.put_with(name, uid, spec, json!({}));
    }

    fn put_with(&self, name: &str, uid: &str, mut spec: Value, meta: Value) {
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                if container["image"].is_null() {
                    container["image"] = json!(self.image);
                }
            }
        }
        let mut metadata = json!({"name": name, "namespace": "shop", "uid": uid, "labels": {"app": name}});
        metadata.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        self.memory
            .put(&kind::POD, json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}));
    }

    pub(crate) fn last_status(&self, of: &str) -> Value {
        let reports = self.memory.reports.lock().unwrap();
        let found = reports.iter().rev().find_map(|report| match report {
            Report::PodStatus { uid, status, .. } if uid == of => Some(status.clone()),
            _ => None,
        });
        found.unwrap_or_default()
    }

    pub(crate) async fn until(&self, what: &str, test: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !test(self) {
            if began.elapsed() > Duration::from_secs(40) {
                panic!("{what}: {:#?}", self.memory.reports.lock().unwrap());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("{what}: {:?}", began.elapsed());
    }

    fn has_event(&self, reason: &str) -> bool {
        let reports = self.memory.reports.lock().unwrap();
        reports.iter().any(|report| matches!(report, Report::Event(event) if event["reason"] == reason))
    }

    pub(crate) fn start(&self) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        let cancel = CancellationToken::new();
        (cancel.clone(), tokio::spawn(Edged::run(Arc::clone(&self.node), cancel)))
    }
}

fn container_id(status: &Value) -> String {
    status["containerStatuses"][0]["containerID"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a container runtime"]
async fn a_pod_lives_is_adopted_and_ends() {
    let root = tempfile::tempdir().unwrap();
    let live = Live::new(root.path());
    live.memory.put(
        &kind::CONFIG_MAP,
        json!({"kind": "ConfigMap", "metadata": {"namespace": "shop", "name": "cm"}, "data": {"k": "v1"}}),
    );
    let script = "trap 'exit 0' TERM; echo $GREETING from $POD; cat /c/k /t/token; echo; cat /etc/hosts /etc/resolv.conf; \
                  echo bye > /dev/termination-log; while true; do sleep 0.1; done";
    live.put("web", "live-1", json!({
        "serviceAccountName": "default",
        "containers": [{
            "name": "c", "command": ["/bin/sh", "-c", script],
            "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "GREETING", "value": "hello $(POD)"}],
            "volumeMounts": [{"name": "cm", "mountPath": "/c"}, {"name": "t", "mountPath": "/t"},
                             {"name": "e", "mountPath": "/e"}, {"name": "m", "mountPath": "/m", "subPath": "x"}],
            "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1},
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
        }],
        "volumes": [{"name": "cm", "configMap": {"name": "cm"}}, {"name": "e", "emptyDir": {}},
                    {"name": "m", "emptyDir": {"medium": "Memory"}},
                    {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
    }));
    let (cancel, task) = live.start();
    let ready = |live: &Live| {
        let status = live.last_status("live-1");
        status["phase"] == "Running" && status["containerStatuses"][0]["ready"] == true
    };
    live.until("running and ready", ready).await;
    let id = container_id(&live.last_status("live-1"));
    let log = std::fs::read_to_string("/var/log/pods/shop_web_live-1/c/0.log").unwrap();
    println!("{log}");
    assert!(
        log.contains("hello web from web") && log.contains("v1token") && log.contains("169.254.96.16"),
        "{log}"
    );
    println!("{:#}", live.last_status("live-1"));

    // Adopted by another edged, ready without a gap.
    cancel.cancel();
    task.await.unwrap();
    live.memory.reports.lock().unwrap().clear();
    let (_cancel, _task) = live.start();
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("after adoption: {:?}", live.memory.reports.lock().unwrap());
    let observed = live.node.runtime.observe("live-1").await.unwrap();
    assert_eq!(observed.containers.len(), 1);
    assert_eq!(format!("containerd://{}", observed.containers[0].id), id);
    assert!(
        !live.memory.reports.lock().unwrap().iter().any(|r| matches!(r, Report::PodStatus { status, .. }
        if status["containerStatuses"][0]["ready"] != true))
    );

    // A change of the ConfigMap reaches the mount.
    live.memory.put(
        &kind::CONFIG_MAP,
        json!({"kind": "ConfigMap", "metadata": {"namespace": "shop", "name": "cm"}, "data": {"k": "v2"}}),
    );
    live.until("config map changed", |live| {
        std::fs::read_to_string(live.node.pods.join("live-1/volumes/cm/k")).is_ok_and(|text| text == "v2")
    })
    .await;

    // Deleted by the cloud.
    let object = live.memory.list_one("web");
    let mut object = Value::clone(&object);
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    object["metadata"]["deletionGracePeriodSeconds"] = json!(5);
    live.memory.put(&kind::POD, object);
    live.until("gone", |live| {
        live.memory
            .reports
            .lock()
            .unwrap()
            .iter()
            .any(|r| matches!(r, Report::PodGone { uid, .. } if uid == "live-1"))
    })
    .await;
    let status = live.last_status("live-1");
    assert_eq!(status["phase"], "Succeeded", "{status:#}");
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["message"], "bye\n");
    assert!(!root.path().join("pods/live-1").exists());
    assert!(live.node.runtime.observe("live-1").await.unwrap().sandboxes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a container runtime"]
async fn failures_are_told_in_kubelets_words() {
    let root = tempfile::tempdir().unwrap();
    let live = Live::new(root.path());
    let (_cancel, _task) = live.start();
    live.put(
        "crash",
        "live-2",
        json!({"containers": [{"name": "c", "command": ["/bin/sh", "-c", "echo oops; exit 3"],
        "terminationMessagePolicy": "FallbackToLogsOnError"}], "terminationGracePeriodSeconds": 1}),
    );
    live.put(
        "never",
        "live-3",
        json!({"restartPolicy": "Never", "containers": [
        {"name": "ok", "command": ["true"]}, {"name": "bad", "command": ["false"]}]}),
    );
    live.put(
        "absent",
        "live-4",
        json!({"containers": [{"name": "c", "image": "registry.invalid/absent:1"}]}),
    );
    live.put(
        "present",
        "live-5",
        json!({"containers": [{"name": "c", "image": "absent:1", "imagePullPolicy": "Never"}]}),
    );
    live.put(
        "config",
        "live-6",
        json!({"containers": [{"name": "c", "env": [
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k"}}}]}]}),
    );
    live.put("init", "live-7", json!({"restartPolicy": "Never", "initContainers": [{"name": "i", "command": ["sh", "-c", "echo i > /e/f"],
        "volumeMounts": [{"name": "e", "mountPath": "/e"}]}], "volumes": [{"name": "e", "emptyDir": {}}],
        "containers": [{"name": "c", "command": ["grep", "i", "/e/f"], "volumeMounts": [{"name": "e", "mountPath": "/e"}]}]}));
    live.put(
        "mount",
        "live-8",
        json!({"containers": [{"name": "c"}], "volumes": [{"name": "v", "secret": {"secretName": "none"}}]}),
    );
    let waiting = |live: &Live, uid: &str, reason: &str| {
        live.last_status(uid)["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
    };
    live.until("init done", |live| live.last_status("live-7")["phase"] == "Succeeded").await;
    live.until("failed", |live| live.last_status("live-3")["phase"] == "Failed").await;
    live.until("crash loop", |live| waiting(live, "live-2", "CrashLoopBackOff")).await;
    live.until("never pulled", |live| waiting(live, "live-5", "ErrImageNeverPull")).await;
    live.until("config error", |live| waiting(live, "live-6", "CreateContainerConfigError")).await;
    live.until("image pull back-off", |live| waiting(live, "live-4", "ImagePullBackOff")).await;
    live.until("failed mount", |live| live.has_event("FailedMount")).await;
    for uid in 2..=8 {
        println!("{:#}", live.last_status(&format!("live-{uid}"))["containerStatuses"]);
    }
    let crash = live.last_status("live-2");
    assert_eq!(crash["containerStatuses"][0]["lastState"]["terminated"]["message"], "oops");
    live.memory.clear();
    live.until("all gone", |live| {
        futures::executor::block_on(live.node.runtime.summary())
            .unwrap()
            .values()
            .all(|s| !s.id.uid.starts_with("live"))
    })
    .await;
}
