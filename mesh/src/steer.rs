//! Brings each snapshot into the kernel and into DNS.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use edgeloom_api::admin;
use edgeloom_dns::Zone;
use edgeloom_ebpf::{State, Status, Steering};
use edgeloom_model::Protocol;
use ipnet::IpNet;
use prometheus::{Histogram, HistogramOpts, IntCounter, Registry};
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::render;
use crate::snapshot::Snapshot;

/// How often the datapath is made to hold what is desired though nothing changed: hooks that somebody
/// removed come back, and what failed is tried again.
const AGAIN: Duration = Duration::from_secs(30);
/// How often the kernel's counters are read.
const LOOK: Duration = Duration::from_secs(10);
/// How long after a change connections to backends that are gone are looked for: it takes a walk through every
/// network namespace, and a rollout is one walk then.
const END_AFTER: Duration = Duration::from_secs(1);

/// Makes DNS answer from a snapshot.
pub(crate) fn publish_zone(snapshot: &Snapshot, domain: &str, zone: &ArcSwap<Zone>) {
    match Zone::build(snapshot.model.clone(), domain) {
        Ok(built) => zone.store(Arc::new(built)),
        Err(error) => tracing::error!(%error, "DNS keeps its last zone"),
    }
}

/// Feeds a datapath.
pub(crate) struct Feeder {
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) published: watch::Receiver<u64>,
    pub(crate) service_cidrs: Vec<IpNet>,
    /// What is said of the datapath in the status.
    pub(crate) report: Arc<ArcSwap<admin::Datapath>>,
    pub(crate) metrics: Metrics,
    /// What the kernel counts.
    pub(crate) kernel: edgeloom_ebpf::Metrics,
}

/// What is to be done next.
enum Due {
    Feed,
    Look,
    End,
}

impl Feeder {
    /// Feeds `steering` until `stop` is cancelled, and gives it back.
    pub(crate) async fn run<S: Steering>(mut self, mut steering: S, stop: CancellationToken) -> S {
        let (mut again, mut look) = (interval(AGAIN), interval(LOOK));
        let mut leaving = Leaving::default();
        loop {
            let due = tokio::select! {
                biased;
                () = stop.cancelled() => return steering,
                changed = self.published.changed() => match changed {
                    Ok(()) => Due::Feed,
                    Err(_) => return steering,
                },
                _ = again.tick() => Due::Feed,
                () = leaving.due() => Due::End,
                _ = look.tick() => Due::Look,
            };
            match due {
                // Nothing is complete yet: what a predecessor left in the kernel is better.
                Due::Feed if *self.published.borrow_and_update() == 0 => {}
                Due::Feed => leaving.note(self.feed(&mut steering).await),
                Due::Look => self.look(&mut steering),
                Due::End => self.end(&mut steering, leaving.gone(&self.snapshot.load())).await,
            }
        }
    }

    /// Brings the newest snapshot into the kernel; returns the backends that are no longer chosen.
    async fn feed(&self, steering: &mut impl Steering) -> Backends {
        let started = std::time::Instant::now();
        let desired = render::desired(&self.snapshot.load(), &self.service_cidrs);
        let applied = steering.apply(&desired).await;
        self.metrics.seconds.observe(started.elapsed().as_secs_f64());
        match applied {
            Ok(applied) => {
                for (frontend, error) in &applied.failed {
                    tracing::warn!(%frontend, %error, "a Service keeps what it had in the kernel");
                }
                self.metrics.failed.inc_by(applied.failed.len() as u64);
                applied.gone
            }
            Err(error) => {
                self.metrics.failed.inc();
                tracing::error!(%error, "the datapath was not updated; it is tried again");
                Backends::new()
            }
        }
    }

    fn look(&mut self, steering: &mut impl Steering) {
        let status = steering.status();
        self.kernel.observe(&status);
        self.report.store(Arc::new(report(&status)));
    }

    /// Ends connections that would wait for a pod that is gone until TCP gives up.
    async fn end(&self, steering: &mut impl Steering, gone: Backends) {
        match steering.end_connections(&gone).await {
            Ok(count) => self.metrics.ended.inc_by(count as u64),
            Err(error) => {
                tracing::warn!(%error, ?gone, "connections to backends that are gone end by their own time-outs");
            }
        }
    }
}

/// Backends by address and protocol.
type Backends = BTreeSet<(SocketAddr, Protocol)>;

/// Near TCP backends that no Service chooses any more, and may only terminate yet: connections to those go on.
/// (Connected UDP sockets are parted from a backend as soon as it is not chosen, by the datapath itself.)
#[derive(Default)]
struct Leaving {
    backends: Backends,
    look_at: Option<Instant>,
}

impl Leaving {
    /// Takes note of a change of the model, which may have been the end of any of them.
    fn note(&mut self, no_longer_chosen: Backends) {
        self.backends.extend(no_longer_chosen.into_iter().filter(|(_, protocol)| *protocol == Protocol::Tcp));
        if !self.backends.is_empty() {
            self.look_at.get_or_insert_with(|| Instant::now() + END_AFTER);
        }
    }

    async fn due(&self) {
        match self.look_at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Takes out those whose address no endpoint has any more.
    fn gone(&mut self, snapshot: &Snapshot) -> Backends {
        self.look_at = None;
        let is_gone =
            |(address, _): &(SocketAddr, _)| snapshot.model.endpoints_at(address.ip()).next().is_none();
        let (gone, leaving) = std::mem::take(&mut self.backends).into_iter().partition(is_gone);
        self.backends = leaving;
        gone
    }
}

/// What the status says of a datapath.
fn report(status: &Status) -> admin::Datapath {
    let off = status.features.iter().filter_map(|feature| match &feature.state {
        State::On => None,
        State::Off(why) => Some(admin::Missing { what: feature.name.to_owned(), why: why.clone() }),
    });
    admin::Datapath { mode: "ebpf".to_owned(), off: off.collect() }
}

/// What the feeding of the datapath counts.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    seconds: Histogram,
    failed: IntCounter,
    ended: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let seconds = Histogram::with_opts(
            HistogramOpts::new(
                "edgeloom_mesh_datapath_update_seconds",
                "Time to bring one snapshot of the model into the kernel.",
            )
            .buckets(vec![0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0]),
        )?;
        registry.register(Box::new(seconds.clone()))?;
        let failed = IntCounter::new(
            "edgeloom_mesh_datapath_failures_total",
            "Services that could not be brought into the kernel, each try counted.",
        )?;
        registry.register(Box::new(failed.clone()))?;
        let ended = IntCounter::new(
            "edgeloom_mesh_near_connections_ended_total",
            "TCP connections that were ended because their near backend was gone.",
        )?;
        registry.register(Box::new(ended.clone()))?;
        Ok(Self { seconds, failed, ended })
    }
}

#[cfg(test)]
mod tests {
    use edgeloom_ebpf::Memory;
    use edgeloom_model::{Model, NodeName, Site};
    use serde_json::{Value, json};

    use super::*;
    use crate::snapshot::Place;

    /// A Service with one endpoint on this node, or with none.
    fn snapshot(endpoints: Value) -> Snapshot {
        let mut model = Model::default();
        let labels = json!({"kubernetes.io/service-name": "orders"});
        for object in [
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "orders"},
                   "spec": {"clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}]}}),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                   "metadata": {"namespace": "shop", "name": "orders", "labels": labels},
                   "ports": [{"port": 8080}], "endpoints": endpoints}),
        ] {
            model.put(&object).unwrap();
        }
        let (node, site) = (NodeName::new("a1").unwrap(), Site::new("a").unwrap());
        let place = Arc::new(Place { node, site, exports: Vec::new() });
        Snapshot { model: Arc::new(model), ..Snapshot::empty(place) }
    }

    fn endpoint(address: &str, conditions: Value) -> Value {
        json!({"addresses": [address], "nodeName": "a1", "conditions": conditions})
    }

    /// The backends whose connections were ended after the snapshots had come one after the other.
    async fn ended(snapshots: Vec<Snapshot>) -> Backends {
        let shared = Arc::new(ArcSwap::from_pointee(snapshot(json!([]))));
        let (publish, published) = watch::channel(0);
        let registry = Registry::new();
        let feeder = Feeder {
            snapshot: shared.clone(),
            published,
            service_cidrs: Vec::new(),
            report: Arc::default(),
            metrics: Metrics::register(&registry).unwrap(),
            kernel: edgeloom_ebpf::Metrics::register(&registry).unwrap(),
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(feeder.run(Memory::default(), stop.clone()));
        for next in snapshots {
            shared.store(Arc::new(next));
            publish.send_modify(|count| *count += 1);
            tokio::time::sleep(LOOK).await;
        }
        stop.cancel();
        let memory = running.await.unwrap();
        let known = registry.gather().iter().any(|family| {
            family.name() == "edgeloom_datapath_frontends"
                && family.get_metric()[0].get_gauge().get_value() == 1.0
        });
        assert!(known, "the kernel's counters are looked at");
        memory.ended().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn connections_end_when_their_backend_is_gone_and_not_while_it_terminates() {
        let leaves = json!({"ready": false, "serving": true, "terminating": true});
        let [stays, old] = ["10.244.1.2", "10.244.1.3"];
        let both = snapshot(json!([endpoint(stays, json!({})), endpoint(old, json!({}))]));
        let leaving = snapshot(json!([endpoint(stays, json!({})), endpoint(old, leaves)]));
        let gone = snapshot(json!([endpoint(stays, json!({}))]));
        let none = Backends::new();
        let the_old = Backends::from([(format!("{old}:8080").parse().unwrap(), Protocol::Tcp)]);
        assert_eq!(ended(vec![both.clone(), leaving.clone()]).await, none);
        assert_eq!(ended(vec![both.clone(), leaving, gone.clone()]).await, the_old);
        assert_eq!(ended(vec![both, gone]).await, the_old);
    }
}
