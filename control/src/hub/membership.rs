//! Who is served: the one question that every session and every request has to pass.

use std::time::Duration;

use edgeloom_tunnel::identity::Verified;

use super::Shared;

/// How long a node that has just joined waits for its EdgeNode to be known here.
const NEWS: Duration = Duration::from_secs(2);

/// Why a node with a valid credential is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoMember {
    /// Its EdgeNode is gone.
    #[error("node {0} has no EdgeNode: it was removed from the cluster; a join token lets it in again")]
    Removed(String),
    /// It was expelled.
    #[error("node {0} was revoked; `kubectl get revocations` shows it")]
    Revoked(String),
    /// Another machine has its name now.
    #[error("node {node} is another machine now (peer {by}): reset this one, and join it under another name")]
    Replaced {
        /// The name.
        node: String,
        /// Who has it.
        by: String,
    },
}

impl Shared {
    /// Refuses whoever is no member now, whatever its credential says. The cache must be ready.
    pub(super) fn require_member(&self, from: &Verified) -> Result<(), NoMember> {
        let (node, peer) = (from.node.to_string(), from.peer.to_base58());
        let known = self.cache.edge_node(&node);
        // The successor is named before the revocation that its coming has caused.
        if let Some(spec) = known.as_ref().filter(|spec| spec.peer_id != peer) {
            return Err(NoMember::Replaced { node, by: spec.peer_id.clone() });
        }
        if known.as_ref().is_some_and(|spec| spec.revoked) {
            return Err(NoMember::Revoked(node));
        }
        match known {
            None => Err(NoMember::Removed(node)),
            Some(_) if self.cache.is_revoked(&peer) => Err(NoMember::Revoked(node)),
            Some(_) => Ok(()),
        }
    }

    /// The same, with patience for news of a node that has just joined.
    pub(super) async fn await_member(&self, from: &Verified) -> Result<(), NoMember> {
        let mut changed = self.cache.members_changed();
        let deadline = tokio::time::Instant::now() + NEWS;
        loop {
            let verdict = self.require_member(from);
            let may_change = matches!(verdict, Err(NoMember::Removed(_) | NoMember::Replaced { .. }));
            if !may_change || self.cache.is_revoked(&from.peer.to_base58()) {
                return verdict;
            }
            match tokio::time::timeout_at(deadline, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return verdict,
            }
        }
    }
}
