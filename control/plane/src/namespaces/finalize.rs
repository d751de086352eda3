//! A namespace that is being deleted: everything in it goes first, whatever its kind, then its finalizer.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::ApiResource;
use kube::discovery::{Discovery, Scope, verbs};
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};

use crate::controller::{Error, Next, Reconcile, unless_overtaken};
use crate::queue::Queue;
use crate::watch::{Hook, Key};

/// How soon to look again while something is left.
const AGAIN: Duration = Duration::from_millis(500);

/// Empties and finalizes namespaces.
pub(crate) struct Controller {
    pub(crate) client: Client,
    pub(crate) namespaces: Store<Namespace>,
}

pub(crate) fn on_namespace(queue: Arc<Queue<Key>>) -> Hook<Namespace> {
    Box::new(move |namespace| {
        if namespace.metadata.deletion_timestamp.is_some() {
            queue.add(Key::of(namespace));
        }
    })
}

impl Reconcile for Controller {
    type Key = Key;
    const NAME: &'static str = "namespace-finalize";

    async fn reconcile(&self, key: Key) -> Result<Next, Error> {
        let namespace = self.namespaces.get(&key.reference());
        let Some(namespace) = namespace.filter(|namespace| namespace.metadata.deletion_timestamp.is_some())
        else {
            return Ok(Next::Wait);
        };
        let mut left = 0;
        for kind in self.kinds().await? {
            left += self.empty(&key.name, &kind).await?;
        }
        if left > 0 {
            tracing::debug!(namespace = key.name, left, "still emptying");
            return Ok(Next::After(AGAIN));
        }
        self.finalize(&namespace).await?;
        Ok(Next::Wait)
    }
}

impl Controller {
    /// Every kind that lives in namespaces and can be listed and deleted, custom ones included.
    async fn kinds(&self) -> Result<Vec<ApiResource>, Error> {
        let discovery = Discovery::new(self.client.clone()).run().await?;
        let all = discovery.groups().flat_map(|group| group.recommended_resources());
        Ok(all
            .filter(|(_, capabilities)| {
                capabilities.scope == Scope::Namespaced
                    && capabilities.supports_operation(verbs::LIST)
                    && capabilities.supports_operation(verbs::DELETE)
            })
            .map(|(resource, _)| resource)
            .collect())
    }

    /// Deletes all objects of one kind; says how many are still there.
    async fn empty(&self, namespace: &str, kind: &ApiResource) -> Result<usize, Error> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, kind);
        let objects = match api.list_metadata(&ListParams::default()).await {
            Ok(objects) => objects.items,
            // The kind went between discovery and now, with all its objects.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        for object in objects.iter().filter(|object| object.metadata.deletion_timestamp.is_none()) {
            unless_overtaken(api.delete(&object.name_any(), &DeleteParams::background()).await)?;
        }
        Ok(objects.len())
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<(), Error> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let mut without = namespace.clone();
        if let Some(spec) = without.spec.as_mut() {
            spec.finalizers = Some(Vec::new());
        }
        let written = api
            .replace_subresource("finalize", &namespace.name_any(), &PostParams::default(), &without)
            .await;
        unless_overtaken(written)?;
        Ok(())
    }
}
