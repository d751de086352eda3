//! The kubelet's HTTP endpoints: logs, exec, attach, port-forward, statistics.
//!
//! ```text
//! kubectl ─> API server ─TLS─> control ─kubelet/1 stream─> [serve] ─┬─> log files
//!                                                                   ├─> CRI streaming server (upgrades)
//!                                                                   └─> the node's admin API
//! ```
//! One HTTP/1.1 connection is served on each stream. Who may open one is decided before: here, whoever asks
//! may.

pub mod follow;
pub mod logs;
mod lookup;
mod stats;
mod streaming;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use edgeloom_api::kind;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use prometheus::{Encoder as _, Registry, TextEncoder};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::edged::Node;

/// What every endpoint works with.
#[derive(Clone)]
pub(crate) struct Context {
    node: Arc<Node>,
    registry: Registry,
    /// Streams that were handed over outlive their HTTP exchange; this owns them.
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// The endpoints. Clones share their tasks.
#[derive(Clone)]
pub struct Kubelet {
    router: Router,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// An answer that is an error: the text is what kubectl prints.
#[derive(Debug)]
pub(crate) struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

impl From<crate::cri::CriError> for Refusal {
    fn from(error: crate::cri::CriError) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl Kubelet {
    /// The endpoints of the node. `admin` is what is served below
    /// [`edgeloom_api::admin::KUBELET_PREFIX`], and `registry` at `/metrics`.
    pub fn new(
        node: Arc<Node>,
        registry: Registry,
        admin: Option<Router>,
        cancel: &CancellationToken,
    ) -> Self {
        let cancel = cancel.child_token();
        let tasks = TaskTracker::new();
        let context = Context { node, registry, tasks: tasks.clone(), cancel: cancel.clone() };
        let mut router = Router::new()
            .route("/healthz", get(|| async { "ok" }))
            .route("/pods", get(pods))
            .route("/metrics", get(metrics))
            .route("/metrics/resource", get(stats::resource_metrics))
            .route("/stats/summary", get(stats::summary))
            .route("/containerLogs/{namespace}/{pod}/{container}", get(follow::container_logs))
            .route("/exec/{namespace}/{pod}/{container}", any(streaming::exec))
            .route("/exec/{namespace}/{pod}/{uid}/{container}", any(streaming::exec))
            .route("/attach/{namespace}/{pod}/{container}", any(streaming::attach))
            .route("/attach/{namespace}/{pod}/{uid}/{container}", any(streaming::attach))
            .route("/portForward/{namespace}/{pod}", any(streaming::port_forward))
            .route("/portForward/{namespace}/{pod}/{uid}", any(streaming::port_forward))
            .with_state(context);
        if let Some(admin) = admin {
            router = router.nest(edgeloom_api::admin::KUBELET_PREFIX, admin);
        }
        Self { router, tasks, cancel }
    }

    /// Serves HTTP/1.1 on a stream until it ends.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = TowerToHyperService::new(self.router.clone());
        let connection = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::select! {
            served = connection => if let Err(error) = served {
                tracing::debug!(%error, "a kubelet stream broke");
            },
            () = self.cancel.cancelled() => {}
        }
    }

    /// Serves a stream in a task that [`Kubelet::shutdown`] waits for.
    pub fn spawn(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let kubelet = self.clone();
        self.tasks.spawn(async move { kubelet.serve(stream).await });
    }

    /// Ends what still streams and waits for it.
    pub async fn shutdown(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn pods(State(context): State<Context>) -> Result<Response, Refusal> {
    let items = context
        .node
        .cluster
        .list(&kind::POD)
        .map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let list = json!({ "apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items });
    Ok(axum::Json(list).into_response())
}

async fn metrics(State(context): State<Context>) -> Result<Response, Refusal> {
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&context.registry.gather(), &mut text)
        .map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([("content-type", "text/plain; version=0.0.4")], text).into_response())
}

#[cfg(test)]
mod tests;
