//! Edgeloom's own custom resources, `edgeloom.io/v1alpha1`, and their definitions.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use crate::credential::Role;

/// A node of the mesh: the control writes one for every node that joined and one for itself, and the hub
/// carries all of them to every node. Named after the Node.
#[expect(clippy::duplicated_attributes, reason = "each printcolumn has a type, and several have the same")]
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "edgeloom.io",
    version = "v1alpha1",
    kind = "EdgeNode",
    plural = "edgenodes",
    singular = "edgenode",
    shortname = "en",
    derive = "PartialEq",
    printcolumn(name = "Site", json_path = ".spec.site", type_ = "string"),
    printcolumn(name = "Roles", json_path = ".spec.roles", type_ = "string"),
    printcolumn(name = "Revoked", json_path = ".spec.revoked", type_ = "boolean"),
    printcolumn(name = "Peer", json_path = ".spec.peerId", type_ = "string", priority = 1),
    printcolumn(name = "Age", json_path = ".metadata.creationTimestamp", type_ = "date")
)]
#[serde(rename_all = "camelCase")]
pub struct EdgeNodeSpec {
    /// Identity of the node: its libp2p peer id in base58.
    pub peer_id: String,
    /// Where nodes reach each other's real addresses.
    pub site: String,
    /// UID of the Node at the time of joining.
    pub node_uid: String,
    /// What the node may be to its peers.
    pub roles: Vec<Role>,
    /// Set to refuse the node everywhere; the control writes a [`Revocation`] for it, which stays when the
    /// EdgeNode goes.
    #[serde(default)]
    pub revoked: bool,
    /// Ranges of the pods on the node.
    #[serde(default)]
    pub pod_cidrs: Vec<String>,
    /// What the host said of itself when it joined.
    #[serde(default)]
    pub host: Host,
    /// Public addresses with port of a control or relay, such as `203.0.113.5:20006`.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// What a host says of itself: the standard labels of its Node, for one that is made anew. Empty fields are
/// not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// `kubernetes.io/hostname`.
    #[serde(default)]
    pub hostname: String,
    /// `kubernetes.io/os`, as Go names it.
    #[serde(default)]
    pub os: String,
    /// `kubernetes.io/arch`, as Go names it.
    #[serde(default)]
    pub arch: String,
}

/// An identity that is no member any more, whatever credential it shows. The hub carries all of them to every
/// node, and nodes honour them without the control too. The control writes one when an EdgeNode is deleted or
/// revoked; people may write one as well. Its name says nothing, `spec.peerId` counts.
#[expect(clippy::duplicated_attributes, reason = "each printcolumn has a type, and several have the same")]
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "edgeloom.io",
    version = "v1alpha1",
    kind = "Revocation",
    plural = "revocations",
    singular = "revocation",
    derive = "PartialEq",
    printcolumn(name = "Node", json_path = ".spec.node", type_ = "string"),
    printcolumn(name = "Cause", json_path = ".spec.cause", type_ = "string"),
    printcolumn(name = "Peer", json_path = ".spec.peerId", type_ = "string"),
    printcolumn(name = "Age", json_path = ".metadata.creationTimestamp", type_ = "date")
)]
#[serde(rename_all = "camelCase")]
pub struct RevocationSpec {
    /// The identity: a libp2p peer id in base58.
    pub peer_id: String,
    /// Name of the node that it had, for people.
    #[serde(default)]
    pub node: String,
    /// Whether a join token lets it in again.
    #[serde(default)]
    pub cause: Cause,
}

/// Why an identity is no member any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Cause {
    /// Its EdgeNode was deleted: it may join again with a token.
    Removed,
    /// It was expelled: no token lets it in while the Revocation stands.
    #[default]
    Revoked,
}

impl Revocation {
    /// The name under which the control keeps the Revocation of `node`'s identity: the same every time, and
    /// another one for another machine of that name.
    pub fn name_of(node: &str, peer_id: &str) -> String {
        let hash = hex::encode(&Sha256::digest(peer_id.as_bytes())[..5]);
        // A name has 253 characters at most.
        let node: String = node.chars().take(240).collect();
        format!("{}-{hash}", node.trim_end_matches(['.', '-']))
    }
}

/// How the nodes of a site reach others. Named after the site; a site that has none is bounded by its nodes' own
/// configuration only. The hub carries it to the nodes of that site, which obey at once and keep it: it holds with the
/// control gone and after a restart too. What a node's own configuration says more strictly stands.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "edgeloom.io",
    version = "v1alpha1",
    kind = "Site",
    plural = "sites",
    singular = "site",
    derive = "PartialEq",
    printcolumn(name = "Direct", json_path = ".spec.direct", type_ = "boolean"),
    printcolumn(name = "Mbit/s", json_path = ".spec.rateMbit", type_ = "integer"),
    printcolumn(name = "Age", json_path = ".metadata.creationTimestamp", type_ = "date")
)]
#[serde(rename_all = "camelCase")]
pub struct SiteSpec {
    /// Whether its nodes look for direct paths to others; otherwise everything goes through relays, within the site too
    /// where it goes over the overlay.
    #[serde(default = "yes")]
    pub direct: bool,
    /// Megabits a second that each node of the site sends to others, all in all; as many as go where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub rate_mbit: Option<u32>,
}

const fn yes() -> bool {
    true
}

impl Default for SiteSpec {
    fn default() -> Self {
        Self { direct: true, rate_mbit: None }
    }
}

/// The definitions of all custom resources of this crate.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![EdgeNode::crd(), Revocation::crd(), Site::crd()]
}
