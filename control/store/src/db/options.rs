//! What callers of the store ask with, and what they get.

use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use crate::kinds::KindDef;
use crate::selector::{FieldSelector, LabelSelector};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The database file; its directory must exist. SQLite keeps `-wal` and `-shm` beside it.
    pub path: PathBuf,
    /// Ranges of ClusterIPs, the first of which is the default family.
    pub service_cidrs: Vec<IpNet>,
    /// How many past changes a watch can still be resumed over.
    pub history: u64,
    /// Where the figures of the database are registered.
    pub metrics: Option<prometheus::Registry>,
}

impl StoreConfig {
    /// The defaults of the project, with the database at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let service_cidrs = ["10.96.0.0/12", "fd00:10:96::/108"];
        Self {
            path: path.into(),
            service_cidrs: service_cidrs.iter().filter_map(|text| text.parse().ok()).collect(),
            history: 16_384,
            metrics: None,
        }
    }
}

/// Which part of an object a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The main resource: the status stays as stored, if the kind has the subresource.
    Main,
    /// `/status`: all but the status stays as stored.
    Status,
    /// Subresources that the server implements itself (binding, approval, finalize): no isolation.
    Whole,
}

/// Computes `metadata.managedFields` of an object about to be written: the kind, the stored object (none
/// on create), and the new one, defaulted but not yet touched by admission.
pub type Tracker = Arc<dyn Fn(&KindDef, Option<&Value>, &mut Value) + Send + Sync>;

/// Options of create, update and modify.
#[derive(Clone, Default)]
pub struct WriteOptions {
    /// Do everything but store it.
    pub dry_run: bool,
    /// Keeps managed fields; without it they stay as they are.
    pub track: Option<Tracker>,
}

/// What to do with the objects that a deleted one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub dry_run: bool,
    /// Refuse if the stored object has another uid.
    pub uid: Option<String>,
    /// Refuse if the stored object has another resourceVersion.
    pub resource_version: Option<String>,
    /// Seconds that a pod gets; none means its own.
    pub grace_period_seconds: Option<i64>,
    /// None means the kind's default, background.
    pub propagation: Option<Propagation>,
}

/// What a delete did.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// The object as last stored.
    pub object: Value,
    /// Whether it is gone; else it waits for finalizers or its grace period.
    pub gone: bool,
}

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    Exact,
    NotOlderThan,
}

/// Which objects, and which of their versions, a list returns.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// None means all namespaces.
    pub namespace: Option<String>,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    /// At most so many; 0 means all.
    pub limit: usize,
    /// Where the last page ended.
    pub continue_token: Option<String>,
    pub resource_version: Option<String>,
    pub version_match: Option<VersionMatch>,
}

/// A page of objects and the version they are of.
#[derive(Clone, Debug)]
pub struct List {
    pub items: Vec<Arc<Value>>,
    pub resource_version: u64,
    /// Token for the next page, if there is one.
    pub continue_token: Option<String>,
    /// How many more there are, where that is known.
    pub remaining: Option<usize>,
}

/// Where a watch starts and what it shows.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// None means all namespaces.
    pub namespace: Option<String>,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    /// None, empty or `0`: what there is, then changes; else changes after that version.
    pub resource_version: Option<String>,
    pub bookmarks: bool,
    /// Send what there is first, and mark its end by a bookmark.
    pub send_initial_events: bool,
}
