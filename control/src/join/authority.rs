//! The cluster's CA, in a Secret: made once, by the first control that comes.

use std::collections::BTreeMap;
use std::time::SystemTime;

use edgeloom_api::names::SYSTEM_NAMESPACE;
use edgeloom_tunnel::identity::{Authority, AuthorityError};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, PostParams};

/// The Secret that holds the CA.
pub const SECRET: &str = "edgeloom-ca";
const CERTIFICATE: &str = "ca.der";
const KEY: &str = "ca.key.der";
const CLUSTER: &str = "cluster";

/// Why there is no CA to work with.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The API server refused.
    #[error(
        "the cluster's CA (Secret {SYSTEM_NAMESPACE}/{SECRET}): {0}; `edgeloom-control install` grants what the control needs"
    )]
    Api(#[from] kube::Error),
    /// The Secret does not hold a CA.
    #[error(
        "Secret {SYSTEM_NAMESPACE}/{SECRET} has no field {0}; restore it from a backup: a new CA means that every node joins anew"
    )]
    Field(&'static str),
    /// The CA cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// The CA and the identifier of the cluster that it is for.
#[derive(Debug)]
pub struct ClusterCa {
    /// Signs credentials.
    pub authority: Authority,
    /// Identifier of the cluster: the UID of its `kube-system` namespace at the time.
    pub cluster: String,
}

/// Loads the CA, or makes it where there is none.
pub async fn load_or_create(client: &Client, cluster: &str) -> Result<ClusterCa, CaError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    if let Some(secret) = secrets.get_opt(SECRET).await? {
        return read(secret);
    }
    let authority = Authority::generate(cluster, SystemTime::now())?;
    match secrets.create(&PostParams::default(), &secret(&authority, cluster)).await {
        Ok(_) => Ok(ClusterCa { authority, cluster: cluster.to_owned() }),
        // Another replica was first: its CA is the cluster's.
        Err(kube::Error::Api(status)) if status.code == 409 => read(secrets.get(SECRET).await?),
        Err(error) => Err(error.into()),
    }
}

fn secret(authority: &Authority, cluster: &str) -> Secret {
    let bytes = |bytes: &[u8]| ByteString(bytes.to_vec());
    let mut secret = Secret::default();
    secret.metadata.name = Some(SECRET.to_owned());
    secret.type_ = Some("edgeloom.io/ca".to_owned());
    secret.data = Some(BTreeMap::from([
        (CERTIFICATE.to_owned(), bytes(authority.certificate())),
        (KEY.to_owned(), bytes(authority.private_key())),
        (CLUSTER.to_owned(), bytes(cluster.as_bytes())),
    ]));
    secret
}

fn read(secret: Secret) -> Result<ClusterCa, CaError> {
    let mut data = secret.data.unwrap_or_default();
    let mut field = |name: &'static str| data.remove(name).map(|bytes| bytes.0).ok_or(CaError::Field(name));
    let authority = Authority::from_parts(field(CERTIFICATE)?, field(KEY)?)?;
    let cluster = String::from_utf8(field(CLUSTER)?).map_err(|_| CaError::Field(CLUSTER))?;
    Ok(ClusterCa { authority, cluster })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let authority = Authority::generate("c1", SystemTime::UNIX_EPOCH).unwrap();
        let ca = read(secret(&authority, "c1")).unwrap();
        assert_eq!(ca.cluster, "c1");
        assert_eq!(ca.authority.certificate(), authority.certificate());
    }

    #[test]
    fn a_secret_without_a_key_is_named() {
        let authority = Authority::generate("c1", SystemTime::UNIX_EPOCH).unwrap();
        let mut broken = secret(&authority, "c1");
        broken.data.as_mut().unwrap().remove(KEY);
        let error = read(broken).unwrap_err().to_string();
        assert!(error.contains(KEY) && error.contains("backup"), "{error}");
    }
}
