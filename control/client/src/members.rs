//! From EdgeNodes, Revocations and Sites to what the tunnel has to know: peers, relays, who was revoked, and what the
//! own site allows. Pure.

use std::net::SocketAddr;

use edgeloom_api::kind::{EDGE_NODE, REVOCATION, SITE};
use edgeloom_api::v1alpha1::{EdgeNodeSpec, Role, SiteSpec};
use edgeloom_model::{NodeName, Site};
use edgeloom_tunnel::{Bounds, Peer, PeerId, RelayPeer};
use serde::Deserialize as _;
use serde_json::Value;

use crate::membership::Membership;
use crate::metastore::Metastore;

/// The mesh as one node sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Members {
    pub(crate) peers: Vec<Peer>,
    pub(crate) relays: Vec<RelayPeer>,
    pub(crate) revoked: Vec<PeerId>,
}

/// The members that `store` knows, without the node itself.
pub(crate) fn of(store: &Metastore, own: &NodeName) -> Members {
    let mut members = Members {
        revoked: store.list(&REVOCATION).iter().filter_map(|o| revoked(o)).collect(),
        ..Members::default()
    };
    for object in store.list(&EDGE_NODE) {
        match read(&object) {
            Ok((peer, spec)) => members.add(peer, &spec, own),
            Err(reason) => {
                tracing::warn!(edge_node = %object["metadata"]["name"], reason, "passed over");
            }
        }
    }
    members
}

/// What `store` knows that the site allows its nodes; none where that cannot be read, upon which what was told before
/// holds on.
pub(crate) fn bounds(store: &Metastore, site: &Site) -> Option<Bounds> {
    store
        .get(&SITE, "", site.as_str())
        .map_or(Some(Bounds::default()), |object| allowed(site, &object["spec"]))
}

fn allowed(site: &Site, spec: &Value) -> Option<Bounds> {
    match SiteSpec::deserialize(spec) {
        Ok(SiteSpec { direct, rate_mbit }) => Some(Bounds { direct, rate: rate_mbit.map(bytes_a_second) }),
        Err(error) => {
            tracing::warn!(%site, %error, "the Site cannot be read, and what it said before holds on; correct its spec");
            None
        }
    }
}

fn bytes_a_second(megabits: u32) -> u64 {
    u64::from(megabits) * 125_000
}

/// Whom a Revocation is about. Why does not matter here, and may be what only a newer release knows.
fn revoked(object: &Value) -> Option<PeerId> {
    let peer = &object["spec"]["peerId"];
    let read = peer.as_str().and_then(|peer| peer.parse().ok());
    if read.is_none() {
        tracing::warn!(revocation = %object["metadata"]["name"], %peer, "passed over: spec.peerId is no peer id");
    }
    read
}

fn read(object: &Value) -> Result<(Peer, EdgeNodeSpec), String> {
    let spec = EdgeNodeSpec::deserialize(&object["spec"]).map_err(|error| error.to_string())?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let peer = Peer {
        peer: spec.peer_id.parse().map_err(|error| format!("peerId {:?}: {error}", spec.peer_id))?,
        node: NodeName::new(name).map_err(|error| error.to_string())?,
        site: Site::new(spec.site.clone()).map_err(|error| error.to_string())?,
        addresses: spec.addresses.iter().filter_map(|address| address.parse::<SocketAddr>().ok()).collect(),
    };
    Ok((peer, spec))
}

impl Members {
    fn add(&mut self, peer: Peer, spec: &EdgeNodeSpec, own: &NodeName) {
        if spec.revoked {
            self.revoked.push(peer.peer);
            return;
        }
        if peer.node == *own || self.revoked.contains(&peer.peer) {
            return;
        }
        if spec.roles.contains(&Role::Relay) {
            self.relays.push(RelayPeer { peer: peer.peer, addresses: peer.addresses.clone() });
        }
        self.peers.push(peer);
    }

    /// With the control and the relays that the node joined by, where they are not known better. The address
    /// by which the control was reached is kept whatever it says of itself.
    pub(crate) fn with(mut self, membership: &Membership) -> Self {
        for joined in std::iter::once(&membership.control).chain(&membership.relays) {
            if self.revoked.contains(&joined.peer) {
                continue;
            }
            match self.peers.iter_mut().find(|peer| peer.peer == joined.peer) {
                Some(peer) => add_addresses(&mut peer.addresses, &joined.addresses),
                None => self.peers.push(joined.clone()),
            }
        }
        // Once the cloud has named relays, one that it does not name is none any more.
        let named = !self.relays.is_empty();
        for joined in &membership.relays {
            if self.revoked.contains(&joined.peer) {
                continue;
            }
            match self.relays.iter_mut().find(|relay| relay.peer == joined.peer) {
                Some(relay) => add_addresses(&mut relay.addresses, &joined.addresses),
                None if !named => {
                    self.relays.push(RelayPeer { peer: joined.peer, addresses: joined.addresses.clone() });
                }
                None => {}
            }
        }
        self
    }
}

fn add_addresses(known: &mut Vec<SocketAddr>, more: &[SocketAddr]) {
    for address in more {
        if !known.contains(address) {
            known.push(*address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn edge_node(name: &str, roles: &[&str], revoked: bool) -> (PeerId, Value) {
        let peer = PeerId::random();
        let spec = json!({"peerId": peer.to_base58(), "site": "berlin", "nodeUid": "u", "roles": roles,
            "revoked": revoked, "addresses": ["203.0.113.5:20006", "no address"]});
        (
            peer,
            json!({"apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode", "metadata": {"name": name}, "spec": spec}),
        )
    }

    #[test]
    fn what_a_site_says_in_no_known_way_changes_nothing() {
        let site = Site::new("berlin").unwrap();
        for (spec, bounds) in [
            (json!({}), Some(Bounds::default())),
            (json!({"direct": false, "rateMbit": 8}), Some(Bounds { direct: false, rate: Some(1_000_000) })),
            (json!({"direct": "perhaps"}), None),
            (json!({"rateMbit": -1}), None),
            (json!(null), None),
        ] {
            assert_eq!(allowed(&site, &spec), bounds, "{spec}");
        }
    }

    #[test]
    fn roles_and_revocation_sort_the_members() {
        let own = NodeName::new("own").unwrap();
        let (relay, relay_object) = edge_node("control", &["control", "relay"], false);
        let (edge, edge_object) = edge_node("edge", &["edge"], false);
        let (bad, bad_object) = edge_node("bad", &["edge", "relay"], true);
        let (_, own_object) = edge_node("own", &["edge"], false);
        let mut members = Members::default();
        for object in [&relay_object, &edge_object, &bad_object, &own_object] {
            let (peer, spec) = read(object).unwrap();
            members.add(peer, &spec, &own);
        }
        let peers: Vec<_> = members.peers.iter().map(|peer| peer.peer).collect();
        assert_eq!(peers, [relay, edge]);
        assert_eq!(
            members.relays,
            [RelayPeer { peer: relay, addresses: vec!["203.0.113.5:20006".parse().unwrap()] }]
        );
        assert_eq!(members.revoked, [bad]);
    }

    #[test]
    fn a_revocation_outlives_and_outweighs_the_edge_node() {
        let own = NodeName::new("own").unwrap();
        let (gone, gone_object) = edge_node("gone", &["edge", "relay"], false);
        let object =
            json!({"metadata": {"name": "r"}, "spec": {"peerId": gone.to_base58(), "cause": "NotKnownYet"}});
        assert_eq!(revoked(&object), Some(gone));
        assert_eq!(revoked(&json!({"spec": {"peerId": "x"}})), None);
        let mut members = Members { revoked: vec![gone], ..Members::default() };
        let (peer, spec) = read(&gone_object).unwrap();
        members.add(peer, &spec, &own);
        assert!(members.peers.is_empty() && members.relays.is_empty());
    }

    #[test]
    fn what_is_no_member_is_named() {
        let error = read(
            &json!({"metadata": {"name": "a"}, "spec": {"peerId": "x", "site": "s", "nodeUid": "u", "roles": []}}),
        );
        assert!(error.unwrap_err().contains("peerId"));
        assert!(read(&json!({})).is_err());
    }
}
