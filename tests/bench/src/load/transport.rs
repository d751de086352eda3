//! What carries the bytes: TCP, TLS over TCP, or QUIC by quinn alone.
//!
//! TLS and QUIC take AES-128-GCM, and QUIC the windows and the congestion control that the tunnel takes on a LAN:
//! what is compared is what the tunnel and the agents add.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, ServerConfig, TransportConfig, VarInt};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const CERTIFICATE: &str = "server.der";
const KEY: &str = "server.key";
const NAME: &str = "bench.invalid";
/// Receive windows of a stream and a connection, in bytes: the tunnel's.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Longer than any run.
const IDLE: Duration = Duration::from_secs(120);

/// What the client dials with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Over {
    /// TCP.
    Tcp,
    /// TLS 1.3 by rustls, over TCP.
    Tls,
    /// A stream of a quinn connection.
    Quic,
}

impl Over {
    /// Its name on a command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Quic => "quic",
        }
    }
}

/// Both directions of a connection.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Dials.
pub(super) async fn connect(over: Over, to: SocketAddr, folder: &Path) -> Result<Box<dyn Duplex>> {
    if over == Over::Quic {
        let mut endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
        endpoint.set_default_client_config(quic_client(folder)?);
        let connection = endpoint.connect(to, NAME)?.await?;
        let (send, recv) = connection.open_bi().await?;
        return Ok(Box::new(tokio::io::join(recv, send)));
    }
    let stream = TcpStream::connect(to).await.with_context(|| format!("cannot connect to {to}"))?;
    stream.set_nodelay(true)?;
    if over == Over::Tcp {
        return Ok(Box::new(stream));
    }
    let connector = TlsConnector::from(Arc::new(tls_client(folder)?));
    Ok(Box::new(connector.connect(ServerName::try_from(NAME)?, stream).await?))
}

/// Writes the certificate of a server, and its key, into a folder.
pub(crate) fn write_certificate(folder: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    std::fs::write(folder.join(CERTIFICATE), made.cert.der())?;
    Ok(std::fs::write(folder.join(KEY), made.signing_key.serialize_der())?)
}

/// Accepts TLS.
pub(super) fn tls_acceptor(folder: &Path) -> Result<TlsAcceptor> {
    Ok(TlsAcceptor::from(Arc::new(tls_server(folder)?)))
}

/// An endpoint that accepts QUIC.
pub(super) fn quic_server(folder: &Path, listen: SocketAddr) -> Result<Endpoint> {
    let crypto = QuicServerConfig::try_from(tls_server(folder)?)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport()?);
    Endpoint::server(config, listen).with_context(|| format!("cannot listen on UDP {listen}"))
}

fn quic_client(folder: &Path) -> Result<ClientConfig> {
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls_client(folder)?)?));
    config.transport_config(transport()?);
    Ok(config)
}

fn transport() -> Result<Arc<TransportConfig>> {
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_idle_timeout(Some(IDLE.try_into()?));
    Ok(Arc::new(transport))
}

fn tls_server(folder: &Path) -> Result<rustls::ServerConfig> {
    let key = std::fs::read(folder.join(KEY))?;
    let key = PrivateKeyDer::try_from(key).map_err(anyhow::Error::msg)?;
    Ok(rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate(folder)?], key)?)
}

fn tls_client(folder: &Path) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate(folder)?)?;
    Ok(rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn certificate(folder: &Path) -> Result<CertificateDer<'static>> {
    let path = folder.join(CERTIFICATE);
    let der = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(CertificateDer::from(der))
}

fn provider() -> Arc<CryptoProvider> {
    let mut provider = default_provider();
    provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
    Arc::new(provider)
}
