//! The Node and the EdgeNode of a host that joins.

use std::time::Duration;

use edgeloom_api::join::{JoinRequest, RefusalReason};
use edgeloom_api::names::{EDGE_NODE_LABEL, ZONE_LABEL};
use edgeloom_api::v1alpha1::{EdgeNode, Role};
use edgeloom_model::NodeName;
use edgeloom_tunnel::PeerId;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

/// How long the cluster may take to give a new Node its pod ranges; the node starts without them then.
const RANGES: Duration = Duration::from_secs(10);

/// Why a host does not become a node.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeRefusal {
    /// The name belongs to another identity.
    #[error(
        "node name {name} is taken by another machine (peer {peer}); choose another name, or, if that \
         machine is gone for good, `kubectl delete edgenode {name}` and join again"
    )]
    Taken {
        /// The name.
        name: String,
        /// Who has it.
        peer: String,
    },
    /// The identity was expelled.
    #[error("node {0} was revoked; `kubectl delete edgenode {0}` lets it join again")]
    Revoked(String),
    /// The Node belongs to somebody who is no edge node of ours.
    #[error("a Node named {0} is there already and is none of this mesh; choose another node name")]
    Foreign(String),
    /// The API server refused or did not answer.
    #[error("the control cannot write to its Kubernetes API: {0}")]
    Unavailable(#[from] kube::Error),
}

impl NodeRefusal {
    /// The reason as the protocol names it.
    pub(super) fn reason(&self) -> RefusalReason {
        match self {
            Self::Taken { .. } | Self::Foreign(_) => RefusalReason::NameTaken,
            Self::Revoked(_) => RefusalReason::Revoked,
            Self::Unavailable(_) => RefusalReason::Unavailable,
        }
    }
}

/// What became of the host.
#[derive(Debug)]
pub(super) struct Made {
    /// UID of its Node.
    pub(super) uid: String,
    /// Ranges of its pods; empty if they are not given yet.
    pub(super) pod_cidrs: Vec<IpNet>,
}

/// Nodes and EdgeNodes.
#[derive(Clone)]
pub(super) struct Nodes {
    nodes: Api<Node>,
    edge_nodes: Api<EdgeNode>,
}

impl Nodes {
    /// Those of the cluster behind `client`.
    pub(super) fn new(client: Client) -> Self {
        Self { nodes: Api::all(client.clone()), edge_nodes: Api::all(client) }
    }

    /// Whether `peer` may have the name: one that was never used, or is its own. Says whether it has it
    /// already.
    pub(super) async fn check(&self, name: &NodeName, peer: &PeerId) -> Result<bool, NodeRefusal> {
        match self.edge_nodes.get_opt(name.as_str()).await? {
            Some(known) if known.spec.peer_id != peer.to_string() => {
                Err(NodeRefusal::Taken { name: name.to_string(), peer: known.spec.peer_id })
            }
            Some(known) if known.spec.revoked => Err(NodeRefusal::Revoked(name.to_string())),
            Some(_) => Ok(true),
            None => match self.nodes.get_opt(name.as_str()).await? {
                Some(node) if !node.labels().contains_key(EDGE_NODE_LABEL) => {
                    Err(NodeRefusal::Foreign(name.to_string()))
                }
                _ => Ok(false),
            },
        }
    }

    /// Makes the Node and its EdgeNode, or brings them up to date.
    pub(super) async fn make(
        &self,
        name: &NodeName,
        peer: &PeerId,
        site: &str,
        request: &JoinRequest,
    ) -> Result<Made, NodeRefusal> {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name.as_str(), "labels": {
                EDGE_NODE_LABEL: "",
                ZONE_LABEL: site,
                "kubernetes.io/hostname": if request.hostname.is_empty() { name.as_str() } else { &request.hostname },
                "kubernetes.io/os": request.os,
                "kubernetes.io/arch": request.arch,
            }},
        });
        let parameters = PatchParams::apply(crate::MANAGER).force();
        let node = self.nodes.patch(name.as_str(), &parameters, &Patch::Apply(node)).await?;
        let uid = node.uid().unwrap_or_default();
        let pod_cidrs = self.ranges(name).await?;
        let edge_node = json!({
            "apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode",
            "metadata": { "name": name.as_str(), "ownerReferences": [] },
            "spec": {
                "peerId": peer.to_string(), "site": site, "nodeUid": uid,
                "roles": [Role::Edge], "podCidrs": pod_cidrs,
            },
        });
        self.edge_nodes.patch(name.as_str(), &parameters, &Patch::Apply(edge_node)).await?;
        Ok(Made { uid, pod_cidrs })
    }

    /// Undoes [`Nodes::make`] of a host that was refused after all. The Node goes too: its ranges are not to
    /// stay taken by a host that is none.
    pub(super) async fn unmake(&self, name: &NodeName) -> Result<(), kube::Error> {
        let parameters = kube::api::DeleteParams::default();
        self.edge_nodes.delete(name.as_str(), &parameters).await?;
        self.nodes.delete(name.as_str(), &parameters).await.map(drop)
    }

    /// The Node's pod ranges, waited for.
    async fn ranges(&self, name: &NodeName) -> Result<Vec<IpNet>, NodeRefusal> {
        let deadline = tokio::time::Instant::now() + RANGES;
        loop {
            let node = self.nodes.get(name.as_str()).await?;
            let given = node.spec.and_then(|spec| spec.pod_cidrs).unwrap_or_default();
            let ranges: Vec<IpNet> = given.iter().filter_map(|text| text.parse().ok()).collect();
            if !ranges.is_empty() || tokio::time::Instant::now() > deadline {
                return Ok(ranges);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
