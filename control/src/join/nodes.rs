//! The Node and the EdgeNode of a host that joins.

use std::time::Duration;

use edgeloom_api::join::{JoinRequest, RefusalReason};
use edgeloom_api::names::{EDGE_NODE_LABEL, ZONE_LABEL};
use edgeloom_api::v1alpha1::{Cause, EdgeNode, Revocation, Role};
use edgeloom_model::NodeName;
use edgeloom_tunnel::PeerId;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
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
    #[error(
        "this machine was revoked (as node {node}); to let it join again, `kubectl delete revocation {revocation}`"
    )]
    Revoked {
        /// The name it had.
        node: String,
        /// The object that says so.
        revocation: String,
    },
    /// It is none, and has only its credential to show.
    #[error(
        "node {0} is no member of this cluster: it was removed, and its credential is not renewed; get a token from \
         `meshctl token create --site SITE`, `edgecore reset`, and join again"
    )]
    NotMember(String),
    /// Its removal is not complete.
    #[error("node {0} is being removed from the cluster; try again in a moment")]
    Leaving(String),
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
            Self::Revoked { .. } => RefusalReason::Revoked,
            Self::NotMember(_) => RefusalReason::NotMember,
            Self::Leaving(_) | Self::Unavailable(_) => RefusalReason::Unavailable,
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
    revocations: Api<Revocation>,
}

/// What a host is before it joins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The node of this name already.
    Member,
    /// No member; the name is free. It was one before by these Revocations, which joining with a token undoes.
    Free(Vec<String>),
}

impl Nodes {
    /// Those of the cluster behind `client`.
    pub(super) fn new(client: Client) -> Self {
        let edge_nodes = Api::all(client.clone());
        Self { nodes: Api::all(client.clone()), edge_nodes, revocations: Api::all(client) }
    }

    /// Refuses whoever is not the node of this name now: what a credential says does not count.
    pub(super) async fn require_member(&self, name: &NodeName, peer: &PeerId) -> Result<(), NodeRefusal> {
        match self.check(name, peer).await? {
            Standing::Member => Ok(()),
            Standing::Free(_) => Err(NodeRefusal::NotMember(name.to_string())),
        }
    }

    /// Whether `peer` may have the name: one that nobody has, or is its own.
    pub(super) async fn check(&self, name: &NodeName, peer: &PeerId) -> Result<Standing, NodeRefusal> {
        let removals = self.removals(name, peer).await?;
        match self.edge_nodes.get_opt(name.as_str()).await? {
            Some(known) if known.metadata.deletion_timestamp.is_some() => {
                Err(NodeRefusal::Leaving(name.to_string()))
            }
            Some(known) if known.spec.peer_id != peer.to_string() => {
                Err(NodeRefusal::Taken { name: name.to_string(), peer: known.spec.peer_id })
            }
            Some(known) if known.spec.revoked => {
                let revocation = Revocation::name_of(name.as_str(), &known.spec.peer_id);
                Err(NodeRefusal::Revoked { node: name.to_string(), revocation })
            }
            Some(_) if removals.is_empty() => Ok(Standing::Member),
            Some(_) => Ok(Standing::Free(removals)),
            None => match self.nodes.get_opt(name.as_str()).await? {
                Some(node) if !node.labels().contains_key(EDGE_NODE_LABEL) => {
                    Err(NodeRefusal::Foreign(name.to_string()))
                }
                _ => Ok(Standing::Free(removals)),
            },
        }
    }

    /// Names of the Revocations that say that `peer` was removed; refuses it if one says that it was revoked.
    async fn removals(&self, name: &NodeName, peer: &PeerId) -> Result<Vec<String>, NodeRefusal> {
        let peer = peer.to_string();
        let mut removals = Vec::new();
        for known in self.revocations.list(&ListParams::default()).await? {
            if known.spec.peer_id != peer {
                continue;
            }
            let revocation = known.name_any();
            if known.spec.cause == Cause::Revoked {
                let node = if known.spec.node.is_empty() { name.to_string() } else { known.spec.node };
                return Err(NodeRefusal::Revoked { node, revocation });
            }
            removals.push(revocation);
        }
        Ok(removals)
    }

    /// Undoes removals: the host has shown a token.
    pub(super) async fn readmit(&self, removals: &[String]) -> Result<(), NodeRefusal> {
        for name in removals {
            match self.revocations.delete(name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => drop(other?),
            }
        }
        Ok(())
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
        let parameters = DeleteParams::default();
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
