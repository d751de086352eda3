//! Wires watches, queues and controllers together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;
use prometheus::Registry;
use rcgen::{Issuer, KeyPair};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::controller::{self, Metrics, Reconcile};
use crate::events::Events;
use crate::namespaces::{contents, finalize};
use crate::nodes::{ipam, lifecycle};
use crate::queue::Queue;
use crate::watch::{Copy, Key, Watches};
use crate::{PlaneConfig, PlaneError, deployment, endpoints, garbage, replicaset, scheduler, signer};

type Keys = Arc<Queue<Key>>;

/// One queue a controller.
struct Queues {
    endpoints: Keys,
    deployments: Keys,
    replica_sets: Keys,
    scheduler: Keys,
    ipam: Keys,
    lifecycle: Keys,
    contents: Keys,
    finalize: Keys,
    signer: Keys,
}

/// One copy a kind.
struct Copies {
    pods: Copy<Pod>,
    nodes: Copy<Node>,
    services: Copy<Service>,
    deployments: Copy<Deployment>,
    replica_sets: Copy<ReplicaSet>,
    leases: Copy<Lease>,
    namespaces: Copy<Namespace>,
    requests: Copy<CertificateSigningRequest>,
}

/// Starts every watch and every loop as tasks of `tasks`, all of which end with `stop`.
pub(crate) fn start(
    client: Client,
    config: PlaneConfig,
    registry: &Registry,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(), PlaneError> {
    let key = KeyPair::from_pem(&config.signing_key_pem)?;
    let issuer = Issuer::from_ca_cert_pem(&config.signing_certificate_pem, key)?;
    let metrics = Metrics::new(registry)?;
    let queue = || Arc::new(Queue::new());
    let queues = Queues {
        endpoints: queue(),
        deployments: queue(),
        replica_sets: queue(),
        scheduler: queue(),
        ipam: queue(),
        lifecycle: queue(),
        contents: queue(),
        finalize: queue(),
        signer: queue(),
    };
    let watches = Watches { tasks: tasks.clone(), stop: stop.clone() };
    let copies = watch(&client, &watches, &queues);
    let run = Run { client, watches, metrics };
    run.workloads(&queues, &copies);
    run.nodes(&queues, &copies, config.cluster_cidrs);
    run.namespaces(&queues, &copies, config.root_ca_pem);
    let requests = copies.requests.store.clone();
    let signer = signer::Controller { client: run.client.clone(), requests, issuer };
    run.spawn(signer, &queues.signer, vec![copies.requests.complete()]);
    let (collector, queue) = garbage::feed::start(&run.client, &run.watches);
    run.spawn(collector, &queue, Vec::new());
    Ok(())
}

fn watch(client: &Client, watches: &Watches, q: &Queues) -> Copies {
    let any = watcher::Config::default;
    let named = |name: &str| any().fields(&format!("metadata.name={name}"));
    let services =
        watches.keep(Api::all(client.clone()), any(), vec![endpoints::on_service(q.endpoints.clone())]);
    let replica_sets = watches.keep(
        Api::all(client.clone()),
        any(),
        vec![
            deployment::on_replica_set(q.deployments.clone()),
            replicaset::on_replica_set(q.replica_sets.clone()),
        ],
    );
    let pods = watches.keep(
        Api::all(client.clone()),
        any(),
        vec![
            endpoints::on_pod(q.endpoints.clone(), services.store.clone()),
            replicaset::on_pod(q.replica_sets.clone(), replica_sets.store.clone()),
            scheduler::on_pod(q.scheduler.clone()),
            lifecycle::on_pod(q.lifecycle.clone()),
        ],
    );
    let nodes = watches.keep(
        Api::all(client.clone()),
        any(),
        vec![
            scheduler::on_node(q.scheduler.clone(), pods.store.clone()),
            ipam::on_node(q.ipam.clone()),
            lifecycle::on_node(q.lifecycle.clone()),
        ],
    );
    // Of these only the changes are of interest, not the copies.
    watches.keep::<EndpointSlice>(
        Api::all(client.clone()),
        any(),
        vec![endpoints::on_slice(q.endpoints.clone())],
    );
    watches.keep::<ServiceAccount>(
        Api::all(client.clone()),
        named("default"),
        vec![contents::on_service_account(q.contents.clone())],
    );
    watches.keep::<ConfigMap>(
        Api::all(client.clone()),
        named(contents::ROOT_CA),
        vec![contents::on_config_map(q.contents.clone())],
    );
    Copies {
        deployments: watches.keep(
            Api::all(client.clone()),
            any(),
            vec![deployment::on_deployment(q.deployments.clone())],
        ),
        leases: watches.keep(Api::namespaced(client.clone(), lifecycle::LEASES), any(), Vec::new()),
        namespaces: watches.keep(
            Api::all(client.clone()),
            any(),
            vec![contents::on_namespace(q.contents.clone()), finalize::on_namespace(q.finalize.clone())],
        ),
        requests: watches.keep(Api::all(client.clone()), any(), vec![signer::on_request(q.signer.clone())]),
        pods,
        nodes,
        services,
        replica_sets,
    }
}

/// Starts the controllers' loops.
struct Run {
    client: Client,
    watches: Watches,
    metrics: Metrics,
}

impl Run {
    /// Runs `controller` once all of `needs` are complete.
    fn spawn<C: Reconcile>(
        &self,
        controller: C,
        queue: &Arc<Queue<C::Key>>,
        needs: Vec<BoxFuture<'static, ()>>,
    ) {
        let (queue, metrics, stop) = (queue.clone(), self.metrics.clone(), self.watches.stop.clone());
        self.watches.tasks.spawn(async move {
            tokio::select! {
                _ = join_all(needs) => {}
                () = stop.cancelled() => return,
            }
            controller::run(controller, queue, metrics, stop).await;
        });
    }

    fn workloads(&self, queues: &Queues, copies: &Copies) {
        let client = || self.client.clone();
        let endpoints = endpoints::Controller {
            client: client(),
            services: copies.services.store.clone(),
            pods: copies.pods.store.clone(),
            nodes: copies.nodes.store.clone(),
        };
        let needs = vec![copies.services.complete(), copies.pods.complete(), copies.nodes.complete()];
        self.spawn(endpoints, &queues.endpoints, needs);
        let deployments = deployment::Controller {
            client: client(),
            deployments: copies.deployments.store.clone(),
            events: Events::new(client(), "deployment-controller"),
        };
        self.spawn(deployments, &queues.deployments, vec![copies.deployments.complete()]);
        let sets = replicaset::Controller {
            client: client(),
            sets: copies.replica_sets.store.clone(),
            events: Events::new(client(), "replicaset-controller"),
        };
        self.spawn(sets, &queues.replica_sets, vec![copies.replica_sets.complete()]);
        let scheduler = scheduler::Controller {
            client: client(),
            pods: copies.pods.store.clone(),
            nodes: copies.nodes.store.clone(),
            events: Events::new(client(), "default-scheduler"),
            assumed: Mutex::new(HashMap::new()),
        };
        self.spawn(scheduler, &queues.scheduler, vec![copies.pods.complete(), copies.nodes.complete()]);
    }

    fn nodes(&self, queues: &Queues, copies: &Copies, clusters: Vec<ipnet::IpNet>) {
        let ipam = ipam::Controller { client: self.client.clone(), clusters };
        self.spawn(ipam, &queues.ipam, Vec::new());
        let lifecycle = lifecycle::Controller {
            client: self.client.clone(),
            nodes: copies.nodes.store.clone(),
            pods: copies.pods.store.clone(),
            leases: copies.leases.store.clone(),
            events: Events::new(self.client.clone(), "node-controller"),
            heard: Mutex::default(),
            marked: Mutex::default(),
        };
        let needs = vec![copies.nodes.complete(), copies.pods.complete(), copies.leases.complete()];
        self.spawn(lifecycle, &queues.lifecycle, needs);
    }

    fn namespaces(&self, queues: &Queues, copies: &Copies, root_ca: String) {
        let client = || self.client.clone();
        let namespaces = || copies.namespaces.store.clone();
        let contents = contents::Controller { client: client(), namespaces: namespaces(), root_ca };
        self.spawn(contents, &queues.contents, vec![copies.namespaces.complete()]);
        let finalize = finalize::Controller { client: client(), namespaces: namespaces() };
        self.spawn(finalize, &queues.finalize, vec![copies.namespaces.complete()]);
    }
}
