//! Nodes: the mesh's membership (`EdgeNode`) and what Kubernetes says of them (`Node`).

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use crate::name::{NodeName, Site};
use crate::read::{self, FieldError, ObjectError};

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const SITE_ADDRESS_ANNOTATION: &str = "edgeloom.io/site-address";

/// What a member of the mesh does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Runs pods at a site.
    Edge,
    /// The cloud side.
    Control,
    /// Forwards packets of peers that find no direct path.
    Relay,
}

impl FromStr for Role {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "edge" => Ok(Self::Edge),
            "control" => Ok(Self::Control),
            "relay" => Ok(Self::Relay),
            _ => Err("expected edge, control or relay"),
        }
    }
}

/// A member of the mesh, from the custom resource `edgenodes.edgeloom.io`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeNode {
    /// The node's name, which is the resource's.
    pub name: NodeName,
    /// Its libp2p peer id, as text.
    pub peer: Arc<str>,
    /// Where it stands.
    pub site: Site,
    /// What it does.
    pub roles: Vec<Role>,
    /// Whether it was expelled: nothing is sent to it or taken from it.
    pub revoked: bool,
    /// Ranges of its pods' addresses.
    pub pod_cidrs: Vec<IpNet>,
    /// Where it can be reached from anywhere (relays).
    pub addresses: Vec<SocketAddr>,
}

impl TryFrom<&Value> for EdgeNode {
    type Error = ObjectError;

    fn try_from(object: &Value) -> Result<Self, ObjectError> {
        read::in_object("EdgeNode", object, |object| {
            let name = node_name(object)?;
            edge_node(name, read::section(object, "spec")?).map_err(|e| e.under("spec"))
        })
    }
}

fn edge_node(name: NodeName, spec: &Value) -> Result<EdgeNode, FieldError> {
    Ok(EdgeNode {
        name,
        peer: read::required_text(spec, "peerId")?.into(),
        site: read::parsed(spec, "site")?.ok_or_else(|| FieldError::new("site", "is required"))?,
        roles: read::parsed_list(spec, "roles")?,
        revoked: read::flag(spec, "revoked")?.unwrap_or(false),
        pod_cidrs: read::parsed_list(spec, "podCidrs")?,
        addresses: read::parsed_list(spec, "addresses")?,
    })
}

/// A Kubernetes Node, as far as the mesh asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The node's name.
    pub name: NodeName,
    /// Its zone label, which topology hints refer to.
    pub zone: Option<Arc<str>>,
    /// Its own address at its site (annotation `edgeloom.io/site-address`), else its `InternalIP`s.
    pub addresses: Vec<IpAddr>,
    /// Ranges of its pods' addresses.
    pub pod_cidrs: Vec<IpNet>,
}

impl TryFrom<&Value> for Node {
    type Error = ObjectError;

    fn try_from(object: &Value) -> Result<Self, ObjectError> {
        read::in_object("Node", object, |object| {
            let spec = read::section(object, "spec")?;
            Ok(Node {
                name: node_name(object)?,
                zone: read::tag(object, "labels", ZONE_LABEL).map(Arc::from),
                addresses: node_addresses(object)?,
                pod_cidrs: pod_cidrs(spec).map_err(|e| e.under("spec"))?,
            })
        })
    }
}

fn pod_cidrs(spec: &Value) -> Result<Vec<IpNet>, FieldError> {
    let all: Vec<IpNet> = read::parsed_list(spec, "podCIDRs")?;
    if all.is_empty() { Ok(read::parsed(spec, "podCIDR")?.into_iter().collect()) } else { Ok(all) }
}

/// The annotation may hold several addresses, separated by commas (dual-stack).
fn node_addresses(object: &Value) -> Result<Vec<IpAddr>, FieldError> {
    if let Some(text) = read::tag(object, "annotations", SITE_ADDRESS_ANNOTATION) {
        let parse = |part: &str| {
            let path = format!("metadata.annotations[{SITE_ADDRESS_ANNOTATION}]");
            part.trim().parse().map_err(|e| FieldError::new(&path, format_args!("{part:?}: {e}")))
        };
        return text.split(',').map(parse).collect();
    }
    let status = read::section(object, "status")?;
    let internal = read::list(status, "addresses", |item| match read::text(item, "type")? {
        Some("InternalIP") => read::parsed(item, "address"),
        _ => Ok(None),
    });
    Ok(internal.map_err(|e| e.under("status"))?.into_iter().flatten().collect())
}

fn node_name(object: &Value) -> Result<NodeName, FieldError> {
    let metadata = read::section(object, "metadata")?;
    let name = read::required_text(metadata, "name").map_err(|e| e.under("metadata"))?;
    NodeName::new(name).map_err(|error| FieldError::new("metadata.name", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_member() {
        let member = EdgeNode::try_from(&json!({
            "metadata": {"name": "edge-b"},
            "spec": {"peerId": "12D3Koo", "site": "berlin", "roles": ["edge", "relay"],
                     "podCidrs": ["10.244.2.0/24", "fd00:10:244:2::/64"], "addresses": ["203.0.113.5:20006"]},
        }))
        .unwrap();
        assert_eq!(member.roles, [Role::Edge, Role::Relay]);
        assert_eq!((member.pod_cidrs.len(), member.revoked), (2, false));
    }

    #[test]
    fn a_wrong_member_is_named_with_its_field() {
        let object = |spec: Value| json!({"metadata": {"name": "edge-b"}, "spec": spec});
        for (spec, path) in [
            (json!({"site": "x"}), "spec.peerId"),
            (json!({"peerId": "p"}), "spec.site"),
            (json!({"peerId": "p", "site": "a b"}), "spec.site"),
            (json!({"peerId": "p", "site": "a", "podCidrs": ["10.0.0.0/8", "no"]}), "spec.podCidrs[1]"),
            (json!({"peerId": "p", "site": "a", "roles": "edge"}), "spec.roles"),
            (json!("text"), "spec"),
        ] {
            let error = EdgeNode::try_from(&object(spec)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("EdgeNode edge-b: {path}: ")), "{error}");
        }
    }

    #[test]
    fn the_site_address_stands_before_the_internal_one() {
        let mut object = json!({
            "metadata": {"name": "a", "labels": {ZONE_LABEL: "berlin"}},
            "spec": {"podCIDR": "10.244.1.0/24"},
            "status": {"addresses": [{"type": "Hostname", "address": "a"},
                                     {"type": "InternalIP", "address": "203.0.113.10"}]},
        });
        let node = Node::try_from(&object).unwrap();
        assert_eq!(node.addresses, ["203.0.113.10".parse::<IpAddr>().unwrap()]);
        assert_eq!((node.zone.as_deref(), node.pod_cidrs.len()), (Some("berlin"), 1));
        object["metadata"]["annotations"] = json!({SITE_ADDRESS_ANNOTATION: "192.168.10.5, fd00::5"});
        let node = Node::try_from(&object).unwrap();
        assert_eq!(node.addresses, ["192.168.10.5", "fd00::5"].map(|a| a.parse::<IpAddr>().unwrap()));
    }
}
