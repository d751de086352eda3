//! Connections: TCP accepted, TLS with an optional client certificate, HTTP/1.1 (with upgrades) or
//! HTTP/2 by ALPN, every wait bounded.
//!
//! A certificate that does not verify does not end the connection: the request is told 401, as the real
//! server does it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Peer;
use super::{Face, route};
use crate::auth::pki;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 8_192;
/// Of them, of clients that show no certificate of the cluster's: the others find a place whoever comes.
const UNPROVEN: usize = 7_168;
/// How long a client may be silent after its handshake: the protocol is not known before it speaks.
const SILENT: Duration = Duration::from_secs(30);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request, and an idle HTTP/1 connection is kept, which hyper
/// does not tell apart. Longer than clients keep theirs (90 s in Go and hyper): a request must not meet the
/// closing of its connection.
const HEAD: Duration = Duration::from_secs(120);
/// How long a peer may leave what it was sent unread.
const STALL: Duration = Duration::from_secs(90);
/// How often an HTTP/2 connection is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 250;

/// The serving certificate in use, and who signs clients' certificates.
pub(crate) struct TlsSetup {
    pub(crate) certificate: ArcSwap<CertifiedKey>,
    pub(crate) clients: Arc<dyn ClientCertVerifier>,
}

impl TlsSetup {
    /// Clients are those with certificates of these authorities.
    pub(crate) fn new(certificate: CertifiedKey, roots: RootCertStore) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self { certificate: ArcSwap::from_pointee(certificate), clients })
    }
}

#[derive(Debug)]
struct Current(Arc<TlsSetup>);

impl std::fmt::Debug for TlsSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsSetup")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.certificate.load_full())
    }
}

/// Takes any certificate whose key the client holds; who signed it is looked at afterwards.
#[derive(Debug)]
struct Lenient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Lenient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Where connections come in.
pub(crate) struct Listener {
    pub(crate) tcp: TcpListener,
    pub(crate) tls: Arc<TlsSetup>,
}

/// Serves until `stop`; connections then finish what they are at, until `force` ends them.
pub(crate) async fn serve(
    listener: Listener,
    face: Arc<Face>,
    tasks: TaskTracker,
    stop: CancellationToken,
    force: CancellationToken,
) -> Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(Lenient(listener.tls.clients.clone())))
        .with_cert_resolver(Arc::new(Current(listener.tls.clone())));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let unproven = Arc::new(Semaphore::new(UNPROVEN));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return Ok(()) };
        let accepted = tokio::select! {
            accepted = listener.tcp.accept() => accepted,
            () = stop.cancelled() => return Ok(()),
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; is the limit of open files too low?");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let one = Connection {
            face: face.clone(),
            acceptor: acceptor.clone(),
            clients: listener.tls.clients.clone(),
            stop: stop.clone(),
            unproven: unproven.clone(),
        };
        let force = force.clone();
        tasks.spawn(async move {
            one.face.metrics.connections.inc();
            let gauge = one.face.metrics.connections.clone();
            tokio::select! {
                () = one.run(stream) => {}
                () = force.cancelled() => {}
            }
            gauge.dec();
            drop(permit);
        });
    }
}

struct Connection {
    face: Arc<Face>,
    acceptor: tokio_rustls::TlsAcceptor,
    clients: Arc<dyn ClientCertVerifier>,
    stop: CancellationToken,
    /// Places of clients without a certificate.
    unproven: Arc<Semaphore>,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let handshake = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(Impatient::new(stream))).await;
        let Ok(Ok(stream)) = handshake else { return };
        let peer = peer(stream.get_ref().1.peer_certificates(), &*self.clients);
        let proven = matches!(peer, Peer::Certified(_));
        let place = if proven { None } else { self.unproven.clone().try_acquire_owned().ok() };
        if !proven && place.is_none() {
            return tracing::debug!("a client without a certificate is turned away: there are {UNPROVEN}");
        }
        let face = self.face;
        let (asks, mut asked) = watch::channel(false);
        let service = service_fn(move |request| {
            asks.send_replace(true);
            let (face, peer) = (face.clone(), peer.clone());
            async move { Ok::<_, Infallible>(route::answer(face, request, peer).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .max_concurrent_streams(STREAMS)
            .adaptive_window(true);
        let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(served);
        let ended = tokio::select! {
            ended = served.as_mut() => ended,
            () = silence(&mut asked) => return tracing::debug!("a client that said nothing is left"),
            () = self.stop.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, "a connection broke off");
        }
    }
}

/// Returns where no request came within [`SILENT`].
async fn silence(asked: &mut watch::Receiver<bool>) {
    if tokio::time::timeout(SILENT, asked.wait_for(|asked| *asked)).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// Who the certificates say the client is.
fn peer(chain: Option<&[CertificateDer<'static>]>, clients: &dyn ClientCertVerifier) -> Peer {
    let Some((leaf, rest)) = chain.and_then(<[_]>::split_first) else { return Peer::Unknown };
    match clients.verify_client_cert(leaf, rest, UnixTime::now()) {
        Ok(_) => pki::user_of(leaf).map_or(Peer::Rejected, Peer::Certified),
        Err(_) => Peer::Rejected,
    }
}

/// A stream that fails when its peer does not take what is written for [`STALL`].
struct Impatient {
    inner: TcpStream,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn new(inner: TcpStream) -> Self {
        Self { inner, waiting: None }
    }

    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<std::io::Result<T>>,
    ) -> Poll<std::io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let sleep =
            self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + STALL)));
        match sleep.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(std::io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, data);
        self.watched(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, data);
        self.watched(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.watched(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_left_and_who_asked_is_not() {
        let (asks, mut asked) = watch::channel(false);
        let begun = Instant::now();
        silence(&mut asked).await;
        assert_eq!(begun.elapsed(), SILENT);
        asks.send_replace(true);
        assert!(tokio::time::timeout(SILENT * 100, silence(&mut asked)).await.is_err());
    }
}
