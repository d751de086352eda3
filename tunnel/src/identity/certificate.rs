//! The certificate that carries an identity into TLS.
//!
//! libp2p's form (libp2p specs, `tls/tls.md`): self-signed by a fresh P-256 key, with a critical extension
//! that holds the node's public key and its signature over the certificate's key. The credential stands beside
//! it in an extension of its own that is not critical, so that a stock libp2p peer takes the certificate too.
//! One form for every protocol: a server must choose its certificate and judge the client's before the
//! protocol is known to the verifier.

use std::sync::Arc;

use edgeloom_api::credential::{MAX_ENCODED, SignedCredential};
use libp2p::PeerId;
use libp2p::identity::PublicKey;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::asn1_rs::{FromDer as _, OctetString, Oid, Sequence, ToDer as _};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};

use super::key::Identity;
use super::refusal::Refusal;

/// libp2p's public key extension, registered with IANA by libp2p.
const LIBP2P_OID: [u64; 9] = [1, 3, 6, 1, 4, 1, 53594, 1, 1];
/// The credential's extension: an arc of our own under 2.25, where numbers need no registration
/// (ITU-T X.667). The number is random; it has 64 bits and not a UUID's 128 because that is what encoders
/// take in one arc.
const CREDENTIAL_OID: [u64; 3] = [2, 25, 8_153_049_772_301_164_867];
/// What the node's key signs in front of the certificate's key.
const LIBP2P_PREFIX: &[u8] = b"libp2p-tls-handshake:";
/// Largest certificate that is looked at, in bytes: a key, two extensions and a name or so.
const MAX_CERTIFICATE: usize = MAX_ENCODED + 2048;
/// Largest public key that is looked at, in bytes: Ed25519 in protobuf has 36.
const MAX_PUBLIC_KEY: usize = 64;

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The certificate could not be encoded or signed.
    #[error("cannot make this node's certificate: {0}")]
    Encode(#[from] rcgen::Error),
    /// The node's key would not sign.
    #[error("cannot sign this node's certificate with its identity")]
    Sign,
    /// TLS does not take the key.
    #[error("cannot use this node's certificate in TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Makes a certificate for `identity`, with `credential` if the node has one, and a fresh key for it.
pub(super) fn issue(
    identity: &Identity,
    credential: Option<&SignedCredential>,
) -> Result<Arc<CertifiedKey>, CertificateError> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let mut binding = rcgen::CustomExtension::from_oid_content(&LIBP2P_OID, bind(identity, &key)?);
    binding.set_criticality(true);
    params.custom_extensions.push(binding);
    if let Some(credential) = credential {
        let extension = rcgen::CustomExtension::from_oid_content(&CREDENTIAL_OID, credential.encode());
        params.custom_extensions.push(extension);
    }
    let certificate = params.self_signed(&key)?;
    let private = PrivatePkcs8KeyDer::from(key.serialize_der());
    let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&private.into())?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.into()], signer)))
}

/// `SignedKey ::= SEQUENCE { publicKey OCTET STRING, signature OCTET STRING }` of libp2p's form.
fn bind(identity: &Identity, key: &rcgen::KeyPair) -> Result<Vec<u8>, CertificateError> {
    use rcgen::PublicKeyData as _;
    let message = [LIBP2P_PREFIX, &key.subject_public_key_info()].concat();
    let signature = identity.keypair().sign(&message).map_err(|_| CertificateError::Sign)?;
    let public = identity.public().encode_protobuf();
    let mut content = OctetString::new(&public).to_der_vec().map_err(|_| CertificateError::Sign)?;
    content.extend(OctetString::new(&signature).to_der_vec().map_err(|_| CertificateError::Sign)?);
    Sequence::new(content.into()).to_der_vec().map_err(|_| CertificateError::Sign)
}

/// What a peer's certificate proves by itself: that the holder of `peer` made it. The credential is only
/// decoded; nobody has verified it yet.
#[derive(Debug)]
pub struct Presented {
    /// Identity whose key signed the certificate's key.
    pub peer: PeerId,
    /// The credential, where there is one.
    pub credential: Option<SignedCredential>,
    /// The certificate's own public key (SubjectPublicKeyInfo, DER), which signs the handshake.
    pub spki: Vec<u8>,
}

impl Presented {
    /// Reads a certificate chain and verifies what it proves by itself. Pure: reads no clock, for libp2p's
    /// form gives the certificate's own validity no meaning beyond the credential's.
    pub fn read(certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<Self, Refusal> {
        if !others.is_empty() {
            return Err(Refusal::Form("more than one certificate"));
        }
        if certificate.len() > MAX_CERTIFICATE {
            return Err(Refusal::Form("the certificate is too large"));
        }
        let (rest, x509) = X509Certificate::from_der(certificate)
            .map_err(|_| Refusal::Form("the certificate does not parse"))?;
        if !rest.is_empty() {
            return Err(Refusal::Form("bytes behind the certificate"));
        }
        let extensions = Extensions::of(&x509)?;
        check_key_type(&x509)?;
        x509.verify_signature(None).map_err(|_| Refusal::Form("the certificate's own signature is wrong"))?;
        let spki = x509.public_key().raw;
        let peer = verify_binding(extensions.binding, spki)?;
        let credential = extensions
            .credential
            .map(SignedCredential::decode)
            .transpose()
            .map_err(Refusal::CredentialForm)?;
        Ok(Self { peer, credential, spki: spki.to_vec() })
    }
}

/// The two extensions that mean something here, as bytes.
struct Extensions<'a> {
    binding: &'a [u8],
    credential: Option<&'a [u8]>,
}

impl<'a> Extensions<'a> {
    fn of(x509: &X509Certificate<'a>) -> Result<Self, Refusal> {
        let libp2p = Oid::from(&LIBP2P_OID).expect("the constant is an object identifier");
        let own = Oid::from(&CREDENTIAL_OID).expect("the constant is an object identifier");
        let (mut binding, mut credential) = (None, None);
        for extension in x509.extensions() {
            let slot = if extension.oid == libp2p {
                &mut binding
            } else if extension.oid == own {
                &mut credential
            } else if extension.critical {
                return Err(Refusal::Form("an unknown critical extension"));
            } else {
                continue;
            };
            if slot.replace(extension.value).is_some() {
                return Err(Refusal::Form("an extension twice"));
            }
        }
        let binding = binding.ok_or(Refusal::Form("no libp2p public key extension"))?;
        Ok(Self { binding, credential })
    }
}

/// Only P-256 keys certify: what we make, and one verifier less to trust.
fn check_key_type(x509: &X509Certificate<'_>) -> Result<(), Refusal> {
    let algorithm = &x509.public_key().algorithm;
    let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256) {
        return Ok(());
    }
    Err(Refusal::Form("the certificate's key is not P-256"))
}

fn verify_binding(binding: &[u8], spki: &[u8]) -> Result<PeerId, Refusal> {
    let form = |_| Refusal::Form("the libp2p extension does not parse");
    let (rest, sequence) = Sequence::from_der(binding).map_err(form)?;
    let (after_key, public) = OctetString::from_der(&sequence.content).map_err(form)?;
    let (after_signature, signature) = OctetString::from_der(after_key).map_err(form)?;
    if !rest.is_empty() || !after_signature.is_empty() || public.as_ref().len() > MAX_PUBLIC_KEY {
        return Err(Refusal::Form("the libp2p extension has bytes to spare"));
    }
    let public = PublicKey::try_decode_protobuf(public.as_ref())
        .map_err(|_| Refusal::Form("the identity's public key does not parse"))?;
    let message = [LIBP2P_PREFIX, spki].concat();
    if !public.verify(&message, signature.as_ref()) {
        return Err(Refusal::Binding);
    }
    Ok(public.to_peer_id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presented(certified: &CertifiedKey) -> Result<Presented, Refusal> {
        Presented::read(&certified.cert[0], &[])
    }

    #[test]
    fn a_certificate_names_its_maker() {
        let identity = Identity::generate().unwrap();
        let certified = issue(&identity, None).unwrap();
        let read = presented(&certified).unwrap();
        assert_eq!(read.peer, identity.peer_id());
        assert!(read.credential.is_none());
    }

    #[test]
    fn every_changed_byte_is_refused_or_changes_nothing_that_counts() {
        let identity = Identity::generate().unwrap();
        let certified = issue(&identity, None).unwrap();
        let good = certified.cert[0].to_vec();
        let expected = presented(&certified).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x01;
            if let Ok(read) = Presented::read(&CertificateDer::from(bad), &[]) {
                // Bits that DER calls unused, for one.
                let same = read.peer == identity.peer_id() && read.spki == expected.spki;
                assert!(same && read.credential.is_none(), "byte {at}");
            }
            assert!(Presented::read(&CertificateDer::from(good[..at].to_vec()), &[]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn anothers_binding_does_not_fit_a_new_key() {
        let (victim, thief) = (Identity::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let key = rcgen::KeyPair::generate().unwrap();
        let stolen = bind(&victim, &key).unwrap();
        let mut params = rcgen::CertificateParams::default();
        let mut extension = rcgen::CustomExtension::from_oid_content(&LIBP2P_OID, stolen);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
        let forged: CertificateDer<'static> = params.self_signed(&thief).unwrap().into();
        assert!(matches!(Presented::read(&forged, &[]), Err(Refusal::Binding)));
    }
}
