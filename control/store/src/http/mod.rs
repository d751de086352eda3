//! The HTTP face of the store: the Kubernetes API over its declarations.
//!
//! ```text
//!  connection (TCP, TLS, HTTP/1.1 and 2) ─> route: who? may it? room? ─> meta       /version, /healthz, …
//!                                                                     ├> discovery  /api, /apis, OpenAPI
//!                                                                     ├> objects, write, patch, delete, watch
//!                                                                     └> subresources, reviews, kubelet
//! ```
//!
//! Nothing here knows a kind by name but where Kubernetes itself gives a kind a subresource of its own.

mod access;
mod answer;
mod body;
mod connection;
mod delete;
mod discovery;
mod duplicates;
mod kubelet;
mod limits;
mod meta;
mod metrics;
mod objects;
mod patching;
mod protobuf;
mod query;
mod reviews;
mod route;
mod subresources;
mod target;
mod watching;
mod write;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use http::HeaderMap;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::access::Access;
pub(crate) use self::connection::{Listener, TlsSetup, serve};
pub(crate) use self::kubelet::KubeletClient;
use self::limits::Limits;
pub(crate) use self::metrics::Metrics;
use self::query::Query;
use self::target::Target;
use crate::auth::User;
use crate::db::Store;
use crate::kinds::KindDef;
use crate::openapi::Documents;

/// Everything a request needs; one for the whole server.
pub(crate) struct Face {
    pub(crate) store: Store,
    pub(crate) access: Arc<Access>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) kubelet: KubeletClient,
    pub(crate) documents: Documents,
    /// Where the server is reached, as discovery tells clients.
    pub(crate) address: SocketAddr,
    /// Set once the bootstrap objects are there.
    pub(crate) ready: AtomicBool,
    /// Ends watches and streams.
    pub(crate) stop: CancellationToken,
    /// Owns every task that outlives its request: watches and streams.
    pub(crate) tasks: TaskTracker,
}

impl Face {
    /// A face over the store.
    pub(crate) fn new(
        store: Store,
        access: Arc<Access>,
        kubelet: KubeletClient,
        address: SocketAddr,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Self {
        Self {
            documents: Documents::new(store.registry().clone()),
            store,
            access,
            limits: Limits::default(),
            metrics,
            kubelet,
            address,
            ready: AtomicBool::new(false),
            stop,
            tasks: TaskTracker::new(),
        }
    }
}

/// A request for a resource, once its sender is known and may.
pub(crate) struct Call {
    pub(crate) user: User,
    pub(crate) target: Target,
    pub(crate) kind: Arc<KindDef>,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) now: OffsetDateTime,
}

impl Call {
    /// The namespace of the object: none for kinds without, even where the path has one.
    pub(crate) fn namespace(&self) -> &str {
        if self.kind.namespaced { &self.target.namespace } else { "" }
    }

    /// Who writes, as managed fields name it: `fieldManager`, else the program of the user agent.
    pub(crate) fn manager(&self) -> String {
        const LONGEST: usize = 128;
        if let Some(manager) = self.query.get("fieldManager") {
            return manager.to_owned();
        }
        let agent =
            self.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
        let program = agent.split('/').next().unwrap_or("");
        if program.is_empty() { "unknown".to_owned() } else { program.chars().take(LONGEST).collect() }
    }
}
