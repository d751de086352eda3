//! Keeps the control's own tunnel in step with the EdgeNodes, and its own credential alive.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use edgeloom_api::v1alpha1::EdgeNodeSpec;
use edgeloom_model::{NodeName, Site};
use edgeloom_tunnel::{Peer, PeerId, Tunnel};

use super::Shared;

/// How long changes are gathered: a thousand nodes that join are not a thousand tables.
const SETTLE: Duration = Duration::from_millis(50);
/// How often the own credential is looked at.
const CREDENTIAL: Duration = Duration::from_secs(600);

pub(super) async fn follow(shared: Arc<Shared>, tunnel: Option<Tunnel>) {
    let mut changed = shared.cache.members_changed();
    let mut ready = shared.cache.ready();
    let stop = shared.stop.clone();
    let mut credential = tokio::time::interval(CREDENTIAL);
    loop {
        tokio::select! {
            result = changed.changed() => {
                if result.is_err() {
                    return;
                }
                tokio::time::sleep(SETTLE).await;
                changed.mark_unchanged();
                // A list that is not complete would take members away.
                if *ready.borrow() {
                    tell(&shared, tunnel.as_ref());
                }
            }
            result = ready.changed() => {
                if result.is_err() {
                    return;
                }
                tell(&shared, tunnel.as_ref());
            }
            _ = credential.tick() => renew_own(&shared, tunnel.as_ref()),
            () = stop.cancelled() => return,
        }
    }
}

/// Tells the tunnel who is a member, and ends sessions of those who are none any more.
fn tell(shared: &Shared, tunnel: Option<&Tunnel>) {
    let members = shared.cache.edge_nodes();
    let mut revoked: Vec<PeerId> =
        shared.cache.revoked().iter().filter_map(|peer| peer.parse().ok()).collect();
    let mut peers = Vec::new();
    for (name, spec) in &members {
        match read(name, spec) {
            Ok(peer) if revoked.contains(&peer.peer) => {}
            Ok(peer) => peers.push(peer),
            Err(reason) => tracing::warn!(edge_node = name, reason, "passed over"),
        }
    }
    let members: HashMap<&NodeName, PeerId> = peers.iter().map(|peer| (&peer.node, peer.peer)).collect();
    shared.expel_all_but(|node, peer| members.get(node) == Some(peer));
    if let Some(tunnel) = tunnel {
        let own = tunnel.peer_id();
        peers.retain(|peer| peer.peer != own);
        // A control that believed itself revoked could tell nobody of it.
        revoked.retain(|peer| *peer != own);
        tunnel.set_trust(shared.join.trust().with_revoked(revoked));
        tunnel.set_peers(peers);
    }
}

fn read(name: &str, spec: &EdgeNodeSpec) -> Result<Peer, String> {
    let peer: PeerId = spec.peer_id.parse().map_err(|error| format!("peerId {:?}: {error}", spec.peer_id))?;
    Ok(Peer {
        peer,
        node: NodeName::new(name).map_err(|error| error.to_string())?,
        site: Site::new(spec.site.clone()).map_err(|error| error.to_string())?,
        addresses: spec.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
    })
}

fn renew_own(shared: &Shared, tunnel: Option<&Tunnel>) {
    let Some(tunnel) = tunnel else { return };
    match shared.join.renew_own() {
        Ok(Some(credential)) => {
            if let Err(error) = tunnel.set_credential(credential) {
                tracing::error!(%error, "showing the control's new credential");
            }
        }
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "renewing the control's own credential"),
    }
}
