//! The server's own certificate authority, and what it issues: the serving certificate and client
//! certificates (CN = user, O = group).
//!
//! Keys are ECDSA P-256, in files of mode 0600 beneath the data directory; a key is written once and
//! never replaced.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use sha2::Digest as _;
use time::OffsetDateTime;

use super::User;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Life of the authority.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Life of what it issues.
pub const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Failure of keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot read or write {path}: {source}; check that the data directory is writable and not full")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "the key or certificate in {path} cannot be used: {source}; restore it, or remove it to have a new one made"
    )]
    Damaged { path: PathBuf, source: rcgen::Error },
    #[error("cannot issue a certificate for {name:?}: {source}")]
    Issue { name: String, source: rcgen::Error },
    #[error("a client certificate names at most two groups; {name:?} was to be in {count}")]
    TooManyGroups { name: String, count: usize },
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// A certificate authority.
pub struct Authority {
    pair: Pair,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Loads `ca.crt` and `ca.key` from the directory, or makes them.
    pub fn load_or_create(dir: &Path, common_name: &str) -> Result<Self, PkiError> {
        let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| PkiError::Io { path, source }
        };
        fs::create_dir_all(dir).map_err(io(dir))?;
        if !certificate.exists() || !key.exists() {
            let made = self_signed(common_name)?;
            write_private(&key, &made.key).map_err(io(&key))?;
            fs::write(&certificate, &made.certificate).map_err(io(&certificate))?;
        }
        let pair = Pair {
            certificate: fs::read_to_string(&certificate).map_err(io(&certificate))?,
            key: fs::read_to_string(&key).map_err(io(&key))?,
        };
        let damaged = |path: &Path| {
            let path = path.to_owned();
            move |source| PkiError::Damaged { path, source }
        };
        let signing = KeyPair::from_pem(&pair.key).map_err(damaged(&key))?;
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate, signing).map_err(damaged(&certificate))?;
        Ok(Self { pair, issuer })
    }

    /// The authority's certificate, as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.pair.certificate
    }

    /// The authority's certificate and key, for whoever signs in its name.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// A serving certificate for these DNS names and IP addresses.
    pub fn server(&self, common_name: &str, names: &[String]) -> Result<Pair, PkiError> {
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, common_name);
        self.issue(common_name, names, subject, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client certificate: the user is `name`, in at most two groups.
    pub fn client(&self, name: &str, groups: &[&str]) -> Result<Pair, PkiError> {
        // The library keeps one value a type; the second group goes in under the bare object identifier.
        const ORGANIZATION: [u64; 4] = [2, 5, 4, 10];
        let mut subject = DistinguishedName::new();
        let types = [DnType::OrganizationName, DnType::CustomDnType(ORGANIZATION.to_vec())];
        if groups.len() > types.len() {
            return Err(PkiError::TooManyGroups { name: name.to_owned(), count: groups.len() });
        }
        for (kind, group) in types.into_iter().zip(groups) {
            subject.push(kind, *group);
        }
        subject.push(DnType::CommonName, name);
        self.issue(name, &[], subject, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        name: &str,
        names: &[String],
        subject: DistinguishedName,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Pair, PkiError> {
        let failed = |source| PkiError::Issue { name: name.to_owned(), source };
        let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
        params.distinguished_name = subject;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        live(&mut params, LEAF_LIFE);
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn self_signed(common_name: &str) -> Result<Pair, PkiError> {
    let failed = |source| PkiError::Issue { name: common_name.to_owned(), source };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    live(&mut params, CA_LIFE);
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Valid from an hour ago, for hosts whose clocks are behind.
fn live(params: &mut CertificateParams, life: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - DAY / 24;
    params.not_after = now + life;
}

/// Writes a file that only its owner may read, and makes sure it is on the disk.
pub fn write_private(path: &Path, content: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

/// The user that a verified client certificate names.
pub fn user_of(certificate: &[u8]) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    let groups = parsed.subject().iter_organization().filter_map(|group| group.as_str().ok());
    let mut user = User::authenticated(name, groups.map(str::to_owned).collect());
    let print = format!("X509SHA256={}", hex::encode(sha2::Sha256::digest(certificate)));
    user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![print]);
    (!name.is_empty()).then_some(user)
}

/// When a PEM certificate ends and for which names it stands; `None` if it cannot be read.
pub fn describe(pem: &str) -> Option<(OffsetDateTime, Vec<String>)> {
    use x509_parser::extensions::GeneralName;
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let parsed = block.parse_x509().ok()?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|names| &names.value.general_names);
    let shown = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    });
    Some((parsed.validity().not_after.to_datetime(), shown.collect()))
}

fn address(bytes: &[u8]) -> Option<String> {
    let four = || <[u8; 4]>::try_from(bytes).ok().map(|one| std::net::IpAddr::from(one).to_string());
    let sixteen = || <[u8; 16]>::try_from(bytes).ok().map(|one| std::net::IpAddr::from(one).to_string());
    four().or_else(sixteen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::load_or_create(dir.path(), "test").unwrap();
        let second = Authority::load_or_create(dir.path(), "test").unwrap();
        assert_eq!(first.certificate_pem(), second.certificate_pem());
        let mode = fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn clients_and_servers() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(dir.path(), "test").unwrap();
        let client = authority.client("anna", &["a", "b"]).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(client.certificate.as_bytes()).unwrap();
        let user = user_of(&block.contents).unwrap();
        assert_eq!((user.name.as_str(), user.groups.len()), ("anna", 3));
        assert!(matches!(authority.client("x", &["a", "b", "c"]), Err(PkiError::TooManyGroups { .. })));
        let server =
            authority.server("api", &["kubernetes".into(), "10.96.0.1".into(), "fd00::1".into()]).unwrap();
        let (ends, names) = describe(&server.certificate).unwrap();
        assert_eq!(names, ["kubernetes", "10.96.0.1", "fd00::1"]);
        assert!(ends > OffsetDateTime::now_utc() + Duration::from_secs(300 * 24 * 3600));
    }

    #[test]
    fn damaged_keys_are_named() {
        let dir = tempfile::tempdir().unwrap();
        Authority::load_or_create(dir.path(), "test").unwrap();
        fs::write(dir.path().join("ca.key"), "rubbish").unwrap();
        assert!(matches!(Authority::load_or_create(dir.path(), "test"), Err(PkiError::Damaged { .. })));
    }
}
