//! The cluster's CA: the key with which the control signs credentials.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use edgeloom_api::credential::{Claims, CredentialError, SignedCredential, signed_bytes};
use time::OffsetDateTime;

/// Life of a CA certificate.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far a CA certificate reaches back, for hosts whose clock is behind.
const CA_BACKDATE: Duration = Duration::from_secs(24 * 3600);

/// A CA certificate with its key.
pub struct Authority {
    certificate: Vec<u8>,
    pkcs8: Vec<u8>,
    key: EcdsaKeyPair,
}

/// Why a CA cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate could not be made.
    #[error("cannot make the cluster's CA certificate: {0}")]
    Encode(#[from] rcgen::Error),
    /// The stored key is none.
    #[error("the cluster's CA key is not a PKCS#8 P-256 key; restore the Secret from a backup")]
    Key,
    /// Claims that no credential can hold.
    #[error("cannot write the credential: {0}")]
    Claims(#[from] CredentialError),
    /// The key would not sign.
    #[error("the cluster's CA key failed to sign")]
    Sign,
    /// The system gave no random bytes.
    #[error("the system's random number generator failed")]
    Random,
}

impl Authority {
    /// A new CA, named after the cluster.
    pub fn generate(cluster: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = rcgen::CertificateParams::default();
        let mut name = rcgen::DistinguishedName::new();
        name.push(rcgen::DnType::OrganizationName, "Edgeloom");
        name.push(rcgen::DnType::CommonName, format!("edgeloom {cluster}"));
        params.distinguished_name = name;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.key_usages =
            vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::DigitalSignature];
        params.not_before = OffsetDateTime::from(now) - CA_BACKDATE;
        params.not_after = OffsetDateTime::from(now) + CA_LIFE;
        let certificate = params.self_signed(&key)?;
        Self::from_parts(certificate.der().to_vec(), key.serialize_der())
    }

    /// A CA from where it is kept: certificate and PKCS#8 key, DER both.
    pub fn from_parts(certificate: Vec<u8>, pkcs8: Vec<u8>) -> Result<Self, AuthorityError> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8)
            .map_err(|_| AuthorityError::Key)?;
        Ok(Self { certificate, pkcs8, key })
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The private key, PKCS#8 DER.
    pub fn private_key(&self) -> &[u8] {
        &self.pkcs8
    }

    /// Signs `claims`.
    pub fn sign(&self, claims: &Claims) -> Result<SignedCredential, AuthorityError> {
        let body = claims.encode()?;
        let signature =
            self.key.sign(&SystemRandom::new(), &signed_bytes(&body)).map_err(|_| AuthorityError::Sign)?;
        Ok(SignedCredential::new(body, signature.as_ref().to_vec().into())?)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Random bytes from the system.
pub fn random<const N: usize>() -> Result<[u8; N], AuthorityError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
    Ok(bytes)
}
