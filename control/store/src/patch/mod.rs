//! Patches of objects: what the four content types of a PATCH do to a JSON document.
//!
//! Everything here is pure: a document and a patch in, the patched document or a refusal out. Server-side
//! apply, the fourth type, needs owners and lives in [`crate::apply`].

pub mod json;
pub mod merge;
pub mod strategic;

use crate::error::{Error, Reason};

/// The format of a patch, as its `Content-Type` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902: a list of operations.
    Json,
    /// RFC 7386: a partial document, null removes.
    Merge,
    /// A partial document whose lists merge by the kind's merge keys.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchType {
    /// Every type with its content type.
    const ALL: [(Self, &'static str); 4] = [
        (Self::Json, "application/json-patch+json"),
        (Self::Merge, "application/merge-patch+json"),
        (Self::Strategic, "application/strategic-merge-patch+json"),
        (Self::Apply, "application/apply-patch+yaml"),
    ];

    /// The type of a patch with this content type, parameters ignored. Custom kinds have no strategic
    /// merge: nothing says how their lists merge.
    pub fn from_content_type(content_type: &str, custom: bool) -> Result<Self, Error> {
        let essence = content_type.split(';').next().unwrap_or("").trim();
        let supported = || Self::ALL.iter().filter(|(patch, _)| !(custom && *patch == Self::Strategic));
        supported().find(|(_, name)| *name == essence).map(|(patch, _)| *patch).ok_or_else(|| {
            if essence != "application/strategic-merge-patch+json" {
                return Error::generic(Reason::UnsupportedMediaType, "415: Unsupported Media Type");
            }
            let names: Vec<&str> = supported().map(|(_, name)| *name).collect();
            let message = "the body of the request was in an unknown format - accepted media types include:";
            Error::new(Reason::UnsupportedMediaType, format!("{message} {}", names.join(", ")))
        })
    }
}

/// The refusal of a patch that is well-formed but cannot be carried out on this document.
pub(crate) fn rejected() -> Error {
    Error::generic(Reason::Invalid, "the server rejected our request due to an error in our request")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        let of = |name, custom| PatchType::from_content_type(name, custom);
        assert_eq!(of("application/merge-patch+json; charset=utf-8", true).unwrap(), PatchType::Merge);
        assert_eq!(of("application/strategic-merge-patch+json", false).unwrap(), PatchType::Strategic);
        let error = of("application/strategic-merge-patch+json", true).unwrap_err();
        assert_eq!(error.reason(), Reason::UnsupportedMediaType);
        assert!(of("application/json", false).is_err());
    }
}
