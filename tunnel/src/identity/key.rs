//! The node's key: random, never derived from its name, in a file that only its owner reads.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey};

/// Bytes of an Ed25519 secret key (RFC 8032, section 5.1.5), which is all the file holds.
const SECRET_BYTES: usize = 32;

/// The Ed25519 key that a node is known by: the libp2p key and, through its certificate, the key of every
/// QUIC connection.
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
    peer: PeerId,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read or written.
    #[error("identity {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds no key.
    #[error(
        "identity {path}: it holds {length} bytes instead of a key of {SECRET_BYTES}; restore it from a backup, or remove it and join again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// Others may read the file.
    #[error(
        "identity {path}: mode {mode:o} lets others read the key; chmod 600 it, and if others may have read it, remove it and join again"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system gave no random bytes.
    #[error("the system's random number generator failed")]
    Random,
}

impl Identity {
    /// A new random identity that is kept nowhere.
    pub fn generate() -> Result<Self, IdentityError> {
        let mut secret = [0; SECRET_BYTES];
        SystemRandom::new().fill(&mut secret).map_err(|_| IdentityError::Random)?;
        Ok(Self::from_secret(secret))
    }

    /// Loads the identity at `path`, or makes one and keeps it there with mode 0600. A crash at any moment
    /// leaves either no file or a whole one.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        if let Some(identity) = Self::load(path)? {
            return Ok(identity);
        }
        let mut secret = [0; SECRET_BYTES];
        SystemRandom::new().fill(&mut secret).map_err(|_| IdentityError::Random)?;
        let io = |source| IdentityError::Io { path: path.to_owned(), source };
        write_private(path, &secret).map_err(io)?;
        Ok(Self::from_secret(secret))
    }

    /// Loads the identity at `path`; `None` if there is no such file.
    pub fn load(path: &Path) -> Result<Option<Self>, IdentityError> {
        let io = |source| IdentityError::Io { path: path.to_owned(), source };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let mode = fs::metadata(path).map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed { path: path.to_owned(), mode });
        }
        let length = bytes.len();
        let secret: [u8; SECRET_BYTES] =
            bytes.try_into().map_err(|_| IdentityError::Damaged { path: path.to_owned(), length })?;
        Ok(Some(Self::from_secret(secret)))
    }

    /// The identity of an Ed25519 secret key; any 32 bytes are one.
    pub fn from_secret(mut secret: [u8; SECRET_BYTES]) -> Self {
        let keypair = Keypair::ed25519_from_bytes(&mut secret).expect("32 bytes are an Ed25519 key");
        let peer = keypair.public().to_peer_id();
        Self { keypair, peer }
    }

    /// The secret key, for a control that keeps its identity as a Secret of the cluster.
    pub fn secret(&self) -> [u8; SECRET_BYTES] {
        let pair = self.keypair.clone().try_into_ed25519().expect("the constructors make only Ed25519 keys");
        let mut secret = [0; SECRET_BYTES];
        secret.copy_from_slice(pair.secret().as_ref());
        secret
    }

    /// The peer id: the hash-like name of the public key.
    pub fn peer_id(&self) -> PeerId {
        self.peer
    }

    /// The key in libp2p's form, for its swarm.
    pub fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.keypair.public()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.peer)
    }
}

/// Writes `bytes` to `path` with mode 0600 so that a crash leaves the old content or the new, never a part:
/// a temporary file beside it, synced, then renamed.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file name"))?;
    let temporary = folder.join(format!(".{}.new", name.to_string_lossy()));
    // What a crash left behind may have another mode or owner.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_stays_the_same_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/identity.key");
        let first = Identity::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let second = Identity::load_or_create(&path).unwrap();
        assert_eq!(first.peer_id(), second.peer_id());
        assert_eq!(Identity::from_secret(first.secret()).peer_id(), first.peer_id());
        assert_ne!(Identity::generate().unwrap().peer_id(), first.peer_id());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_or_exposed_key_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.key");
        write_private(&path, b"short").unwrap();
        assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::Damaged { length: 5, .. })));
        write_private(&path, &[7; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::Exposed { mode: 0o640, .. })));
        assert_eq!(fs::read(&path).unwrap(), [7; 32]);
    }
}
