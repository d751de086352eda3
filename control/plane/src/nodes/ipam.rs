//! Gives every Node its podCIDRs, once: a Node keeps what it has.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::ranges::free;
use crate::controller::{Error, Next, Reconcile};
use crate::queue::Queue;
use crate::watch::{Hook, Key};

/// Allocates ranges.
pub(crate) struct Controller {
    pub(crate) client: Client,
    pub(crate) clusters: Vec<IpNet>,
}

pub(crate) fn on_node(queue: Arc<Queue<Key>>) -> Hook<Node> {
    Box::new(move |node| {
        if ranges(node).next().is_none() && node.metadata.deletion_timestamp.is_none() {
            queue.add(Key::of(node));
        }
    })
}

fn ranges(node: &Node) -> impl Iterator<Item = IpNet> + '_ {
    let spec = node.spec.as_ref();
    let all = spec.and_then(|spec| spec.pod_cidrs.as_ref()).into_iter().flatten();
    let first = spec.and_then(|spec| spec.pod_cidr.as_ref());
    all.chain(first).filter_map(|text| text.parse().ok())
}

impl Reconcile for Controller {
    type Key = Key;
    const NAME: &'static str = "node-ipam";

    /// One at a time and with a fresh list, so that no range is given twice.
    async fn reconcile(&self, key: Key) -> Result<Next, Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let nodes = api.list(&ListParams::default()).await?.items;
        let Some(node) = nodes.iter().find(|node| node.name_any() == key.name) else { return Ok(Next::Wait) };
        if ranges(node).next().is_some() {
            return Ok(Next::Wait);
        }
        let taken: BTreeSet<IpNet> = nodes.iter().flat_map(ranges).collect();
        let given: Option<Vec<String>> = self
            .clusters
            .iter()
            .map(|cluster| free(cluster, &taken).map(|range| range.to_string()))
            .collect();
        let given = given.ok_or_else(|| {
            Error::Object(format!(
                "no free range for Node {} in {:?}: delete Nodes that are gone or widen embedded.clusterCidrs",
                key.name, self.clusters
            ))
        })?;
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": node.resource_version() },
            "spec": { "podCIDR": given.first(), "podCIDRs": given },
        }));
        api.patch(&key.name, &PatchParams::default(), &patch).await?;
        tracing::info!(node = key.name, ranges = given.join(", "), "pod ranges given");
        Ok(Next::Wait)
    }
}
