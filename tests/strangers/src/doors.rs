//! The doors, and how one knocks there.
//!
//! Whoever knocks does all that a member would: it says hello with what it has before it dials, so that the node may
//! know its path, takes the node's certificate, and goes on to speak when the handshake seems done. TLS 1.3 lets a
//! client believe that it is in before the server has looked at it; so what counts is what can be read afterwards.

mod frames;
mod streams;
mod tcp;

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use edgeloom_api::token::JoinToken;
use edgeloom_tunnel::identity::Guard;
use edgeloom_tunnel::wire::frame::Control;
use serde::{Deserialize, Serialize};

use crate::Target;

/// First byte from which a QUIC packet has a long header (RFC 9000, section 17.2).
const LONG_HEADER: u8 = 0xc0;
/// How long an answer is waited for: many times what one takes.
pub(crate) const PATIENCE: Duration = Duration::from_millis(800);

/// A frame by which a node says that it does not know the sender or its session: the refusal, smaller than the question.
pub(crate) fn frames_refuse(packet: &[u8]) -> bool {
    matches!(Control::parse(packet), Ok(Control::WhoAreYou { .. } | Control::UnknownSession { .. }))
}

/// Whether it is a packet of a QUIC handshake, or one that refuses it.
pub(crate) fn is_handshake(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| *first >= LONG_HEADER)
}

/// A way of asking a node for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// Probes and questions in frames.
    Frames,
    /// Packets forwarded from one visitor to another.
    Forwarder,
    /// A protocol on the raw QUIC endpoint.
    Quic(&'static str),
    /// A libp2p stream.
    Libp2p,
    /// Joining, for which a member needs a token.
    Join,
    /// Frames over TLS on TCP.
    Tls,
    /// Frames over the connection over TLS that is for joining.
    TlsJoin,
    /// Frames over a WebSocket.
    WebSocket,
    /// A TCP connection for a flow of a node on the LAN.
    Lan,
}

/// The doors that strangers knock at.
const CONTROL: &[Door] = &[
    Door::Join,
    Door::Frames,
    Door::Forwarder,
    Door::Quic("hub/1"),
    Door::Quic("kubelet/1"),
    Door::Quic("mesh/1"),
    Door::Libp2p,
    Door::Tls,
    Door::TlsJoin,
    Door::WebSocket,
];
const NODE: &[Door] = &[
    Door::Frames,
    Door::Quic("hub/1"),
    Door::Quic("kubelet/1"),
    Door::Quic("mesh/1"),
    Door::Quic("join/1"),
    Door::Libp2p,
    Door::Lan,
];

impl Door {
    /// Those of the control, or of a node.
    pub(crate) fn of(target: &str) -> &'static [Self] {
        if target == "control" { CONTROL } else { NODE }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Frames => "frames",
            Self::Forwarder => "forwarder",
            Self::Quic(alpn) => alpn,
            Self::Libp2p => "libp2p",
            Self::Join => "join/1",
            Self::Tls => "tls",
            Self::TlsJoin => "tls, join",
            Self::WebSocket => "websocket",
            Self::Lan => "lan",
        }
    }

    /// Whether a member gets an answer there. Nothing is said of doors behind which nobody is, or which are for who is
    /// no member yet.
    fn opens(self, target: &str) -> Option<bool> {
        match (self, target) {
            (Self::Quic("kubelet/1" | "mesh/1"), "control") | (Self::Quic("hub/1" | "join/1"), "node") => {
                None
            }
            (Self::TlsJoin, _) => Some(false),
            _ => Some(true),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Knocked {
    pub(crate) who: String,
    pub(crate) target: String,
    pub(crate) door: String,
    /// Where to, and the own ports, of UDP or TCP.
    pub(crate) at: SocketAddr,
    pub(crate) tcp: bool,
    pub(crate) ports: Vec<u16>,
    /// Bytes that were read beyond the handshake.
    pub(crate) bytes: u64,
    /// Whether there must be some; nothing, where it does not matter.
    pub(crate) wanted: Option<bool>,
    pub(crate) note: String,
}

/// Bytes that were read, what was said, and own ports.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) bytes: u64,
    pub(crate) note: String,
    pub(crate) ports: Vec<u16>,
}

/// Somebody in front of a node.
pub(crate) struct Knock<'a> {
    pub(crate) guard: &'a Guard,
    /// A friend of the same kind.
    pub(crate) second: &'a Guard,
    pub(crate) target: Target,
    /// A genuine member to ask for.
    pub(crate) other: Target,
    pub(crate) websocket: SocketAddr,
    /// The CA's certificate (DER).
    pub(crate) authority: &'a [u8],
    /// A token that is good, of one who may join.
    pub(crate) token: Option<&'a JoinToken>,
    /// What it became by joining: the hub talks to nobody else.
    pub(crate) joined: &'a OnceLock<Guard>,
}

impl Knock<'_> {
    /// Knocks at one door; what goes wrong is what was said.
    pub(crate) async fn at(&self, door: Door, who: &str, target: &str) -> Knocked {
        let mut heard = Heard::default();
        let outcome = match door {
            Door::Frames => self.frames(&mut heard).await,
            Door::Forwarder => self.forwarder(&mut heard).await,
            Door::Quic(alpn) => self.quic(alpn, &mut heard).await,
            Door::Libp2p => self.quic("libp2p", &mut heard).await,
            Door::Join => self.join(&mut heard).await,
            Door::Tls => self.tls("carrier/1", &mut heard).await,
            Door::TlsJoin => self.tls("join/1", &mut heard).await,
            Door::WebSocket => self.websocket(&mut heard).await,
            Door::Lan => self.lan(&mut heard).await,
        };
        if let Err(error) = outcome {
            heard.note = format!("{error:#}");
        }
        let member = who == crate::kinds::Kind::Good.name();
        Knocked {
            who: who.to_owned(),
            target: target.to_owned(),
            door: door.name().to_owned(),
            at: if door == Door::WebSocket { self.websocket } else { self.target.at },
            tcp: matches!(door, Door::Tls | Door::TlsJoin | Door::WebSocket | Door::Lan),
            ports: heard.ports,
            bytes: heard.bytes,
            wanted: if member { door.opens(target) } else { Some(false) },
            note: heard.note,
        }
    }
}
