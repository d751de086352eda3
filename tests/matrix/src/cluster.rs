//! The cluster of a run: a folder with the CA and the key of every node. For laboratories only.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use edgeloom_tunnel::identity::{Authority, Claims, Identity, Role, SignedCredential, write_private};

/// Name of the cluster.
pub(crate) const CLUSTER: &str = "matrix";
const CERTIFICATE: &str = "ca.der";
const KEY: &str = "ca.key";
/// How long credentials hold, in seconds: longer than any run.
const LIFE: u64 = 86_400;

/// Makes the CA.
pub(crate) fn create(folder: &Path) -> Result<()> {
    let authority = Authority::generate(CLUSTER, SystemTime::now())?;
    write_private(&folder.join(CERTIFICATE), authority.certificate())?;
    Ok(write_private(&folder.join(KEY), authority.private_key())?)
}

/// The CA.
pub(crate) fn authority(folder: &Path) -> Result<Authority> {
    let read = |name| std::fs::read(folder.join(name));
    Ok(Authority::from_parts(read(CERTIFICATE)?, read(KEY)?)?)
}

/// The key of a node, made at the first call; one process calls first.
pub(crate) fn identity(folder: &Path, name: &str) -> Result<Identity> {
    Ok(Identity::load_or_create(&folder.join(format!("{name}.identity")))?)
}

/// A credential for a node of that site.
pub(crate) fn credential(
    authority: &Authority,
    identity: &Identity,
    name: &str,
    site: &str,
    role: Role,
) -> Result<SignedCredential> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Ok(authority.sign(&Claims {
        cluster: CLUSTER.to_owned(),
        node: name.to_owned(),
        node_uid: name.to_owned(),
        peer: identity.peer_id().to_bytes().into(),
        site: site.to_owned(),
        roles: [role].into_iter().collect(),
        not_before: now - 60,
        expires: now + LIFE,
        serial: rand::random(),
    })?)
}
