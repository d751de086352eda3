//! Measuring the way to another node, with streams as Services use them.
//!
//! The asking agent opens streams with [`Preface::Measure`] and times what comes of them ([`run`]); the other agent
//! answers ([`answer`]) within bounds of time and number of its own.

use std::time::{Duration, Instant};

use bytes::Bytes;
use edgeloom_api::admin::Phase;
use edgeloom_tunnel::{OpenError, PeerId, Stream};
use futures::future::try_join_all;
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, VarInt, WriteError};

use crate::carrier::Carrier;
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
    /// The other agent refused.
    #[error("the node refused to be measured: {}; does its agent run this release?", .0.as_str())]
    Refused(Code),
    /// A stream broke.
    #[error("the connection to the node broke while it was measured: {0}")]
    Broken(String),
}

impl From<ReadError> for MeasureError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Refused(Code::from_number(code.into_inner())),
            other => Self::Broken(other.to_string()),
        }
    }
}

impl From<ReadExactError> for MeasureError {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::ReadError(error) => error.into(),
            ReadExactError::FinishedEarly(_) => Self::Broken("an answer was cut short".to_owned()),
        }
    }
}

impl From<WriteError> for MeasureError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Refused(Code::from_number(code.into_inner())),
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
            outcome.bytes = try_join_all(opened.into_iter().map(|s| send(s, end))).await?.iter().sum();
        }
        Phase::Receive => {
            outcome.bytes = try_join_all(opened.into_iter().map(|s| receive(s, end))).await?.iter().sum();
        }
    }
    outcome.took = started.elapsed();
    Ok(outcome)
}

async fn open(carrier: &dyn Carrier, peer: PeerId, measure: Measure) -> Result<Stream, MeasureError> {
    let mut stream = carrier.open(peer).await?;
    stream.send.write_all(&Preface::Measure(measure).encode()).await?;
    Ok(stream)
}

async fn echoes(mut stream: Stream, end: Instant) -> Result<Vec<Duration>, MeasureError> {
    let mut times = Vec::new();
    let mut answer = [0; REQUEST];
    while Instant::now() < end && times.len() < REQUESTS {
        let asked = Instant::now();
        stream.send.write_all(&[7; REQUEST]).await?;
        stream.recv.read_exact(&mut answer).await?;
        times.push(asked.elapsed());
    }
    Ok(times)
}

async fn send(mut stream: Stream, end: Instant) -> Result<u64, MeasureError> {
    let piece = Bytes::from_static(&[0x5a; PIECE]);
    while Instant::now() < end {
        stream.send.write_chunk(piece.clone()).await?;
    }
    stream.send.finish().map_err(|error| MeasureError::Broken(error.to_string()))?;
    let mut arrived = [0; 8];
    stream.recv.read_exact(&mut arrived).await?;
    Ok(u64::from_be_bytes(arrived))
}

async fn receive(mut stream: Stream, end: Instant) -> Result<u64, MeasureError> {
    let mut bytes = 0;
    while Instant::now() < end {
        let Some(chunk) = stream.recv.read_chunk(PIECE, true).await? else { break };
        bytes += chunk.bytes.len() as u64;
    }
    // It fails only on a stream that has ended.
    let _ = stream.recv.stop(VarInt::from_u32(0));
    Ok(bytes)
}

/// Does what another agent's measurement asks for. `rest` came behind the preface.
pub(crate) async fn answer(
    measure: Measure,
    rest: Bytes,
    send: &mut SendStream,
    recv: &mut RecvStream,
) -> Result<(), MeasureError> {
    match measure {
        Measure::Echo => {
            send.write_chunk(rest).await?;
            while let Some(chunk) = recv.read_chunk(PIECE, true).await? {
                send.write_chunk(chunk.bytes).await?;
            }
        }
        Measure::Sink => {
            let mut bytes = rest.len() as u64;
            while let Some(chunk) = recv.read_chunk(PIECE, true).await? {
                bytes += chunk.bytes.len() as u64;
            }
            send.write_all(&bytes.to_be_bytes()).await?;
        }
        Measure::Source => {
            let piece = Bytes::from_static(&[0x5a; PIECE]);
            // The asking agent stops the stream when it has had enough.
            while send.write_chunk(piece.clone()).await.is_ok() {}
        }
    }
    Ok(())
}
