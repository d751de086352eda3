//! A TLS listener of the control: accepts, shakes hands, and gives each HTTP request with the client's
//! verified certificate to a [`Handler`].
//!
//! The TLS configuration is read anew for every connection, so that a renewed certificate needs no
//! restart. Connections are bounded; one that does not finish its handshake is closed.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A response's body, whatever it is made of.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// How long a client may take over its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections of one listener at a time; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 1024;

/// Answers the requests of one listener.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers `request`; `certificate` is the client's, verified, if it presented one.
    fn handle(
        &self,
        request: Request<Incoming>,
        certificate: Option<CertificateDer<'static>>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// Serves until `stop`; every connection is a task of `tasks`.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    tls: Arc<ArcSwap<rustls::ServerConfig>>,
    handler: H,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: what frees one is time.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(tls.load_full());
        let (handler, stop) = (handler.clone(), stop.clone());
        tasks.spawn(async move {
            connection(stream, acceptor, handler, stop).await;
            drop(permit);
        });
    }
}

async fn connection<H: Handler>(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    handler: H,
    stop: CancellationToken,
) {
    // Requests and answers are small and waited for; a failure only costs latency.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake timed out"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
    let certificate = certificate.map(CertificateDer::into_owned);
    let service = hyper::service::service_fn(move |request| {
        let (handler, certificate) = (handler.clone(), certificate.clone());
        async move { Ok::<_, Infallible>(handler.handle(request, certificate).await) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A plain-text answer, as a kubelet gives its errors.
pub fn text(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(message.into() + "\n"));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let mut response = Response::new(full(bytes));
            *response.status_mut() = status;
            let json = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(http::header::CONTENT_TYPE, json);
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer is no JSON: {error}")),
    }
}
