//! Credentials, signed by the cluster's CA.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgeloom_api::credential::{Claims, Role, SignedCredential};
use edgeloom_tunnel::PeerId;
use edgeloom_tunnel::identity::{AuthorityError, Trust, TrustError, random};

use super::authority::ClusterCa;

/// How far a credential reaches back, for hosts whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(300);

/// Whose credential it is.
#[derive(Clone, Debug)]
pub struct Holder {
    /// Its identity.
    pub peer: PeerId,
    /// Name of its Node.
    pub node: String,
    /// UID of its Node.
    pub uid: String,
    /// Its site.
    pub site: String,
    /// What it may be.
    pub roles: Vec<Role>,
}

/// Signs credentials.
#[derive(Clone)]
pub struct Issuer {
    ca: Arc<ClusterCa>,
    life: Duration,
    grace: Duration,
}

impl Issuer {
    /// Credentials of `ca` that live for `life`, and can be renewed until `grace` after.
    pub fn new(ca: Arc<ClusterCa>, life: Duration, grace: Duration) -> Self {
        Self { ca, life, grace }
    }

    /// The CA.
    pub fn ca(&self) -> &ClusterCa {
        &self.ca
    }

    /// What every node of the cluster trusts.
    pub fn trust(&self) -> Result<Trust, TrustError> {
        Ok(Trust::new(&self.ca.cluster, [self.ca.authority.certificate()])?.with_grace(self.grace))
    }

    /// A fresh credential.
    pub fn issue(&self, holder: &Holder) -> Result<SignedCredential, AuthorityError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.ca.authority.sign(&Claims {
            cluster: self.ca.cluster.clone(),
            node: holder.node.clone(),
            node_uid: holder.uid.clone(),
            peer: holder.peer.to_bytes().into(),
            site: holder.site.clone(),
            roles: holder.roles.iter().copied().collect(),
            not_before: now.saturating_sub(BACKDATE).as_secs(),
            expires: (now + self.life).as_secs(),
            serial: u64::from_be_bytes(random()?),
        })
    }
}
