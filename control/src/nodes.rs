//! What the control keeps true between Nodes and EdgeNodes.
//!
//! A cluster gives a Node its pod ranges some time after the node joined; the mesh learns them from the
//! EdgeNode. And a Node without a zone gets its site as one, since hints and `kubectl` know zones.

use edgeloom_api::names::ZONE_LABEL;
use edgeloom_api::v1alpha1::EdgeNode;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Follows all Nodes until stopped.
pub async fn run(client: kube::Client, stop: CancellationToken) {
    let nodes: Api<Node> = Api::all(client.clone());
    let changes = watcher(nodes.clone(), watcher::Config::default()).default_backoff().applied_objects();
    let mut changes = std::pin::pin!(changes);
    let edge_nodes: Api<EdgeNode> = Api::all(client);
    loop {
        let node = tokio::select! {
            node = changes.try_next() => node,
            () = stop.cancelled() => return,
        };
        match node {
            Ok(Some(node)) => {
                if let Err(error) = reconcile(&nodes, &edge_nodes, &node).await {
                    tracing::warn!(node = node.name_any(), %error, "bringing Node and EdgeNode together");
                }
            }
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, "watching the Nodes; trying again"),
        }
    }
}

async fn reconcile(nodes: &Api<Node>, edge_nodes: &Api<EdgeNode>, node: &Node) -> Result<(), kube::Error> {
    let name = node.name_any();
    let Some(edge_node) = edge_nodes.get_opt(&name).await? else { return Ok(()) };
    let parameters = PatchParams { field_manager: Some(crate::MANAGER.to_owned()), ..Default::default() };
    let ranges = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
    if !ranges.is_empty() && edge_node.spec.pod_cidrs != ranges {
        let patch = Patch::Merge(json!({ "spec": { "podCidrs": ranges } }));
        edge_nodes.patch(&name, &parameters, &patch).await?;
    }
    if !node.labels().contains_key(ZONE_LABEL) && !edge_node.spec.site.is_empty() {
        let patch = Patch::Merge(json!({ "metadata": { "labels": { ZONE_LABEL: edge_node.spec.site } } }));
        nodes.patch(&name, &parameters, &patch).await?;
    }
    Ok(())
}
