//! The streams that are handed out: quinn's, counted for as long as either half is held.
//!
//! What all streams of a connection have written and is not acknowledged is bounded, and bulk fills it up to the bound:
//! on a slow path whoever writes a little now and then would wait for its turn among many. So a stream that rested may
//! go beyond the bound by an allowance, which comes back as it rests.

use std::future::poll_fn;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::{Pin, pin};
use std::slice;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use quinn::{Chunk, ReadError, ReadExactError, ReadToEndError, WriteError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::Place;

/// One bidirectional QUIC stream to or from a peer.
#[derive(Debug)]
pub struct Stream {
    /// The half towards the peer.
    pub send: SendStream,
    /// The half from the peer.
    pub recv: RecvStream,
}

/// Bytes that a stream may write beyond the bound of its connection, and in which rest that comes back.
const ALLOWANCE: usize = 64 << 10;
const REST: Duration = Duration::from_millis(100);
/// Bytes that are worth a write of their own.
const CRUMBS: usize = 4 << 10;

/// Chunks that are taken off a stream at once: each is a packet's worth, so about 45 KiB.
const CHUNKS: usize = 32;

/// The half of a stream towards the peer.
#[derive(Debug)]
pub struct SendStream {
    inner: quinn::SendStream,
    place: Option<Arc<Place>>,
    allowance: Allowance,
}

/// What a stream may write beyond the bound.
#[derive(Debug)]
struct Allowance {
    left: usize,
    /// When the last write ended; `None` while one waits.
    rested_since: Option<Instant>,
}

/// The half of a stream from the peer.
#[derive(Debug)]
pub struct RecvStream {
    inner: quinn::RecvStream,
    place: Option<Arc<Place>>,
}

impl Stream {
    /// A stream that takes a place on its connection until both halves are gone.
    pub(crate) fn counted((send, recv): (quinn::SendStream, quinn::RecvStream), place: Place) -> Self {
        let place = Some(Arc::new(place));
        Self { send: SendStream::new(send, place.clone()), recv: RecvStream { inner: recv, place } }
    }
}

/// A stream of a connection that nobody counts streams of.
impl From<(quinn::SendStream, quinn::RecvStream)> for Stream {
    fn from((send, recv): (quinn::SendStream, quinn::RecvStream)) -> Self {
        Self { send: SendStream::new(send, None), recv: RecvStream { inner: recv, place: None } }
    }
}

// What quinn's halves and tokio's traits both have: here it is quinn's, with its errors.
impl SendStream {
    /// [`quinn::SendStream::write`].
    ///
    /// # Errors
    /// If the stream was stopped or ended, or its connection is lost.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<usize, WriteError> {
        poll_fn(|cx| self.poll_bytes(cx, bytes)).await
    }

    /// [`quinn::SendStream::write_all`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            bytes = &bytes[self.write(bytes).await?..];
        }
        Ok(())
    }

    /// [`quinn::SendStream::write_chunk`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_chunk(&mut self, mut chunk: Bytes) -> Result<(), WriteError> {
        while !chunk.is_empty() {
            poll_fn(|cx| self.poll_chunk(cx, &mut chunk)).await?;
        }
        Ok(())
    }

    fn new(inner: quinn::SendStream, place: Option<Arc<Place>>) -> Self {
        let allowance = Allowance { left: ALLOWANCE, rested_since: Some(Instant::now()) };
        Self { inner, place, allowance }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, WriteError>> {
        let Self { inner, place, allowance } = self;
        allowance.begin(Instant::now());
        let turn = place.as_ref().map(|place| place.turn());
        let mut tried = Pin::new(&mut *inner).poll_write(cx, bytes);
        if let (Poll::Ready(Ok(1..)), Some(turn)) = (&tried, &turn) {
            turn.fits();
        }
        if let (Poll::Pending, Some(turn), more @ 1..) = (&tried, &turn, allowance.of(bytes.len())) {
            tried = turn.beyond_bound(|| Pin::new(&mut *inner).poll_write(cx, &bytes[..more]));
            allowance.spend(&tried);
        }
        allowance.end(&tried);
        tried
    }

    /// Takes what is written off `chunk`.
    fn poll_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<Result<usize, WriteError>> {
        let Self { inner, place, allowance } = self;
        allowance.begin(Instant::now());
        let turn = place.as_ref().map(|place| place.turn());
        let mut tried = poll_chunks(inner, cx, chunk);
        if let (Poll::Ready(Ok(1..)), Some(turn)) = (&tried, &turn) {
            turn.fits();
        }
        if let (Poll::Pending, Some(turn), more @ 1..) = (&tried, &turn, allowance.of(chunk.len())) {
            let mut part = chunk.slice(..more);
            tried = turn.beyond_bound(|| poll_chunks(inner, cx, &mut part));
            chunk.advance(more - part.len());
            allowance.spend(&tried);
        }
        allowance.end(&tried);
        tried
    }
}

fn poll_chunks(
    inner: &mut quinn::SendStream,
    cx: &mut Context<'_>,
    chunk: &mut Bytes,
) -> Poll<Result<usize, WriteError>> {
    // quinn keeps whom to wake, not the future.
    let written = pin!(inner.write_chunks(slice::from_mut(chunk))).poll(cx);
    written.map_ok(|written| written.bytes)
}

impl Allowance {
    /// A write begins, or goes on.
    fn begin(&mut self, now: Instant) {
        if let Some(since) = self.rested_since.take() {
            let rested = now.saturating_duration_since(since).min(REST).as_secs_f64() / REST.as_secs_f64();
            self.left = (self.left + (rested * ALLOWANCE as f64) as usize).min(ALLOWANCE);
        }
    }

    /// How much of a write it is good for: none, where that would be crumbs.
    fn of(&self, wanted: usize) -> usize {
        let most = self.left.min(wanted);
        if most == wanted || most >= CRUMBS { most } else { 0 }
    }

    fn spend(&mut self, written: &Poll<Result<usize, WriteError>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.left = self.left.saturating_sub(*bytes);
        }
    }

    fn end(&mut self, written: &Poll<Result<usize, WriteError>>) {
        if written.is_ready() {
            self.rested_since = Some(Instant::now());
        }
    }
}

impl RecvStream {
    /// [`quinn::RecvStream::read`].
    ///
    /// # Errors
    /// If the stream was reset, or its connection is lost.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, ReadError> {
        let read = self.inner.read(buffer).await;
        self.count(read.as_ref().ok().copied().flatten().unwrap_or_default());
        read
    }

    /// [`quinn::RecvStream::read_exact`].
    ///
    /// # Errors
    /// As [`Self::read`], and if the stream ends before.
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), ReadExactError> {
        self.inner.read_exact(buffer).await?;
        self.count(buffer.len());
        Ok(())
    }

    /// [`quinn::RecvStream::read_to_end`].
    ///
    /// # Errors
    /// As [`Self::read`], and if there is more than `limit`.
    pub async fn read_to_end(&mut self, limit: usize) -> Result<Vec<u8>, ReadToEndError> {
        let read = self.inner.read_to_end(limit).await?;
        self.count(read.len());
        Ok(read)
    }

    /// [`quinn::RecvStream::read_chunk`].
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_chunk(&mut self, most: usize, ordered: bool) -> Result<Option<Chunk>, ReadError> {
        let chunk = self.inner.read_chunk(most, ordered).await?;
        self.count(chunk.as_ref().map_or(0, |chunk| chunk.bytes.len()));
        Ok(chunk)
    }

    /// What came, in order, in place of what is in `chunks`; nothing at the end of the stream. While nothing comes,
    /// `chunks` takes no memory.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_chunks(&mut self, chunks: &mut Vec<Bytes>) -> Result<(), ReadError> {
        let inner = &mut self.inner;
        chunks.clear();
        poll_fn(|cx| {
            let mut room = [const { Bytes::new() }; CHUNKS];
            // quinn keeps whom to wake, not the future.
            let read = pin!(inner.read_chunks(&mut room)).poll(cx)?;
            match read {
                Poll::Ready(count) => chunks.extend(room.into_iter().take(count.unwrap_or_default())),
                Poll::Pending => *chunks = Vec::new(),
            }
            read.map(|_| Ok::<_, ReadError>(()))
        })
        .await?;
        self.count(chunks.iter().map(Bytes::len).sum());
        Ok(())
    }

    /// Counts what was read: the peer may send as much again.
    fn count(&self, bytes: usize) {
        if let Some(place) = &self.place {
            place.read(bytes);
        }
    }
}

impl Deref for SendStream {
    type Target = quinn::SendStream;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl DerefMut for SendStream {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}

impl Deref for RecvStream {
    type Target = quinn::RecvStream;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl DerefMut for RecvStream {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = AsyncRead::poll_read(Pin::new(&mut self.inner), cx, buf);
        self.count(buf.filled().len() - before);
        read
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_bytes(cx, buf).map_err(io::Error::from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_comes_back_with_rest() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut allowance = Allowance { left: ALLOWANCE, rested_since: Some(start) };
        allowance.begin(at(0));
        allowance.spend(&Poll::Ready(Ok(ALLOWANCE)));
        assert_eq!(allowance.of(100), 0);
        // A write that waits is none that rests.
        allowance.begin(at(500));
        assert_eq!(allowance.left, 0);
        allowance.rested_since = Some(at(500));
        allowance.begin(at(525));
        assert_eq!(allowance.left, ALLOWANCE / 4);
        assert_eq!((allowance.of(100), allowance.of(1 << 20)), (100, ALLOWANCE / 4));
        allowance.left = 50;
        assert_eq!((allowance.of(50), allowance.of(51)), (50, 0));
        allowance.rested_since = Some(at(525));
        allowance.begin(at(9_000));
        assert_eq!(allowance.left, ALLOWANCE);
    }
}
