//! Whom this node believes: the cluster's CA certificates and the nodes that were revoked. Pure.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use edgeloom_api::credential::{Claims, Role, Roles};
use edgeloom_model::{NodeName, Site};
use libp2p::PeerId;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::certificate::Presented;
use super::refusal::{Refusal, seconds};

/// How far two hosts' clocks may differ: a credential is taken that much before and after its life.
pub const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// Length of an uncompressed P-256 point (SEC 1, section 2.3.3).
const P256_POINT: usize = 65;

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
    /// What it may be.
    pub roles: Roles,
    /// When its credential ends.
    pub expires: SystemTime,
    /// Serial number of its credential, for logs.
    pub serial: u64,
}

impl Verified {
    /// Whether `other` says the same of the peer, by another credential perhaps.
    pub(crate) fn is_same_member(&self, other: &Self) -> bool {
        (Self { expires: other.expires, serial: other.serial, ..self.clone() }) == *other
    }

    /// Refuses a peer that does not have `role`.
    pub fn require(&self, role: Role) -> Result<(), Refusal> {
        if self.roles.contains(role) {
            return Ok(());
        }
        Err(Refusal::Role { node: self.node.to_string(), role })
    }
}

/// The cluster's identifier, its CA certificates (more than one while they change over), and the revoked
/// peers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trust {
    cluster: Arc<str>,
    keys: Arc<[[u8; P256_POINT]]>,
    revoked: Arc<HashSet<PeerId>>,
    grace: Duration,
}

/// Why a CA certificate cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// It is none.
    #[error("the CA certificate does not parse: {0}")]
    Certificate(&'static str),
    /// There is none at all.
    #[error("there is no CA certificate to trust")]
    Empty,
}

impl Trust {
    /// Trusts credentials of `cluster` that the CAs of `certificates` (DER) signed.
    pub fn new<C: AsRef<[u8]>>(
        cluster: &str,
        certificates: impl IntoIterator<Item = C>,
    ) -> Result<Self, TrustError> {
        let keys: Arc<[_]> = certificates
            .into_iter()
            .map(|certificate| ca_key(certificate.as_ref()))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(TrustError::Empty);
        }
        Ok(Self { cluster: cluster.into(), keys, revoked: Arc::default(), grace: Duration::ZERO })
    }

    /// The same with these peers, and no others, revoked.
    #[must_use]
    pub fn with_revoked(mut self, revoked: impl IntoIterator<Item = PeerId>) -> Self {
        self.revoked = Arc::new(revoked.into_iter().collect());
        self
    }

    /// The same with a time after expiry in which a node may still renew on `join/1` (the control's setting).
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Identifier of the cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Whether `peer` was revoked.
    pub fn is_revoked(&self, peer: &PeerId) -> bool {
        self.revoked.contains(peer)
    }

    /// Verifies what a peer presented, at `now`.
    pub fn verify(&self, presented: &Presented, now: SystemTime) -> Result<Verified, Refusal> {
        let verified = self.verify_but_expiry(presented, now)?;
        check_expiry(&verified, now)?;
        Ok(verified)
    }

    /// Like [`Trust::verify`], but takes a credential that expired within the grace: good for a renewal.
    pub fn verify_lapsed(&self, presented: &Presented, now: SystemTime) -> Result<Verified, Refusal> {
        let verified = self.verify_but_expiry(presented, now)?;
        check_expiry(&verified, now.checked_sub(self.grace).unwrap_or(UNIX_EPOCH))
            .or_else(|_| check_expiry(&verified, now))?;
        Ok(verified)
    }

    /// Whether a peer that was verified earlier would be taken now: to be asked when trust was replaced, and
    /// from time to time for connections that stand longer than a credential lives.
    pub fn recheck(&self, verified: &Verified, now: SystemTime) -> Result<(), Refusal> {
        if self.is_revoked(&verified.peer) {
            return Err(Refusal::Revoked { node: verified.node.to_string() });
        }
        check_expiry(verified, now)
    }

    fn verify_but_expiry(&self, presented: &Presented, now: SystemTime) -> Result<Verified, Refusal> {
        let peer = presented.peer;
        let credential = presented.credential.as_ref().ok_or(Refusal::Stranger { peer })?;
        let claims = credential.claims();
        let node = || claims.node.clone();
        if *claims.cluster != *self.cluster {
            let (theirs, ours) = (claims.cluster.clone(), self.cluster.to_string());
            return Err(Refusal::OtherCluster { node: node(), theirs, ours });
        }
        let message = credential.signed_bytes();
        let signed = |key: &[u8; P256_POINT]| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
                .verify(&message, credential.signature())
                .is_ok()
        };
        if !self.keys.iter().any(signed) {
            return Err(Refusal::Signature { node: node() });
        }
        if *claims.peer != *peer.to_bytes() {
            return Err(Refusal::Replayed { peer, node: node() });
        }
        if self.is_revoked(&peer) {
            return Err(Refusal::Revoked { node: node() });
        }
        let clock = seconds(now);
        if clock + CLOCK_SKEW.as_secs() < claims.not_before {
            return Err(Refusal::NotYetValid { node: node(), not_before: claims.not_before, clock });
        }
        verified(peer, claims)
    }
}

fn verified(peer: PeerId, claims: &Claims) -> Result<Verified, Refusal> {
    Ok(Verified {
        peer,
        node: NodeName::new(claims.node.as_str()).map_err(|_| Refusal::Names)?,
        node_uid: claims.node_uid.clone(),
        site: Site::new(claims.site.as_str()).map_err(|_| Refusal::Names)?,
        roles: claims.roles,
        expires: UNIX_EPOCH.checked_add(Duration::from_secs(claims.expires)).ok_or(Refusal::Names)?,
        serial: claims.serial,
    })
}

fn check_expiry(verified: &Verified, now: SystemTime) -> Result<(), Refusal> {
    let (clock, expired) = (seconds(now), seconds(verified.expires));
    if clock < expired.saturating_add(CLOCK_SKEW.as_secs()) {
        return Ok(());
    }
    Err(Refusal::Expired { node: verified.node.to_string(), expired, clock })
}

/// The public key of a CA certificate: P-256, and allowed to be a CA's.
fn ca_key(certificate: &[u8]) -> Result<[u8; P256_POINT], TrustError> {
    let (rest, x509) =
        X509Certificate::from_der(certificate).map_err(|_| TrustError::Certificate("not X.509 in DER"))?;
    if !rest.is_empty() {
        return Err(TrustError::Certificate("bytes behind it"));
    }
    if !x509.is_ca() {
        return Err(TrustError::Certificate("it is no CA's"));
    }
    let point = &x509.public_key().subject_public_key.data;
    point.as_ref().try_into().map_err(|_| TrustError::Certificate("its key is not P-256"))
}
