//! Keeps the control's own tunnel in step with the EdgeNodes, and its own credential alive.

use std::collections::HashSet;
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
    let (mut peers, mut revoked, mut names) = (Vec::new(), Vec::new(), HashSet::new());
    for (name, spec) in &members {
        match read(name, spec) {
            Ok(peer) if spec.revoked => revoked.push(peer.peer),
            Ok(peer) => {
                names.insert(peer.node.clone());
                peers.push(peer);
            }
            Err(reason) => tracing::warn!(edge_node = name, reason, "passed over"),
        }
    }
    let connected: Vec<NodeName> = shared.sessions().keys().cloned().collect();
    for node in connected.iter().filter(|node| !names.contains(*node)) {
        tracing::info!(%node, "no member any more; its session ends");
        shared.expel(node);
    }
    if let Some(tunnel) = tunnel {
        let own = tunnel.peer_id();
        peers.retain(|peer| peer.peer != own);
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
