//! Endpoints of Services with a selector: EndpointSlices, and Endpoints mirrored from them.

mod mirror;
mod slices;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};

use crate::controller::{Error, Next, Reconcile, unless_overtaken};
use crate::queue::Queue;
use crate::watch::{Hook, Key};
use slices::{MANAGED_BY, MANAGED_BY_LABEL, SERVICE_LABEL};

/// Node label that becomes an endpoint's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Keeps the endpoints of all Services.
pub(crate) struct Controller {
    pub(crate) client: Client,
    pub(crate) services: Store<Service>,
    pub(crate) pods: Store<Pod>,
    pub(crate) nodes: Store<Node>,
}

/// Every change of a Service concerns its own endpoints.
pub(crate) fn on_service(queue: Arc<Queue<Key>>) -> Hook<Service> {
    Box::new(move |service| queue.add(Key::of(service)))
}

/// A change of one of our slices, by somebody else perhaps, concerns its Service.
pub(crate) fn on_slice(queue: Arc<Queue<Key>>) -> Hook<EndpointSlice> {
    Box::new(move |slice| {
        let labels = slice.labels();
        if labels.get(MANAGED_BY_LABEL).is_some_and(|manager| manager == MANAGED_BY)
            && let (Some(name), Some(namespace)) = (labels.get(SERVICE_LABEL), slice.namespace())
        {
            queue.add(Key::new(&namespace, name));
        }
    })
}

/// A change of a pod concerns every Service of its namespace with a selector: which ones it matched
/// before cannot be seen from the pod as it is now.
pub(crate) fn on_pod(queue: Arc<Queue<Key>>, services: Store<Service>) -> Hook<Pod> {
    Box::new(move |pod| {
        let own = services.state_filter(|service: &Service| {
            service.metadata.namespace == pod.metadata.namespace && selector(service).is_some()
        });
        own.iter().for_each(|service| queue.add(Key::of(&**service)));
    })
}

/// The selector of a Service whose endpoints are ours to keep.
fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    let external = spec.type_.as_deref() == Some("ExternalName");
    spec.selector.as_ref().filter(|selector| !selector.is_empty() && !external)
}

impl Reconcile for Controller {
    type Key = Key;
    const NAME: &'static str = "endpoints";

    async fn reconcile(&self, key: Key) -> Result<Next, Error> {
        let service = self.services.get(&key.reference());
        let Some(service) = service.filter(|service| service.metadata.deletion_timestamp.is_none()) else {
            self.remove(&key).await?;
            return Ok(Next::Wait);
        };
        let Some(selector) = selector(&service) else {
            // Slices of a Service without a selector are its owner's; ours, of a time when it had one, go.
            self.write_slices(&key, Vec::new()).await?;
            return Ok(Next::Wait);
        };
        let chosen = self.pods.state_filter(|pod: &Pod| {
            pod.metadata.namespace.as_deref() == Some(&*key.namespace)
                && selector.iter().all(|(label, value)| pod.labels().get(label) == Some(value))
        });
        let zone = |node: &str| {
            self.nodes.get(&ObjectRef::new(node)).and_then(|node| node.labels().get(ZONE).cloned())
        };
        let slices = slices::desired(&service, chosen.iter().map(|pod| &**pod), &zone);
        self.write_endpoints(&key, mirror::endpoints(&service, &slices)).await?;
        self.write_slices(&key, slices).await?;
        Ok(Next::Wait)
    }
}

impl Controller {
    async fn write_slices(&self, key: &Key, desired: Vec<EndpointSlice>) -> Result<(), Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        let labels = format!("{SERVICE_LABEL}={},{MANAGED_BY_LABEL}={MANAGED_BY}", key.name);
        let existing = api.list(&ListParams::default().labels(&labels)).await?;
        let mut existing: BTreeMap<String, EndpointSlice> =
            existing.into_iter().map(|slice| (slice.name_any(), slice)).collect();
        for mut slice in desired {
            match existing.remove(&slice.name_any()) {
                None => drop(api.create(&PostParams::default(), &slice).await?),
                Some(present) if same(&present, &slice) => {}
                Some(present) => {
                    slice.metadata.resource_version = present.metadata.resource_version;
                    api.replace(&slice.name_any(), &PostParams::default(), &slice).await?;
                }
            }
        }
        for name in existing.keys() {
            unless_overtaken(api.delete(name, &DeleteParams::default()).await)?;
        }
        Ok(())
    }

    async fn write_endpoints(&self, key: &Key, mut desired: Endpoints) -> Result<(), Error> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.get_opt(&key.name).await? {
            None => drop(api.create(&PostParams::default(), &desired).await?),
            Some(present)
                if present.subsets == desired.subsets
                    && present.metadata.labels == desired.metadata.labels => {}
            Some(present) => {
                desired.metadata.resource_version = present.metadata.resource_version;
                desired.metadata.annotations = present.metadata.annotations;
                api.replace(&key.name, &PostParams::default(), &desired).await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, key: &Key) -> Result<(), Error> {
        self.write_slices(key, Vec::new()).await?;
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        unless_overtaken(api.delete(&key.name, &DeleteParams::default()).await)?;
        Ok(())
    }
}

fn same(present: &EndpointSlice, desired: &EndpointSlice) -> bool {
    present.endpoints == desired.endpoints
        && present.ports == desired.ports
        && present.address_type == desired.address_type
        && present.metadata.labels == desired.metadata.labels
        && present.metadata.owner_references == desired.metadata.owner_references
}
