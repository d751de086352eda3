//! Why a peer was not believed: a closed list, for errors and for the label of a metric.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgeloom_api::credential::{CredentialError, Role};
use libp2p::PeerId;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Why a peer was refused in the handshake or right after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The certificate does not have the expected form.
    #[error("the peer's certificate is not of the expected form: {0}")]
    Form(&'static str),
    /// The certificate's key is not signed by the identity that it names.
    #[error("the peer's certificate is not signed by the identity that it names: a copy with another key?")]
    Binding,
    /// The credential does not decode.
    #[error("the peer's credential: {0}")]
    CredentialForm(#[source] CredentialError),
    /// The peer has no credential, and the protocol demands one.
    #[error("peer {peer} has no credential of this cluster; it has to join first")]
    Stranger {
        /// The identity it showed.
        peer: PeerId,
    },
    /// The credential is of another cluster.
    #[error("node {node} has a credential of cluster {theirs}, this is cluster {ours}")]
    OtherCluster {
        /// The node it names.
        node: String,
        /// Its cluster.
        theirs: String,
        /// The cluster that is trusted here.
        ours: String,
    },
    /// No trusted CA signed the credential.
    #[error(
        "the credential that names node {node} is signed by no CA trusted here; if the CA was replaced, join again"
    )]
    Signature {
        /// The node it names.
        node: String,
    },
    /// The credential was given to another identity.
    #[error("peer {peer} shows the credential of node {node}, which was given to another identity")]
    Replayed {
        /// The identity that showed it.
        peer: PeerId,
        /// The node it names.
        node: String,
    },
    /// Another peer answered than the one that was dialled.
    #[error("expected peer {expected}, found {found}: the address belongs to another node now")]
    WrongPeer {
        /// The peer that was dialled.
        expected: Box<PeerId>,
        /// The peer that answered.
        found: PeerId,
    },
    /// The credential's life has not begun, by this host's clock.
    #[error("the credential of node {node} is not valid before {}; this host's clock says {}: check the clock", stamp(*.not_before), stamp(*.clock))]
    NotYetValid {
        /// The node it names.
        node: String,
        /// Beginning of its life, seconds since the Unix epoch.
        not_before: u64,
        /// This host's clock, seconds since the Unix epoch.
        clock: u64,
    },
    /// The credential's life is over, by this host's clock.
    #[error("the credential of node {node} expired at {}; this host's clock says {}: if the clock is right, the node has to renew or join again", stamp(*.expired), stamp(*.clock))]
    Expired {
        /// The node it names.
        node: String,
        /// End of its life, seconds since the Unix epoch.
        expired: u64,
        /// This host's clock, seconds since the Unix epoch.
        clock: u64,
    },
    /// The node was revoked.
    #[error("node {node} was revoked")]
    Revoked {
        /// The node.
        node: String,
    },
    /// The credential names a node or site that no cluster could have.
    #[error("the credential has no valid name of a node and site")]
    Names,
    /// The credential does not allow what the peer does.
    #[error("node {node} does not have the role {role:?}")]
    Role {
        /// The node.
        node: String,
        /// The role that it lacks.
        role: Role,
    },
    /// No protocol was agreed on.
    #[error("no protocol was agreed on")]
    Protocol,
    /// This node does not know its cluster yet, so it can verify nobody.
    #[error("this node has not joined yet, it cannot verify a credential")]
    NotJoined,
}

impl Refusal {
    /// Every value of [`Refusal::reason`], for a metric to be complete from the start.
    pub const REASONS: [&'static str; 14] = [
        "form",
        "binding",
        "credential_form",
        "stranger",
        "other_cluster",
        "signature",
        "replayed",
        "wrong_peer",
        "not_yet_valid",
        "expired",
        "revoked",
        "names",
        "role",
        "protocol",
    ];

    /// The reason as the label of a metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::Form(_) => "form",
            Refusal::Binding => "binding",
            Refusal::CredentialForm(_) => "credential_form",
            Refusal::Stranger { .. } => "stranger",
            Refusal::OtherCluster { .. } => "other_cluster",
            Refusal::Signature { .. } => "signature",
            Refusal::Replayed { .. } => "replayed",
            Refusal::WrongPeer { .. } => "wrong_peer",
            Refusal::NotYetValid { .. } => "not_yet_valid",
            Refusal::Expired { .. } => "expired",
            Refusal::Revoked { .. } => "revoked",
            Refusal::Names => "names",
            Refusal::Role { .. } => "role",
            Refusal::Protocol | Refusal::NotJoined => "protocol",
        }
    }
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        let other = rustls::OtherError(std::sync::Arc::new(refusal));
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))
    }
}

/// Seconds since the Unix epoch as RFC 3339, or as they are if no calendar reaches there.
fn stamp(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("second {seconds} of the Unix epoch"))
}

/// Seconds of `time` since the Unix epoch; a clock before it counts as at it.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_clock_is_named() {
        let refusal = Refusal::NotYetValid { node: "a".into(), not_before: 1_700_000_000, clock: 60 };
        let text = refusal.to_string();
        assert!(text.contains("2023-11-14T22:13:20Z") && text.contains("1970-01-01T00:01:00Z"), "{text}");
        assert!(text.contains("check the clock"), "{text}");
        assert!(Refusal::REASONS.contains(&refusal.reason()));
    }

    #[test]
    fn a_time_beyond_any_calendar_is_no_panic() {
        let text = Refusal::Expired { node: "a".into(), expired: u64::MAX, clock: 0 }.to_string();
        assert!(text.contains(&u64::MAX.to_string()));
    }
}
