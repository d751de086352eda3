//! The kinds of NAT that RFC 4787 tells apart.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What decides the outside port of a flow (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Endpoint-independent: one outside port for an inside port, whatever the destination.
    EndpointIndependent,
    /// Address- and port-dependent: an outside port for each destination.
    AddressAndPortDependent,
}

/// Who may send to a mapped port (RFC 4787, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Anyone.
    EndpointIndependent,
    /// Whoever's address was sent to.
    AddressDependent,
    /// Whoever's address and port were sent to.
    AddressAndPortDependent,
}

/// How a NAT behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NatKind {
    /// What decides the outside port.
    pub mapping: Mapping,
    /// Who may send to it.
    pub filter: Filter,
    /// Whether the outside port equals the inside one while it is free. Where the mapping depends on the
    /// destination, it is free for the first destination only.
    pub port_kept: bool,
}

impl NatKind {
    /// What most home routers are: endpoint-independent mapping, strict filter, port kept.
    pub const PORT_RESTRICTED: Self = Self {
        mapping: Mapping::EndpointIndependent,
        filter: Filter::AddressAndPortDependent,
        port_kept: true,
    };
    /// What carriers and many firewalls are: cannot be punched from another of its kind.
    pub const SYMMETRIC: Self = Self {
        mapping: Mapping::AddressAndPortDependent,
        filter: Filter::AddressAndPortDependent,
        port_kept: false,
    };
}

impl Default for NatKind {
    fn default() -> Self {
        Self::PORT_RESTRICTED
    }
}

impl FromStr for NatKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let full = match text {
            "cone" => "eim-eif-kept",
            "restricted" => "eim-adf-kept",
            "port-restricted" => "eim-apdf-kept",
            "symmetric" => "adm-apdf-remapped",
            other => other,
        };
        let unknown = || Error::NatKind(text.to_owned());
        let mut parts = full.split('-');
        let mapping = match parts.next() {
            Some("eim") => Mapping::EndpointIndependent,
            Some("adm") => Mapping::AddressAndPortDependent,
            _ => return Err(unknown()),
        };
        let filter = match parts.next() {
            Some("eif") => Filter::EndpointIndependent,
            Some("adf") => Filter::AddressDependent,
            Some("apdf") => Filter::AddressAndPortDependent,
            _ => return Err(unknown()),
        };
        let port_kept = match (mapping, parts.next()) {
            (_, Some("kept")) | (Mapping::EndpointIndependent, None) => true,
            (_, None | Some("remapped")) => false,
            _ => return Err(unknown()),
        };
        if parts.next().is_some() {
            return Err(unknown());
        }
        Ok(Self { mapping, filter, port_kept })
    }
}

impl TryFrom<String> for NatKind {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<NatKind> for String {
    fn from(kind: NatKind) -> Self {
        kind.to_string()
    }
}

impl std::fmt::Display for NatKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mapping = match self.mapping {
            Mapping::EndpointIndependent => "eim",
            Mapping::AddressAndPortDependent => "adm",
        };
        let filter = match self.filter {
            Filter::EndpointIndependent => "eif",
            Filter::AddressDependent => "adf",
            Filter::AddressAndPortDependent => "apdf",
        };
        write!(f, "{mapping}-{filter}-{}", if self.port_kept { "kept" } else { "remapped" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_their_text() {
        for text in [
            "eim-eif-kept",
            "eim-adf-kept",
            "eim-apdf-kept",
            "eim-eif-remapped",
            "eim-adf-remapped",
            "eim-apdf-remapped",
            "adm-eif-kept",
            "adm-adf-kept",
            "adm-apdf-kept",
            "adm-eif-remapped",
            "adm-adf-remapped",
            "adm-apdf-remapped",
        ] {
            assert_eq!(text.parse::<NatKind>().unwrap().to_string(), text);
        }
        assert_eq!("symmetric".parse::<NatKind>().unwrap(), NatKind::SYMMETRIC);
        assert_eq!("adm-apdf".parse::<NatKind>().unwrap(), NatKind::SYMMETRIC);
        assert_eq!("port-restricted".parse::<NatKind>().unwrap(), NatKind::default());
        for text in ["", "eim", "adm-apdf-lost", "eim-apdf-kept-x", "full"] {
            assert!(text.parse::<NatKind>().is_err(), "{text}");
        }
    }
}
