//! One UDP socket for two QUIC endpoints and our own frames.
//!
//! ```text
//!            ┌ QUIC, raw mark ──> raw endpoint: addresses translated to the peer's virtual one
//! UDP ─class─┤ QUIC, libp2p mark ──> queue of the libp2p endpoint, addresses as they are
//!            ├ forwarder data, down ──> header off, then as above; up ──> sent on at once (relays)
//!            └ other frames ──> queue of the engine
//! carrier ─────> the same four ways ([`crate::carrier`])
//! ```
//!
//! The raw endpoint's driver does the receiving: Service traffic reaches it where the kernel put it, and what is
//! not its own is handed on. Tables are read without locks; the engine alone writes them.

mod address;
mod classify;
mod guests;
mod libp2p;
mod mux;
mod pace;
mod raw;
mod receive;
mod relay;
mod shards;
mod table;
mod throttle;
mod waiting;

pub(crate) use classify::Mark;
pub(crate) use guests::{Guest, Guests};
pub(crate) use libp2p::Libp2pSocket;
pub(crate) use mux::{Inbound, Mux, Source};
pub(crate) use pace::Budget;
pub(crate) use raw::RawSocket;
pub(crate) use relay::drain;
pub(crate) use table::{PeerSlot, Route, Session};
pub(crate) use waiting::Left;
