//! Garbage collection by `ownerReferences`: what nobody owns any more is deleted, in the background, in
//! the foreground (owner last) or not at all (orphaned), as the deletion of the owner asked.
//!
//! The metadata of every kind is watched ([`feed`]) into a [`graph`]; a change of an object concerns itself and
//! what it owns. What becomes of it is the [`verdict`] on what its owners are.

pub(crate) mod feed;
mod graph;
mod verdict;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::GroupVersionKind;
use kube::discovery::Scope;
use serde_json::json;

use self::graph::{Graph, Known, Sight};
use self::verdict::{FOREGROUND, ORPHAN, Owner, Policy, Verdict, has, verdict, waits};
use crate::controller::{Error, Next, Reconcile};
use crate::events::Events;
use crate::queue::Queue;

/// After this an object is looked at again of whose owner nothing could be said: its kind may be served by then.
const UNCLEAR: Duration = Duration::from_secs(5 * 60);

/// Deletes what has lost its owners.
pub(crate) struct Controller {
    client: Client,
    graph: Arc<Mutex<Graph>>,
    queue: Arc<Queue<String>>,
    events: Events,
}

impl Reconcile for Controller {
    type Key = String;
    const NAME: &'static str = "garbage";

    async fn reconcile(&self, uid: String) -> Result<Next, Error> {
        let Some(known) = self.graph().known(&uid) else { return Ok(Next::Wait) };
        if known.metadata.deletion_timestamp.is_some() {
            self.finish(&uid, &known).await?;
            return Ok(Next::Wait);
        }
        self.hold_to_owners(&uid, &known).await
    }
}

impl Controller {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().expect("no holder of this lock panics")
    }

    /// An owner that is going: orphans its dependents or waits for them, as its finalizers say.
    async fn finish(&self, uid: &str, known: &Known) -> Result<(), Error> {
        let dependents = self.graph().dependents(uid);
        if has(&known.metadata, ORPHAN) {
            for dependent in &dependents {
                self.disown(dependent, |owner| owner.uid == uid).await?;
            }
            return self.remove_finalizer(known, ORPHAN).await;
        }
        if !has(&known.metadata, FOREGROUND) {
            return Ok(());
        }
        let blocks = |dependent: &&Known| {
            let mut owners = dependent.metadata.owner_references.iter().flatten();
            owners.any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
        };
        let blocking: Vec<&Known> = dependents.iter().filter(blocks).collect();
        if blocking.is_empty() {
            return self.remove_finalizer(known, FOREGROUND).await;
        }
        // Whether they go is for their other owners to say, too.
        let staying = blocking.iter().filter(|dependent| dependent.metadata.deletion_timestamp.is_none());
        staying.filter_map(|dependent| dependent.metadata.uid.clone()).for_each(|uid| self.queue.add(uid));
        Ok(())
    }

    /// Deletes an object that no owner keeps; owners that are gone, or wait for it to go, are struck off where
    /// another keeps it.
    async fn hold_to_owners(&self, uid: &str, known: &Known) -> Result<Next, Error> {
        let references = known.metadata.owner_references.as_deref().unwrap_or_default();
        let mut owners = Vec::new();
        for reference in references {
            owners.push(self.owner(known, reference).await?);
        }
        let dependents = self.graph().dependents(uid);
        match verdict(&known.metadata, &owners, !dependents.is_empty()) {
            Verdict::Keep if owners.contains(&Owner::Unclear) => return Ok(Next::After(UNCLEAR)),
            Verdict::Keep => {}
            Verdict::Strike(places) => {
                let gone: Vec<&OwnerReference> = places.iter().map(|place| &references[*place]).collect();
                self.disown(known, |owner| gone.contains(&owner)).await?;
            }
            Verdict::Delete(policy) => {
                tracing::debug!(kind = known.resource.kind, name = known.metadata.name, "no owner keeps it");
                if policy == Policy::Foreground && dependents.iter().any(|one| waits(&one.metadata)) {
                    // Each would wait for the other.
                    self.unblock(known).await?;
                }
                self.delete(known, policy).await?;
            }
        }
        Ok(Next::Wait)
    }

    /// What an owner is to this object.
    async fn owner(&self, dependent: &Known, reference: &OwnerReference) -> Result<Owner, Error> {
        let seen = self.graph().owner(&dependent.metadata, reference);
        match seen {
            Sight::Seen(owner) => return Ok(owner),
            Sight::Elsewhere => self.tell_elsewhere(dependent, reference).await,
            Sight::Unseen => {}
        }
        let (group, version) = reference.api_version.split_once('/').unwrap_or(("", &reference.api_version));
        let gvk = GroupVersionKind::gvk(group, version, &reference.kind);
        let (resource, capabilities) = match kube::discovery::pinned_kind(&self.client, &gvk).await {
            Ok(found) => found,
            Err(kube::Error::Discovery(_)) => return Ok(Owner::Unclear),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Owner::Unclear),
            Err(error) => return Err(error.into()),
        };
        let namespace = dependent.metadata.namespace.as_deref();
        let api: Api<DynamicObject> = match (capabilities.scope, namespace) {
            (Scope::Cluster, _) => Api::all_with(self.client.clone(), &resource),
            (Scope::Namespaced, Some(namespace)) => {
                Api::namespaced_with(self.client.clone(), namespace, &resource)
            }
            (Scope::Namespaced, None) => return Ok(Owner::Unclear),
        };
        let found = api.get_metadata_opt(&reference.name).await?;
        let found = found.filter(|found| found.metadata.uid.as_deref() == Some(&reference.uid));
        Ok(match found {
            None => Owner::Absent,
            Some(found) if waits(&found.metadata) => Owner::Waiting,
            Some(_) => Owner::Living,
        })
    }

    /// Says that an object names an owner that cannot own it: one of another namespace.
    async fn tell_elsewhere(&self, dependent: &Known, owner: &OwnerReference) {
        let about = ObjectReference {
            api_version: Some(dependent.resource.api_version.clone()),
            kind: Some(dependent.resource.kind.clone()),
            namespace: dependent.metadata.namespace.clone(),
            name: dependent.metadata.name.clone(),
            uid: dependent.metadata.uid.clone(),
            ..ObjectReference::default()
        };
        let namespace = dependent.metadata.namespace.as_deref().unwrap_or_default();
        let OwnerReference { api_version, kind, name, uid, .. } = owner;
        let note = format!(
            "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does not exist in namespace {namespace:?}"
        );
        self.events.warning(&about, "OwnerRefInvalidNamespace", "Collect", note).await;
    }

    /// Deletes an object as long as it is as it was when that was decided.
    async fn delete(&self, known: &Known, policy: Policy) -> Result<(), Error> {
        let parameters = match policy {
            Policy::Background => DeleteParams::background(),
            Policy::Foreground => DeleteParams::foreground(),
            Policy::Orphan => DeleteParams::orphan(),
        };
        let preconditions = Preconditions {
            uid: known.metadata.uid.clone(),
            resource_version: known.metadata.resource_version.clone(),
        };
        let parameters = parameters.preconditions(preconditions);
        let name = known.metadata.name.clone().unwrap_or_default();
        unless_gone(self.api(known).delete(&name, &parameters).await.map(drop))
    }

    /// Strikes off owners.
    async fn disown(&self, known: &Known, whom: impl Fn(&OwnerReference) -> bool) -> Result<(), Error> {
        let mut owners = known.metadata.owner_references.clone().unwrap_or_default();
        owners.retain(|reference| !whom(reference));
        self.patch(known, json!({ "ownerReferences": owners })).await
    }

    /// Lets its owners go before it.
    async fn unblock(&self, known: &Known) -> Result<(), Error> {
        let mut owners = known.metadata.owner_references.clone().unwrap_or_default();
        if owners.iter().all(|owner| owner.block_owner_deletion != Some(true)) {
            return Ok(());
        }
        owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
        self.patch(known, json!({ "ownerReferences": owners })).await
    }

    async fn remove_finalizer(&self, known: &Known, name: &str) -> Result<(), Error> {
        let mut finalizers = known.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != name);
        self.patch(known, json!({ "finalizers": finalizers })).await
    }

    /// Patches metadata, held to the version that the decision was made on.
    async fn patch(&self, known: &Known, mut metadata: serde_json::Value) -> Result<(), Error> {
        metadata["uid"] = json!(known.metadata.uid);
        metadata["resourceVersion"] = json!(known.metadata.resource_version);
        let patch: Patch<serde_json::Value> = Patch::Merge(json!({ "metadata": metadata }));
        let name = known.metadata.name.clone().unwrap_or_default();
        let written = self.api(known).patch_metadata(&name, &PatchParams::default(), &patch).await;
        unless_gone(written.map(drop))
    }

    fn api(&self, known: &Known) -> Api<DynamicObject> {
        match known.metadata.namespace.as_deref() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &known.resource),
            None => Api::all_with(self.client.clone(), &known.resource),
        }
    }
}

/// What is not there any more needs nothing done to it. One that has changed (409) is looked at again, and
/// with it the owner on whose behalf this was: an error.
fn unless_gone(result: Result<(), kube::Error>) -> Result<(), Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other?),
    }
}
