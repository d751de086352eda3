//! Who a node is: its key, its credential, and what it takes to be believed by a peer.

use std::time::SystemTime;

use edgeloom_model::{NodeName, Site};
use libp2p::PeerId;

/// A peer whose credential was verified in the TLS handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its peer id, which is its key.
    pub peer: PeerId,
    /// Name of its Node.
    pub node: NodeName,
    /// UID of its Node when it joined.
    pub node_uid: String,
    /// Its site.
    pub site: Site,
    /// When its credential ends.
    pub expires: SystemTime,
}
