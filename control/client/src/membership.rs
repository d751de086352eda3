//! What a node knows of its place in the cluster, on disk: all it needs to start with the cloud gone.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeloom_api::join::Contact;
use edgeloom_model::{NodeName, Site};
use edgeloom_tunnel::identity::{
    Identity, IdentityError, SignedCredential, Trust, TrustError, write_private,
};
use edgeloom_tunnel::join::Joined;
use edgeloom_tunnel::{Bounds, Carriers, Peer, PeerId, RelayPeer};
use serde::{Deserialize, Serialize};

use crate::members;
use crate::metastore::Metastore;

/// Name of the file with everything but the key.
const FILE: &str = "membership.json";
/// Name of the file with the key.
const KEY: &str = "identity.key";
/// Version of the file's form.
const VERSION: u32 = 1;

/// A node that has joined.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Its key.
    pub identity: Arc<Identity>,
    /// Its credential.
    pub credential: SignedCredential,
    /// Name of its Node.
    pub node: NodeName,
    /// UID of its Node.
    pub node_uid: String,
    /// Its site.
    pub site: Site,
    /// Where the control answers `hub/1`.
    pub control: Peer,
    /// Relays at the time of joining; the EdgeNodes in the metastore are newer.
    pub relays: Vec<Peer>,
    /// What is done where UDP is blocked; of the configuration, not kept on disk.
    pub carriers: Carriers,
    authorities: Vec<Vec<u8>>,
    folder: PathBuf,
}

/// Why the state of a node cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not say what it should.
    #[error("{path}: {reason}; restore it from a backup, or remove it and join again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The control's answer does not make sense.
    #[error("the control's answer: {0}")]
    Answer(String),
    /// The CA cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    version: u32,
    /// DER, hexadecimal.
    authorities: Vec<String>,
    /// As on the wire, hexadecimal.
    credential: String,
    node_uid: String,
    control: Known,
    relays: Vec<Known>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    peer_id: String,
    node: NodeName,
    site: Site,
    addresses: Vec<SocketAddr>,
}

impl Membership {
    /// The state under `folder`; `None` if the node has not joined.
    pub fn load(folder: &Path) -> Result<Option<Self>, MembershipError> {
        let path = folder.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(MembershipError::Io { path, source }),
        };
        let damaged = |reason: String| MembershipError::Damaged { path: path.clone(), reason };
        let file: File = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if file.version != VERSION {
            return Err(damaged(format!("it has version {}, this release reads {VERSION}", file.version)));
        }
        let identity = Identity::load(&folder.join(KEY))?
            .ok_or_else(|| damaged(format!("the key {KEY} beside it is missing")))?;
        let decode = |text: &String| hex::decode(text).map_err(|error| damaged(error.to_string()));
        let authorities = file.authorities.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        let credential = SignedCredential::decode(&decode(&file.credential)?)
            .map_err(|error| damaged(error.to_string()))?;
        let claims = credential.claims();
        let node = NodeName::new(claims.node.clone()).map_err(|error| damaged(error.to_string()))?;
        let site = Site::new(claims.site.clone()).map_err(|error| damaged(error.to_string()))?;
        let relays =
            file.relays.into_iter().map(Peer::try_from).collect::<Result<Vec<_>, _>>().map_err(damaged)?;
        let control = Peer::try_from(file.control).map_err(damaged)?;
        Ok(Some(Self {
            identity: Arc::new(identity),
            credential,
            node,
            node_uid: file.node_uid,
            site,
            control,
            relays,
            carriers: Carriers::default(),
            authorities,
            folder: folder.to_owned(),
        }))
    }

    /// The identity under `folder`, made if there is none.
    pub(crate) fn identity(folder: &Path) -> Result<Arc<Identity>, MembershipError> {
        Ok(Arc::new(Identity::load_or_create(&folder.join(KEY))?))
    }

    /// What came of joining; not on disk before [`Membership::save`].
    pub(crate) fn of(
        folder: &Path,
        identity: Arc<Identity>,
        joined: Joined,
    ) -> Result<Self, MembershipError> {
        let answer = |reason: &dyn std::fmt::Display| MembershipError::Answer(reason.to_string());
        let claims = joined.credential.claims();
        let node = NodeName::new(claims.node.clone()).map_err(|error| answer(&error))?;
        let site = Site::new(claims.site.clone()).map_err(|error| answer(&error))?;
        let mut control = peer_of(&joined.response.control).map_err(|error| answer(&error))?;
        // Where it answered just now is worth more than what it thinks of its addresses.
        if !control.addresses.contains(&joined.address) {
            control.addresses.insert(0, joined.address);
        }
        let relays = joined.response.relays.iter().map(peer_of).collect::<Result<Vec<_>, _>>();
        let mut relays = relays.map_err(|error| answer(&error))?;
        for relay in relays.iter_mut().filter(|relay| relay.peer == control.peer) {
            relay.addresses.clone_from(&control.addresses);
        }
        Ok(Self {
            identity,
            node,
            site,
            control,
            relays,
            carriers: Carriers::default(),
            node_uid: joined.response.node_uid,
            authorities: joined.offer.authorities.iter().map(|ca| ca.to_vec()).collect(),
            credential: joined.credential,
            folder: folder.to_owned(),
        })
    }

    /// Writes the state; a crash leaves the old one or the new one.
    pub fn save(&self) -> Result<(), MembershipError> {
        let file = File {
            version: VERSION,
            authorities: self.authorities.iter().map(hex::encode).collect(),
            credential: hex::encode(self.credential.encode()),
            node_uid: self.node_uid.clone(),
            control: Known::from(&self.control),
            relays: self.relays.iter().map(Known::from).collect(),
        };
        let path = self.folder.join(FILE);
        let text =
            serde_json::to_vec_pretty(&file).map_err(|error| MembershipError::Answer(error.to_string()))?;
        write_private(&path, &text).map_err(|source| MembershipError::Io { path, source })
    }

    /// Whom the node believes, without the revoked ones.
    pub fn trust(&self) -> Result<Trust, TrustError> {
        Trust::new(&self.credential.claims().cluster, &self.authorities)
    }

    /// Whom the node believes, by what it last heard: for the start of the tunnel.
    pub fn trust_with(&self, store: &Metastore) -> Result<Trust, TrustError> {
        Ok(self.trust()?.with_revoked(members::of(store, &self.node).revoked))
    }

    /// Relays to start with: those the node last heard of, and those of its joining.
    pub fn relays_with(&self, store: &Metastore) -> Vec<RelayPeer> {
        members::of(store, &self.node).with(self).relays
    }

    /// What the node's site allows, by what the node last heard.
    pub fn bounds_with(&self, store: &Metastore) -> Bounds {
        members::bounds(store, &self.site).unwrap_or_default()
    }

    /// Members to start with.
    pub fn peers_with(&self, store: &Metastore) -> Vec<Peer> {
        members::of(store, &self.node).with(self).peers
    }
}

fn peer_of(contact: &Contact) -> Result<Peer, String> {
    Ok(Peer {
        peer: PeerId::from_bytes(&contact.peer).map_err(|error| error.to_string())?,
        node: NodeName::new(contact.node.clone()).map_err(|error| error.to_string())?,
        site: Site::new(contact.site.clone()).map_err(|error| error.to_string())?,
        addresses: contact.addresses.clone(),
    })
}

impl From<&Peer> for Known {
    fn from(peer: &Peer) -> Self {
        Self {
            peer_id: peer.peer.to_base58(),
            node: peer.node.clone(),
            site: peer.site.clone(),
            addresses: peer.addresses.clone(),
        }
    }
}

impl TryFrom<Known> for Peer {
    type Error = String;

    fn try_from(known: Known) -> Result<Self, String> {
        let peer = known.peer_id.parse().map_err(|error| format!("peer id {:?}: {error}", known.peer_id))?;
        Ok(Self { peer, node: known.node, site: known.site, addresses: known.addresses })
    }
}
