//! The node's side of every TLS handshake: shows its own certificate, judges the peer's.
//!
//! rustls judges a client's certificate before the verifier could know the protocol, so the judgement has two
//! halves. In the handshake whoever could not use any protocol of the endpoint is refused; where `join/1` is
//! served, that lets pass who has no credential or one that lapsed. After it [`Guard::admit`] compares
//! credential and protocol, and only what it returns may leave the transport. Sessions are never resumed:
//! resumption would restore a chain that nobody verifies again.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use edgeloom_api::credential::{Role, SignedCredential};
use libp2p::PeerId;
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::certificate::{CertificateError, Presented, issue};
use super::key::Identity;
use super::refusal::Refusal;
use super::trust::{Trust, Verified};

/// The only protocol on which a peer without a credential goes on.
pub const JOIN_ALPN: &[u8] = b"join/1";

/// A peer that asks to join, or to renew what lapsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joiner {
    /// Its identity, proven in the handshake.
    pub peer: PeerId,
    /// Its credential, where it has one of this cluster, expired or not.
    pub holder: Option<Verified>,
}

/// Who may leave the transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// A member of the cluster.
    Member(Verified),
    /// Whoever reached `join/1`.
    Joiner(Joiner),
}

/// Own certificate and trust, for every handshake of the node. Clones share it, and configurations made from
/// it follow when credential or trust are replaced.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identity: Arc<Identity>,
    certified: ArcSwap<CertifiedKey>,
    credential: ArcSwapOption<SignedCredential>,
    trust: ArcSwapOption<Trust>,
}

impl Guard {
    /// A guard for `identity`; without credential and trust it can only join.
    pub fn new(
        identity: Arc<Identity>,
        credential: Option<SignedCredential>,
        trust: Option<Trust>,
    ) -> Result<Self, CertificateError> {
        let certified = ArcSwap::new(issue(&identity, credential.as_ref())?);
        let credential = ArcSwapOption::from_pointee(credential);
        let trust = ArcSwapOption::from_pointee(trust);
        Ok(Self(Arc::new(Inner { identity, certified, credential, trust })))
    }

    /// The node's identity.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.0.identity
    }

    /// The credential in use.
    pub fn credential(&self) -> Option<Arc<SignedCredential>> {
        self.0.credential.load_full()
    }

    /// The trust in use.
    pub fn trust(&self) -> Option<Arc<Trust>> {
        self.0.trust.load_full()
    }

    /// The certificate that this node shows, with its credential in it.
    pub fn certificate(&self) -> CertificateDer<'static> {
        let certified = self.0.certified.load();
        certified.end_entity_cert().expect("the certificate was issued with its key").clone().into_owned()
    }

    /// Shows `credential`, in a new certificate, from the next handshake on.
    pub fn set_credential(&self, credential: SignedCredential) -> Result<(), CertificateError> {
        self.0.certified.store(issue(&self.0.identity, Some(&credential))?);
        self.0.credential.store(Some(Arc::new(credential)));
        Ok(())
    }

    /// Verifies by `trust` from the next handshake on; for connections that stand see [`Trust::recheck`].
    pub fn set_trust(&self, trust: Trust) {
        self.0.trust.store(Some(Arc::new(trust)));
    }

    /// TLS for the accepting side of `alpns`. Serving [`JOIN_ALPN`] lets peers without a credential through
    /// the handshake, so every connection has to pass [`Guard::admit`].
    pub fn server_config(&self, alpns: &[&[u8]]) -> Result<rustls::ServerConfig, rustls::Error> {
        let serves_join = alpns.contains(&JOIN_ALPN);
        let verifier = ClientVerifier { guard: self.clone(), serves_join };
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(OwnCertificate(self.clone())));
        config.alpn_protocols = alpns.iter().map(|alpn| alpn.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// TLS for the dialling side of `alpn`, towards `expected` where the peer is known. On [`JOIN_ALPN`] only
    /// the certificate's own form is verified: the CA is not known yet, and the joiner holds the certificate
    /// ([`Guard::presented`]) to it afterwards.
    pub fn client_config(
        &self,
        alpn: &[u8],
        expected: Option<PeerId>,
    ) -> Result<rustls::ClientConfig, rustls::Error> {
        let verifier = ServerVerifier { guard: self.clone(), joining: alpn == JOIN_ALPN, expected };
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(OwnCertificate(self.clone())));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        Ok(config)
    }

    /// [`Guard::server_config`] for a quinn endpoint.
    pub fn quic_server_config(&self, alpns: &[&[u8]]) -> Result<Arc<QuicServerConfig>, rustls::Error> {
        let config =
            QuicServerConfig::try_from(self.server_config(alpns)?).map_err(|_| no_initial_suite())?;
        Ok(Arc::new(config))
    }

    /// [`Guard::client_config`] for a quinn endpoint.
    pub fn quic_client_config(
        &self,
        alpn: &[u8],
        expected: Option<PeerId>,
    ) -> Result<Arc<QuicClientConfig>, rustls::Error> {
        let config = QuicClientConfig::try_from(self.client_config(alpn, expected)?)
            .map_err(|_| no_initial_suite())?;
        Ok(Arc::new(config))
    }

    /// Judges an accepted or dialled QUIC connection whose handshake is complete. A connection that is refused
    /// must be closed and never used.
    pub fn admit(&self, connection: &quinn::Connection) -> Result<Admitted, Refusal> {
        let handshake = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
        let alpn = handshake.and_then(|data| data.protocol).ok_or(Refusal::Protocol)?;
        self.admit_tls(&alpn, &peer_certificates(connection))
    }

    /// [`Guard::admit`] for a TLS connection over TCP, by its ALPN and the certificates that the peer showed.
    pub fn admit_tls(&self, alpn: &[u8], certificates: &[CertificateDer<'_>]) -> Result<Admitted, Refusal> {
        let now = SystemTime::now();
        let presented = read(certificates)?;
        let trust = self.trust();
        if alpn == JOIN_ALPN {
            let holder = trust.as_ref().and_then(|trust| trust.verify_lapsed(&presented, now).ok());
            return Ok(Admitted::Joiner(Joiner { peer: presented.peer, holder }));
        }
        trust.ok_or(Refusal::NotJoined)?.verify(&presented, now).map(Admitted::Member)
    }

    /// The member at the other end of `connection`, whatever the protocol.
    pub fn verified_peer(&self, connection: &quinn::Connection) -> Result<Verified, Refusal> {
        let trust = self.trust().ok_or(Refusal::NotJoined)?;
        trust.verify(&Self::presented(connection)?, SystemTime::now())
    }

    /// What the other end of `connection` showed, verified no further than by itself.
    pub fn presented(connection: &quinn::Connection) -> Result<Presented, Refusal> {
        read(&peer_certificates(connection))
    }

    fn judge_client(&self, presented: &Presented, serves_join: bool, now: SystemTime) -> Result<(), Refusal> {
        let trust = self.trust().ok_or(Refusal::NotJoined)?;
        if !serves_join {
            return trust.verify(presented, now).map(drop);
        }
        if presented.credential.is_none() {
            return Ok(());
        }
        trust.verify_lapsed(presented, now).map(drop)
    }

    fn judge_server(
        &self,
        presented: &Presented,
        joining: bool,
        expected: Option<PeerId>,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let found = presented.peer;
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(Refusal::WrongPeer { expected: Box::new(expected), found });
        }
        match self.trust() {
            // A node that renews knows the CA already and need not take a stranger's word.
            Some(trust) if joining => trust.verify(presented, now)?.require(Role::Control),
            None if joining => Ok(()),
            Some(trust) => trust.verify(presented, now).map(drop),
            None => Err(Refusal::NotJoined),
        }
    }
}

fn peer_certificates(connection: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .map_or_else(Vec::new, |certificates| *certificates)
}

fn read(certificates: &[CertificateDer<'_>]) -> Result<Presented, Refusal> {
    let (first, others) = certificates.split_first().ok_or(Refusal::Form("no certificate"))?;
    Presented::read(first, others)
}

fn no_initial_suite() -> rustls::Error {
    rustls::Error::General("the cryptography provider lacks AES-128-GCM".into())
}

/// AES-GCM first: 1.5 times as fast as ChaCha20 where the processor has AES, and what has none can say so by
/// the order of its own offer.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
}

/// The instant of rustls' clock.
fn instant(now: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs())
}

#[derive(Debug)]
pub(super) struct OwnCertificate(pub(super) Guard);

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.0.certified.load_full())
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.0.certified.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The handshake is signed by the certificate's P-256 key. rustls' own helper would refuse libp2p's critical
/// extension, so the key is handed to it bare.
fn verify_handshake(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let form = || rustls::Error::from(Refusal::Form("the certificate does not parse"));
    let (_, x509) = X509Certificate::from_der(certificate).map_err(|_| form())?;
    let spki = SubjectPublicKeyInfoDer::from(x509.public_key().raw);
    let algorithms = provider().signature_verification_algorithms;
    rustls::crypto::verify_tls13_signature_with_raw_key(message, &spki, signature, &algorithms)
}

fn no_tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken here".into())
}

#[derive(Debug)]
struct ClientVerifier {
    guard: Guard,
    serves_join: bool,
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let presented = Presented::read(certificate, others)?;
        self.guard.judge_client(&presented, self.serves_join, instant(now))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_handshake(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[derive(Debug)]
struct ServerVerifier {
    guard: Guard,
    joining: bool,
    expected: Option<PeerId>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = Presented::read(certificate, others)?;
        self.guard.judge_server(&presented, self.joining, self.expected, instant(now))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_handshake(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
