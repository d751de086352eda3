//! The keys of our frames.
//!
//! Two nodes share a key without ever having met: X25519 between their Ed25519 keys (RFC 7748; the mapping of
//! curves is RFC 7748, section 4.1), since a peer id *is* an Ed25519 key. It seals probes and what is said to a
//! relay, under AES-128-GCM. A nonce is a stamp ([`super::stamp`]), by which a frame that comes again is known, then
//! a bit for the direction, then 31 random bits for a clock that was set back. It protects no traffic: that is QUIC's,
//! with keys of its own for each connection.
//!
//! Forwarder data carries a GMAC under a key that the relay chooses for each end of each session, with a counter
//! as nonce. It covers the header, the length and the first bytes of the payload: enough that nobody who does not
//! hold the key can have a relay forward for them; that the payload is whole is QUIC's to check.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest;
use curve25519_dalek::edwards::CompressedEdwardsY;
use libp2p::PeerId;
use libp2p::identity::{self, PublicKey as PeerKey};

use super::frame::{Control, DataHeader, FrameError, Hint};
use super::message::PublicKey;

/// Domain of the pair keys' derivation.
const PAIR_CONTEXT: &[u8] = b"edgeloom pair v1\0";
/// Domain of the hints.
const HINT_CONTEXT: &[u8] = b"edgeloom hint v1\0";
/// Bit of a nonce's byte behind the stamp: the frame is of the node with the lower key.
const DIRECTION: u8 = 0x80;
/// Bytes of the payload that a data frame's tag covers.
const COVERED: usize = 32;

/// The Ed25519 key inside a peer id; `None` for ids of other kinds of key, which no node of ours has.
pub fn public_key(peer: &PeerId) -> Option<PublicKey> {
    // An Ed25519 id is an identity multihash (code 0, length 36) of the key's protobuf form.
    let bytes = peer.to_bytes();
    let protobuf = bytes.strip_prefix(&[0x00, 0x24])?;
    let key = PeerKey::try_decode_protobuf(protobuf).ok()?;
    Some(key.try_into_ed25519().ok()?.to_bytes())
}

/// The peer id of an Ed25519 key.
pub(crate) fn peer_id(key: &PublicKey) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(key).ok()?;
    Some(PeerKey::from(key).to_peer_id())
}

/// What stands for `key` in sealed frames.
pub(crate) fn hint(key: &PublicKey) -> Hint {
    let digest = hash(&[HINT_CONTEXT, key]);
    digest.first_chunk().copied().expect("SHA-256 has 32 bytes")
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The stamp in a frame's nonce.
pub(crate) fn stamp(nonce: [u8; 12]) -> u64 {
    nonce.first_chunk().map_or(0, |stamp| u64::from_be_bytes(*stamp))
}

fn gcm(key: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).expect("16 bytes are a key of AES-128-GCM"))
}

/// Own side of every pair key.
pub struct OwnKey {
    scalar: [u8; 32],
    /// Own Ed25519 key.
    pub(crate) public: PublicKey,
    /// Own hint.
    pub(crate) hint: Hint,
}

impl OwnKey {
    /// Takes the X25519 secret from an Ed25519 key pair: the first half of the seed's SHA-512 (RFC 8032,
    /// section 5.1.5).
    pub fn new(keypair: &identity::ed25519::Keypair) -> Self {
        let digest = digest::digest(&digest::SHA512, keypair.secret().as_ref());
        let scalar = digest.as_ref().first_chunk().copied().expect("SHA-512 has 64 bytes");
        let public = keypair.public().to_bytes();
        Self { scalar, public, hint: hint(&public) }
    }

    /// The key shared with `peer`; `None` if its key is no point of the curve.
    pub fn pair(&self, peer: &PublicKey) -> Option<PairKey> {
        let point = CompressedEdwardsY(*peer).decompress()?;
        let shared = point.to_montgomery().mul_clamped(self.scalar).to_bytes();
        if shared == [0; 32] {
            return None;
        }
        let (low, high) = if self.public < *peer { (&self.public, peer) } else { (peer, &self.public) };
        let key = hash(&[PAIR_CONTEXT, &shared, low, high]);
        let lower = self.public < *peer;
        Some(PairKey { key: gcm(&key[..16]), from: self.hint, public: self.public, lower })
    }
}

/// The key of one pair of nodes.
pub struct PairKey {
    key: LessSafeKey,
    from: Hint,
    public: PublicKey,
    /// Whether this node's key is the lower of the two.
    lower: bool,
}

impl PairKey {
    /// A sealed frame from this node, with a stamp that no other frame to this peer has.
    pub fn seal(&self, stamp: u64, plain: Vec<u8>) -> Vec<u8> {
        let (nonce, sealed) = self.encrypt(&self.from, stamp, plain);
        Control::Sealed { from: self.from, nonce, sealed: &sealed }.encode()
    }

    /// A hello from this node, with such a stamp too.
    pub fn hello(&self, stamp: u64, plain: Vec<u8>) -> Vec<u8> {
        let (nonce, sealed) = self.encrypt(&self.public, stamp, plain);
        Control::Hello { from: self.public, nonce, sealed: &sealed }.encode()
    }

    fn encrypt(&self, from: &[u8], stamp: u64, mut plain: Vec<u8>) -> ([u8; 12], Vec<u8>) {
        let mut nonce: [u8; 12] = rand::random();
        nonce[..8].copy_from_slice(&stamp.to_be_bytes());
        nonce[8] = (nonce[8] & !DIRECTION) | if self.lower { DIRECTION } else { 0 };
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(from), &mut plain)
            .expect("a frame is far below the limits of AES-GCM");
        (nonce, plain)
    }

    /// Opens what the other side sealed; `from` is the hint or the key that stands in the frame.
    pub fn open(&self, from: &[u8], nonce: [u8; 12], sealed: &[u8]) -> Result<Vec<u8>, FrameError> {
        // What this node sealed itself and is shown again is from nobody else.
        if (nonce[8] & DIRECTION != 0) == self.lower {
            return Err(FrameError::Forged);
        }
        let mut plain = sealed.to_vec();
        let length = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(from), &mut plain)
            .map_err(|_| FrameError::Forged)?
            .len();
        plain.truncate(length);
        Ok(plain)
    }
}

/// Key of the data frames between a relay and one end of a session.
#[derive(Debug)]
pub struct DataKey(LessSafeKey);

impl DataKey {
    /// The key of these bytes, which the relay chose.
    pub fn new(key: &[u8; 16]) -> Self {
        Self(gcm(key))
    }

    /// Fills in the tag of `header` for `payload`.
    pub fn sign(&self, header: &mut DataHeader, payload: &[u8]) {
        let (covered, length) = covered(header, payload);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(header), Aad::from(&covered[..length]), &mut [])
            .expect("a header is far below the limits of AES-GCM");
        header.tag.copy_from_slice(tag.as_ref());
    }

    /// Whether the tag of `header` fits it and `payload`.
    pub(crate) fn verify(&self, header: &DataHeader, payload: &[u8]) -> bool {
        let (covered, length) = covered(header, payload);
        self.0
            .open_in_place_separate_tag(nonce(header), Aad::from(&covered[..length]), &header.tag, &mut [])
            .is_ok()
    }
}

/// The direction is in the nonce, so that relay and node never use one twice.
fn nonce(header: &DataHeader) -> Nonce {
    let mut nonce = [0; 12];
    nonce[0] = u8::from(header.down);
    nonce[4..].copy_from_slice(&header.counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn covered(header: &DataHeader, payload: &[u8]) -> ([u8; 18 + COVERED], usize) {
    let mut covered = [0; 18 + COVERED];
    covered[..16].copy_from_slice(&header.fields());
    covered[16..18].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    let head = payload.len().min(COVERED);
    covered[18..18 + head].copy_from_slice(&payload[..head]);
    (covered, 18 + head)
}
