//! The client and the server of every row: the same program with the same buffers, whatever carries its bytes.
//!
//! The first byte of a connection says what it is for. [`BULK`]: all that comes is counted, and the count is the
//! answer. [`ECHO`]: blocks of [`BLOCK`] bytes come back until the client ends. [`ONCE`]: one block comes back, and
//! the server ends the connection, so that no port waits at the client.

mod client;
mod server;
mod transport;

use serde::{Deserialize, Serialize};

pub(crate) use client::{Load, Order, run};
pub(crate) use server::serve;
pub(crate) use transport::{Over, write_certificate};

/// TCP port of the server; the same for plain TCP, the Service and nebula.
pub(crate) const PORT: u16 = 7100;
/// Its UDP port for QUIC.
pub(crate) const QUIC_PORT: u16 = 7101;
/// Its TCP port for TLS.
pub(crate) const TLS_PORT: u16 = 7102;

const BULK: u8 = b'b';
const ECHO: u8 = b'e';
const ONCE: u8 = b'o';
/// Bytes of a request, and of its answer.
const BLOCK: usize = 64;
/// Bytes read or written at once in a transfer.
const BUFFER: usize = 128 << 10;

/// What came of a load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    /// A transfer, as the receiver saw it.
    Bulk(Received),
    /// Single times, in microseconds.
    Times(Vec<f64>),
    /// Connections made one after the other.
    Churn {
        /// Connections a second, over all clients.
        per_second: f64,
        /// Connections that failed.
        failed: u64,
    },
}

/// What the receiver of a transfer counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Received {
    /// All bytes.
    pub(crate) bytes: u64,
    /// Mbit/s after the first second, in which windows grow.
    pub(crate) mbit_s: f64,
}
