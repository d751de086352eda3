//! UDP flows between two agents.
//!
//! One stream per pair of agents and direction of opening carries [`Frame`]s: set-up, the first
//! datagrams of a flow (until it is known to be set up, so that none arrives before its flow), and those
//! that no QUIC datagram holds. All others ride [`Datagram`]s.

use super::read::Reader;
use super::{Code, Header, WireError};

/// Largest UDP payload there is (RFC 768 over IPv4, less both headers; IPv6 carries 20 bytes more, which
/// no host sends in practice).
pub const MAX_PAYLOAD: usize = 65_507;

/// Type, flow and length of a frame.
const FRAME_HEAD: usize = 7;

/// Type and flow of a datagram.
const DATAGRAM_HEAD: usize = 5;

const OPEN: u8 = 1;
const DATA: u8 = 2;
const OPENED: u8 = 3;
const CLOSE: u8 = 4;
const TO_TARGET: u8 = 5;
const TO_CALLER: u8 = 6;

/// A message on the stream of UDP flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Number of the flow, given by the agent that opened the stream.
    pub flow: u32,
    /// What is said of it.
    pub kind: FrameKind,
}

/// What a [`Frame`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// To the accepting agent: a flow begins.
    Open(Header),
    /// A datagram of the flow.
    Data(Vec<u8>),
    /// To the opening agent: the flow is set up, datagrams may follow.
    Opened,
    /// The flow has ended; to the opening agent, with the reason where it could not be set up.
    Close(Code),
}

impl Frame {
    /// Appends the frame.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        let kind = match &self.kind {
            FrameKind::Open(_) => OPEN,
            FrameKind::Data(_) => DATA,
            FrameKind::Opened => OPENED,
            FrameKind::Close(_) => CLOSE,
        };
        bytes.push(kind);
        bytes.extend_from_slice(&self.flow.to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        match &self.kind {
            FrameKind::Open(header) => header.encode(bytes),
            FrameKind::Data(payload) => bytes.extend_from_slice(payload),
            FrameKind::Opened => {}
            FrameKind::Close(code) => bytes.push(code.number()),
        }
        let length = u16::try_from(bytes.len() - start - FRAME_HEAD).expect("no UDP payload is longer");
        bytes[start + 5..start + FRAME_HEAD].copy_from_slice(&length.to_be_bytes());
    }

    /// Reads a frame and says how many bytes it took; `None` while bytes are missing. A frame of a kind
    /// that is not known is an error: they are few, and versions are one release apart at most.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, WireError> {
        let Some((head, rest)) = bytes.split_at_checked(FRAME_HEAD) else { return Ok(None) };
        let mut reader = Reader::new(head);
        let (kind, flow) = (reader.u8("a frame's kind")?, reader.u32("a frame's flow")?);
        let length = usize::from(reader.u16("a frame's length")?);
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let kind = match kind {
            OPEN => FrameKind::Open(Header::decode(body)?),
            DATA => FrameKind::Data(body.to_vec()),
            OPENED => FrameKind::Opened,
            CLOSE => FrameKind::Close(Code::from_number(Reader::new(body).u8("a reason")?.into())),
            _ => return Err(WireError::Unknown("a frame's kind")),
        };
        Ok(Some((Self { flow, kind }, FRAME_HEAD + length)))
    }
}

/// Which way a [`Datagram`] goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the agent that opened the flow.
    ToTarget,
    /// Back to it.
    ToCaller,
}

/// One UDP payload in a QUIC datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Number of the flow, given by the agent that opened it.
    pub flow: u32,
    /// Which way it goes.
    pub direction: Direction,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Bytes on the wire.
    pub fn size(&self) -> usize {
        DATAGRAM_HEAD + self.payload.len()
    }

    /// The datagram in bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size());
        bytes.push(match self.direction {
            Direction::ToTarget => TO_TARGET,
            Direction::ToCaller => TO_CALLER,
        });
        bytes.extend_from_slice(&self.flow.to_be_bytes());
        bytes.extend_from_slice(self.payload);
        bytes
    }

    /// Reads a datagram.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let direction = match reader.u8("a datagram's kind")? {
            TO_TARGET => Direction::ToTarget,
            TO_CALLER => Direction::ToCaller,
            _ => return Err(WireError::Unknown("a datagram's kind")),
        };
        Ok(Self { flow: reader.u32("a datagram's flow")?, direction, payload: reader.rest() })
    }
}
