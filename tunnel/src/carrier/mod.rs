//! Carriers: where UDP is blocked, the same frames and QUIC packets over one TCP connection to a relay.
//!
//! ```text
//! quinn, engine ─ Mux::transmit ─┬ real address ──> UDP socket
//!                                └ stand-in ──> Queue ─ records ─ TLS or WebSocket ─> relay
//! relay ─ TLS or WebSocket ─ records ─ batches ──> Mux::carried, as if UDP had brought them
//! ```
//!
//! A carrier that is up has an address of its own that is never on a wire ([`address`]): for everything above the
//! socket it is one more address of the peer at its other end. So a carrier is a candidate that is probed, measured
//! and left like any other, and a relay forwards between carriers and UDP without knowing the difference.
//!
//! TCP promises what nobody here wants, that late bytes are delivered all the same. QUIC above needs losses to find
//! its rate, so a carrier that cannot keep up drops ([`queue`]). Two forms exist: TLS on the overlay's port, in which
//! both ends show their certificates, and a WebSocket over TLS on 443, which looks like a web page's to what stands
//! between, and may be decrypted there: its node proves itself by a sealed frame instead ([`websocket`]).
//!
//! What is public here reads the bytes of whoever is at the other end of a TCP connection; it takes them from any
//! stream, so that it can be fed with others than such as come.

pub(crate) mod address;
pub(crate) mod dial;
pub(crate) mod keeper;
pub(crate) mod link;
pub(crate) mod listen;
pub(crate) mod passage;
pub(crate) mod proxy;
pub(crate) mod queue;
pub mod record;
pub mod websocket;

use std::net::SocketAddr;

use libp2p::PeerId;
use tokio_util::sync::CancellationToken;

pub use link::{ReadWrite, read_frame};
pub use proxy::read_answer;

use crate::status::DirectKind;
use queue::Queue;

/// Protocol of the carriers of members, beside `join/1` for who is to become one.
pub(crate) const ALPN: &[u8] = b"carrier/1";

/// A carrier that is up.
#[derive(Debug)]
pub(crate) struct Carrier {
    /// What stands for it where addresses are.
    pub(crate) address: SocketAddr,
    /// The other end of its TCP connection.
    pub(crate) remote: SocketAddr,
    pub(crate) kind: DirectKind,
    /// Who is at the other end; `None` for a host that may only join.
    pub(crate) peer: Option<PeerId>,
    pub(crate) queue: Queue,
    /// Ends it.
    pub(crate) stop: CancellationToken,
}

impl Carrier {
    pub(crate) fn new(
        remote: SocketAddr,
        kind: DirectKind,
        peer: Option<PeerId>,
        stop: CancellationToken,
    ) -> Self {
        Self { address: address::next(), remote, kind, peer, queue: Queue::default(), stop }
    }
}
