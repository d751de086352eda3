//! The Node and the EdgeNode of a host that joins.

use std::time::Duration;

use edgeloom_api::join::{JoinRequest, RefusalReason};
use edgeloom_api::names::{EDGE_NODE_LABEL, ZONE_LABEL};
use edgeloom_api::v1alpha1::{Cause, EdgeNode, EdgeNodeSpec, Revocation, Role};
use edgeloom_model::NodeName;
use edgeloom_tunnel::PeerId;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::issue::Holder;
use super::registration;

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
    /// The name is the control's own.
    #[error(
        "node name {0} is that of the control, which is a member of the mesh itself; choose another name"
    )]
    Control(String),
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
            Self::Taken { .. } | Self::Control(_) | Self::Foreign(_) => RefusalReason::NameTaken,
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
    /// The node of this name already; with the UID of its Node.
    Member(String),
    /// No member; the name is free. It was one before by these Revocations, which joining with a token undoes.
    Free(Vec<String>),
}

/// The refusal of a name that the EdgeNode with this specification has.
fn taken(name: &NodeName, known: EdgeNodeSpec) -> NodeRefusal {
    if known.roles.contains(&Role::Control) {
        return NodeRefusal::Control(name.to_string());
    }
    NodeRefusal::Taken { name: name.to_string(), peer: known.peer_id }
}

impl Nodes {
    /// Those of the cluster behind `client`.
    pub(super) fn new(client: Client) -> Self {
        let edge_nodes = Api::all(client.clone());
        Self { nodes: Api::all(client.clone()), edge_nodes, revocations: Api::all(client) }
    }

    /// Refuses whoever is not the node of this name now: what a credential says does not count.
    /// Returns the UID of its Node.
    pub(super) async fn require_member(&self, name: &NodeName, peer: &PeerId) -> Result<String, NodeRefusal> {
        match self.check(name, peer).await? {
            Standing::Member(uid) => Ok(uid),
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
            Some(known) if known.spec.peer_id != peer.to_string() => Err(taken(name, known.spec)),
            Some(known) if known.spec.revoked => {
                let revocation = Revocation::name_of(name.as_str(), &known.spec.peer_id);
                Err(NodeRefusal::Revoked { node: name.to_string(), revocation })
            }
            // What was claimed and came to nothing is no member.
            Some(known) if removals.is_empty() && !known.spec.node_uid.is_empty() => {
                Ok(Standing::Member(known.spec.node_uid))
            }
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

    /// Takes the name for `peer`: of two hosts that ask at the same time one gets it. Returns what identifies
    /// the EdgeNode.
    pub(super) async fn claim(
        &self,
        name: &NodeName,
        peer: &PeerId,
        site: &str,
        request: &JoinRequest,
    ) -> Result<String, NodeRefusal> {
        let spec = EdgeNodeSpec {
            peer_id: peer.to_string(),
            site: site.to_owned(),
            roles: vec![Role::Edge],
            host: registration::host(name, request),
            ..EdgeNodeSpec::default()
        };
        let claim = EdgeNode::new(name.as_str(), spec);
        let parameters =
            PostParams { field_manager: Some(crate::MANAGER.to_owned()), ..PostParams::default() };
        let claimed = match self.edge_nodes.create(&parameters, &claim).await {
            Err(kube::Error::Api(status)) if status.code == 409 => self.edge_nodes.get(name.as_str()).await?,
            other => other?,
        };
        if claimed.spec.peer_id != claim.spec.peer_id {
            return Err(taken(name, claimed.spec));
        }
        Ok(claimed.uid().unwrap_or_default())
    }

    /// Makes the Node of a name that was claimed, or brings it up to date.
    pub(super) async fn make(
        &self,
        name: &NodeName,
        site: &str,
        request: &JoinRequest,
    ) -> Result<Made, NodeRefusal> {
        let known = self.nodes.get_opt(name.as_str()).await?;
        let zone = known.as_ref().and_then(|node| node.labels().get(ZONE_LABEL)).map_or(site, String::as_str);
        let node = registration::node(name.as_str(), zone, &registration::host(name, request));
        let parameters = PatchParams::apply(crate::MANAGER).force();
        let node = self.nodes.patch(name.as_str(), &parameters, &Patch::Apply(node)).await?;
        let uid = node.uid().unwrap_or_default();
        let pod_cidrs = self.ranges(name).await?;
        Ok(Made { uid, pod_cidrs })
    }

    /// Makes a member of who claimed the name as the EdgeNode `claim`.
    pub(super) async fn settle(
        &self,
        name: &NodeName,
        claim: &str,
        holder: &Holder,
        request: &JoinRequest,
        pod_cidrs: &[IpNet],
    ) -> Result<(), NodeRefusal> {
        let edge_node = json!({
            "apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode",
            "metadata": { "name": name.as_str(), "uid": claim, "ownerReferences": [] },
            "spec": {
                "peerId": holder.peer.to_string(), "site": holder.site, "nodeUid": holder.uid,
                "roles": holder.roles, "podCidrs": pod_cidrs, "host": registration::host(name, request),
            },
        });
        let parameters = PatchParams::apply(crate::MANAGER).force();
        self.edge_nodes.patch(name.as_str(), &parameters, &Patch::Apply(edge_node)).await?;
        Ok(())
    }

    /// Undoes [`Nodes::claim`] and [`Nodes::make`] of a host that did not become a member. The Node goes too:
    /// its ranges are not to stay taken by a host that is none.
    pub(super) async fn unmake(&self, name: &NodeName) -> Result<(), kube::Error> {
        let parameters = DeleteParams::default();
        gone(self.edge_nodes.delete(name.as_str(), &parameters).await)?;
        gone(self.nodes.delete(name.as_str(), &parameters).await)
    }

    /// Makes the Node of a member anew, as its EdgeNode has it, where it was deleted; says which one it is.
    pub(super) async fn register(&self, name: &NodeName) -> Result<String, NodeRefusal> {
        let member = self.edge_nodes.get_opt(name.as_str()).await?;
        let member = member.ok_or_else(|| NodeRefusal::NotMember(name.to_string()))?;
        let others = self.nodes.list(&ListParams::default()).await?;
        let node = registration::anew(name.as_str(), &member.spec, &others.items);
        let parameters =
            PostParams { field_manager: Some(crate::MANAGER.to_owned()), ..PostParams::default() };
        let node = match self.nodes.create(&parameters, &node).await {
            Err(kube::Error::Api(status)) if status.code == 409 => self.nodes.get(name.as_str()).await?,
            made => {
                let made = made?;
                tracing::info!(node = %name, "its Node was deleted and is made anew: the node is a member and connected");
                made
            }
        };
        Ok(node.uid().unwrap_or_default())
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

/// A deletion of what is gone already is done.
fn gone<T>(deleted: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match deleted {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}
