//! What remains of a node that is removed or revoked: a Revocation of its identity.
//!
//! ```text
//! kubectl delete edgenode X ─> finalizer holds it ─> Revocation (Removed) ─> finalizer released ─> EdgeNode gone
//! spec.revoked: true        ─> Revocation (Revoked), which stays when the EdgeNode is deleted
//! ```
//! The finalizer makes it sure: an EdgeNode that is deleted while no control runs waits for one, and is no
//! member meanwhile for whoever sees its deletion.

use std::collections::BTreeMap;
use std::time::Duration;

use edgeloom_api::names::REVOKE_FINALIZER;
use edgeloom_api::v1alpha1::{Cause, EdgeNode, Revocation, RevocationSpec, Role};
use futures::TryStreamExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// What an EdgeNode calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    Nothing,
    /// Hold it: it has become a member.
    Hold,
    /// Revoke its identity.
    Revoke,
    /// Revoke its identity for this cause, and let the EdgeNode go.
    Release(Cause),
    /// Let it go: it never was a member.
    LetGo,
}

/// Follows all EdgeNodes until stopped.
pub async fn run(client: Client, stop: CancellationToken) {
    let keeper = Keeper { edge_nodes: Api::all(client.clone()), revocations: Api::all(client) };
    let config = watcher::Config::default();
    let changes = watcher(keeper.edge_nodes.clone(), config).default_backoff().applied_objects();
    let mut changes = std::pin::pin!(changes);
    let mut failed: BTreeMap<String, EdgeNode> = BTreeMap::new();
    let mut retry = tokio::time::interval(RETRY);
    loop {
        tokio::select! {
            change = changes.try_next() => match change {
                Ok(Some(node)) => keeper.attend(node, &mut failed).await,
                Ok(None) => return,
                Err(error) => tracing::warn!(%error, "watching the EdgeNodes; trying again"),
            },
            _ = retry.tick(), if !failed.is_empty() => {
                for (name, node) in std::mem::take(&mut failed) {
                    // What is gone needs nothing more.
                    match keeper.edge_nodes.get_opt(&name).await {
                        Ok(Some(now)) => keeper.attend(now, &mut failed).await,
                        Ok(None) => {}
                        Err(_) => drop(failed.insert(name, node)),
                    }
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

struct Keeper {
    edge_nodes: Api<EdgeNode>,
    revocations: Api<Revocation>,
}

impl Keeper {
    async fn attend(&self, node: EdgeNode, failed: &mut BTreeMap<String, EdgeNode>) {
        let name = node.name_any();
        failed.remove(&name);
        if let Err(error) = self.reconcile(&node).await {
            tracing::warn!(node = name, %error, "keeping EdgeNode and Revocation; trying again");
            failed.insert(name, node);
        }
    }

    async fn reconcile(&self, node: &EdgeNode) -> Result<(), kube::Error> {
        match duty(node) {
            Duty::Nothing => Ok(()),
            Duty::Hold => self.set_finalizer(node, true).await,
            Duty::Revoke => self.revoke(node, Cause::Revoked).await,
            Duty::Release(cause) => {
                self.revoke(node, cause).await?;
                self.set_finalizer(node, false).await
            }
            Duty::LetGo => self.set_finalizer(node, false).await,
        }
    }

    /// Writes the Revocation; one that says revoked is never made to say less.
    async fn revoke(&self, node: &EdgeNode, cause: Cause) -> Result<(), kube::Error> {
        let (name, peer_id) = (node.name_any(), node.spec.peer_id.clone());
        let object_name = Revocation::name_of(&name, &peer_id);
        let revocation = Revocation::new(&object_name, RevocationSpec { peer_id, node: name.clone(), cause });
        match self.revocations.create(&PostParams::default(), &revocation).await {
            Ok(_) => tracing::info!(node = name, revocation = object_name, ?cause, "its identity is revoked"),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                if cause == Cause::Revoked {
                    let patch = Patch::Merge(json!({ "spec": { "cause": cause } }));
                    self.revocations.patch(&object_name, &parameters(), &patch).await?;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Adds or takes away the control's finalizer, where nobody else has written meanwhile: the change of
    /// another brings the EdgeNode here again.
    async fn set_finalizer(&self, node: &EdgeNode, wanted: bool) -> Result<(), kube::Error> {
        let mut finalizers: Vec<&str> = node.finalizers().iter().map(String::as_str).collect();
        finalizers.retain(|finalizer| *finalizer != REVOKE_FINALIZER);
        if wanted {
            finalizers.push(REVOKE_FINALIZER);
        }
        let metadata = json!({ "finalizers": finalizers, "resourceVersion": node.resource_version() });
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        match self.edge_nodes.patch(&node.name_any(), &parameters(), &patch).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(crate::MANAGER.to_owned()), ..PatchParams::default() }
}

fn duty(node: &EdgeNode) -> Duty {
    // A control that lost its own EdgeNode writes it anew; it is not to lock the cluster's nodes out.
    if node.spec.roles.contains(&Role::Control) {
        return Duty::Nothing;
    }
    let held = node.finalizers().iter().any(|finalizer| finalizer == REVOKE_FINALIZER);
    let joined = !node.spec.node_uid.is_empty();
    match (node.metadata.deletion_timestamp.is_some(), held) {
        (true, true) if node.spec.revoked => Duty::Release(Cause::Revoked),
        (true, true) if joined => Duty::Release(Cause::Removed),
        (true, true) => Duty::LetGo,
        (true, false) => Duty::Nothing,
        (false, false) if joined => Duty::Hold,
        (false, _) if node.spec.revoked => Duty::Revoke,
        (false, _) => Duty::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge_node(uid: &str, revoked: bool, deleted: bool, held: bool) -> EdgeNode {
        let mut metadata = json!({ "name": "edge-1" });
        if deleted {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        if held {
            metadata["finalizers"] = json!(["example.org/other", REVOKE_FINALIZER]);
        }
        serde_json::from_value(json!({
            "apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode", "metadata": metadata,
            "spec": { "peerId": "p", "site": "s", "nodeUid": uid, "roles": ["edge"], "revoked": revoked },
        }))
        .unwrap()
    }

    #[test]
    fn no_member_goes_without_a_revocation() {
        for (uid, revoked, deleted, held, expected) in [
            ("u", false, false, false, Duty::Hold),
            ("u", false, false, true, Duty::Nothing),
            ("u", true, false, true, Duty::Revoke),
            // Held first: its change brings it back to be revoked.
            ("u", true, false, false, Duty::Hold),
            ("u", false, true, true, Duty::Release(Cause::Removed)),
            ("u", true, true, true, Duty::Release(Cause::Revoked)),
            ("u", false, true, false, Duty::Nothing),
            ("", false, false, false, Duty::Nothing),
            ("", false, true, true, Duty::LetGo),
        ] {
            assert_eq!(
                duty(&edge_node(uid, revoked, deleted, held)),
                expected,
                "{uid} {revoked} {deleted} {held}"
            );
        }
        let mut control = edge_node("u", false, true, true);
        control.spec.roles = vec![Role::Control, Role::Relay];
        assert_eq!(duty(&control), Duty::Nothing);
    }

    #[test]
    fn each_machine_of_a_name_has_a_revocation_of_its_own() {
        let (one, other) = (Revocation::name_of("edge-1", "12D3a"), Revocation::name_of("edge-1", "12D3b"));
        assert!(one.starts_with("edge-1-") && one != other);
        assert!(Revocation::name_of(&"a.".repeat(126), "p").len() <= 253);
    }
}
