//! The operator's endpoint of a daemon: `/metrics`, `/healthz` and `/readyz` over HTTP.
//!
//! A daemon is ready once every part that took a [`Guard`] has dropped it; until then `/readyz` answers
//! 503 and names the parts that are missing. `/healthz` answers as long as the process does.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Which parts of a daemon are not up yet. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    missing: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// Keeps a daemon from being ready until it is dropped.
#[derive(Debug)]
#[must_use = "a guard that is dropped at once says that its part is up"]
pub struct Guard {
    readiness: Readiness,
    part: &'static str,
}

impl Readiness {
    /// Nothing is missing until a guard is taken.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a part that must come up before the daemon is ready.
    pub fn guard(&self, part: &'static str) -> Guard {
        *self.lock().entry(part).or_default() += 1;
        Guard { readiness: self.clone(), part }
    }

    /// The parts that are not up yet, in alphabetical order.
    pub fn missing(&self) -> Vec<&'static str> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, usize>> {
        // A map of counters is whole whatever panicked while it was held.
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut missing = self.readiness.lock();
        if let Some(count) = missing.get_mut(self.part) {
            *count -= 1;
            if *count == 0 {
                missing.remove(self.part);
            }
        }
    }
}

/// The endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} for metrics and health: {source}; check that no other program has the port"
)]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// The endpoint while it serves.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it listens: the port that the system chose if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has ended, which it does when its token is cancelled.
    pub async fn join(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the metrics and health endpoint ended by a panic");
        }
    }
}

/// Serves the endpoint until `stop` is cancelled.
pub async fn serve(
    address: SocketAddr,
    registry: Registry,
    readiness: Readiness,
    stop: CancellationToken,
) -> Result<Server, ListenError> {
    let failed = |source| ListenError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let task = tokio::spawn(async move {
        let serving = axum::serve(listener, router(registry, readiness));
        if let Err(error) = serving.with_graceful_shutdown(stop.cancelled_owned()).await {
            tracing::error!(%error, "the metrics and health endpoint failed");
        }
    });
    Ok(Server { address, task })
}

/// The endpoint's paths, for a server that has others as well.
pub fn router(registry: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(metrics).with_state(registry))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready).with_state(readiness))
}

async fn metrics(State(registry): State<Registry>) -> Response {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&registry.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics: {error}\n")).into_response(),
    }
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, String) {
    let missing = readiness.missing();
    if missing.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: waiting for {}\n", missing.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use prometheus::IntCounter;
    use tower::ServiceExt;

    async fn fetch(registry: &Registry, readiness: &Readiness, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(registry.clone(), readiness.clone()).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_once_every_part_is_up() {
        let (registry, readiness) = (Registry::new(), Readiness::new());
        let (dns, again, hub) = (readiness.guard("dns"), readiness.guard("dns"), readiness.guard("hub"));
        drop(dns);
        let (status, body) = fetch(&registry, &readiness, "/readyz").await;
        assert_eq!((status, body.as_str()), (503, "not ready: waiting for dns, hub\n"));
        assert_eq!(fetch(&registry, &readiness, "/healthz").await.0, 200);
        drop((again, hub));
        assert_eq!(fetch(&registry, &readiness, "/readyz").await.0, 200);
    }

    #[tokio::test]
    async fn metrics_have_their_help() {
        let registry = Registry::new();
        let counter = IntCounter::new("edgeloom_test_total", "What is counted.").unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        counter.inc();
        let (status, body) = fetch(&registry, &Readiness::new(), "/metrics").await;
        assert_eq!(status, 200);
        assert!(body.contains("# HELP edgeloom_test_total What is counted.") && body.contains("_total 1"));
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named() {
        let stop = CancellationToken::new();
        let any = "127.0.0.1:0".parse().unwrap();
        let first = serve(any, Registry::new(), Readiness::new(), stop.clone()).await.unwrap();
        let again = serve(first.address(), Registry::new(), Readiness::new(), stop.clone()).await;
        assert!(again.unwrap_err().to_string().contains(&first.address().to_string()));
        stop.cancel();
        first.join().await;
    }
}
