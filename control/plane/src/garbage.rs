//! Garbage collection by `ownerReferences`: what nobody owns any more is deleted, in the background, in
//! the foreground (owner last) or not at all (orphaned), as the deletion of the owner asked.
//!
//! The metadata of every kind is watched; a change of an object concerns itself and what it owns.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;

use crate::controller::{Error, Next, Reconcile, unless_overtaken};
use crate::queue::Queue;

/// Finalizer of an owner that waits for its dependents to go.
const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an owner whose dependents are to be kept.
const ORPHAN: &str = "orphan";

/// An object as the collector knows it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) resource: ApiResource,
    pub(crate) metadata: ObjectMeta,
}

/// All objects by uid, and who owns whom.
#[derive(Default)]
pub(crate) struct Graph {
    objects: HashMap<String, Known>,
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    /// Takes an object in, or its newer state; says whose keys are concerned.
    pub(crate) fn put(&mut self, resource: &ApiResource, metadata: ObjectMeta) -> Vec<String> {
        let Some(uid) = metadata.uid.clone() else { return Vec::new() };
        self.unlink(&uid);
        for owner in metadata.owner_references.iter().flatten() {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let concerned = self.concerned(&uid, &metadata);
        self.objects.insert(uid, Known { resource: resource.clone(), metadata });
        concerned
    }

    /// Takes an object out; says whose keys are concerned.
    pub(crate) fn remove(&mut self, uid: &str) -> Vec<String> {
        self.unlink(uid);
        let Some(known) = self.objects.remove(uid) else { return Vec::new() };
        self.concerned(uid, &known.metadata)
    }

    fn unlink(&mut self, uid: &str) {
        let owners = self.objects.get(uid).and_then(|known| known.metadata.owner_references.clone());
        for owner in owners.into_iter().flatten() {
            if let Some(set) = self.dependents.get_mut(&owner.uid) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    /// Itself if it has owners or is going, what it owns, and owners that wait for it.
    fn concerned(&self, uid: &str, metadata: &ObjectMeta) -> Vec<String> {
        let mut keys: Vec<String> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        keys.push(uid.to_owned());
        let owners = metadata.owner_references.iter().flatten().map(|owner| &owner.uid);
        keys.extend(owners.filter(|owner| self.is_waiting(owner)).cloned());
        keys
    }

    fn is_waiting(&self, uid: &str) -> bool {
        self.objects.get(uid).is_some_and(|known| known.metadata.deletion_timestamp.is_some())
    }

    fn dependents(&self, uid: &str) -> Vec<Known> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.objects.get(uid).cloned()).collect()
    }

    /// Uids of all objects of one kind.
    pub(crate) fn of_kind(&self, resource: &ApiResource) -> HashSet<String> {
        let own = self.objects.iter().filter(|(_, known)| known.resource == *resource);
        own.map(|(uid, _)| uid.clone()).collect()
    }
}

/// Deletes what has lost its owners.
pub(crate) struct Controller {
    pub(crate) client: Client,
    pub(crate) graph: Arc<Mutex<Graph>>,
    pub(crate) queue: Arc<Queue<String>>,
}

impl Reconcile for Controller {
    type Key = String;
    const NAME: &'static str = "garbage";

    async fn reconcile(&self, uid: String) -> Result<Next, Error> {
        let Some(known) = self.known(&uid) else { return Ok(Next::Wait) };
        if known.metadata.deletion_timestamp.is_some() {
            self.finish(&uid, &known).await?;
        } else if known.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty()) {
            self.hold_to_owners(&known).await?;
        }
        Ok(Next::Wait)
    }
}

impl Controller {
    fn known(&self, uid: &str) -> Option<Known> {
        self.graph.lock().expect("no holder of this lock panics").objects.get(uid).cloned()
    }

    /// An owner that is going: orphans its dependents or waits for them, as its finalizers say.
    async fn finish(&self, uid: &str, known: &Known) -> Result<(), Error> {
        let finalizers = known.metadata.finalizers.clone().unwrap_or_default();
        let dependents = self.graph.lock().expect("no holder of this lock panics").dependents(uid);
        if finalizers.iter().any(|name| name == ORPHAN) {
            for dependent in &dependents {
                self.disown(dependent, uid).await?;
            }
            return self.remove_finalizer(known, ORPHAN).await;
        }
        if finalizers.iter().any(|name| name == FOREGROUND) {
            let blocking: Vec<&Known> = dependents
                .iter()
                .filter(|dependent| {
                    let owners = dependent.metadata.owner_references.iter().flatten();
                    owners
                        .into_iter()
                        .any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
                })
                .collect();
            if blocking.is_empty() {
                return self.remove_finalizer(known, FOREGROUND).await;
            }
            for dependent in blocking.iter().filter(|one| one.metadata.deletion_timestamp.is_none()) {
                self.delete(dependent, DeleteParams::foreground()).await?;
            }
        }
        Ok(())
    }

    /// Deletes an object none of whose owners is there any more; owners that are gone beside others
    /// that are not are struck off.
    async fn hold_to_owners(&self, known: &Known) -> Result<(), Error> {
        let owners = known.metadata.owner_references.clone().unwrap_or_default();
        let mut absent = Vec::new();
        for owner in &owners {
            if !self.exists(known, owner).await? {
                absent.push(owner.uid.clone());
            }
        }
        if absent.len() == owners.len() {
            tracing::debug!(kind = known.resource.kind, name = known.metadata.name, "its owners are gone");
            return self.delete(known, DeleteParams::background()).await;
        }
        for uid in absent {
            self.disown(known, &uid).await?;
        }
        Ok(())
    }

    /// Whether an owner is there. What the graph does not know is asked of the API: the owner may be of a
    /// kind that is not watched, or newer than the copy.
    async fn exists(&self, dependent: &Known, owner: &OwnerReference) -> Result<bool, Error> {
        if self.known(&owner.uid).is_some() {
            return Ok(true);
        }
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let gvk = GroupVersionKind::gvk(group, version, &owner.kind);
        let Ok((resource, capabilities)) = kube::discovery::pinned_kind(&self.client, &gvk).await else {
            // A kind that is not served: nothing can be said of its objects, so nothing is deleted.
            return Ok(true);
        };
        let namespace = dependent.metadata.namespace.as_deref();
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) if capabilities.scope == kube::discovery::Scope::Namespaced => {
                Api::namespaced_with(self.client.clone(), namespace, &resource)
            }
            _ => Api::all_with(self.client.clone(), &resource),
        };
        let found = api.get_metadata_opt(&owner.name).await?;
        Ok(found.is_some_and(|found| found.metadata.uid.as_deref() == Some(&owner.uid)))
    }

    async fn delete(&self, known: &Known, parameters: DeleteParams) -> Result<(), Error> {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid: known.metadata.uid.clone(), resource_version: None }),
            ..parameters
        };
        let name = known.metadata.name.clone().unwrap_or_default();
        unless_overtaken(self.api(known).delete(&name, &parameters).await)?;
        Ok(())
    }

    async fn disown(&self, known: &Known, owner: &str) -> Result<(), Error> {
        let mut owners = known.metadata.owner_references.clone().unwrap_or_default();
        owners.retain(|reference| reference.uid != owner);
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
        if unless_overtaken(written)?.is_none()
            && let Some(uid) = known.metadata.uid.clone()
        {
            self.queue.add(uid);
        }
        Ok(())
    }

    fn api(&self, known: &Known) -> Api<DynamicObject> {
        match known.metadata.namespace.as_deref() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &known.resource),
            None => Api::all_with(self.client.clone(), &known.resource),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(uid: &str, owner: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.to_owned()),
            owner_references: owner
                .map(|uid| vec![OwnerReference { uid: uid.to_owned(), ..OwnerReference::default() }]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_deletion_concerns_what_was_owned() {
        let pods = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        let mut graph = Graph::default();
        graph.put(&pods, metadata("owner", None));
        graph.put(&pods, metadata("pod", Some("owner")));
        assert!(graph.remove("owner").contains(&"pod".to_owned()));
        graph.put(&pods, metadata("pod", None));
        assert!(graph.dependents("owner").is_empty(), "a pod that was disowned is no dependent any more");
        assert_eq!(graph.of_kind(&pods).len(), 1);
    }
}
