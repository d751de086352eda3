//! Edgeloom's own custom resources, `edgeloom.io/v1alpha1`, and their definitions.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// Set to refuse the node everywhere; peers honour it without the control too.
    #[serde(default)]
    pub revoked: bool,
    /// Ranges of the pods on the node.
    #[serde(default)]
    pub pod_cidrs: Vec<String>,
    /// Public addresses with port of a control or relay, such as `203.0.113.5:20006`.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// The definitions of all custom resources of this crate.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![EdgeNode::crd()]
}
