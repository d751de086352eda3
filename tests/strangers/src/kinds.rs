//! Who knocks, and what it shows.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use edgeloom_tunnel::identity::{Authority, Claims, Guard, Identity, Role, SignedCredential, Trust, random};
use serde::Deserialize;

/// Seconds of a credential's life here: longer than any run.
const LIFE: u64 = 3600;
/// How long ago the expired one ended: longer than any grace in which it could be renewed.
const LONG_AGO: u64 = 400 * 86_400;

/// Somebody at a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With a good credential.
    Good,
    /// With none.
    Nobody,
    /// With a good one of an identity that was revoked.
    Revoked,
    /// With one that ended.
    Expired,
    /// With one of another cluster.
    Elsewhere,
    /// With one that another CA signed for this cluster.
    Forged,
    /// With a good one of somebody else.
    Borrowed,
}

impl Kind {
    /// Those who get nothing.
    pub(crate) const STRANGERS: &[Self] =
        &[Self::Nobody, Self::Revoked, Self::Expired, Self::Elsewhere, Self::Forged, Self::Borrowed];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Good => "member",
            Self::Nobody => "no credential",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Elsewhere => "elsewhere",
            Self::Forged => "forged",
            Self::Borrowed => "borrowed",
        }
    }
}

/// The cluster whose doors they are.
pub(crate) struct Cluster {
    name: String,
    authority: Authority,
}

#[derive(Deserialize)]
struct Stored {
    cluster: String,
    certificate: String,
    key: String,
}

impl Cluster {
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let stored: Stored = serde_json::from_slice(&text)?;
        let authority = Authority::from_parts(hex::decode(&stored.certificate)?, hex::decode(&stored.key)?)?;
        Ok(Self { name: stored.cluster, authority })
    }

    /// The CA's certificate (DER).
    pub(crate) fn certificate(&self) -> &[u8] {
        self.authority.certificate()
    }

    /// What somebody of this kind shows in handshakes and frames. All of them know whom they knock at.
    pub(crate) fn guard(&self, kind: Kind, revoked: &Path) -> Result<Guard> {
        let identity = match kind {
            Kind::Revoked => Identity::load_or_create(revoked)?,
            _ => Identity::generate()?,
        };
        let credential = self.credential(kind, &identity)?;
        let trust = Trust::new(&self.name, [self.authority.certificate()])?;
        Ok(Guard::new(Arc::new(identity), credential, Some(trust))?)
    }

    fn credential(&self, kind: Kind, identity: &Identity) -> Result<Option<SignedCredential>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut claims = Claims {
            cluster: self.name.clone(),
            node: "visitor".to_owned(),
            node_uid: "visitor".to_owned(),
            peer: identity.peer_id().to_bytes().into(),
            site: "elsewhere".to_owned(),
            // The kubelet's endpoints are for a control only.
            roles: [Role::Edge, Role::Control].into_iter().collect(),
            not_before: now - 60,
            expires: now + LIFE,
            serial: u64::from_be_bytes(random()?),
        };
        let other = || Authority::generate(&self.name, SystemTime::now());
        let signed = match kind {
            Kind::Nobody => return Ok(None),
            Kind::Good | Kind::Revoked => self.authority.sign(&claims)?,
            Kind::Expired => {
                (claims.not_before, claims.expires) = (now - LONG_AGO - LIFE, now - LONG_AGO);
                self.authority.sign(&claims)?
            }
            Kind::Elsewhere => {
                claims.cluster = "elsewhere".to_owned();
                Authority::generate("elsewhere", SystemTime::now())?.sign(&claims)?
            }
            Kind::Forged => other()?.sign(&claims)?,
            Kind::Borrowed => {
                claims.peer = Identity::generate()?.peer_id().to_bytes().into();
                self.authority.sign(&claims)?
            }
        };
        Ok(Some(signed))
    }
}
