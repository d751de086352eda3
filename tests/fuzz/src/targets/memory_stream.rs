//! A stream whose other end is memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads give the bytes it was made of, and then the end; what is written is kept. Neither ever waits.
#[derive(Debug)]
pub(super) struct MemoryStream {
    input: Vec<u8>,
    read: usize,
    /// No read goes past so many bytes and begins before them: what follows comes later.
    first: usize,
    pub(super) written: Vec<u8>,
    /// Changes the input by what was written until the first read: an answer that depends on its request.
    answer: fn(&mut [u8], &[u8]),
}

impl MemoryStream {
    /// Of two parts, the second of which comes later than the first.
    pub(super) fn new(first: &[u8], second: &[u8]) -> Self {
        let input = [first, second].concat();
        Self { input, read: 0, first: first.len(), written: Vec::new(), answer: |_, _| {} }
    }

    pub(super) fn answering(self, answer: fn(&mut [u8], &[u8])) -> Self {
        Self { answer, ..self }
    }
}

/// What comes of reading from memory.
pub(super) fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory never waits")
}

impl AsyncRead for MemoryStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read == 0 {
            (this.answer)(&mut this.input, &this.written);
        }
        let end = if this.read < this.first { this.first } else { this.input.len() };
        let rest = &this.input[this.read..end];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        this.read += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
