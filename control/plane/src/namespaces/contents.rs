//! What every namespace holds from its first moment: the `default` ServiceAccount and the ConfigMap
//! with the cluster's CA that pods verify the API server with.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::controller::{Error, Next, Reconcile, unless_overtaken};
use crate::queue::Queue;
use crate::watch::{Hook, Key};

/// Name of the ConfigMap, as the projected volume of every pod names it.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using \
                           internal endpoints such as the internal service IP or kubernetes.default.svc. \
                           No other usage is guaranteed across distributions of Kubernetes clusters.";

/// Fills namespaces.
pub(crate) struct Controller {
    pub(crate) client: Client,
    pub(crate) namespaces: Store<Namespace>,
    pub(crate) root_ca: String,
}

pub(crate) fn on_namespace(queue: Arc<Queue<Key>>) -> Hook<Namespace> {
    Box::new(move |namespace| queue.add(Key::of(namespace)))
}

pub(crate) fn on_service_account(queue: Arc<Queue<Key>>) -> Hook<ServiceAccount> {
    Box::new(move |account| {
        if account.name_any() == "default" {
            queue.add(Key::new("", &account.namespace().unwrap_or_default()));
        }
    })
}

pub(crate) fn on_config_map(queue: Arc<Queue<Key>>) -> Hook<ConfigMap> {
    Box::new(move |map| {
        if map.name_any() == ROOT_CA {
            queue.add(Key::new("", &map.namespace().unwrap_or_default()));
        }
    })
}

impl Reconcile for Controller {
    type Key = Key;
    const NAME: &'static str = "namespace-contents";

    async fn reconcile(&self, key: Key) -> Result<Next, Error> {
        let namespace = self.namespaces.get(&key.reference());
        if namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
            return Ok(Next::Wait);
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.name);
        if accounts.get_opt("default").await?.is_none() {
            let mut account = ServiceAccount::default();
            account.metadata.name = Some("default".to_owned());
            unless_overtaken(accounts.create(&PostParams::default(), &account).await)?;
        }
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &key.name);
        let present = maps.get_opt(ROOT_CA).await?;
        let right =
            |map: &ConfigMap| map.data.as_ref().and_then(|data| data.get("ca.crt")) == Some(&self.root_ca);
        if !present.as_ref().is_some_and(right) {
            let map = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": ROOT_CA, "annotations": { "kubernetes.io/description": DESCRIPTION } },
                "data": { "ca.crt": self.root_ca },
            });
            let parameters = PatchParams::apply("edgeloom-plane").force();
            unless_overtaken(maps.patch(ROOT_CA, &parameters, &Patch::Apply(map)).await)?;
        }
        Ok(Next::Wait)
    }
}
