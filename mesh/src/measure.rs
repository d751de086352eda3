//! Measuring the way to another node, with streams as Services use them.
//!
//! The asking agent opens streams with [`Preface::Measure`] and times what comes of them ([`run`]); the other agent
//! answers ([`answer`]) within bounds of time and number of its own.

use std::time::{Duration, Instant};

use bytes::Bytes;
use edgeloom_api::admin::Phase;
use edgeloom_tunnel::{LanError, OpenError, PeerId};
use futures::future::try_join_all;

use crate::carrier::Carrier;
use crate::stream::{Broken, Inlet, Outlet, guarded, guarded_lan};
use crate::wire::{Code, Measure, Preface};

/// How long a stream of a measurement is answered: the longest that can be asked for, and some for its end.
pub(crate) const LIMIT: Duration = Duration::from_secs(edgeloom_api::admin::MAX_BENCH_SECONDS + 10);
/// Streams of measurements that are answered at the same time.
pub(crate) const AT_ONCE: usize = 2 * edgeloom_api::admin::MAX_BENCH_STREAMS;
/// Bytes written at once.
const PIECE: usize = 256 << 10;
/// Bytes of a request, and how many are timed at most.
const REQUEST: usize = 64;
const REQUESTS: usize = 100_000;

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeasureError {
    /// No stream could be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No TCP connection on the LAN could be made.
    #[error(transparent)]
    Lan(#[from] LanError),
    /// The other agent refused.
    #[error("the node refused to be measured: {}; does its agent run this release?", .0.as_str())]
    Refused(Code),
    /// A stream broke.
    #[error("the connection to the node broke while it was measured: {0}")]
    Broken(String),
}

impl From<Broken> for MeasureError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Peer(code) => Self::Refused(code),
            other => Self::Broken(other.to_string()),
        }
    }
}

/// What was measured.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Bytes that arrived.
    pub(crate) bytes: u64,
    /// How long that took.
    pub(crate) took: Duration,
    /// Round trips, in the order of their length.
    pub(crate) round_trips: Vec<Duration>,
}

/// Measures the way to `peer` for about `time`, with so many streams side by side.
pub(crate) async fn run(
    carrier: &dyn Carrier,
    peer: PeerId,
    phase: Phase,
    time: Duration,
    streams: usize,
) -> Result<Outcome, MeasureError> {
    let measure = match phase {
        Phase::Latency => Measure::Echo,
        Phase::Send => Measure::Sink,
        Phase::Receive => Measure::Source,
    };
    let open = (0..streams).map(|_| open(carrier, peer, measure));
    let opened = try_join_all(open).await?;
    let started = Instant::now();
    let end = started + time;
    let mut outcome = Outcome::default();
    match phase {
        Phase::Latency => {
            for times in try_join_all(opened.into_iter().map(|stream| echoes(stream, end))).await? {
                outcome.round_trips.extend(times);
            }
            outcome.round_trips.sort();
            outcome.bytes = (outcome.round_trips.len() * REQUEST) as u64;
        }
        Phase::Send => {
            outcome.bytes =
                try_join_all(opened.into_iter().map(|s| send(s, end, u64::MAX))).await?.iter().sum();
        }
        Phase::Receive => {
            outcome.bytes =
                try_join_all(opened.into_iter().map(|s| receive(s, end, u64::MAX))).await?.iter().sum();
        }
    }
    outcome.took = started.elapsed();
    Ok(outcome)
}

/// What a measurement goes by.
type Way = (Outlet, Inlet);

async fn open(carrier: &dyn Carrier, peer: PeerId, measure: Measure) -> Result<Way, MeasureError> {
    begin(guarded(carrier.open(peer).await?), measure).await
}

async fn begin((mut outlet, inlet): Way, measure: Measure) -> Result<Way, MeasureError> {
    outlet.write_all(&Preface::Measure(measure).encode()).await?;
    Ok((outlet, inlet))
}

async fn echoes((mut outlet, mut inlet): Way, end: Instant) -> Result<Vec<Duration>, MeasureError> {
    let mut times = Vec::new();
    while Instant::now() < end && times.len() < REQUESTS {
        let asked = Instant::now();
        outlet.write_all(&[7; REQUEST]).await?;
        read_exact::<REQUEST>(&mut inlet).await?;
        times.push(asked.elapsed());
    }
    Ok(times)
}

/// Sends until `end`, at most about `most` bytes; how many arrived.
async fn send((mut outlet, mut inlet): Way, end: Instant, most: u64) -> Result<u64, MeasureError> {
    let piece = Bytes::from_static(&[0x5a; PIECE]);
    let mut sent = 0;
    while Instant::now() < end && sent < most {
        outlet.write_chunk(piece.clone()).await?;
        sent += PIECE as u64;
    }
    outlet.finish().await?;
    Ok(u64::from_be_bytes(read_exact(&mut inlet).await?))
}

/// Receives until `end`, at most about `most` bytes; how many came. The other agent stops when the halves are dropped.
async fn receive((_outlet, mut inlet): Way, end: Instant, most: u64) -> Result<u64, MeasureError> {
    let mut bytes = 0;
    while Instant::now() < end && bytes < most {
        let Some(chunk) = inlet.read_chunk(PIECE).await? else { break };
        bytes += chunk.len() as u64;
    }
    Ok(bytes)
}

async fn read_exact<const N: usize>(inlet: &mut Inlet) -> Result<[u8; N], MeasureError> {
    let (mut bytes, mut read) = ([0; N], 0);
    while read < N {
        let chunk = inlet.read_chunk(N - read).await?;
        let chunk = chunk.ok_or_else(|| MeasureError::Broken("an answer was cut short".to_owned()))?;
        bytes[read..read + chunk.len()].copy_from_slice(&chunk);
        read += chunk.len();
    }
    Ok(bytes)
}

/// What of each way and direction is sent at most, how long that may take, and how often it is done: the better time
/// counts, for a machine does other things as well.
const COMPARED: u64 = 2 << 20;
const COMPARED_TIME: Duration = Duration::from_millis(50);
const ROUNDS: usize = 2;

/// Bytes a second by the QUIC connection and by a TCP connection of the LAN, taken in turn: there and back again.
pub(crate) async fn compare(carrier: &dyn Carrier, peer: PeerId) -> Result<(f64, f64), MeasureError> {
    let (mut quic, mut tcp) = (0.0_f64, 0.0_f64);
    for _ in 0..ROUNDS {
        // First what the peer may not have: where it takes no TCP, nothing is sent in vain.
        let sink = begin(guarded_lan(carrier.dial_lan(peer).await?), Measure::Sink).await?;
        let source = begin(guarded_lan(carrier.dial_lan(peer).await?), Measure::Source).await?;
        tcp = tcp.max(rate(sink, source).await?);
        let sink = open(carrier, peer, Measure::Sink).await?;
        let source = open(carrier, peer, Measure::Source).await?;
        quic = quic.max(rate(sink, source).await?);
    }
    Ok((quic, tcp))
}

async fn rate(sink: Way, source: Way) -> Result<f64, MeasureError> {
    let begun = Instant::now();
    let sent = send(sink, begun + COMPARED_TIME, COMPARED).await?;
    let received = receive(source, Instant::now() + COMPARED_TIME, COMPARED).await?;
    Ok((sent + received) as f64 / begun.elapsed().as_secs_f64())
}

/// Does what another agent's measurement asks for. `rest` came behind the preface.
pub(crate) async fn answer(
    measure: Measure,
    rest: Bytes,
    outlet: &mut Outlet,
    inlet: &mut Inlet,
) -> Result<(), MeasureError> {
    match measure {
        Measure::Echo => {
            outlet.write_chunk(rest).await?;
            while let Some(chunk) = inlet.read_chunk(PIECE).await? {
                outlet.write_chunk(chunk).await?;
            }
        }
        Measure::Sink => {
            let mut bytes = rest.len() as u64;
            while let Some(chunk) = inlet.read_chunk(PIECE).await? {
                bytes += chunk.len() as u64;
            }
            outlet.write_all(&bytes.to_be_bytes()).await?;
        }
        Measure::Source => {
            let piece = Bytes::from_static(&[0x5a; PIECE]);
            // The asking agent stops the stream when it has had enough.
            while outlet.write_chunk(piece.clone()).await.is_ok() {}
        }
    }
    Ok(())
}
