//! The grammar of image names, with the defaults of Docker's registry: which of them can name anything at all.
//!
//! `[DOMAIN[:PORT]/]COMPONENT[/COMPONENT...][:TAG][@ALGORITHM:HEX]`, as github.com/distribution/reference has it.
//! A name that is none is refused before the runtime is asked, in whose answers a bad name and a bad registry
//! look alike.

/// Most characters of the path.
const PATH_MAX: usize = 255;
/// Most characters of a tag.
const TAG_MAX: usize = 128;

/// Why a text names no image. The words are those that `kubectl describe` shows on other nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// There is no path.
    #[error("repository name must have at least one component")]
    Empty,
    /// It is an image's id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Id(String),
    /// The path has capitals.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// The path is too long.
    #[error("repository name must not be more than {PATH_MAX} characters")]
    TooLong,
    /// The digest's algorithm is none of those that there are.
    #[error("unsupported digest algorithm")]
    Algorithm,
    /// The digest is not of the length, or not in the digits, of its algorithm.
    #[error("invalid checksum digest length")]
    Digest,
    /// Anything else.
    #[error("invalid reference format")]
    Format,
}

/// Whether `name` can name an image.
pub fn check(name: &str) -> Result<(), InvalidName> {
    if name.len() == 64 && name.bytes().all(is_lower_hex) {
        return Err(InvalidName::Id(name.to_owned()));
    }
    let (domain, rest) = split_domain(name);
    let path_of = |rest: &str| rest.split(':').next().unwrap_or_default().to_owned();
    let official = if domain.is_none() && !rest.contains('/') { "library/" } else { "" };
    let lead = format!("{official}{}", path_of(rest));
    if lead.chars().any(char::is_uppercase) {
        return Err(InvalidName::Uppercase(lead));
    }
    if name.is_empty() {
        return Err(InvalidName::Empty);
    }
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (rest, None),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    // A first part that looks like an address, and is none, can be one of the path's.
    let well_formed = domain.is_none_or(|domain| is_domain(domain) || is_component(domain))
        && path.split('/').all(is_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(has_digest_form);
    if !well_formed {
        return Err(InvalidName::Format);
    }
    if official.len() + path.len() > PATH_MAX {
        return Err(InvalidName::TooLong);
    }
    digest.map_or(Ok(()), check_digest)
}

/// The registry's address, where the first part is one, and what follows.
fn split_domain(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(char::is_uppercase) =>
        {
            (Some(first), rest)
        }
        _ => (None, name),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let good = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
            return good && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
        }
        None => domain.split_once(':').map_or((domain, None), |(host, port)| (host, Some(port))),
    };
    let label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        !label.is_empty() && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// Lower-case letters and digits, parted by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = |b: Option<&u8>| b.is_some_and(|b| is_word(*b));
    let bytes = component.as_bytes();
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.split(|b| is_word(*b)).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_MAX
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

/// Whether it looks like a digest of any algorithm.
fn has_digest_form(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let part = |part: &str| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(part)
        && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

fn check_digest(digest: &str) -> Result<(), InvalidName> {
    let (algorithm, hex) = digest.split_once(':').ok_or(InvalidName::Format)?;
    let digits = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(InvalidName::Algorithm),
    };
    if hex.len() == digits && hex.bytes().all(is_lower_hex) { Ok(()) } else { Err(InvalidName::Digest) }
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_can_be_images() {
        let digest = format!("busybox@sha256:{}", "0".repeat(64));
        let both = format!("r.example:5000/a/b:1@sha512:{}", "f".repeat(128));
        for name in [
            "busybox",
            "busybox:1",
            "library/busybox:1.36-musl_X",
            "docker.io/library/busybox",
            "localhost/a",
            "localhost:5000/a",
            "REGISTRY.example/a",
            "Registry/a",
            "[2001:db8::1]:5000/a:1",
            "[::1]/a",
            "a.b__c--d/e_f:_x",
            "a:123",
            &digest,
            &both,
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn names_that_cannot() {
        use InvalidName::{Algorithm, Digest, Empty, Format, Id, TooLong, Uppercase};
        let id = "a".repeat(64);
        let long = format!("r.example/{}", "a".repeat(256));
        let unknown = format!("a@md5:{}", "0".repeat(32));
        for (name, error) in [
            ("", Empty),
            ("UPPER:1", Uppercase("library/UPPER".into())),
            ("r.example/Upper/a:1", Uppercase("Upper/a".into())),
            (&id, Id(id.clone())),
            (&long, TooLong),
            (&unknown, Algorithm),
            ("a@sha256:00000000000000000000000000000000", Digest),
            ("a@sha256:00", Format),
            ("a@", Format),
            ("a:", Format),
            ("a:b:c", Format),
            (":1", Format),
            ("a:-x", Format),
            ("-a", Format),
            ("a-", Format),
            ("a..b", Format),
            ("a___b", Format),
            ("a._b", Format),
            ("a//b", Format),
            ("/a", Format),
            ("a/", Format),
            ("a b", Format),
            ("-r.example/a", Format),
            ("r.example:port/a", Format),
            ("[::1/a", Format),
            ("ä", Format),
        ] {
            assert_eq!(check(name), Err(error), "{name}");
        }
        assert_eq!(check(&format!("a:{}", "t".repeat(129))), Err(Format));
    }
}
