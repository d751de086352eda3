//! What edged needs of the rest of the node: the objects that the cloud sent, and a way to answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use edgeloom_api::kind::Kind;
use futures::future::BoxFuture;
use serde_json::Value;

/// Why the node's store or the cloud did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ClusterError(pub String);

/// A change of an object that edged watches.
#[derive(Clone, Debug)]
pub enum Change {
    /// It is there, with this content.
    Put(Arc<Value>),
    /// It is gone.
    Delete {
        /// Its kind.
        kind: &'static Kind,
        /// Namespace, empty where the kind has none.
        namespace: String,
        /// Name.
        name: String,
    },
    /// All that the store held has been told, and the store is a full copy of what the cloud wants:
    /// what was not told is not wanted.
    Synced,
}

/// What edged tells the cloud. Durable once [`Cluster::report`] has returned.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Merge patch of a pod's `.status`.
    PodStatus {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Uid: another pod of the same name is not meant.
        uid: String,
        /// The patch.
        status: Value,
    },
    /// Merge patch of the own Node's `.status`.
    NodeStatus(Value),
    /// `spec` of the own Node's Lease.
    Lease(Value),
    /// Annotations of the own Node; `None` removes one.
    NodeAnnotations(BTreeMap<String, Option<String>>),
    /// An Event, complete; a later one of the same name takes its place.
    Event(Value),
    /// Nothing of the pod is left here: its object may go.
    PodGone {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Uid.
        uid: String,
    },
}

/// A stream of changes.
pub trait Changes: Send {
    /// The next change. Dropping the future loses nothing.
    fn next(&mut self) -> BoxFuture<'_, Change>;
}

/// The node's store and its way to the cloud.
pub trait Cluster: Send + Sync + 'static {
    /// An object, as last told by the cloud.
    fn get(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, ClusterError>;
    /// All objects of a kind.
    fn list(&self, kind: &'static Kind) -> Result<Vec<Arc<Value>>, ClusterError>;
    /// Every object of these kinds, then [`Change::Synced`], then changes.
    fn subscribe(&self, kinds: &[&'static Kind]) -> Box<dyn Changes>;
    /// Tells the cloud, now or when it is reached.
    fn report(&self, report: Report) -> BoxFuture<'_, Result<(), ClusterError>>;
    /// `TokenRequest` for a service account: the answered object. Fails at once while disconnected.
    fn request_token(
        &self,
        namespace: &str,
        service_account: &str,
        body: Value,
    ) -> BoxFuture<'_, Result<Value, ClusterError>>;
    /// Has the cloud renew the own Node's Lease. False where it does not: the Lease is to be reported.
    fn beat(&self) -> bool;
    /// Whether the cloud is reached now.
    fn is_connected(&self) -> bool;
}
