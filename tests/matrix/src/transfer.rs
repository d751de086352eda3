//! What two nodes say to each other: requests that come back, and transfers that are hashed at both ends.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::digest::{Context as Digest, SHA256};
use bytes::Bytes;
use edgeloom_tunnel::{Accepted, Alpn, Incoming, PeerId, Stream, Tunnel};
use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

/// First byte of a stream: the rest comes back.
const ECHO: u8 = b'e';
/// First byte of a stream: the rest is counted and hashed.
const SINK: u8 = b's';
/// Bytes of a request.
const REQUEST: usize = 64;
/// Bytes written at once.
const CHUNK: usize = 128 << 10;
/// Milliseconds between two pieces that are told of, and how often at most.
const GAP: f64 = 100.0;
const GAPS: usize = 40;
/// How often a node tells its control that it is well, and with what: a length, a type and an empty map.
const BEAT: Duration = Duration::from_secs(20);
const SIGN: [u8; 6] = [0, 0, 0, 2, 6, 0xa0];
/// Bytes of the answer to a transfer at most.
const ANSWER: usize = 8192;

/// What the receiver of a transfer says of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Received {
    /// Bytes that came.
    pub(crate) bytes: u64,
    /// Their SHA-256.
    pub(crate) sha256: String,
    /// Longest time between two pieces, in milliseconds.
    pub(crate) longest_gap_ms: f64,
    /// When that began, in seconds after the first piece.
    pub(crate) longest_gap_at: f64,
    /// The first times it stood still: when, in seconds after the first piece, and for how many milliseconds.
    pub(crate) gaps: Vec<(f64, f64)>,
    /// How long it all took, in milliseconds.
    pub(crate) ms: f64,
}

/// Answers what comes in, until the tunnel ends.
pub(crate) async fn serve(mut incoming: Incoming) {
    let mut streams = JoinSet::new();
    while let Some(accepted) = incoming.accept().await {
        if let Accepted::Stream { stream, .. } = accepted {
            // A stream that breaks is the sender's to notice.
            streams.spawn(async move { answer(stream).await.ok() });
        }
        while streams.try_join_next().is_some() {}
    }
}

async fn answer(mut stream: Stream) -> Result<()> {
    let mut kind = [0];
    stream.recv.read_exact(&mut kind).await?;
    if kind == [ECHO] {
        let mut request = [0; REQUEST];
        while stream.recv.read_exact(&mut request).await.is_ok() {
            stream.send.write_all(&request).await?;
        }
        return Ok(());
    }
    let received = receive(&mut stream).await?;
    stream.send.write_all(&serde_json::to_vec(&received)?).await?;
    stream.send.finish()?;
    // Until the other end has it all.
    stream.send.stopped().await?;
    Ok(())
}

async fn receive(stream: &mut Stream) -> Result<Received> {
    let mut digest = Digest::new(&SHA256);
    let mut received = Received::default();
    let mut first: Option<Instant> = None;
    let mut before = Instant::now();
    while let Some(chunk) = stream.recv.read_chunk(usize::MAX, true).await? {
        let now = Instant::now();
        let began = *first.get_or_insert(now);
        let gap = (now - before).as_secs_f64() * 1000.0;
        if began != now {
            let at = (before - began).as_secs_f64();
            if gap > received.longest_gap_ms {
                (received.longest_gap_ms, received.longest_gap_at) = (gap, at);
            }
            if gap > GAP && received.gaps.len() < GAPS {
                received.gaps.push((at, gap));
            }
        }
        before = now;
        digest.update(&chunk.bytes);
        received.bytes += chunk.bytes.len() as u64;
    }
    received.ms = first.map_or(Duration::ZERO, |first| first.elapsed()).as_secs_f64() * 1000.0;
    received.sha256 = hex::encode(digest.finish());
    Ok(received)
}

/// Says by and by that this node is well, as its session with a control does (`hub/1`), until the stream breaks.
pub(crate) async fn beat(mut stream: Stream) -> Result<()> {
    stream.send.write_all(&[SINK]).await?;
    loop {
        tokio::time::sleep(BEAT).await;
        stream.send.write_all(&SIGN).await?;
    }
}

/// One request, and its answer.
pub(crate) async fn request(tunnel: &Tunnel, peer: PeerId) -> Result<()> {
    let mut stream = tunnel.open(peer, Alpn::Mesh).await?;
    let mut request = [7; REQUEST + 1];
    request[0] = ECHO;
    stream.send.write_all(&request).await?;
    let mut answer = [0; REQUEST];
    stream.recv.read_exact(&mut answer).await?;
    ensure!(answer == [7; REQUEST], "the answer is not what was asked");
    Ok(())
}

/// Sends so many bytes, no two chunks alike, and compares the hash with the receiver's.
pub(crate) async fn send(tunnel: &Tunnel, peer: PeerId, bytes: u64) -> Result<Received> {
    let mut stream = tunnel.open(peer, Alpn::Mesh).await?;
    let began = Instant::now();
    stream.send.write_all(&[SINK]).await?;
    let mut block = vec![0; CHUNK];
    SmallRng::seed_from_u64(bytes).fill_bytes(&mut block);
    let mut digest = Digest::new(&SHA256);
    let mut sent = 0u64;
    while sent < bytes {
        block[..8].copy_from_slice(&sent.to_be_bytes());
        let length = CHUNK.min(usize::try_from(bytes - sent).unwrap_or(CHUNK));
        digest.update(&block[..length]);
        stream.send.write_chunk(Bytes::copy_from_slice(&block[..length])).await.context("while sending")?;
        sent += length as u64;
    }
    stream.send.finish()?;
    let answer = stream.recv.read_to_end(ANSWER).await.context("no word of what arrived")?;
    let received: Received = serde_json::from_slice(&answer)?;
    ensure!(received.bytes == bytes, "{} of {bytes} bytes arrived", received.bytes);
    let own = hex::encode(digest.finish());
    ensure!(received.sha256 == own, "what arrived has hash {}, what was sent {own}", received.sha256);
    Ok(Received { ms: began.elapsed().as_secs_f64() * 1000.0, ..received })
}

/// Sends to all of them at once for so long, as much as they take.
pub(crate) async fn flood(tunnel: &Tunnel, peers: &[PeerId], length: Duration) -> Result<()> {
    let end = tokio::time::Instant::now() + length;
    let streams = peers.iter().map(|peer| async move {
        let mut stream = tunnel.open(*peer, Alpn::Mesh).await?;
        stream.send.write_all(&[SINK]).await?;
        let block = Bytes::from(vec![7; CHUNK]);
        while let Ok(written) = tokio::time::timeout_at(end, stream.send.write_chunk(block.clone())).await {
            written.context("while flooding")?;
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(streams).await.map(drop)
}
