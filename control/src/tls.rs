//! TLS configurations of the control's HTTPS ports, from PEM.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM block is missing or broken.
    #[error("{what}: no usable PEM block; check the file or Secret that it comes from")]
    Pem {
        /// What was looked for, and where.
        what: String,
    },
    /// rustls refused it, for instance because key and certificate do not belong together.
    #[error("{what}: {source}")]
    Rustls {
        /// What was being set up.
        what: &'static str,
        /// What rustls said.
        source: rustls::Error,
    },
    /// The CA bundle holds no certificate that can verify clients.
    #[error("the client CA cannot verify anyone: {0}")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
}

/// A certificate chain and its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    /// Certificate chain, leaf first.
    pub certificate: String,
    /// Private key.
    pub key: String,
}

/// A server that takes clients with a certificate of `client_ca`, and clients without one (their
/// requests are then held to a bearer token).
pub fn server(pair: &Pair, client_ca: &str, alpn: &[&[u8]]) -> Result<rustls::ServerConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(client_ca, "the cluster's client CA")? {
        roots
            .add(certificate)
            .map_err(|source| TlsError::Rustls { what: "the cluster's client CA", source })?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Rustls { what: "the TLS versions", source })?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&pair.certificate, "the serving certificate")?, key(&pair.key)?)
        .map_err(|source| TlsError::Rustls { what: "the serving certificate and its key", source })?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

fn certificates(pem: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let broken = || TlsError::Pem { what: what.to_owned() };
    let found: Result<Vec<_>, _> = rustls_pemfile::certs(&mut pem.as_bytes()).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(broken)
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    let broken = || TlsError::Pem { what: "the serving key".to_owned() };
    rustls_pemfile::private_key(&mut pem.as_bytes()).ok().flatten().ok_or_else(broken)
}

/// When the first certificate of a PEM chain begins and ends, in seconds since the epoch.
pub fn validity(pem: &str) -> Option<(i64, i64)> {
    let chain = certificates(pem, "certificate").ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// Whether a PEM chain's first certificate names all of `names` and lives past `past` (epoch seconds).
pub fn serves(pem: &str, names: &[String], past: i64) -> bool {
    let Ok(chain) = certificates(pem, "certificate") else { return false };
    let Some(Ok((_, certificate))) = chain.first().map(|der| x509_parser::parse_x509_certificate(der)) else {
        return false;
    };
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return false };
    let named: Vec<String> = alternatives.value.general_names.iter().filter_map(general_name).collect();
    certificate.validity().not_after.timestamp() > past && names.iter().all(|name| named.contains(name))
}

fn general_name(name: &x509_parser::extensions::GeneralName<'_>) -> Option<String> {
    use x509_parser::extensions::GeneralName;
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|octets| std::net::IpAddr::from(octets).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|octets| std::net::IpAddr::from(octets).to_string()),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn self_signed(names: &[&str]) -> Pair {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    #[test]
    fn a_certificate_serves_the_names_it_has() {
        let pair = self_signed(&["203.0.113.10", "2001:db8:113::10", "control.example"]);
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(serves(&pair.certificate, &names(&["203.0.113.10", "control.example"]), 0));
        assert!(serves(&pair.certificate, &names(&["2001:db8:113::10"]), 0));
        assert!(!serves(&pair.certificate, &names(&["203.0.113.11"]), 0));
        assert!(!serves(&pair.certificate, &[], i64::MAX));
        assert!(!serves("no PEM", &[], 0));
    }

    #[test]
    fn what_is_no_pem_is_named() {
        let pair = self_signed(&["control"]);
        assert!(server(&pair, &pair.certificate, &[b"http/1.1"]).is_ok());
        let error = server(&pair, "nothing", &[]).unwrap_err().to_string();
        assert!(error.contains("client CA"), "{error}");
        let other = Pair { key: "nothing".to_owned(), ..pair.clone() };
        let error = server(&other, &pair.certificate, &[]).unwrap_err().to_string();
        assert!(error.contains("serving key"), "{error}");
    }
}
