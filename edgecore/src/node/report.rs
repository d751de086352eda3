//! Tells the cloud of the node: its status when that changes, when the cloud shows another, with each new session
//! and once an hour; and every twenty seconds that it is well, by which its Lease is renewed.
//!
//! kubelet tells its status every five minutes and renews its Lease every ten seconds. Neither is asked of it: a
//! Node is taken for lost after 40 s without a renewal, and a Node with a Lease not by the age of its status. An
//! uplink that is paid by the megabyte is spared both.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use edgeloom_api::{kind, names};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::address;
use super::machine::{self, Machine};
use super::status::{self, Measured};
use crate::cri::proto::{ListImagesRequest, StatusRequest, VersionRequest};
use crate::edged::Node;
use crate::edged::cluster::{ClusterError, Report};
use crate::edged::fields::Facts;

/// How often the node is measured, and its Lease renewed where it has to write that itself.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often the cloud is told that the node is well: one that comes late by as much again is in time still.
const BEAT: Duration = Duration::from_secs(20);
/// How often it is looked whether the cloud is back.
const LOOK: Duration = Duration::from_secs(1);
/// How often the status is told although nothing has changed.
const FULL: Duration = Duration::from_secs(3600);
/// How long the Lease stands without renewal, in seconds.
const LEASE_SECONDS: u32 = 40;

/// What it tells beside what it measures.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Pods at most.
    pub max_pods: u32,
    /// The node's address at its site, where it is configured.
    pub address: Option<IpAddr>,
    /// Its interface there, where no address is.
    pub interface: Option<String>,
}

/// Reports until `cancel`.
pub async fn run(node: Arc<Node>, settings: Settings, cancel: CancellationToken) {
    let mut reporter = Reporter {
        node,
        settings,
        machine: Machine::read(),
        told: Value::Null,
        when: None,
        well: None,
        annotated: None,
        uid: None,
        answered: None,
    };
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut connected, mut last) = (false, None);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        // Who was away for long is taken for dead until the Lease and the status say otherwise.
        let back = !std::mem::replace(&mut connected, reporter.node.cluster.is_connected()) && connected;
        let urgent = back || (connected && reporter.is_contradicted());
        if !urgent && last.is_some_and(|last: Instant| last.elapsed() < HEARTBEAT) {
            continue;
        }
        last = Some(Instant::now());
        if back {
            (reporter.well, reporter.when) = (None, None);
        }
        if let Err(error) = reporter.beat().await {
            tracing::warn!(%error, "the node's status was not told");
        }
    }
}

struct Reporter {
    node: Arc<Node>,
    settings: Settings,
    machine: Machine,
    told: Value,
    when: Option<Instant>,
    /// When the cloud was last told that the node is well, without a Lease.
    well: Option<Instant>,
    /// The site address that was told.
    annotated: Option<String>,
    /// The Node that it was told of, once that is known.
    uid: Option<String>,
    /// Version of the Node that was there when the status was last told: until the Node changes, that it shows
    /// another status means only that the telling has not arrived.
    answered: Option<String>,
}

impl Reporter {
    async fn beat(&mut self) -> Result<(), ClusterError> {
        let now = OffsetDateTime::now_utc();
        self.renew_lease(now).await?;
        self.refresh_addresses();
        self.notice_new_node();
        self.annotate().await?;
        let measured = self.measure().await;
        if self.is_contradicted() {
            tracing::info!("the Node shows another status than was told; it is told again");
            // With it goes when the conditions changed: they have since changed twice.
            (self.told, self.when) = (Value::Null, None);
        }
        let status = status::status(&measured, &self.before(), now);
        let due = self.when.is_none_or(|when| when.elapsed() >= FULL);
        if due || status::differ(&status, &self.told) {
            self.answered = self.object().and_then(|object| version(&object));
            self.node.cluster.report(Report::NodeStatus(status.clone())).await?;
            self.told = status;
            self.when = Some(Instant::now());
        }
        Ok(())
    }

    /// Whether another wrote over the node's own conditions since they were told, as the control does for a node
    /// that it takes for lost.
    fn is_contradicted(&self) -> bool {
        self.object().is_some_and(|object| {
            version(&object) != self.answered && status::contradicts(&object["status"], &self.told)
        })
    }

    async fn renew_lease(&mut self, now: OffsetDateTime) -> Result<(), ClusterError> {
        // While the cloud is away a Lease says nothing, and writing it would wear the disk.
        let told = self.well.is_some_and(|well| well.elapsed() + LOOK < BEAT);
        if told || !self.node.cluster.is_connected() {
            return Ok(());
        }
        if self.node.cluster.beat() {
            self.well = Some(Instant::now());
            return Ok(());
        }
        self.node.cluster.report(Report::Lease(self.lease(now))).await
    }

    /// A Node that was deleted comes back by what is told of it, and knows nothing: all is told again.
    fn notice_new_node(&mut self) {
        let uid = self.object().and_then(|object| object["metadata"]["uid"].as_str().map(str::to_owned));
        if self.uid.is_some() && self.uid != uid {
            tracing::info!("the Node was deleted; its status is told again");
            (self.told, self.when, self.annotated) = (Value::Null, None, None);
        }
        self.uid = uid;
    }

    fn object(&self) -> Option<Arc<Value>> {
        let name = self.node.facts.load().node.clone();
        self.node.cluster.get(&kind::NODE, "", &name).ok().flatten()
    }

    /// The last status, with the conditions that others have set.
    fn before(&self) -> Value {
        let theirs = self.object().map(|object| object["status"].clone()).unwrap_or_default();
        if self.told.is_null() {
            return theirs;
        }
        let list = |status: &Value| status["conditions"].as_array().cloned().unwrap_or_default();
        let own = list(&self.told);
        let others = list(&theirs).into_iter().filter(|c| !own.iter().any(|own| own["type"] == c["type"]));
        let all: Vec<Value> = own.iter().cloned().chain(others).collect();
        json!({ "conditions": all })
    }

    fn lease(&self, now: OffsetDateTime) -> Value {
        let format =
            format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
        json!({
            "holderIdentity": self.node.facts.load().node,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": now.format(format).unwrap_or_default(),
        })
    }

    /// Notices another address of the host, as DHCP and people give them.
    fn refresh_addresses(&self) {
        let found = address::detect(self.settings.address, self.settings.interface.as_deref());
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        let facts = self.node.facts.load();
        if !found.is_empty() && found != facts.host_ips {
            tracing::info!(?found, "the node's addresses at its site");
            self.node.facts.store(Arc::new(Facts { host_ips: found, ..Facts::clone(&facts) }));
        }
    }

    async fn annotate(&mut self) -> Result<(), ClusterError> {
        let address = self.node.facts.load().host_ips.first().cloned();
        if address.is_none() || address == self.annotated {
            return Ok(());
        }
        let annotations = BTreeMap::from([(names::SITE_ADDRESS_ANNOTATION.to_owned(), address.clone())]);
        self.node.cluster.report(Report::NodeAnnotations(annotations)).await?;
        self.annotated = address;
        Ok(())
    }

    async fn measure(&self) -> Measured {
        let cri = &self.node.runtime.cri;
        let version = cri.version(VersionRequest { version: "v1".to_owned() }).await.ok();
        let conditions = cri.status(StatusRequest { verbose: false }).await;
        let images = cri.list_images(ListImagesRequest {}).await;
        Measured {
            machine: self.machine.clone(),
            usage: machine::usage(),
            disk: machine::disk(&self.node.pods),
            processes: machine::processes(),
            runtime: version.map(|version| (version.runtime_name, version.runtime_version)),
            conditions: conditions
                .map(|answer| answer.status.unwrap_or_default().conditions)
                .map_err(|error| error.to_string()),
            images: images.map(|answer| answer.images).unwrap_or_default(),
            max_pods: self.settings.max_pods,
        }
    }
}

fn version(object: &Value) -> Option<String> {
    object["metadata"]["resourceVersion"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::edged::testing::{self, Memory};

    /// Beats and Leases of two minutes.
    async fn two_minutes(memory: &Arc<Memory>) -> (usize, usize) {
        let node = testing::node(memory, Path::new("/nonexistent"), Path::new("/nonexistent"));
        let settings = Settings { max_pods: 110, address: Some([192, 168, 1, 2].into()), interface: None };
        let cancel = CancellationToken::new();
        let running = run(Arc::new(node), settings, cancel.clone());
        tokio::join!(running, async {
            tokio::time::sleep(Duration::from_millis(119_500)).await;
            cancel.cancel();
        });
        let reports = memory.reports.lock().unwrap();
        let leases = reports.iter().filter(|report| matches!(report, Report::Lease(_))).count();
        (memory.beats.load(Ordering::Relaxed), leases)
    }

    /// The own Node as the hub shows it.
    fn show(memory: &Memory, version: &str, status: &Value) {
        let metadata = json!({"name": "edge-t", "uid": "u", "resourceVersion": version});
        memory.put(&kind::NODE, json!({"metadata": metadata, "status": status}));
    }

    /// The status told last and how many were.
    fn statuses(memory: &Memory) -> (usize, Value) {
        let reports = memory.reports.lock().unwrap();
        let told: Vec<&Value> = reports
            .iter()
            .filter_map(|report| match report {
                Report::NodeStatus(status) => Some(status),
                _ => None,
            })
            .collect();
        (told.len(), told.last().map_or(Value::Null, |last| (*last).clone()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_that_another_wrote_over_and_a_new_session_have_it_told_at_once() {
        let memory = Arc::new(Memory::default());
        memory.takes_beats.store(true, Ordering::Relaxed);
        show(&memory, "1", &Value::Null);
        let node = testing::node(&memory, Path::new("/nonexistent"), Path::new("/nonexistent"));
        let settings = Settings { max_pods: 110, address: Some([192, 168, 1, 2].into()), interface: None };
        let cancel = CancellationToken::new();
        let running = run(Arc::new(node), settings, cancel.clone());
        let wait = |millis| tokio::time::sleep(Duration::from_millis(millis));
        tokio::join!(running, async {
            wait(60_500).await;
            let (count, told) = statuses(&memory);
            assert_eq!(count, 1, "what has not arrived is not told again");
            show(&memory, "2", &told);
            wait(60_000).await;
            assert_eq!(statuses(&memory).0, 1, "what is shown is not told again");
            let mut unknown = told.clone();
            for condition in unknown["conditions"].as_array_mut().unwrap() {
                condition["status"] = "Unknown".into();
            }
            show(&memory, "3", &unknown);
            wait(2_000).await;
            assert_eq!(statuses(&memory).0, 2, "contradicted");
            wait(60_000).await;
            assert_eq!(statuses(&memory).0, 2, "once for each version of the Node");
            show(&memory, "4", &statuses(&memory).1);
            memory.offline.store(true, Ordering::Relaxed);
            wait(60_000).await;
            memory.offline.store(false, Ordering::Relaxed);
            wait(2_000).await;
            assert_eq!(statuses(&memory).0, 3, "a new session");
            cancel.cancel();
        });
    }

    #[tokio::test(start_paused = true)]
    async fn the_lease_is_renewed_by_beats_or_written_where_those_are_not_taken() {
        let memory = Arc::new(Memory::default());
        memory.takes_beats.store(true, Ordering::Relaxed);
        assert_eq!(two_minutes(&memory).await, (6, 0));
        let older = Arc::new(Memory::default());
        assert_eq!(two_minutes(&older).await.1, 12);
        let away = Arc::new(Memory::default());
        away.offline.store(true, Ordering::Relaxed);
        assert_eq!(two_minutes(&away).await, (0, 0));
    }
}
