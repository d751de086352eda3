//! Service-account tokens: JSON Web Tokens (RFC 7519) signed with ES256 by the server's own key.
//!
//! Claims as Kubernetes has them: `sub` is the account's user name, `kubernetes.io` names the account
//! and the object to which the token is bound. Signing and reading are pure of I/O and clock; whether
//! account and bound object still exist is for the caller to look up.

use std::path::Path;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Digest as _;

/// Issuer and default audience of every token.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Seconds that clocks may differ.
const LEEWAY: i64 = 60;

/// Why a token is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    #[error("the token is malformed")]
    Malformed,
    #[error("the token was not signed by this server")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet; check the clock of the host that presents it")]
    NotYet,
    #[error("token audiences {0:?} do not include one that is asked for")]
    Audience(Vec<String>),
}

/// Failure to load or make the signing key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read or write the token signing key {path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("the token signing key {0} is damaged; restore it, or remove it: all tokens then end")]
    Damaged(String),
}

/// An object by name and uid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    pub uid: String,
}

/// The `kubernetes.io` claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    pub serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// Seconds since 1970 after which the holder should have renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// What a token says. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    pub nbf: i64,
    pub sub: String,
}

/// The key that signs and checks tokens.
pub struct Signer {
    key: EcdsaKeyPair,
    /// Hash of the public key.
    id: String,
}

impl Signer {
    /// Loads the key from a PEM file, or makes one there (mode 0600).
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        let name = path.display().to_string();
        let io = |source| KeyError::Io { path: name.clone(), source };
        if !path.exists() {
            let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
                .map_err(|_| KeyError::Damaged(name.clone()))?;
            let der = key.to_pkcs8v1().map_err(|_| KeyError::Damaged(name.clone()))?;
            super::pki::write_private(path, &to_pem(der.as_ref())).map_err(io)?;
        }
        let pem = std::fs::read_to_string(path).map_err(io)?;
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let damaged = || KeyError::Damaged(name.clone());
        let der = STANDARD.decode(body).map_err(|_| damaged())?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).map_err(|_| damaged())?;
        let spki = key.public_key().as_der().map_err(|_| damaged())?;
        let id = URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(spki.as_ref()));
        Ok(Self { key, id })
    }

    /// Signs a token.
    pub fn sign(&self, claims: &Claims) -> Option<String> {
        let header = json!({"alg": "ES256", "kid": self.id});
        let payload = serde_json::to_vec(claims).ok()?;
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Checks signature, times and audience, and returns the claims with the audiences in common.
    pub fn verify(
        &self,
        token: &str,
        audiences: &[String],
        now: i64,
    ) -> Result<(Claims, Vec<String>), TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed);
        let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        if header["alg"] != "ES256" {
            return Err(TokenError::Signature);
        }
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref());
        public.verify(signed.as_bytes(), &decode(signature)?).map_err(|_| TokenError::Signature)?;
        let claims: Claims = serde_json::from_slice(&decode(payload)?).map_err(|_| TokenError::Malformed)?;
        if claims.iss != ISSUER {
            return Err(TokenError::Signature);
        }
        if now > claims.exp + LEEWAY {
            return Err(TokenError::Expired);
        }
        if now < claims.nbf - LEEWAY {
            return Err(TokenError::NotYet);
        }
        let common: Vec<String> = claims.aud.iter().filter(|one| audiences.contains(one)).cloned().collect();
        if common.is_empty() {
            return Err(TokenError::Audience(claims.aud));
        }
        Ok((claims, common))
    }

    /// The public key as a JSON Web Key Set (RFC 7517).
    pub fn key_set(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.key.public_key().as_ref();
        let coordinates = point.get(1..65).unwrap_or(&[0; 64]);
        let (x, y) = coordinates.split_at(32);
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }
}

/// The discovery document of the issuer (OpenID Connect Discovery 1.0).
pub fn discovery(base: &str) -> Value {
    json!({
        "issuer": ISSUER, "jwks_uri": format!("{base}/openid/v1/jwks"),
        "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

fn to_pem(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            aud: vec!["a".into(), "b".into()],
            exp: 2_000,
            iat: 1_000,
            iss: ISSUER.into(),
            jti: "j".into(),
            bound: Bound {
                namespace: "ns".into(),
                serviceaccount: Reference { name: "sa".into(), uid: "u".into() },
                pod: Some(Reference { name: "p".into(), uid: "v".into() }),
                secret: None,
                node: None,
                warnafter: None,
            },
            nbf: 1_000,
            sub: "system:serviceaccount:ns:sa".into(),
        }
    }

    #[test]
    fn signed_tokens_hold_until_they_end() {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::load_or_create(&dir.path().join("sa.key")).unwrap();
        let token = signer.sign(&claims()).unwrap();
        let again = Signer::load_or_create(&dir.path().join("sa.key")).unwrap();
        let asked = vec!["b".to_owned()];
        assert_eq!(again.verify(&token, &asked, 1_500).unwrap(), (claims(), asked.clone()));
        assert_eq!(again.verify(&token, &asked, 2_100), Err(TokenError::Expired));
        assert_eq!(again.verify(&token, &asked, 900), Err(TokenError::NotYet));
        let other = vec!["c".to_owned()];
        assert!(matches!(again.verify(&token, &other, 1_500), Err(TokenError::Audience(_))));
    }

    #[test]
    fn forgeries_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::load_or_create(&dir.path().join("a.key")).unwrap();
        let other = Signer::load_or_create(&dir.path().join("b.key")).unwrap();
        let asked = vec!["a".to_owned()];
        let token = other.sign(&claims()).unwrap();
        assert_eq!(signer.verify(&token, &asked, 1_500), Err(TokenError::Signature));
        let none = format!("{}.e30.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
        assert_eq!(signer.verify(&none, &asked, 1_500), Err(TokenError::Signature));
        for bad in ["", "a", "a.b", "a.b.c", "..", "%.%.%"] {
            assert_eq!(signer.verify(bad, &asked, 1_500), Err(TokenError::Malformed), "{bad}");
        }
    }

    #[test]
    fn published_key_is_a_point() {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::load_or_create(&dir.path().join("sa.key")).unwrap();
        let key = &signer.key_set()["keys"][0];
        assert_eq!(URL_SAFE_NO_PAD.decode(key["x"].as_str().unwrap()).unwrap().len(), 32);
    }
}
