//! What a node finds out about its way to another: [`Trace`] and [`Measurement`].

use serde::{Deserialize, Serialize};

use super::Path;

/// Longest time that one phase of a measurement takes, in seconds.
pub const MAX_BENCH_SECONDS: u64 = 10;
/// Most streams that a measurement uses side by side.
pub const MAX_BENCH_STREAMS: usize = 16;

/// Every way to a node, probed just now, and why the one in use is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// The path in use.
    pub path: Path,
    /// Why it is that one.
    pub why: String,
    /// Every way that was tried, the one in use first.
    pub attempts: Vec<Attempt>,
    /// What the NATs of the asking node do, in words.
    pub nat: String,
    /// Where others see the asking node.
    pub seen_at: Vec<Sighting>,
    /// Largest UDP payload that the open connection found to pass, in bytes; absent without a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagram_bytes: Option<u16>,
    /// What carries TCP connections to it and why, where the path is on the LAN and they may go over TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<String>,
}

/// A way to a node that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// The way.
    pub path: Path,
    /// How it became known, in words.
    pub learnt: String,
    /// `in use`, `answers`, `no answer now` or `never answered`.
    pub standing: String,
    /// Smoothed round trip time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// Share of its recent probes that were lost, 0 to 1.
    pub loss: f64,
    /// Answers that came by it so far.
    pub answers: u32,
    /// Largest packet that went there and came back just now, in bytes of UDP payload, over a relay without the
    /// forwarder's header; absent where none came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagram_bytes: Option<u16>,
}

/// Where a node is seen, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sighting {
    /// Name of the observing node, or its peer id.
    pub by: String,
    /// Address and port.
    pub address: String,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Requests of 64 bytes, one after the other, on an open stream.
    Latency,
    /// Bytes to the node.
    Send,
    /// Bytes from it.
    Receive,
}

impl Phase {
    /// Its name in queries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Send => "send",
            Self::Receive => "receive",
        }
    }
}

/// What was measured between two nodes, with streams as Services use them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measurement {
    /// What was measured.
    pub phase: Phase,
    /// The path in use at its end.
    pub path: Path,
    /// Streams side by side.
    pub streams: usize,
    /// How long it took.
    pub seconds: f64,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Round trips, of [`Phase::Latency`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trips: Option<RoundTrips>,
}

/// Round trip times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoundTrips {
    /// How many.
    pub count: usize,
    /// Half took no longer.
    pub p50_ms: f64,
    /// Nine of ten took no longer.
    pub p90_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
}
