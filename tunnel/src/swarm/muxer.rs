//! A QUIC connection as libp2p's stream multiplexer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::StreamMuxer;
use libp2p::core::muxing::StreamMuxerEvent;
use quinn::{ConnectionError, RecvStream, SendStream};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _, TokioAsyncWriteCompatExt as _};

use crate::socket::Guest;

type Halves = Result<(SendStream, RecvStream), ConnectionError>;

/// A connection whose peer was admitted.
pub(crate) struct Muxer {
    connection: quinn::Connection,
    inbound: Option<BoxFuture<'static, Halves>>,
    outbound: Option<BoxFuture<'static, Halves>>,
    closed: Option<BoxFuture<'static, ConnectionError>>,
    /// Of a connection on the shared socket.
    _guest: Option<Guest>,
}

impl Muxer {
    pub(super) fn new(connection: quinn::Connection, guest: Option<Guest>) -> Self {
        Self { connection, inbound: None, outbound: None, closed: None, _guest: guest }
    }
}

fn poll_halves(
    slot: &mut Option<BoxFuture<'static, Halves>>,
    start: impl FnOnce() -> BoxFuture<'static, Halves>,
    cx: &mut Context<'_>,
) -> Poll<Result<Substream, ConnectionError>> {
    let halves = ready!(slot.get_or_insert_with(start).as_mut().poll(cx));
    *slot = None;
    let (send, recv) = halves?;
    Poll::Ready(Ok(Substream { send: send.compat_write(), recv: recv.compat(), closed: false }))
}

impl StreamMuxer for Muxer {
    type Substream = Substream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Substream, ConnectionError>> {
        let connection = self.connection.clone();
        poll_halves(&mut self.inbound, || Box::pin(async move { connection.accept_bi().await }), cx)
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Substream, ConnectionError>> {
        let connection = self.connection.clone();
        poll_halves(&mut self.outbound, || Box::pin(async move { connection.open_bi().await }), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let connection = self.connection.clone();
        let closed = self.closed.get_or_insert_with(|| {
            connection.close(0u32.into(), b"");
            Box::pin(async move { connection.closed().await })
        });
        match ready!(closed.as_mut().poll(cx)) {
            ConnectionError::LocallyClosed => Poll::Ready(Ok(())),
            error => Poll::Ready(Err(error)),
        }
    }

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        Poll::Pending
    }
}

/// One stream of a connection.
pub(crate) struct Substream {
    send: Compat<SendStream>,
    recv: Compat<RecvStream>,
    closed: bool,
}

impl AsyncRead for Substream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.recv).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Substream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // libp2p closes more than once.
        if !self.closed {
            ready!(Pin::new(&mut self.send).poll_close(cx))?;
            self.closed = true;
        }
        Poll::Ready(Ok(()))
    }
}
