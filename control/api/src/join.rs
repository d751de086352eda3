//! The messages of `join/1`, on one stream that the joiner opens.
//!
//! [`Ask`] → [`Offer`] with the CA certificate, which the joiner holds to the hash in its token, and then the
//! server's credential to that CA; only now does it show its secret in [`JoinRequest`]. The answer is
//! [`JoinResponse`] or [`JoinRefused`]. A control with no place left says [`JoinRefused`] at once, for the reason
//! [`RefusalReason::Unavailable`]: the joiner comes again.

use bytes::Bytes;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::message::messages;

/// Version of the protocol that this release speaks.
pub const VERSION: u16 = 1;

messages! {
    /// What the joiner sends.
    FromJoiner {
        /// Opens the conversation.
        1 = Ask,
        /// Shows the token.
        2 = JoinRequest,
    }
}

messages! {
    /// What the control sends.
    FromServer {
        /// The cluster's CA.
        1 = Offer,
        /// The joiner is a member now.
        2 = JoinResponse,
        /// The joiner is refused.
        3 = JoinRefused,
    }
}

/// Opens the conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// [`VERSION`] of the joiner.
    pub version: u16,
}

/// The cluster's CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// [`VERSION`] of the control.
    pub version: u16,
    /// Identifier of the cluster.
    pub cluster: String,
    /// CA certificates (DER); the first one is the one that tokens name, the others are trusted while the CA
    /// changes over.
    pub authorities: Vec<Bytes>,
}

/// What a host says of itself to become a node.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The secret half of the token; empty for a renewal after expiry.
    pub secret: String,
    /// Name that the Node is to have.
    pub node: String,
    /// The host's name (`kubernetes.io/hostname`).
    pub hostname: String,
    /// Operating system as Go names it: `linux`.
    pub os: String,
    /// Processor as Go names it: `amd64`, `arm64`.
    pub arch: String,
    /// Release of the node's software, for people.
    pub release: String,
    /// Ranges that the host has routes to; the node's pods must not overlap them.
    pub routes: Vec<IpNet>,
}

impl std::fmt::Debug for JoinRequest {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest")
            .field("node", &self.node)
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}

/// The joiner is a member now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinResponse {
    /// Its credential, as encoded by [`crate::credential::SignedCredential::encode`].
    pub credential: Bytes,
    /// UID of its Node.
    pub node_uid: String,
    /// Ranges of the pods on it; empty if they are not given yet.
    pub pod_cidrs: Vec<IpNet>,
    /// Where the control answers `hub/1`.
    pub control: Contact,
    /// Relays to register with.
    pub relays: Vec<Contact>,
}

/// A peer with public addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Peer id, binary.
    pub peer: Bytes,
    /// Name of its Node.
    pub node: String,
    /// Its site.
    pub site: String,
    /// UDP addresses with port.
    pub addresses: Vec<std::net::SocketAddr>,
}

/// The joiner is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRefused {
    /// Why, for a program.
    pub reason: RefusalReason,
    /// Why, and what to do, for people.
    pub message: String,
}

/// Why a joiner is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RefusalReason {
    /// No such token: mistyped, revoked, or of another cluster.
    UnknownToken,
    /// The token's life is over.
    ExpiredToken,
    /// The token was used as often as it may be.
    UsedUpToken,
    /// The node name is not valid.
    NodeName,
    /// The node name belongs to another identity.
    NameTaken,
    /// The node was revoked.
    Revoked,
    /// The node is no member any more, so that its credential is not renewed; a token lets it join again.
    NotMember,
    /// A range of the cluster overlaps a route of the host.
    Overlap,
    /// The control cannot serve now; worth another try.
    Unavailable,
    /// A reason that only a newer release knows.
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_survive_the_wire_and_hide_the_secret() {
        let request = JoinRequest {
            secret: "hush".into(),
            node: "a".into(),
            hostname: "a".into(),
            os: "linux".into(),
            arch: "amd64".into(),
            release: "x".into(),
            routes: vec!["192.168.10.0/24".parse().unwrap(), "fd00::/8".parse().unwrap()],
        };
        assert!(!format!("{request:?}").contains("hush"));
        let message = FromJoiner::from(request);
        assert_eq!(FromJoiner::decode(&message.encode().unwrap()).unwrap(), message);
        let refused = JoinRefused { reason: RefusalReason::NameTaken, message: "taken".into() };
        let message = FromServer::from(refused);
        assert_eq!(FromServer::decode(&message.encode().unwrap()).unwrap(), message);
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = FromJoiner::decode(&bytes);
            let _ = FromServer::decode(&bytes);
        }
    }
}
