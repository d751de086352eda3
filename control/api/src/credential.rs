//! The credential of a node: what the cluster's CA says about the holder of a key.
//!
//! It travels as one extension of the node's certificate, so it is compact, bounded, and decoded before
//! anything about the peer is known. This module is the form alone: [`SignedCredential::decode`] verifies no
//! signature and reads no clock; whoever trusts the CA does both.
//!
//! Wire form: version (1 byte), length of the claims (2 bytes, big endian), the claims (CBOR map, unknown
//! keys ignored so that a newer release may add some), and the signature over
//! [`SIGNATURE_CONTEXT`] followed by the claims as they were sent.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Version of the wire form that this release writes, and the only one that it reads.
pub const VERSION: u8 = 1;
/// Largest encoded credential, in bytes: it must fit a handshake beside the certificate.
pub const MAX_ENCODED: usize = 1280;
/// What is signed in front of the claims, so that no other signature of the CA can stand for this one.
pub const SIGNATURE_CONTEXT: &[u8] = b"edgeloom credential v1\0";

/// Largest encoded claims, in bytes.
const MAX_CLAIMS: usize = 1024;
/// Largest signature, in bytes (ECDSA P-256 in ASN.1 has up to 72).
const MAX_SIGNATURE: usize = 128;
const HEADER: usize = 3;

/// What a node may be to its peers.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs pods and the mesh at a site.
    Edge,
    /// Answers `join/1` and `hub/1`.
    Control,
    /// Forwards packets between peers that find no direct path.
    Relay,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 3] = [Role::Edge, Role::Control, Role::Relay];

    /// Its name, as in an EdgeNode.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Edge => "edge",
            Role::Control => "control",
            Role::Relay => "relay",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Role::Edge => 1,
            Role::Control => 2,
            Role::Relay => 4,
        }
    }
}

/// A set of roles. Bits that this release does not know are kept and mean nothing to it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Roles(u8);

impl Roles {
    /// Whether `role` is in the set.
    pub fn contains(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    /// The known roles of the set.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.contains(*role))
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |bits, role| bits | role.bit()))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// What the CA vouches for. Times are seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Identifier of the cluster, the same whichever CA certificate signs.
    #[serde(rename = "c")]
    pub cluster: String,
    /// Name of the Node.
    #[serde(rename = "n")]
    pub node: String,
    /// UID of the Node at the time of joining.
    #[serde(rename = "u")]
    pub node_uid: String,
    /// Peer id of the holder, a multihash (libp2p's binary form).
    #[serde(rename = "p")]
    pub peer: Bytes,
    /// Site of the node.
    #[serde(rename = "s")]
    pub site: String,
    /// What the holder may be.
    #[serde(rename = "r")]
    pub roles: Roles,
    /// First second of its life.
    #[serde(rename = "b")]
    pub not_before: u64,
    /// First second after its life.
    #[serde(rename = "e")]
    pub expires: u64,
    /// Random, unique to this credential: names it in logs.
    #[serde(rename = "i")]
    pub serial: u64,
}

/// Why bytes are no credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Shorter than its own lengths say, or longer.
    #[error("the credential is cut short or has bytes to spare")]
    Length,
    /// A bound of the form is exceeded.
    #[error("the credential's {0} is longer than allowed")]
    TooLong(&'static str),
    /// Written by a release that is too new.
    #[error("the credential has version {0}, this release reads version {VERSION}: upgrade this node")]
    Version(u8),
    /// The claims are not the expected CBOR map.
    #[error("the credential's claims do not parse")]
    Claims,
    /// A claim contradicts itself or is empty.
    #[error("the credential's {0} is empty or contradicts itself")]
    Value(&'static str),
}

impl Claims {
    /// Encodes the claims, the bytes to be signed after [`SIGNATURE_CONTEXT`].
    pub fn encode(&self) -> Result<Bytes, CredentialError> {
        self.check()?;
        let mut bytes = Vec::with_capacity(256);
        ciborium::into_writer(self, &mut bytes).map_err(|_| CredentialError::Claims)?;
        if bytes.len() > MAX_CLAIMS {
            return Err(CredentialError::TooLong("claims"));
        }
        Ok(bytes.into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, CredentialError> {
        let mut rest = bytes;
        let claims: Self = ciborium::from_reader(&mut rest).map_err(|_| CredentialError::Claims)?;
        if !rest.is_empty() {
            return Err(CredentialError::Length);
        }
        claims.check()?;
        Ok(claims)
    }

    fn check(&self) -> Result<(), CredentialError> {
        for (field, bytes, max) in [
            ("cluster", self.cluster.as_bytes(), 64),
            ("node name", self.node.as_bytes(), 253),
            ("node UID", self.node_uid.as_bytes(), 64),
            ("peer id", &self.peer, 64),
            ("site", self.site.as_bytes(), 63),
        ] {
            if bytes.is_empty() {
                return Err(CredentialError::Value(field));
            }
            if bytes.len() > max {
                return Err(CredentialError::TooLong(field));
            }
        }
        if self.expires <= self.not_before {
            return Err(CredentialError::Value("life"));
        }
        Ok(())
    }

    /// Second at which two thirds of the life are over: time to ask for the next credential.
    pub fn renew_at(&self) -> u64 {
        self.not_before + (self.expires - self.not_before) / 3 * 2
    }
}

/// Claims with the CA's signature. That the signature holds is for [`SignedCredential::signed_bytes`] to be
/// checked against.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedCredential {
    claims: Claims,
    body: Bytes,
    signature: Bytes,
}

impl SignedCredential {
    /// Puts together what the CA signed: `body` are the encoded claims.
    pub fn new(body: Bytes, signature: Bytes) -> Result<Self, CredentialError> {
        if body.len() > MAX_CLAIMS {
            return Err(CredentialError::TooLong("claims"));
        }
        if signature.len() > MAX_SIGNATURE {
            return Err(CredentialError::TooLong("signature"));
        }
        if signature.is_empty() {
            return Err(CredentialError::Length);
        }
        Ok(Self { claims: Claims::decode(&body)?, body, signature })
    }

    /// Decodes the wire form; bounded in time and memory by [`MAX_ENCODED`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CredentialError> {
        if bytes.len() > MAX_ENCODED {
            return Err(CredentialError::TooLong("encoding"));
        }
        let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(CredentialError::Length)?;
        let [version, length @ ..] = *header;
        if version != VERSION {
            return Err(CredentialError::Version(version));
        }
        let length = usize::from(u16::from_be_bytes(length));
        let (body, signature) = rest.split_at_checked(length).ok_or(CredentialError::Length)?;
        Self::new(Bytes::copy_from_slice(body), Bytes::copy_from_slice(signature))
    }

    /// The wire form.
    pub fn encode(&self) -> Vec<u8> {
        let length = u16::try_from(self.body.len()).expect("the constructor bounds the claims");
        let mut bytes = Vec::with_capacity(HEADER + self.body.len() + self.signature.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&self.body);
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// The claims; believe them only when the signature was verified.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What [`Self::signature`] must sign.
    pub fn signed_bytes(&self) -> Vec<u8> {
        signed_bytes(&self.body)
    }

    /// ECDSA P-256 with SHA-256, ASN.1 (RFC 3279, section 2.2.3).
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }
}

/// What the CA signs for the encoded claims `body`.
pub fn signed_bytes(body: &[u8]) -> Vec<u8> {
    [SIGNATURE_CONTEXT, body].concat()
}

impl fmt::Debug for SignedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedCredential").field("claims", &self.claims).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claims() -> impl Strategy<Value = Claims> {
        let text = |max: usize| proptest::string::string_regex(&format!("[a-z0-9-]{{1,{max}}}")).unwrap();
        let peer = proptest::collection::vec(any::<u8>(), 1..64).prop_map(Bytes::from);
        let life = (0..u64::MAX / 2, 1..u64::MAX / 2);
        (text(64), text(253), text(64), peer, text(63), any::<u8>(), life, any::<u64>()).prop_map(
            |(cluster, node, node_uid, peer, site, roles, (not_before, life), serial)| Claims {
                cluster,
                node,
                node_uid,
                peer,
                site,
                roles: Roles(roles),
                not_before,
                expires: not_before + life,
                serial,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(claims in claims(), signature in proptest::collection::vec(any::<u8>(), 1..72)) {
            let signed = SignedCredential::new(claims.encode().unwrap(), signature.into()).unwrap();
            let bytes = signed.encode();
            prop_assert!(bytes.len() <= MAX_ENCODED);
            let decoded = SignedCredential::decode(&bytes).unwrap();
            prop_assert_eq!(decoded.claims(), &claims);
            prop_assert_eq!(decoded, signed);
        }

        #[test]
        fn random_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1400)) {
            let _ = SignedCredential::decode(&bytes);
        }

        #[test]
        fn a_changed_or_missing_byte_is_no_panic(claims in claims(), at in any::<prop::sample::Index>(), by in 1..=255u8) {
            let mut bytes = SignedCredential::new(claims.encode().unwrap(), vec![1; 70].into()).unwrap().encode();
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            let _ = SignedCredential::decode(&bytes);
            bytes.truncate(at);
            let _ = SignedCredential::decode(&bytes);
        }
    }

    fn example() -> Claims {
        Claims {
            cluster: "c".into(),
            node: "n".into(),
            node_uid: "u".into(),
            peer: Bytes::from_static(b"p"),
            site: "s".into(),
            roles: [Role::Edge].into_iter().collect(),
            not_before: 100,
            expires: 400,
            serial: 1,
        }
    }

    #[test]
    fn bounds_are_held_both_ways() {
        let long = Claims { node: "n".repeat(254), ..example() };
        assert_eq!(long.encode(), Err(CredentialError::TooLong("node name")));
        let dead = Claims { expires: 100, ..example() };
        assert_eq!(dead.encode(), Err(CredentialError::Value("life")));
        let nobody = Claims { peer: Bytes::new(), ..example() };
        assert_eq!(nobody.encode(), Err(CredentialError::Value("peer id")));
        assert_eq!(SignedCredential::decode(&[2, 0, 0]), Err(CredentialError::Version(2)));
        assert_eq!(SignedCredential::decode(&[0; 2000]), Err(CredentialError::TooLong("encoding")));
        assert_eq!(SignedCredential::decode(&[1, 0xff, 0xff, 0]), Err(CredentialError::Length));
    }

    #[test]
    fn renewal_is_due_at_two_thirds() {
        assert_eq!(example().renew_at(), 300);
    }

    #[test]
    fn roles_are_a_set() {
        let roles: Roles = [Role::Relay, Role::Control].into_iter().collect();
        assert!(roles.contains(Role::Relay) && roles.contains(Role::Control) && !roles.contains(Role::Edge));
        assert_eq!(format!("{roles:?}"), "{Control, Relay}");
    }
}
