//! The controllers against the real embedded API: what a user does with kubectl, and what comes of it.

#![expect(clippy::unwrap_used, reason = "the helpers of a test")]

use std::time::Duration;

use edgeloom_plane::{Plane, PlaneConfig};
use edgeloom_store::{ApiServer, ServerConfig};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Api, Client, Config};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    server: ApiServer,
    plane: Plane,
    client: Client,
    _dir: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = ServerConfig::new(dir.path(), "127.0.0.1:0".parse().unwrap());
        let server = ApiServer::start(config, &prometheus::Registry::new()).await.unwrap();
        let kubeconfig = Kubeconfig::from_yaml(&server.admin_kubeconfig().unwrap()).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let ca = server.ca_pair();
        let config = PlaneConfig {
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/48".parse().unwrap()],
            root_ca_pem: server.ca_certificate_pem().to_owned(),
            signing_certificate_pem: ca.certificate.clone(),
            signing_key_pem: ca.key.clone(),
        };
        let plane = Plane::start(client.clone(), config, &prometheus::Registry::new()).unwrap();
        Self { server, plane, client, _dir: dir }
    }

    async fn stop(self) {
        self.plane.shutdown(Duration::from_secs(5)).await;
        self.server.shutdown(Duration::from_secs(5)).await;
    }

    /// A Node that is ready, and whose kubelet renewed its Lease just now.
    async fn join(&self, name: &str, zone: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let labels = json!({"topology.kubernetes.io/zone": zone});
        create(&nodes, json!({"metadata": {"name": name, "labels": labels}})).await;
        let room = json!({"cpu": "2", "memory": "1Gi", "pods": "10"});
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z"});
        let status = json!({"status": {"conditions": [ready], "capacity": room, "allocatable": room}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let now = k8s_openapi::jiff::Timestamp::now();
        let spec =
            json!({"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": format!("{now:.6}")});
        create(&leases, json!({"metadata": {"name": name}, "spec": spec})).await;
    }
}

async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

/// Waits until an object is as it should be.
async fn until<K>(api: &Api<K>, name: &str, condition: impl Condition<K>)
where
    K: Clone + std::fmt::Debug + DeserializeOwned + kube::Resource + Send + 'static,
    K::DynamicType: Default,
{
    let waited = tokio::time::timeout(PATIENCE, await_condition(api.clone(), name, condition)).await;
    waited.unwrap_or_else(|_| panic!("{name} did not become what it should be")).unwrap();
}

fn web() -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "a", "image": "a:1"}]}}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_behind_a_service_comes_and_goes() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    for (node, zone) in [("n1", "here"), ("n2", "there")] {
        cluster.join(node, zone).await;
    }
    let nodes: Api<Node> = Api::all(client.clone());
    let has_ranges = |node: Option<&Node>| {
        let ranges = node.and_then(|node| node.spec.as_ref()?.pod_cidrs.as_ref());
        ranges.is_some_and(|ranges| ranges.len() == 2)
    };
    until(&nodes, "n1", has_ranges).await;
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    until(&accounts, "default", |account: Option<&ServiceAccount>| account.is_some()).await;

    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let services: Api<Service> = Api::default_namespaced(client.clone());
    create(&deployments, web()).await;
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]});
    create(&services, json!({"metadata": {"name": "web"}, "spec": spec})).await;
    run_pods(client, 2).await;
    let available = |deployment: Option<&Deployment>| {
        deployment.and_then(|one| one.status.as_ref()?.available_replicas) == Some(2)
    };
    until(&deployments, "web", available).await;
    assert_eq!(slice_zones(client).await, ["here", "there"]);

    deployments.delete("web", &DeleteParams::background()).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    for pod in pods.list(&ListParams::default()).await.unwrap() {
        let going = |pod: Option<&Pod>| pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
        until(&pods, pod.metadata.name.as_deref().unwrap(), going).await;
    }
    cluster.stop().await;
}

/// Plays the kubelets: waits until so many pods are on nodes, and reports them running and ready.
async fn run_pods(client: &Client, count: usize) {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let all = tokio::time::timeout(PATIENCE, async {
        loop {
            let list = pods.list(&ListParams::default()).await.unwrap().items;
            if list.len() == count {
                return list;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    for (index, pod) in all.await.unwrap().into_iter().enumerate() {
        let name = pod.metadata.name.unwrap();
        let bound = |pod: Option<&Pod>| pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_ref()).is_some();
        until(&pods, &name, bound).await;
        let address = format!("10.244.1.{}", index + 2);
        let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }
}

/// Zones of the ready endpoints of the Service, sorted.
async fn slice_zones(client: &Client) -> Vec<String> {
    let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
    let selected = ListParams::default().labels("kubernetes.io/service-name=web");
    let wait = tokio::time::timeout(PATIENCE, async {
        loop {
            let list = slices.list(&selected).await.unwrap().items;
            let ready = list.iter().flat_map(|slice| &slice.endpoints).filter(|endpoint| {
                endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
            });
            let mut zones: Vec<String> = ready.filter_map(|endpoint| endpoint.zone.clone()).collect();
            if zones.len() == 2 {
                zones.sort();
                return zones;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    wait.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_goes_with_what_is_in_it() {
    let cluster = Cluster::start().await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    create(&namespaces, json!({"metadata": {"name": "shop"}})).await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "shop");
    until(&maps, "kube-root-ca.crt", |map: Option<&ConfigMap>| map.is_some()).await;
    create(&maps, json!({"metadata": {"name": "own"}, "data": {"a": "b"}})).await;
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    until(&namespaces, "shop", |namespace: Option<&Namespace>| namespace.is_none()).await;
    assert!(maps.get_opt("own").await.unwrap().is_none());
    cluster.stop().await;
}

/// A ConfigMap that these own, each as `(kind, name, uid)`.
async fn owned(maps: &Api<ConfigMap>, name: &str, owners: &[(&str, &str, &str)]) -> ConfigMap {
    let references: Vec<Value> = owners
        .iter()
        .map(|(kind, name, uid)| {
            json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "blockOwnerDeletion": true})
        })
        .collect();
    create(maps, json!({"metadata": {"name": name, "ownerReferences": references}})).await
}

fn is_gone(map: Option<&ConfigMap>) -> bool {
    map.is_none()
}

/// Waits until these alone own the ConfigMap, and looks that it stays.
async fn left_to(maps: &Api<ConfigMap>, name: &str, owners: &[&str]) {
    let by = |map: Option<&ConfigMap>| {
        let references = map.and_then(|map| map.metadata.owner_references.clone()).unwrap_or_default();
        map.is_some() && references.iter().map(|owner| owner.name.as_str()).eq(owners.iter().copied())
    };
    until(maps, name, by).await;
    let map = maps.get(name).await.unwrap();
    assert!(map.metadata.deletion_timestamp.is_none(), "{name} goes though it is owned");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_owns_outlives_an_owner() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let stays = create(&maps, json!({"metadata": {"name": "stays"}})).await.metadata.uid.unwrap();
    for (how, parameters) in [
        ("foreground", DeleteParams::foreground()),
        ("background", DeleteParams::background()),
        ("orphan", DeleteParams::orphan()),
    ] {
        let (goes, shared, sole) = (format!("{how}-goes"), format!("{how}-shared"), format!("{how}-sole"));
        let uid = create(&maps, json!({"metadata": {"name": goes}})).await.metadata.uid.unwrap();
        owned(&maps, &shared, &[("ConfigMap", &goes, &uid), ("ConfigMap", "stays", &stays)]).await;
        owned(&maps, &sole, &[("ConfigMap", &goes, &uid)]).await;
        // The collector has seen all three when it has acted on a fourth that came after them.
        let seen = format!("{how}-seen");
        owned(&maps, &seen, &[("ConfigMap", "never", "none")]).await;
        until(&maps, &seen, is_gone).await;
        maps.delete(&goes, &parameters).await.unwrap();
        until(&maps, &goes, is_gone).await;
        left_to(&maps, &shared, &["stays"]).await;
        match how {
            "orphan" => left_to(&maps, &sole, &[]).await,
            _ => until(&maps, &sole, is_gone).await,
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_is_found_by_uid_and_in_its_own_namespace_or_in_none() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    create(&namespaces, json!({"metadata": {"name": "shop"}})).await;
    let (maps, shop): (Api<ConfigMap>, Api<ConfigMap>) =
        (Api::default_namespaced(client.clone()), Api::namespaced(client.clone(), "shop"));
    let nodes: Api<Node> = Api::all(client.clone());
    let node = create(&nodes, json!({"metadata": {"name": "n1"}})).await.metadata.uid.unwrap();
    let far = create(&shop, json!({"metadata": {"name": "far"}})).await.metadata.uid.unwrap();
    let near = create(&maps, json!({"metadata": {"name": "near"}})).await.metadata.uid.unwrap();
    owned(&maps, "cluster-scoped", &[("Node", "n1", &node)]).await;
    owned(&maps, "another-uid", &[("ConfigMap", "near", "none")]).await;
    owned(&maps, "elsewhere", &[("ConfigMap", "far", &far)]).await;
    owned(&maps, "misnamed", &[("ConfigMap", "far", &near)]).await;
    owned(&maps, "both", &[("ConfigMap", "far", &far), ("ConfigMap", "near", &near)]).await;
    for name in ["another-uid", "elsewhere", "misnamed"] {
        until(&maps, name, is_gone).await;
    }
    left_to(&maps, "both", &["near"]).await;
    left_to(&maps, "cluster-scoped", &["n1"]).await;
    let events: Api<Event> = Api::default_namespaced(client.clone());
    for name in ["elsewhere", "both"] {
        let told = tokio::time::timeout(PATIENCE, async {
            loop {
                let about = ListParams::default().fields(&format!("involvedObject.name={name}"));
                if let Some(event) = events.list(&about).await.unwrap().items.pop() {
                    return event;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let told = told.await.unwrap();
        assert_eq!(told.reason.as_deref(), Some("OwnerRefInvalidNamespace"), "{told:?}");
        assert!(told.message.as_ref().is_some_and(|note| note.contains("\"default\"")), "{told:?}");
    }
    nodes.delete("n1", &DeleteParams::background()).await.unwrap();
    until(&maps, "cluster-scoped", is_gone).await;
    cluster.stop().await;
}
