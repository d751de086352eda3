//! The control as a member of its own mesh: its identity and its EdgeNode.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use edgeloom_api::names::SYSTEM_NAMESPACE;
use edgeloom_api::v1alpha1::{EdgeNode, Role};
use edgeloom_tunnel::identity::{AuthorityError, Identity, random};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::join::Holder;

/// Name of the control's EdgeNode. No Node can have it: it would be refused as taken.
pub const NAME: &str = "edgeloom-control";
/// The Secret that holds the control's key.
const SECRET: &str = "edgeloom-control-identity";
const KEY: &str = "ed25519";

/// Why the control has no identity.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The API server refused.
    #[error("the control's identity (Secret {SYSTEM_NAMESPACE}/{SECRET}) and EdgeNode: {0}")]
    Api(#[from] kube::Error),
    /// The Secret holds no key.
    #[error(
        "Secret {SYSTEM_NAMESPACE}/{SECRET} holds no key of 32 bytes; restore it from a backup, or delete it: the nodes then join anew"
    )]
    Key,
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] AuthorityError),
}

/// The control's key, made by the first start.
pub async fn identity(client: &Client) -> Result<Arc<Identity>, MemberError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let stored = match secrets.get_opt(SECRET).await? {
        Some(stored) => stored,
        None => {
            let mut secret = Secret::default();
            secret.metadata.name = Some(SECRET.to_owned());
            secret.type_ = Some("edgeloom.io/identity".to_owned());
            let bytes = ByteString(random::<32>()?.to_vec());
            secret.data = Some(BTreeMap::from([(KEY.to_owned(), bytes)]));
            match secrets.create(&PostParams::default(), &secret).await {
                Ok(made) => made,
                Err(kube::Error::Api(status)) if status.code == 409 => secrets.get(SECRET).await?,
                Err(error) => return Err(error.into()),
            }
        }
    };
    let bytes = stored.data.and_then(|mut data| data.remove(KEY)).ok_or(MemberError::Key)?;
    let secret: [u8; 32] = bytes.0.try_into().map_err(|_| MemberError::Key)?;
    Ok(Arc::new(Identity::from_secret(secret)))
}

/// The control as the holder of a credential.
pub fn holder(identity: &Identity, cluster: &str, site: &str) -> Holder {
    Holder {
        peer: identity.peer_id(),
        node: NAME.to_owned(),
        uid: cluster.to_owned(),
        site: site.to_owned(),
        roles: vec![Role::Control, Role::Relay],
    }
}

/// Where the overlay of this control is reached.
pub fn contacts(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    addresses.iter().map(|address| SocketAddr::from((*address, port))).collect()
}

/// Writes the control's EdgeNode, by which every node learns of it.
pub async fn publish(client: &Client, holder: &Holder, addresses: &[SocketAddr]) -> Result<(), MemberError> {
    let edge_nodes: Api<EdgeNode> = Api::all(client.clone());
    let object = json!({
        "apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode",
        "metadata": { "name": NAME },
        "spec": {
            "peerId": holder.peer.to_string(), "site": holder.site, "nodeUid": holder.uid,
            "roles": holder.roles, "addresses": addresses,
        },
    });
    let parameters = PatchParams::apply(crate::MANAGER).force();
    edge_nodes.patch(NAME, &parameters, &Patch::Apply(object)).await?;
    Ok(())
}
