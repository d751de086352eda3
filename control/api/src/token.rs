//! The join token: `<sha256 of the CA certificate, hex>.<secret>`.
//!
//! The first half lets a node that knows nothing yet hold the control to its CA; the second lets the control
//! admit the node. The control keeps the hash of the secret, never the secret.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// Random bytes in a secret.
pub const SECRET_BYTES: usize = 32;
/// Characters of a secret: [`SECRET_BYTES`] in unpadded base64url.
const SECRET_CHARS: usize = 43;

/// A token as its user carries it. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    ca_hash: [u8; 32],
    secret: String,
}

/// Why text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is no dot, or more than one.
    #[error(
        "the join token is not of the form HASH.SECRET: copy it whole, as `meshctl token create` printed it"
    )]
    Shape,
    /// The first half is no SHA-256 in hexadecimal.
    #[error("the join token's first half is not the 64 hexadecimal digits of the CA's hash: copy it whole")]
    Hash,
    /// The second half is no secret.
    #[error("the join token's second half is not the expected {SECRET_CHARS} characters: copy it whole")]
    Secret,
}

impl JoinToken {
    /// A token for the CA whose certificate is `ca_der`, from fresh random bytes.
    pub fn new(ca_der: &[u8], random: [u8; SECRET_BYTES]) -> Self {
        Self { ca_hash: sha256(ca_der), secret: URL_SAFE_NO_PAD.encode(random) }
    }

    /// Whether `ca_der` is the CA certificate that the token was made for.
    pub fn names_ca(&self, ca_der: &[u8]) -> bool {
        constant_time_eq(&self.ca_hash, &sha256(ca_der))
    }

    /// The secret half, which the joiner shows to the control.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The whole token, to be shown to its user once.
    pub fn expose(&self) -> String {
        format!("{}.{}", hex::encode(self.ca_hash), self.secret)
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (hash, secret) = text.trim().split_once('.').ok_or(TokenError::Shape)?;
        if secret.contains('.') {
            return Err(TokenError::Shape);
        }
        let mut ca_hash = [0; 32];
        hex::decode_to_slice(hash, &mut ca_hash).map_err(|_| TokenError::Hash)?;
        let plain = secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if secret.len() != SECRET_CHARS || !plain {
            return Err(TokenError::Secret);
        }
        Ok(Self { ca_hash, secret: secret.to_owned() })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}.<secret>)", hex::encode(&self.ca_hash[..4]))
    }
}

/// What the control keeps of a token's secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of `secret`.
    pub fn of(secret: &str) -> Self {
        Self(sha256(secret.as_bytes()))
    }

    /// Reads the hexadecimal form.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text.trim(), &mut hash).ok()?;
        Some(Self(hash))
    }

    /// The hexadecimal form, as the control stores it.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The token's public name: the beginning of the hash, which tells nothing of the secret.
    pub fn id(&self) -> String {
        hex::encode(&self.0[..6])
    }

    /// Compares without telling by its duration where the two differ.
    pub fn matches(&self, other: &SecretHash) -> bool {
        constant_time_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretHash({}…)", self.id())
    }
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn constant_time_eq(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_shown_is_read(ca in proptest::collection::vec(any::<u8>(), 0..99), random in any::<[u8; 32]>()) {
            let token = JoinToken::new(&ca, random);
            prop_assert_eq!(&token.expose().parse::<JoinToken>().unwrap(), &token);
            prop_assert!(token.names_ca(&ca));
            let debug = format!("{token:?}");
            prop_assert!(!debug.contains(token.secret()));
        }

        #[test]
        fn any_text_is_no_panic(text in ".{0,200}") {
            let _ = text.parse::<JoinToken>();
        }
    }

    #[test]
    fn each_fault_has_its_error() {
        let good = JoinToken::new(b"ca", [7; 32]).expose();
        let (hash, secret) = good.split_once('.').unwrap();
        for (text, error) in [
            (String::new(), TokenError::Shape),
            (hash.to_owned(), TokenError::Shape),
            (format!("{good}.x"), TokenError::Shape),
            (format!("{}.{secret}", &hash[1..]), TokenError::Hash),
            (format!("{hash}.{}", &secret[1..]), TokenError::Secret),
            (format!("{hash}.{}", "ä".repeat(43)), TokenError::Secret),
        ] {
            assert_eq!(text.parse::<JoinToken>(), Err(error), "{text}");
        }
        assert!(format!(" {good}\n").parse::<JoinToken>().is_ok());
    }

    #[test]
    fn another_ca_is_told_apart() {
        assert!(!JoinToken::new(b"ca", [7; 32]).names_ca(b"another"));
    }

    #[test]
    fn a_secret_is_known_by_its_hash() {
        let token = JoinToken::new(b"ca", [7; 32]);
        let stored = SecretHash::from_hex(&SecretHash::of(token.secret()).to_hex()).unwrap();
        assert!(stored.matches(&SecretHash::of(token.secret())));
        assert!(!stored.matches(&SecretHash::of("another")));
        assert_eq!(stored.id().len(), 12);
    }
}
