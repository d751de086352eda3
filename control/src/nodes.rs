//! What the control keeps true between Nodes and EdgeNodes.
//!
//! A cluster gives a Node its pod ranges some time after the node joined; the mesh learns them from the
//! EdgeNode. A Node without a zone gets its site as one, since hints and `kubectl` know zones. One whose zone
//! says something else keeps it, with a condition that says so: the credential's site decides who is reached
//! directly, the label where hints point.

use edgeloom_api::names::{SITE_MISMATCH_CONDITION, ZONE_LABEL};
use edgeloom_api::v1alpha1::EdgeNode;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
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
        return Ok(());
    }
    if let Some(condition) = mismatch(node, &edge_node.spec.site, OffsetDateTime::now_utc()) {
        // Strategic: the node's own conditions stay as they are, told apart by their type.
        let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
        nodes.patch_status(&name, &parameters, &patch).await?;
    }
    Ok(())
}

/// The condition to write where the Node's says anything else; none on a Node that never had a mismatch.
fn mismatch(node: &Node, site: &str, now: OffsetDateTime) -> Option<Value> {
    let zone = node.labels().get(ZONE_LABEL)?;
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let before = conditions.into_iter().flatten().find(|is| is.type_ == SITE_MISMATCH_CONDITION);
    let differs = !site.is_empty() && zone != site;
    if !differs && before.is_none() {
        return None;
    }
    let (status, reason) = if differs { ("True", "ZoneIsNotSite") } else { ("False", "ZoneIsSite") };
    let message = if differs {
        format!(
            "the label {ZONE_LABEL} says {zone}, the node's credential site {site}: hints follow the label, \
             direct paths the site; correct the label, or join the node anew with a token of the other site"
        )
    } else {
        format!("the label {ZONE_LABEL} is the site of the node's credential")
    };
    if before.is_some_and(|is| is.status == status && is.message.as_deref() == Some(&message)) {
        return None;
    }
    let now = now.format(&Rfc3339).expect("the clock's time has a year of four digits");
    let since = before.filter(|is| is.status == status).and_then(|is| is.last_transition_time.as_ref());
    let since = since.map_or_else(|| json!(now), |since| json!(since));
    Some(json!({
        "type": SITE_MISMATCH_CONDITION, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": since,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(zone: Option<&str>, condition: Option<Value>) -> Node {
        let labels = zone.map_or(json!({}), |zone| json!({ ZONE_LABEL: zone }));
        let ready = json!({ "type": "Ready", "status": "True" });
        let conditions: Vec<Value> = [Some(ready), condition].into_iter().flatten().collect();
        serde_json::from_value(json!({
            "metadata": { "name": "edge-1", "labels": labels }, "status": { "conditions": conditions },
        }))
        .unwrap()
    }

    #[test]
    fn a_zone_that_is_not_the_site_is_said_once_and_taken_back() {
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        assert_eq!(mismatch(&node(Some("berlin"), None), "berlin", at(0)), None);
        assert_eq!(mismatch(&node(None, None), "berlin", at(0)), None);
        assert_eq!(mismatch(&node(Some("berlin"), None), "", at(0)), None, "a node without a site");

        let told = mismatch(&node(Some("bonn"), None), "berlin", at(0)).unwrap();
        assert_eq!((&told["status"], &told["reason"]), (&json!("True"), &json!("ZoneIsNotSite")));
        let message = told["message"].as_str().unwrap();
        assert!(message.contains("bonn") && message.contains("berlin"), "{message}");
        assert_eq!(mismatch(&node(Some("bonn"), Some(told.clone())), "berlin", at(9)), None);

        let other = mismatch(&node(Some("köln"), Some(told.clone())), "berlin", at(9)).unwrap();
        assert_eq!(other["lastTransitionTime"], "1970-01-01T00:00:00Z", "it was true before");
        let back = mismatch(&node(Some("berlin"), Some(told)), "berlin", at(9)).unwrap();
        assert_eq!(
            (&back["status"], &back["lastTransitionTime"]),
            (&json!("False"), &json!("1970-01-01T00:00:09Z"))
        );
    }
}
