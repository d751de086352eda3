//! The outer form of our frames.
//!
//! | first byte | frame | then |
//! |---|---|---|
//! | 0x01 | sealed message of a known peer | sender's hint (8), nonce (12), ciphertext, tag (16) |
//! | 0x02 | hello: sealed message of a peer that may be unknown | sender's key (32), nonce (12), ciphertext, tag (16) |
//! | 0x03 | "I do not know this hint" | hint (8) |
//! | 0x10 | forwarder data | flags (1), zero (2), session (4), counter (8), tag (16), a QUIC packet or a frame |
//! | 0x11 | "I do not know this session" | session (4) |

use super::codec::Reader;

/// First byte from which a packet is QUIC's.
pub const QUIC: u8 = 0x40;
/// Length of a forwarder header: what QUIC's 1,200 bytes leave of an MTU of 1280 over IPv6.
pub const DATA_HEADER: usize = 32;
/// Longest frame that is not forwarder data: 1500 of Ethernet less 20 of IPv4 and 8 of UDP. A hello with the largest
/// credential is shorter; what tries the size of a path may be as long.
pub const MAX_CONTROL: usize = 1472;
/// What a sealed frame has beside its message: first byte, hint, nonce and tag.
pub(crate) const SEAL: usize = 1 + 8 + 12 + 16;

pub(crate) const SEALED: u8 = 0x01;
pub(crate) const HELLO: u8 = 0x02;
pub(crate) const WHO_ARE_YOU: u8 = 0x03;
pub(crate) const DATA: u8 = 0x10;
pub(crate) const UNKNOWN_SESSION: u8 = 0x11;

/// Flag of a data frame: which end of the session the node is (0 or 1).
const SIDE: u8 = 0x01;
/// Flag of a data frame: it goes from the relay to the node.
const DOWN: u8 = 0x02;

/// First bytes of the hash of a peer's key: enough to find it among those known.
pub type Hint = [u8; 8];

/// Why bytes are no frame or message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Ends before its fields do.
    #[error("cut short")]
    Short,
    /// Longer than any frame of ours.
    #[error("too long")]
    Long,
    /// Goes on after its fields.
    #[error("bytes after the end")]
    Trailing,
    /// Of a kind that this release does not know.
    #[error("unknown kind {0:#04x}")]
    Kind(u8),
    /// A field has a value that it cannot have.
    #[error("{0} out of range")]
    Value(&'static str),
    /// The authentication tag does not fit.
    #[error("not authentic")]
    Forged,
}

/// Header of a forwarder data frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// Session at the relay.
    pub session: u32,
    /// Which end of the session the node is, not the relay: 0 or 1.
    pub side: u8,
    /// From the relay to the node.
    pub down: bool,
    /// Number of the frame, never used twice with one key and direction.
    pub counter: u64,
    /// Authenticates the header, the payload's length and its first bytes.
    pub tag: [u8; 16],
}

impl DataHeader {
    /// The authenticated part: everything in front of the tag.
    pub(crate) fn fields(&self) -> [u8; 16] {
        let mut fields = [0; 16];
        fields[0] = DATA;
        fields[1] = (self.side & SIDE) | if self.down { DOWN } else { 0 };
        fields[4..8].copy_from_slice(&self.session.to_be_bytes());
        fields[8..].copy_from_slice(&self.counter.to_be_bytes());
        fields
    }

    /// Writes the header into the first [`DATA_HEADER`] bytes of `out`.
    ///
    /// # Panics
    /// If `out` is shorter than the header.
    pub fn write(&self, out: &mut [u8]) {
        out[..16].copy_from_slice(&self.fields());
        out[16..DATA_HEADER].copy_from_slice(&self.tag);
    }

    /// Splits a data frame into header and payload.
    pub fn parse(frame: &[u8]) -> Result<(Self, &[u8]), FrameError> {
        let mut reader = Reader(frame);
        match reader.u8()? {
            DATA => {}
            kind => return Err(FrameError::Kind(kind)),
        }
        let flags = reader.u8()?;
        if flags & !(SIDE | DOWN) != 0 || reader.u16()? != 0 {
            return Err(FrameError::Value("flags"));
        }
        let session = reader.u32()?;
        let counter = reader.u64()?;
        let tag = reader.array()?;
        Ok((Self { session, side: flags & SIDE, down: flags & DOWN != 0, counter, tag }, reader.0))
    }
}

/// A frame that is not forwarder data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control<'a> {
    /// A sealed message of a peer that the receiver should know.
    Sealed {
        /// Who sent it.
        from: Hint,
        /// Nonce of the seal.
        nonce: [u8; 12],
        /// Ciphertext and tag.
        sealed: &'a [u8],
    },
    /// A sealed message with all that is needed to get acquainted.
    Hello {
        /// Ed25519 key of the sender.
        from: [u8; 32],
        /// Nonce of the seal.
        nonce: [u8; 12],
        /// Ciphertext and tag.
        sealed: &'a [u8],
    },
    /// The receiver of a sealed message does not know its sender.
    WhoAreYou {
        /// The hint it does not know.
        hint: Hint,
    },
    /// The receiver of forwarder data does not know its session.
    UnknownSession {
        /// The session it does not know.
        session: u32,
    },
}

impl<'a> Control<'a> {
    /// Reads a frame.
    pub fn parse(frame: &'a [u8]) -> Result<Self, FrameError> {
        if frame.len() > MAX_CONTROL {
            return Err(FrameError::Long);
        }
        let mut reader = Reader(frame);
        let kind = reader.u8()?;
        let control = match kind {
            SEALED => {
                let (from, nonce) = (reader.array()?, reader.array()?);
                return Ok(Control::Sealed { from, nonce, sealed: reader.0 });
            }
            HELLO => {
                let (from, nonce) = (reader.array()?, reader.array()?);
                return Ok(Control::Hello { from, nonce, sealed: reader.0 });
            }
            WHO_ARE_YOU => Control::WhoAreYou { hint: reader.array()? },
            UNKNOWN_SESSION => Control::UnknownSession { session: reader.u32()? },
            kind => return Err(FrameError::Kind(kind)),
        };
        reader.end()?;
        Ok(control)
    }

    /// Writes the frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match *self {
            Control::Sealed { from, nonce, sealed } => {
                out.push(SEALED);
                out.extend_from_slice(&from);
                out.extend_from_slice(&nonce);
                out.extend_from_slice(sealed);
            }
            Control::Hello { from, nonce, sealed } => {
                out.push(HELLO);
                out.extend_from_slice(&from);
                out.extend_from_slice(&nonce);
                out.extend_from_slice(sealed);
            }
            Control::WhoAreYou { hint } => {
                out.push(WHO_ARE_YOU);
                out.extend_from_slice(&hint);
            }
            Control::UnknownSession { session } => {
                out.push(UNKNOWN_SESSION);
                out.extend_from_slice(&session.to_be_bytes());
            }
        }
        out
    }
}
