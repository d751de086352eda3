//! Names that are checked once, where they enter, so that nothing behind has to check them again.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest DNS-1123 subdomain, in bytes (RFC 1035, section 2.3.4, less the dots at both ends).
const MAX_SUBDOMAIN: usize = 253;
/// Longest DNS-1123 label, in bytes (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {name:?} is not valid: lower-case letters, digits and '-'{dot}, beginning and ending with a \
     letter or digit, 1 to {max} characters"
)]
pub struct NameError {
    what: &'static str,
    name: String,
    dot: &'static str,
    max: usize,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $check:path, $dot:literal, $max:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks `name`.
            pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
                let name = name.into();
                if $check(&name) {
                    return Ok(Self(name.into()));
                }
                // A refused name may be an attacker's: what is repeated of it is bounded.
                let name = name.chars().take($max).collect();
                Err(NameError { what: $what, name, dot: $dot, max: $max })
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// Name of a Kubernetes Node: a DNS-1123 subdomain (RFC 1123, section 2.1).
    NodeName, "node name", is_subdomain, " and '.'", MAX_SUBDOMAIN
}

name! {
    /// Name of a site, where nodes reach each other's real addresses: a DNS-1123 label, so that it fits a
    /// label value such as `topology.kubernetes.io/zone`.
    Site, "site", is_label, "", MAX_LABEL
}

fn is_subdomain(name: &str) -> bool {
    name.len() <= MAX_SUBDOMAIN && name.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = label.as_bytes();
    bytes.len() <= MAX_LABEL
        && bytes.first().copied().is_some_and(inner)
        && bytes.last().copied().is_some_and(inner)
        && bytes.iter().all(|&byte| inner(byte) || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_subdomains_and_sites_are_labels() {
        for name in ["a", "edge-1", "1", "e1.plant-7.example.com"] {
            assert_eq!(NodeName::new(name).unwrap().as_str(), name);
        }
        for name in ["", "-a", "a-", "A", "a_b", "a..b", ".a", "a b", "ä", &"a".repeat(64)] {
            assert!(NodeName::new(name).is_err(), "{name}");
            assert!(Site::new(name).is_err(), "{name}");
        }
        assert!(Site::new("a.b").is_err());
        assert!(NodeName::new(vec!["a"; 127].join(".")).is_ok());
        assert!(NodeName::new(vec!["a"; 128].join(".")).is_err());
    }

    #[test]
    fn a_bad_name_in_json_is_named() {
        let error = serde_json::from_str::<Site>("\"Berlin\"").unwrap_err().to_string();
        assert!(error.contains("site \"Berlin\""), "{error}");
        assert_eq!(serde_json::to_string(&NodeName::new("a").unwrap()).unwrap(), "\"a\"");
    }
}
