//! The serving certificate, issued anew when its names change or its end is near, and the client
//! certificate with which the server calls kubelets.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::bootstrap::first_address;
use super::{ServeError, ServerConfig};
use crate::auth::pki::{self, Authority, LEAF_LIFE, Pair};
use crate::http::TlsSetup;

/// How often the end of the certificate is looked at.
const LOOK: Duration = Duration::from_secs(3600);
/// A certificate with less than this part of its life left is replaced.
const LEFT: u32 = 3;

/// What the serving certificate is made from.
pub(super) struct Serving {
    authority: Arc<Authority>,
    dir: PathBuf,
    names: Vec<String>,
}

impl Serving {
    pub(super) fn new(
        config: &ServerConfig,
        listen: IpAddr,
        authority: Arc<Authority>,
        dir: PathBuf,
    ) -> Self {
        let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
        let mut names: Vec<String> = service.iter().map(|name| (*name).to_owned()).collect();
        names.push(format!("kubernetes.default.svc.{}", config.cluster_domain));
        names.extend(config.names.iter().cloned());
        let services = config.service_cidrs.iter().map(|range| first_address(range.network()));
        let loopback = ["127.0.0.1", "::1"].iter().filter_map(|text| text.parse().ok());
        let addresses = services.chain(loopback).chain(config.advertise.iter().copied()).chain([listen]);
        names
            .extend(addresses.filter(|address| !address.is_unspecified()).map(|address| address.to_string()));
        names.sort();
        names.dedup();
        Self { authority, dir, names }
    }

    /// The certificate on disk if it will do, else a new one.
    pub(super) fn load_or_issue(&self) -> Result<CertifiedKey, ServeError> {
        let (certificate, key) = (self.dir.join("server.crt"), self.dir.join("server.key"));
        let read = |path: &PathBuf| std::fs::read_to_string(path).ok();
        if let (Some(certificate), Some(key)) = (read(&certificate), read(&key))
            && self.will_do(&certificate)
        {
            return certified(&Pair { certificate, key });
        }
        let pair = self.authority.server("kube-apiserver", &self.names)?;
        let io = |source| ServeError::DataDir { path: self.dir.clone(), source };
        pki::write_private(&key, &pair.key).map_err(io)?;
        std::fs::write(&certificate, &pair.certificate).map_err(io)?;
        certified(&pair)
    }

    fn will_do(&self, pem: &str) -> bool {
        let Some((end, mut names)) = pki::describe(pem) else { return false };
        names.sort();
        names == self.names && end > OffsetDateTime::now_utc() + LEAF_LIFE / LEFT
    }
}

fn bad_pem(error: impl std::fmt::Display) -> ServeError {
    ServeError::Pem(error.to_string())
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, ServeError> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(bad_pem)
}

fn certified(pair: &Pair) -> Result<CertifiedKey, ServeError> {
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(bad_pem)?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)?;
    Ok(CertifiedKey::new(chain(&pair.certificate)?, key))
}

/// The authorities of a PEM file.
pub(super) fn roots(pem: &str) -> Result<RootCertStore, ServeError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// How the server calls kubelets: it proves to be the API server, and verifies them.
pub(super) fn kubelet_client(
    authority: &Authority,
    kubelet_ca: Option<&str>,
) -> Result<ClientConfig, ServeError> {
    let mut trusted = roots(authority.certificate_pem())?;
    for certificate in chain(kubelet_ca.unwrap_or(""))? {
        trusted.add(certificate)?;
    }
    let pair = authority.client("kube-apiserver-kubelet-client", &["system:masters"])?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(bad_pem)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trusted)
        .with_client_auth_cert(chain(&pair.certificate)?, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Looks after the serving certificate until told to stop.
pub(super) async fn renew(serving: Serving, tls: Arc<TlsSetup>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => return,
        }
        match serving.load_or_issue() {
            Ok(certificate) => tls.certificate.store(Arc::new(certificate)),
            Err(error) => {
                tracing::error!(%error, "the serving certificate cannot be renewed; trying again in an hour");
            }
        }
    }
}
