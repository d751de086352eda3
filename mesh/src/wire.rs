//! What two agents say to each other on `mesh/1`. Pure: bytes in, values out.
//!
//! A stream begins with a [`Preface`]: version, what the stream is for, and the length of what follows,
//! so that fields added at the end by a newer release are passed over. A TCP stream goes on with the
//! flow's bytes at once. The accepting agent sends [`CONNECTED`] as the first byte of its side when it has
//! reached the target, then the target's bytes; a refusal is a reset with a [`Code`] and no byte. So
//! nobody waits for an acknowledgement, and the opening agent knows when its bytes can no longer be
//! needed for another attempt.

mod datagram;
mod read;

use std::net::IpAddr;

use edgeloom_model::{Family, Protocol, ServiceKey, Workload};
use thiserror::Error;

pub use datagram::{Datagram, Direction, Frame, FrameKind, MAX_PAYLOAD};
use read::{Reader, put_text};

/// Version of the preface. One release of difference works: a newer one only adds fields at the end.
pub const VERSION: u8 = 1;

/// First byte from the accepting agent: the target was reached.
pub const CONNECTED: u8 = 0;

/// Bytes of the part of the preface that says how long the rest is.
const FIXED: usize = 4;

/// Longest rest of a preface: two names and a workload of Kubernetes' longest names need under 1,400 bytes.
const MAX_REST: usize = 2048;

const TCP: u8 = 1;
const UDP: u8 = 2;
const MEASURE: u8 = 3;

/// What a stream on `mesh/1` is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preface {
    /// One TCP connection.
    Tcp(Header),
    /// Set-up and large datagrams of UDP flows, as [`Frame`]s both ways.
    Udp,
    /// A measurement: no flow of anybody's.
    Measure(Measure),
}

/// What the accepting agent does with a stream of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Sends back what comes.
    Echo,
    /// Counts what comes, and at the end says how many bytes it was (8 bytes, big endian).
    Sink,
    /// Sends until it is told to stop.
    Source,
}

impl Measure {
    const fn number(self) -> u8 {
        match self {
            Self::Echo => 1,
            Self::Sink => 2,
            Self::Source => 3,
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        match Reader::new(bytes).u8("the measurement")? {
            1 => Ok(Self::Echo),
            2 => Ok(Self::Sink),
            3 => Ok(Self::Source),
            _ => Err(WireError::Unknown("the measurement")),
        }
    }
}

/// Where a flow goes and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number that the opening agent gave the flow, for the logs of both ends.
    pub flow: u64,
    /// What is called.
    pub target: Target,
    /// Who calls, as far as the opening agent can tell.
    pub source: Option<Workload>,
}

/// What is called: always by name, so that the accepting agent decides which address that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A port of a Service.
    Service {
        /// The Service.
        service: ServiceKey,
        /// The Service's port number, not the endpoint's.
        port: u16,
        /// Transport protocol.
        protocol: Protocol,
        /// The endpoint that the caller would like. The accepting agent takes it if it is one of its own.
        endpoint: Option<IpAddr>,
    },
    /// A port of a pod (headless Services, StatefulSets).
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Which of its addresses was called.
        family: Family,
        /// Port number.
        port: u16,
        /// Transport protocol.
        protocol: Protocol,
    },
}

impl Target {
    /// Transport protocol of the flow.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Service { protocol, .. } | Self::Pod { protocol, .. } => *protocol,
        }
    }
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// The other agent speaks a version that this one does not.
    #[error(
        "version {0} is not known here; agents more than one release apart cannot talk: upgrade the older"
    )]
    Version(u8),
    /// Longer than anything valid.
    #[error("{0} bytes are longer than anything valid")]
    TooLong(usize),
    /// Ends before it should.
    #[error("{0} is cut short")]
    Short(&'static str),
    /// A field has a value that means nothing.
    #[error("{0} has a value that is not known")]
    Unknown(&'static str),
    /// A name is no UTF-8, or empty.
    #[error("{0} is no name")]
    Name(&'static str),
}

/// Why a flow ended other than by its bytes' end: the error code of a stream's reset or stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The connection behind the stream was reset.
    Reset,
    /// The target refused.
    Refused,
    /// The target did not answer in time, or its host is not reachable.
    Unreachable,
    /// The target is none of the accepting node's, or not known there (yet).
    NotHere,
    /// The preface or a frame could not be read.
    Malformed,
    /// The accepting agent has as many flows as it takes.
    Busy,
    /// The agent is shutting down.
    Leaving,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 7] = [
        Self::Reset,
        Self::Refused,
        Self::Unreachable,
        Self::NotHere,
        Self::Malformed,
        Self::Busy,
        Self::Leaving,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Reset => 0x10,
            Self::Refused => 0x11,
            Self::Unreachable => 0x12,
            Self::NotHere => 0x13,
            Self::Malformed => 0x14,
            Self::Busy => 0x15,
            Self::Leaving => 0x16,
        }
    }

    /// The code of a number; any other counts as a reset.
    pub fn from_number(number: u64) -> Self {
        Self::ALL.into_iter().find(|code| u64::from(code.number()) == number).unwrap_or(Self::Reset)
    }

    /// Name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NotHere => "not_here",
            Self::Malformed => "malformed",
            Self::Busy => "busy",
            Self::Leaving => "leaving",
        }
    }
}

impl Preface {
    /// The preface in bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, 0, 0, 0];
        match self {
            Self::Tcp(header) => {
                bytes[1] = TCP;
                header.encode(&mut bytes);
            }
            Self::Udp => bytes[1] = UDP,
            Self::Measure(measure) => {
                bytes[1] = MEASURE;
                bytes.push(measure.number());
            }
        }
        let rest = u16::try_from(bytes.len() - FIXED).expect("names are bounded, the rest is under 2 KiB");
        bytes[2..FIXED].copy_from_slice(&rest.to_be_bytes());
        bytes
    }

    /// Reads a preface and says how many bytes it took; `None` while bytes are missing.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, WireError> {
        if let Some(version) = bytes.first().filter(|version| **version != VERSION) {
            return Err(WireError::Version(*version));
        }
        let Some((fixed, rest)) = bytes.split_at_checked(FIXED) else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if length > MAX_REST {
            return Err(WireError::TooLong(length));
        }
        if !matches!(fixed[1], TCP | UDP | MEASURE) {
            return Err(WireError::Unknown("the stream's purpose"));
        }
        let Some(rest) = rest.get(..length) else { return Ok(None) };
        let preface = match fixed[1] {
            TCP => Self::Tcp(Header::decode(rest)?),
            UDP => Self::Udp,
            _ => Self::Measure(Measure::decode(rest)?),
        };
        Ok(Some((preface, FIXED + length)))
    }
}

impl Header {
    /// Appends the header.
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.flow.to_be_bytes());
        match &self.target {
            Target::Service { service, port, protocol, endpoint } => {
                bytes.push(1);
                put_text(bytes, &service.namespace);
                put_text(bytes, &service.name);
                put_port(bytes, *port, *protocol);
                put_address(bytes, *endpoint);
            }
            Target::Pod { namespace, name, family, port, protocol } => {
                bytes.push(2);
                put_text(bytes, namespace);
                put_text(bytes, name);
                put_port(bytes, *port, *protocol);
                bytes.push(if *family == Family::V4 { 4 } else { 6 });
            }
        }
        match &self.source {
            None => bytes.push(0),
            Some(source) => {
                bytes.push(1);
                for text in [&source.namespace, &source.name, &source.service_account] {
                    put_text(bytes, text);
                }
            }
        }
    }

    /// Reads a header; what follows it is passed over.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let flow = reader.u64("the flow's number")?;
        let target = match reader.u8("the target's kind")? {
            1 => Target::Service {
                service: ServiceKey::new(reader.name("namespace")?, reader.name("Service")?),
                port: reader.port()?,
                protocol: protocol(reader.u8("the protocol")?)?,
                endpoint: reader.address()?,
            },
            2 => Target::Pod {
                namespace: reader.name("namespace")?.to_owned(),
                name: reader.name("pod")?.to_owned(),
                port: reader.port()?,
                protocol: protocol(reader.u8("the protocol")?)?,
                family: family(reader.u8("the address family")?)?,
            },
            _ => return Err(WireError::Unknown("the target's kind")),
        };
        let source = match reader.u8("the source's kind")? {
            0 => None,
            1 => Some(Workload {
                namespace: reader.name("the source's namespace")?.into(),
                name: reader.name("the source pod")?.into(),
                service_account: reader.text("the source's service account")?.into(),
            }),
            _ => return Err(WireError::Unknown("the source's kind")),
        };
        Ok(Self { flow, target, source })
    }
}

fn put_port(bytes: &mut Vec<u8>, port: u16, protocol: Protocol) {
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.push(match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    });
}

/// The numbers of IANA's protocol registry.
fn protocol(number: u8) -> Result<Protocol, WireError> {
    match number {
        6 => Ok(Protocol::Tcp),
        17 => Ok(Protocol::Udp),
        _ => Err(WireError::Unknown("the protocol")),
    }
}

fn family(number: u8) -> Result<Family, WireError> {
    match number {
        4 => Ok(Family::V4),
        6 => Ok(Family::V6),
        _ => Err(WireError::Unknown("the address family")),
    }
}

fn put_address(bytes: &mut Vec<u8>, address: Option<IpAddr>) {
    match address {
        None => bytes.push(0),
        Some(IpAddr::V4(address)) => {
            bytes.push(4);
            bytes.extend_from_slice(&address.octets());
        }
        Some(IpAddr::V6(address)) => {
            bytes.push(6);
            bytes.extend_from_slice(&address.octets());
        }
    }
}

#[cfg(test)]
mod tests;
