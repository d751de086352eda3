//! Deployments: a ReplicaSet for each template, and replicas moved from the old to the current one.

mod rolling;
mod status;
mod template;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

use crate::controller::{Error, Next, Reconcile};
use crate::events::Events;
use crate::pods::controller_of;
use crate::queue::Queue;
use crate::watch::{Hook, Key};

/// Keeps all Deployments.
pub(crate) struct Controller {
    pub(crate) client: Client,
    pub(crate) deployments: Store<Deployment>,
    pub(crate) events: Events,
}

pub(crate) fn on_deployment(queue: Arc<Queue<Key>>) -> Hook<Deployment> {
    Box::new(move |deployment| queue.add(Key::of(deployment)))
}

/// A ReplicaSet concerns the Deployment that controls it.
pub(crate) fn on_replica_set(queue: Arc<Queue<Key>>) -> Hook<ReplicaSet> {
    Box::new(move |set| {
        if let Some(owner) = controller_of(set.metadata.owner_references.as_ref())
            && owner.kind == "Deployment"
        {
            queue.add(Key::new(&set.namespace().unwrap_or_default(), &owner.name));
        }
    })
}

/// The ReplicaSets of a Deployment: the one of its template, and the others, oldest first.
struct Sets {
    current: Option<ReplicaSet>,
    old: Vec<ReplicaSet>,
}

impl Reconcile for Controller {
    type Key = Key;
    const NAME: &'static str = "deployment";

    async fn reconcile(&self, key: Key) -> Result<Next, Error> {
        let Some(deployment) = self.deployments.get(&key.reference()) else { return Ok(Next::Wait) };
        if deployment.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Wait);
        }
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut sets = self.sets(&api, &deployment).await?;
        let spec = deployment.spec.clone().unwrap_or_default();
        if !spec.paused.unwrap_or(false) {
            self.ensure_current(&api, &deployment, &mut sets).await?;
            self.step(&api, &deployment, &mut sets).await?;
            self.forget_old(&api, &deployment, &sets).await?;
        } else if let Some(current) = &mut sets.current {
            let replicas = spec.replicas.unwrap_or(1);
            if sets.old.iter().all(|set| rolling::Set::from(set).wanted == 0) {
                self.scale(&api, &deployment, current, replicas).await?;
            }
        }
        self.write_status(&deployment, &sets).await
    }
}

impl Controller {
    async fn sets(&self, api: &Api<ReplicaSet>, deployment: &Deployment) -> Result<Sets, Error> {
        let uid = deployment.uid();
        let all = api.list(&ListParams::default()).await?;
        let mut own: Vec<ReplicaSet> = all
            .into_iter()
            .filter(|set| {
                controller_of(set.metadata.owner_references.as_ref()).map(|owner| &owner.uid) == uid.as_ref()
            })
            .collect();
        own.sort_by_key(|set| (set.creation_timestamp(), set.name_any()));
        let current = own.iter().position(|set| template::is_current(deployment, set));
        Ok(Sets { current: current.map(|at| own.remove(at)), old: own })
    }

    /// Makes the ReplicaSet of the template, or brings the one of an earlier time back (a roll-back).
    async fn ensure_current(
        &self,
        api: &Api<ReplicaSet>,
        deployment: &Deployment,
        sets: &mut Sets,
    ) -> Result<(), Error> {
        let newest = sets.old.iter().map(template::revision).max().unwrap_or(0);
        let revision = match &sets.current {
            Some(set) if template::revision(set) > newest => template::revision(set),
            _ => newest + 1,
        };
        match &mut sets.current {
            Some(set) => {
                let wanted = template::annotations(deployment, revision);
                if wanted.iter().any(|(name, value)| set.annotations().get(name) != Some(value)) {
                    let patch = Patch::Merge(json!({ "metadata": { "annotations": wanted } }));
                    *set = api.patch(&set.name_any(), &PatchParams::default(), &patch).await?;
                }
            }
            None => {
                let old: Vec<rolling::Set> = sets.old.iter().map(Into::into).collect();
                let none = rolling::Set { wanted: 0, pods: 0, available: 0 };
                let size = next(deployment, &none, &old).current;
                let set = template::replica_set(deployment, revision, size)
                    .ok_or_else(|| Error::Object("the Deployment has no spec".to_owned()))?;
                sets.current = Some(api.create(&PostParams::default(), &set).await?);
                if size > 0 {
                    let note = format!("Scaled up replica set {} from 0 to {size}", set.name_any());
                    let about = deployment.object_ref(&());
                    self.events.normal(&about, "ScalingReplicaSet", "ScalingReplicaSet", note).await;
                }
            }
        }
        self.write_revision(deployment, revision).await
    }

    async fn write_revision(&self, deployment: &Deployment, revision: u64) -> Result<(), Error> {
        let revision = revision.to_string();
        if deployment.annotations().get(template::REVISION) != Some(&revision) {
            let api: Api<Deployment> =
                Api::namespaced(self.client.clone(), &deployment.namespace().unwrap_or_default());
            let patch =
                Patch::Merge(json!({ "metadata": { "annotations": { template::REVISION: revision } } }));
            api.patch(&deployment.name_any(), &PatchParams::default(), &patch).await?;
        }
        Ok(())
    }

    async fn step(
        &self,
        api: &Api<ReplicaSet>,
        deployment: &Deployment,
        sets: &mut Sets,
    ) -> Result<(), Error> {
        let Some(current) = &mut sets.current else { return Ok(()) };
        let old: Vec<rolling::Set> = sets.old.iter().map(Into::into).collect();
        let sizes = next(deployment, &(&*current).into(), &old);
        self.scale(api, deployment, current, sizes.current).await?;
        for (set, size) in sets.old.iter_mut().zip(sizes.old) {
            self.scale(api, deployment, set, size).await?;
        }
        Ok(())
    }

    async fn scale(
        &self,
        api: &Api<ReplicaSet>,
        deployment: &Deployment,
        set: &mut ReplicaSet,
        size: i32,
    ) -> Result<(), Error> {
        let before = rolling::Set::from(&*set).wanted;
        if before == size {
            return Ok(());
        }
        let name = set.name_any();
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": set.resource_version() },
            "spec": { "replicas": size },
        }));
        *set = api.patch(&name, &PatchParams::default(), &patch).await?;
        let direction = if size > before { "up" } else { "down" };
        let note = format!("Scaled {direction} replica set {name} from {before} to {size}");
        self.events.normal(&deployment.object_ref(&()), "ScalingReplicaSet", "ScalingReplicaSet", note).await;
        Ok(())
    }

    /// Deletes old ReplicaSets beyond the history that the Deployment keeps.
    async fn forget_old(
        &self,
        api: &Api<ReplicaSet>,
        deployment: &Deployment,
        sets: &Sets,
    ) -> Result<(), Error> {
        let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let mut idle: Vec<&ReplicaSet> = sets
            .old
            .iter()
            .filter(|set| {
                let sizes = rolling::Set::from(*set);
                sizes.wanted == 0 && sizes.pods == 0
            })
            .collect();
        idle.sort_by_key(|set| template::revision(set));
        let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for set in &idle[..surplus] {
            api.delete(&set.name_any(), &DeleteParams::background()).await?;
        }
        Ok(())
    }

    async fn write_status(&self, deployment: &Deployment, sets: &Sets) -> Result<Next, Error> {
        let now = Timestamp::now();
        let status = status::status(deployment, sets.current.as_ref(), &sets.old, now);
        if deployment.status.as_ref() != Some(&status) {
            let api: Api<Deployment> =
                Api::namespaced(self.client.clone(), &deployment.namespace().unwrap_or_default());
            // A merge patch keeps what it does not name: counts that fell to nothing are taken out by null.
            let mut patch =
                serde_json::to_value(&status).map_err(|error| Error::Object(error.to_string()))?;
            for count in
                ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"]
            {
                patch.as_object_mut().map(|map| map.entry(count).or_insert(serde_json::Value::Null));
            }
            let patch = Patch::Merge(json!({ "status": patch }));
            api.patch_status(&deployment.name_any(), &PatchParams::default(), &patch).await?;
        }
        Ok(match status::deadline(&status, deployment, now) {
            Some(left) => Next::After(Duration::from_secs(u64::try_from(left.max(0)).unwrap_or(0) + 1)),
            None => Next::Wait,
        })
    }
}

fn next(deployment: &Deployment, current: &rolling::Set, old: &[rolling::Set]) -> rolling::Sizes {
    let spec = deployment.spec.as_ref();
    let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let strategy =
        spec.and_then(|spec| spec.strategy.as_ref()).and_then(|strategy| strategy.type_.as_deref());
    if strategy == Some("Recreate") {
        rolling::recreate(replicas, current, old)
    } else {
        rolling::rolling(replicas, rolling::limits(deployment), current, old)
    }
}
