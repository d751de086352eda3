//! The messages of `hub/1`, between a node and the control.
//!
//! The node opens every stream. On its session stream it says [`Hello`] with the hash of what it holds; the
//! control answers [`Welcome`], asks for the [`Inventory`] if its own hash differs, sends what differs
//! ([`Put`], [`Delete`]), says [`Synced`], and then sends changes as they come, numbered. The node acknowledges
//! ([`Applied`]) what its disk holds. The other way the node sends [`WriteUp`]s from its outbox, and the
//! control answers each with [`Written`]. A [`Request`] that wants an answer goes on a stream of its own, and
//! is answered by a [`Reply`].
//!
//! Objects travel as JSON text, made once for all nodes and kept as it came.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::kind::Kind;
use crate::message::messages;

/// Version of the protocol that this release speaks.
pub const VERSION: u16 = 1;
/// Entries of one [`Inventory`] message, so that it stays far below the largest message.
pub const INVENTORY_CHUNK: usize = 5_000;

/// What names an object at the edge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Kind as kubectl writes it: `pods`, `endpointslices.discovery.k8s.io`.
    #[serde(rename = "k")]
    pub kind: String,
    /// Namespace, empty for kinds that have none.
    #[serde(rename = "s")]
    pub namespace: String,
    /// Name.
    #[serde(rename = "n")]
    pub name: String,
}

/// What tells two states of an object apart. Compared for equality only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// `metadata.uid`.
    #[serde(rename = "u")]
    pub uid: String,
    /// `metadata.resourceVersion`.
    #[serde(rename = "v")]
    pub resource_version: String,
}

impl Key {
    /// Key of an object of `kind`.
    pub fn new(kind: &Kind, namespace: &str, name: &str) -> Self {
        Self { kind: kind.to_string(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Whether it names an object of `kind`.
    pub fn is(&self, kind: &Kind) -> bool {
        match self.kind.strip_prefix(kind.plural) {
            Some("") => kind.group.is_empty(),
            Some(group) => group.strip_prefix('.') == Some(kind.group),
            None => false,
        }
    }

    /// Key and version of an object from its own fields; `None` if it lacks name, kind or `apiVersion`, or is
    /// of a kind that this release does not know.
    pub fn of(object: &Value) -> Option<(&'static Kind, Self, Version)> {
        let kind = Kind::find(object["apiVersion"].as_str()?, object["kind"].as_str()?)?;
        let metadata = &object["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default();
        let name = metadata["name"].as_str()?;
        let version =
            Version { uid: text("uid").to_owned(), resource_version: text("resourceVersion").to_owned() };
        Some((kind, Self::new(kind, text("namespace"), name), version))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)?;
        if !self.namespace.is_empty() {
            write!(f, " in {}", self.namespace)?;
        }
        Ok(())
    }
}

/// Hash over keys and versions in the order of keys: equal where two sides hold the same.
pub fn digest<'a>(entries: impl IntoIterator<Item = (&'a Key, &'a Version)>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (key, version) in entries {
        for field in [&key.kind, &key.namespace, &key.name, &version.uid, &version.resource_version] {
            hash.update((field.len() as u32).to_be_bytes());
            hash.update(field.as_bytes());
        }
    }
    hash.finalize().into()
}

messages! {
    /// What a node sends.
    FromNode {
        /// Opens a session.
        1 = Hello,
        /// What the node holds.
        2 = Inventory,
        /// What the node's disk holds of what was sent.
        3 = Applied,
        /// A write from the outbox.
        4 = WriteUp,
        /// Asks for a sign of life.
        5 = Alive,
        /// Has the node's Lease renewed.
        6 = Beat,
        /// Opens a stream of its own for one question.
        16 = Request,
    }
}

messages! {
    /// What the control sends.
    FromControl {
        /// Answers [`Hello`].
        1 = Welcome,
        /// An object was created or changed.
        2 = Put,
        /// An object is no longer the node's.
        3 = Delete,
        /// All that differed was sent.
        4 = Synced,
        /// What became of a write.
        5 = Written,
        /// A sign of life, whenever one is asked for.
        6 = Alive,
        /// The control ends the session, and why; a release that does not know it finds the stream ended.
        7 = Closing,
        /// Answers a [`Request`].
        16 = Reply,
    }
}

/// Opens a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the node.
    pub version: u16,
    /// Release of the node's software, for people.
    pub release: String,
    /// The kinds that the node knows; it is sent no others.
    pub kinds: Vec<String>,
    /// [`digest`] of what it holds.
    pub digest: Bytes,
}

/// Answers [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`VERSION`] of the control.
    pub version: u16,
    /// Release of the control's software, for people.
    pub release: String,
    /// The digests differ: the node is to send its [`Inventory`].
    pub inventory: bool,
    /// The control renews the node's Lease at each [`Beat`]; an older one is sent [`Write::Lease`].
    #[serde(default)]
    pub beats: bool,
}

/// The node is well, and the control is to renew its Lease: a fraction of what the Lease itself would cost the
/// uplink, and nothing on the node's disk. Not answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {}

/// A part of what the node holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// At most [`INVENTORY_CHUNK`] objects.
    pub entries: Vec<(Key, Version)>,
    /// No more parts follow.
    pub last: bool,
}

/// An object was created or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// Number of the message, counted through one session.
    pub seq: u64,
    /// The object as JSON.
    pub object: Bytes,
}

/// An object is no longer the node's: deleted, or not needed there any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    /// Number of the message, counted through one session.
    pub seq: u64,
    /// The object.
    pub key: Key,
}

/// All that differed was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synced {
    /// Number of the message, counted through one session.
    pub seq: u64,
}

/// The node's disk holds everything up to a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The largest number, the ones before it included.
    pub seq: u64,
}

/// Asks for a sign of life, and is one: only said where an answer is overdue, for an idle session is to cost
/// nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {}

/// The control ends the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Why, for a program.
    pub reason: CloseReason,
    /// Why, and what to do, for people.
    pub message: String,
}

/// Why the control ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CloseReason {
    /// The node is no member of the cluster any more.
    NoMember,
    /// The control does not know the cluster yet; worth another try.
    NotReady,
    /// The node did not keep to the protocol.
    Protocol,
    /// A reason that only a newer release knows.
    #[serde(other)]
    Other,
}

/// Writes that a node may have sent without an answer; more break the protocol.
pub const WRITE_WINDOW: usize = 64;

/// A write from the outbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WriteUp {
    /// Number of the write in the node's outbox, never used twice.
    pub id: u64,
    /// The write.
    pub write: Write,
}

/// What a node writes to the API. Every one can be sent again without harm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Write {
    /// Merge patch (RFC 7396) of the status of the node's own Node or of a pod on it.
    #[serde(rename_all = "camelCase")]
    Status {
        /// `Pod` or `Node`.
        kind: String,
        /// Namespace, empty for a Node.
        namespace: String,
        /// Name.
        name: String,
        /// The object that is meant; another one of the same name is left alone.
        uid: String,
        /// The patch of `.status`.
        status: Value,
    },
    /// The node's Lease in `kube-node-lease`, whole: the last one counts.
    Lease {
        /// Name: the node's.
        name: String,
        /// `spec`.
        body: Value,
    },
    /// An event, whole, with a name that the node chose.
    Event {
        /// The object.
        event: Value,
    },
    /// The end of a pod that is being deleted: its containers are gone.
    DeletePod {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// The pod that is meant.
        uid: String,
    },
    /// Annotations of the node's own Node, keys under `edgeloom.io/`; null removes one.
    NodeAnnotations {
        /// By key.
        annotations: BTreeMap<String, Option<String>>,
    },
    /// A write that only a newer release knows; acknowledged and dropped.
    #[serde(other)]
    Unknown,
}

impl Write {
    /// What the write is about where only the last one about it counts; `None` where each write counts.
    pub fn object(&self) -> Option<String> {
        match self {
            Self::Status { kind, namespace, name, .. } => Some(format!("status {kind} {namespace}/{name}")),
            Self::Lease { name, .. } => Some(format!("lease {name}")),
            Self::NodeAnnotations { .. } => Some("annotations".to_owned()),
            Self::DeletePod { namespace, name, uid } => Some(format!("end {namespace}/{name} {uid}")),
            Self::Event { .. } | Self::Unknown => None,
        }
    }
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Number of the write.
    pub id: u64,
    /// Why it will never be done, where that is so: the node drops it and says so. A write that may succeed
    /// later is not answered until it does, or until a later one of the same object takes its place.
    pub refused: Option<String>,
}

/// A question on a stream of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Request {
    /// A token of a service account for a pod of the node.
    #[serde(rename_all = "camelCase")]
    Token {
        /// Namespace of the account.
        namespace: String,
        /// Name of the account.
        service_account: String,
        /// The `TokenRequest` object, bound to the pod.
        body: Value,
    },
    /// The next credential of the node.
    Renew,
    /// A question that only a newer release knows.
    #[serde(other)]
    Unknown,
}

/// Answers a [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The answer, or what the API or the control said against it.
    pub result: Result<Answer, Failure>,
}

/// A positive answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// The object that the API returned.
    Object(Value),
    /// A credential as encoded by [`crate::credential::SignedCredential::encode`].
    Credential(Bytes),
}

/// A negative answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Failure {
    /// HTTP status code of the kind of failure, as the Kubernetes API uses them.
    pub code: u16,
    /// What failed and why.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn write(id: u64) -> FromNode {
        let status = json!({"phase": "Running", "containerStatuses": [{"ready": true, "restartCount": 3}]});
        let (kind, namespace) = ("Pod".into(), "shop".into());
        WriteUp { id, write: Write::Status { kind, namespace, name: "a".into(), uid: "u".into(), status } }
            .into()
    }

    #[test]
    fn messages_survive_the_wire() {
        let hello =
            Hello { version: 1, release: "x".into(), kinds: vec!["pods".into()], digest: vec![1; 32].into() };
        for message in [hello.into(), write(7), Request::Renew.into(), Applied { seq: u64::MAX }.into()] {
            assert_eq!(FromNode::decode(&message.encode().unwrap()).unwrap(), message);
        }
        let failure = Failure { code: 403, message: "no".into() };
        let put = Put { seq: 1, object: Bytes::from_static(b"{}") };
        for message in [put.into(), FromControl::from(Reply { result: Err(failure) })] {
            assert_eq!(FromControl::decode(&message.encode().unwrap()).unwrap(), message);
        }
    }

    #[test]
    fn what_a_newer_release_says_is_passed_over() {
        assert_eq!(FromNode::decode(&[200, 1, 2, 3]).unwrap(), FromNode::Unknown(200));
        let newer = json!({"id": 3, "write": {"type": "deviceTwin", "twin": {}}, "priority": 5});
        let mut bytes = vec![4];
        ciborium::into_writer(&newer, &mut bytes).unwrap();
        let decoded = FromNode::decode(&bytes).unwrap();
        assert_eq!(decoded, WriteUp { id: 3, write: Write::Unknown }.into());
    }

    #[test]
    fn a_digest_tells_every_field_apart() {
        let entry = |fields: [&str; 5]| {
            let [kind, namespace, name, uid, resource_version] = fields.map(str::to_owned);
            (Key { kind, namespace, name }, Version { uid, resource_version })
        };
        let of = |fields| {
            let (key, version) = entry(fields);
            digest([(&key, &version)])
        };
        let base = of(["pods", "a", "b", "u", "1"]);
        assert_eq!(base, of(["pods", "a", "b", "u", "1"]));
        for other in
            [["pods", "ab", "", "u", "1"], ["pods", "a", "b", "u1", ""], ["pod", "sa", "b", "u", "1"]]
        {
            assert_ne!(base, of(other));
        }
    }

    #[test]
    fn an_object_names_itself() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "shop", "name": "a", "uid": "u", "resourceVersion": "5"}});
        let (kind, key, version) = Key::of(&pod).unwrap();
        assert_eq!((kind.kind, key.to_string().as_str()), ("Pod", "pods a in shop"));
        assert_eq!((version.uid.as_str(), version.resource_version.as_str()), ("u", "5"));
        assert!(Key::of(&json!({"apiVersion": "v9", "kind": "Pod", "metadata": {"name": "a"}})).is_none());
        assert!(Key::of(&json!([])).is_none());
        for kind in crate::kind::ALL {
            let same = crate::kind::ALL.iter().filter(|other| Key::new(kind, "", "a").is(other));
            assert_eq!(same.collect::<Vec<_>>(), [kind]);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = FromNode::decode(&bytes);
            let _ = FromControl::decode(&bytes);
        }

        #[test]
        fn a_changed_byte_is_no_panic(at in any::<prop::sample::Index>(), by in 1..=255u8) {
            let mut bytes = write(1).encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            let _ = FromNode::decode(&bytes);
        }
    }
}
