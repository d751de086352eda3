//! A TLS listener of the control: accepts, shakes hands, and gives each HTTP request with the client's
//! verified certificate to a [`Handler`].
//!
//! The TLS configuration is read anew for every connection, so that a renewed certificate needs no
//! restart. Anybody may connect, so connections are bounded: altogether, for those that show no certificate, which
//! leave places for the others, and for each source of such. Where every place is taken whoever has not done its
//! handshake goes, the oldest first, so that many sources that never do keep nobody out. One that does nothing is
//! closed: before its handshake is done, before a first request, or between requests. A request that runs and a
//! connection that was upgraded may be quiet for as long as they like.

mod activity;
mod handshakes;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use activity::{Activity, Sending};
use arc_swap::ArcSwap;
use bytes::Bytes;
use edgeloom_tunnel::share::Shares;
use handshakes::Handshakes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A response's body, whatever it is made of.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// How long a client may take over its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take over its first request.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection is kept for a next request: longer than an API server keeps one that it does not
/// use (90 s), so that it is the client who ends it and no request crosses the end.
const IDLE: Duration = Duration::from_secs(120);
/// How long a client may take to go when told so.
const FAREWELL: Duration = Duration::from_secs(5);
/// How often an HTTP/2 connection is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 250;
/// How many connections one listener takes.
#[derive(Clone, Copy)]
struct Limits {
    /// At a time; further ones wait in the kernel's queue, where no unfinished handshake makes room.
    connections: usize,
    /// Of them, without a certificate after the handshake; further ones are closed, so that an API server finds a place
    /// whoever comes.
    unproven: usize,
    /// Of them, from one source without a certificate; its further ones are closed.
    per_source: usize,
}

const LIMITS: Limits = Limits { connections: 1024, unproven: 768, per_source: 128 };

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
    serve_within(LIMITS, listener, tls, handler, tasks, stop).await;
}

async fn serve_within<H: Handler>(
    limits: Limits,
    listener: TcpListener,
    tls: Arc<ArcSwap<rustls::ServerConfig>>,
    handler: H,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let Limits { connections, unproven, per_source } = limits;
    let (room, places) = (Arc::new(Semaphore::new(connections)), Arc::new(Semaphore::new(unproven)));
    let (shares, handshakes) = (Shares::new(per_source), Handshakes::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: what frees one is time.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(share) = shares.take(remote.ip()) else {
            tracing::debug!(%remote, "closed: its source has {per_source} connections here already");
            continue;
        };
        let Some(permit) = stop.run_until_cancelled(handshakes.place(&room)).await else { return };
        let (acceptor, handshake) = (TlsAcceptor::from(tls.load_full()), handshakes.begin());
        let (handler, stop, places) = (handler.clone(), stop.clone(), places.clone());
        tasks.spawn(async move {
            let _permit = permit;
            let shaken = handshake.run(shake_hands(stream, acceptor)).await;
            let Some((stream, certificate)) = shaken else { return };
            // Whom the cluster's CA vouches for locks nothing; an API server has many connections.
            let proven = certificate.is_some();
            let _share = (!proven).then_some(share);
            let place = if proven { None } else { places.try_acquire_owned().ok() };
            if !proven && place.is_none() {
                return tracing::debug!(%remote, "closed: {unproven} clients without a certificate are here already");
            }
            converse(stream, certificate, handler, stop).await;
        });
    }
}

async fn shake_hands(
    stream: TcpStream,
    acceptor: TlsAcceptor,
) -> Option<(TlsStream<TcpStream>, Option<CertificateDer<'static>>)> {
    // Requests and answers are small and waited for; a failure only costs latency.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return None;
        }
        Err(_) => {
            tracing::debug!("TLS handshake timed out");
            return None;
        }
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
    Some((stream, certificate.map(CertificateDer::into_owned)))
}

/// Serves the requests of one connection until it ends, is upgraded, or nothing happens on it.
async fn converse<S, H>(
    stream: S,
    certificate: Option<CertificateDer<'static>>,
    handler: H,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let activity = Activity::new();
    let requests = activity.clone();
    let service = hyper::service::service_fn(move |request| {
        let (handler, certificate, requests) = (handler.clone(), certificate.clone(), requests.clone());
        async move { Ok::<_, Infallible>(answer(handler, request, certificate, &requests).await) }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http2().timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).max_concurrent_streams(STREAMS);
    let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => None,
        () = activity.quiet(HEAD, IDLE) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = activity.quiet(FAREWELL, FAREWELL) => return tracing::debug!("connection closed: idle"),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

async fn answer<H: Handler>(
    handler: H,
    request: Request<Incoming>,
    certificate: Option<CertificateDer<'static>>,
    activity: &Activity,
) -> Response<Body> {
    let running = activity.begin();
    let response = handler.handle(request, certificate).await;
    // Who was refused does not hold a connection by not reading why.
    if response.status().is_client_error() {
        return response;
    }
    response.map(|body| Sending { body, _running: running }.boxed_unsync())
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
