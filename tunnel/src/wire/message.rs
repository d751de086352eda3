//! What two nodes say to each other inside sealed frames.

use std::net::SocketAddr;

use super::codec::{Reader, put_address};
use super::frame::{FrameError, MAX_CONTROL, SEAL};

/// Most addresses in one [`Message::Candidates`].
pub const MAX_CANDIDATES: usize = 16;
/// Longest credential in a hello, in bytes.
pub const MAX_CREDENTIAL: usize = 1280;

const PROBE: u8 = 1;
const ANSWER: u8 = 2;
const CANDIDATES: u8 = 3;
const OPEN: u8 = 4;
const SESSION: u8 = 5;
const REFUSED: u8 = 6;
const ATTACH: u8 = 7;
const FILL: u8 = 8;
const FILLED: u8 = 9;

/// What a sealed fill has beside its padding.
const FILL_HEAD: usize = SEAL + 1 + 8 + 2;

/// Flag of a probe: the sender's traffic uses this path.
const IN_USE: u8 = 0x01;
/// Flag of a probe: the sender goes by another path, since this one loses much more.
const SHUNNED: u8 = 0x02;

/// An Ed25519 public key, which is a peer id.
pub type PublicKey = [u8; 32];

/// A message between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Does this path work? To be answered on the path it came by.
    Probe {
        /// To be repeated in the answer.
        id: u64,
        /// Changes when the sender restarts.
        epoch: u64,
        /// The sender's traffic uses this path.
        in_use: bool,
        /// The sender goes by another path, since this one loses much more. A release that knows nothing of that reads
        /// over it, and finds by itself what is lost.
        shunned: bool,
    },
    /// It does.
    Answer {
        /// Of the probe.
        id: u64,
        /// Changes when the sender restarts.
        epoch: u64,
        /// Where the probe came from, as the answering node saw it.
        observed: Option<SocketAddr>,
    },
    /// Where the sender may be reached: probe all of it now, as the sender does the other way, so that both
    /// NATs see a packet go out.
    Candidates {
        /// The addresses, at most [`MAX_CANDIDATES`].
        addresses: Vec<SocketAddr>,
        /// Whether the sender has the receiver's candidates already.
        answered: bool,
    },
    /// To a relay: forward between me and `peer`.
    Open {
        /// The other end.
        peer: PublicKey,
    },
    /// From a relay: it forwards between the receiver and `peer`.
    Session {
        /// Number of the session.
        session: u32,
        /// Which end the receiver is.
        side: u8,
        /// Key of the receiver's data frames.
        key: [u8; 16],
        /// The other end.
        peer: PublicKey,
        /// Where the relay sees the other end: a candidate for a direct path.
        observed: SocketAddr,
    },
    /// From a relay: it cannot forward to `peer`.
    Refused {
        /// The other end that was asked for.
        peer: PublicKey,
        /// Why.
        reason: Refusal,
    },
    /// To a relay, first in a WebSocket: this carrier is the sender's.
    Attach {
        /// What the relay sent ahead, so that it can be said once only.
        challenge: [u8; 16],
    },
    /// Does a packet as long as this one pass? To be answered on the path it came by, by one of the same length.
    Fill {
        /// To be repeated in the answer.
        id: u64,
        /// Bytes of zero that follow, to be sealed like the rest.
        padding: u16,
    },
    /// It does, and this one comes back.
    Filled {
        /// Of the fill.
        id: u64,
        /// As many as the fill had.
        padding: u16,
    },
}

/// Why a relay does not forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The other end is not registered at this relay.
    #[error("the peer is not registered at the relay")]
    Absent,
    /// This node is no relay.
    #[error("the node is configured not to relay")]
    NoRelay,
    /// The relay's table, or the asking peer's share of it, is full.
    #[error("the relay has no session left")]
    Full,
}

impl Refusal {
    const fn code(self) -> u8 {
        match self {
            Refusal::Absent => 0,
            Refusal::NoRelay => 1,
            Refusal::Full => 2,
        }
    }
}

impl Message {
    /// Whether whoever sends it wants something: an answer, a session, addresses. The others are answers themselves,
    /// good only for who asked.
    pub const fn asks(&self) -> bool {
        use Message::{Candidates, Fill, Open, Probe};
        matches!(self, Probe { .. } | Candidates { .. } | Open { .. } | Fill { .. })
    }

    /// A fill whose sealed frame has so many bytes; `None` for lengths that no frame has.
    pub(crate) fn fill(id: u64, bytes: u16) -> Option<Self> {
        let padding = usize::from(bytes).checked_sub(FILL_HEAD)?;
        (usize::from(bytes) <= MAX_CONTROL).then_some(Message::Fill { id, padding: padding as u16 })
    }

    /// Length of the sealed frame of a fill with so much padding.
    pub(crate) const fn filled_bytes(padding: u16) -> u16 {
        padding.saturating_add(FILL_HEAD as u16)
    }

    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Message::Probe { id, epoch, in_use, shunned } => {
                out.push(PROBE);
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(&epoch.to_be_bytes());
                out.push(if *in_use { IN_USE } else { 0 } | if *shunned { SHUNNED } else { 0 });
            }
            Message::Answer { id, epoch, observed } => {
                out.push(ANSWER);
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(&epoch.to_be_bytes());
                match observed {
                    Some(address) => put_address(out, *address),
                    None => out.push(0),
                }
            }
            Message::Candidates { addresses, answered } => {
                out.push(CANDIDATES);
                out.push(u8::from(*answered));
                let addresses = &addresses[..addresses.len().min(MAX_CANDIDATES)];
                out.push(addresses.len() as u8);
                for address in addresses {
                    put_address(out, *address);
                }
            }
            Message::Open { peer } => {
                out.push(OPEN);
                out.extend_from_slice(peer);
            }
            Message::Session { session, side, key, peer, observed } => {
                out.push(SESSION);
                out.extend_from_slice(&session.to_be_bytes());
                out.push(*side);
                out.extend_from_slice(key);
                out.extend_from_slice(peer);
                put_address(out, *observed);
            }
            Message::Refused { peer, reason } => {
                out.push(REFUSED);
                out.extend_from_slice(peer);
                out.push(reason.code());
            }
            Message::Attach { challenge } => {
                out.push(ATTACH);
                out.extend_from_slice(challenge);
            }
            Message::Fill { id, padding } => put_filled(out, FILL, *id, *padding),
            Message::Filled { id, padding } => put_filled(out, FILLED, *id, *padding),
        }
    }

    /// Reads a message that fills `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader(bytes);
        let message = match reader.u8()? {
            PROBE => {
                let (id, epoch) = (reader.u64()?, reader.u64()?);
                let flags = reader.u8()?;
                Message::Probe { id, epoch, in_use: flags & IN_USE != 0, shunned: flags & SHUNNED != 0 }
            }
            ANSWER => {
                let (id, epoch) = (reader.u64()?, reader.u64()?);
                let observed = match reader.0 {
                    [0] => reader.u8().map(|_| None)?,
                    _ => Some(reader.address()?),
                };
                Message::Answer { id, epoch, observed }
            }
            CANDIDATES => candidates(&mut reader)?,
            OPEN => Message::Open { peer: reader.array()? },
            SESSION => session(&mut reader)?,
            REFUSED => {
                let peer = reader.array()?;
                let reason = match reader.u8()? {
                    0 => Refusal::Absent,
                    1 => Refusal::NoRelay,
                    _ => Refusal::Full,
                };
                Message::Refused { peer, reason }
            }
            ATTACH => Message::Attach { challenge: reader.array()? },
            FILL => {
                let (id, padding) = filled(&mut reader)?;
                Message::Fill { id, padding }
            }
            FILLED => {
                let (id, padding) = filled(&mut reader)?;
                Message::Filled { id, padding }
            }
            kind => return Err(FrameError::Kind(kind)),
        };
        reader.end()?;
        Ok(message)
    }
}

fn put_filled(out: &mut Vec<u8>, kind: u8, id: u64, padding: u16) {
    let padding = padding.min((MAX_CONTROL - FILL_HEAD) as u16);
    out.push(kind);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&padding.to_be_bytes());
    out.resize(out.len() + usize::from(padding), 0);
}

/// Padding is all zeros, so that nothing can hide in it, and no longer than a frame can be.
fn filled(reader: &mut Reader<'_>) -> Result<(u64, u16), FrameError> {
    let (id, padding) = (reader.u64()?, reader.u16()?);
    if usize::from(padding) > MAX_CONTROL - FILL_HEAD {
        return Err(FrameError::Long);
    }
    if reader.take(usize::from(padding))?.iter().any(|byte| *byte != 0) {
        return Err(FrameError::Value("padding"));
    }
    Ok((id, padding))
}

fn candidates(reader: &mut Reader<'_>) -> Result<Message, FrameError> {
    let answered = reader.u8()? != 0;
    let count = usize::from(reader.u8()?);
    if count > MAX_CANDIDATES {
        return Err(FrameError::Value("number of candidates"));
    }
    let addresses = (0..count).map(|_| reader.address()).collect::<Result<_, _>>()?;
    Ok(Message::Candidates { addresses, answered })
}

fn session(reader: &mut Reader<'_>) -> Result<Message, FrameError> {
    let session = reader.u32()?;
    let side = match reader.u8()? {
        side @ (0 | 1) => side,
        _ => return Err(FrameError::Value("side")),
    };
    let (key, peer) = (reader.array()?, reader.array()?);
    Ok(Message::Session { session, side, key, peer, observed: reader.address()? })
}

/// What a hello seals: the sender's credential, then a message.
pub struct Hello<'a> {
    /// The encoded credential.
    pub credential: &'a [u8],
    /// The message.
    pub message: Message,
}

impl<'a> Hello<'a> {
    /// Writes credential and message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.credential.len() + 64);
        out.extend_from_slice(&(self.credential.len() as u16).to_be_bytes());
        out.extend_from_slice(self.credential);
        self.message.encode(&mut out);
        out
    }

    /// Reads credential and message; the credential is bounded, not verified.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let mut reader = Reader(bytes);
        let length = usize::from(reader.u16()?);
        if length > MAX_CREDENTIAL {
            return Err(FrameError::Long);
        }
        let credential = reader.take(length)?;
        Ok(Self { credential, message: Message::parse(reader.0)? })
    }
}
