//! The carrier that passes for a web page's: WebSocket (RFC 6455) over TLS with ALPN `http/1.1`.
//!
//! What stands between may end this TLS, a company's inspecting proxy at one end or a load balancer at the other; a
//! demand for a client certificate would fail there, and the certificate seen is not the relay's. So here TLS is a
//! disguise and proves nothing. Who the node is it proves within: the relay sends a challenge behind its answer to the
//! upgrade, and the node's first frame is a hello, its credential included, sealed for this relay with the challenge in
//! it. That costs no round trip, and nobody else gets a frame carried. That the relay is who it should be its answers to
//! sealed probes show, as on UDP; what is carried was encrypted for the far end already.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{StatusCode, Uri};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config, client_async_with_config};

use super::link::ReadWrite;

/// ALPN in TLS, as a browser's for a WebSocket.
pub(crate) const ALPN: &[u8] = b"http/1.1";
/// Longest message that is sent, and that is taken.
const MESSAGE: usize = 64 << 10;
const MAX_MESSAGE: usize = 256 << 10;

/// What the node asks for, as the path of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To carry for a member.
    Carry,
    /// To join.
    Join,
}

impl Purpose {
    const fn path(self) -> &'static str {
        match self {
            Purpose::Carry => "/carrier/1",
            Purpose::Join => "/join/1",
        }
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(32 << 10)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// Upgrades on the dialling side.
///
/// # Errors
/// If the stream fails, or what comes is no answer to this upgrade.
pub async fn client<S: ReadWrite>(stream: S, host: &str, purpose: Purpose) -> io::Result<ByteStream<S>> {
    let uri = Uri::builder().scheme("wss").authority(host).path_and_query(purpose.path());
    let uri = uri.build().map_err(io::Error::other)?;
    let upgraded = client_async_with_config(uri, stream, Some(config())).await;
    let (socket, _) = upgraded.map_err(io::Error::other)?;
    Ok(ByteStream { socket, left: Bytes::new() })
}

/// Upgrades on the accepting side. A request for anything else gets what a web server says.
///
/// # Errors
/// If the stream fails, or what comes is no request for one of these upgrades.
pub async fn server<S: ReadWrite>(stream: S) -> io::Result<(ByteStream<S>, Purpose)> {
    let mut asked = None;
    let judge = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        let known = [Purpose::Carry, Purpose::Join];
        asked = known.into_iter().find(|purpose| purpose.path() == request.uri().path());
        if asked.is_some() {
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = StatusCode::NOT_FOUND;
        Err(refusal)
    };
    let socket =
        accept_hdr_async_with_config(stream, judge, Some(config())).await.map_err(io::Error::other)?;
    let purpose = asked.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((ByteStream { socket, left: Bytes::new() }, purpose))
}

/// The binary messages of a WebSocket as one stream of bytes; their bounds mean nothing.
#[derive(Debug)]
pub struct ByteStream<S> {
    socket: WebSocketStream<S>,
    /// What was received and not yet read.
    left: Bytes,
}

impl<S: ReadWrite> AsyncRead for ByteStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.left.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.left = bytes,
                None | Some(Ok(Message::Close(_))) => return Poll::Ready(Ok(())),
                // Pings of what stands between are answered by the library.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let count = self.left.len().min(buf.remaining());
        buf.put_slice(&self.left.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: ReadWrite> AsyncWrite for ByteStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut socket = Pin::new(&mut self.socket);
        ready!(socket.as_mut().poll_ready(cx)).map_err(io::Error::other)?;
        let count = buf.len().min(MESSAGE);
        let message = Message::Binary(Bytes::copy_from_slice(&buf[..count]));
        socket.start_send(message).map_err(io::Error::other)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn bytes_go_both_ways_whatever_the_messages() {
        let (near, far) = tokio::io::duplex(1000);
        let serving = tokio::spawn(async move {
            let (mut stream, purpose) = server(far).await.unwrap();
            let mut bytes = vec![0; 200_000];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(&bytes[..10]).await.unwrap();
            stream.flush().await.unwrap();
            (purpose, bytes)
        });
        let mut stream = client(near, "192.0.2.1:443", Purpose::Join).await.unwrap();
        let sent: Vec<u8> = (0..200_000).map(|index| (index % 251) as u8).collect();
        stream.write_all(&sent).await.unwrap();
        stream.flush().await.unwrap();
        let mut back = [0; 10];
        stream.read_exact(&mut back).await.unwrap();
        let (purpose, received) = serving.await.unwrap();
        assert_eq!((purpose, &back[..]), (Purpose::Join, &sent[..10]));
        assert_eq!(received, sent);
    }

    #[tokio::test]
    async fn other_requests_get_what_a_web_server_says() {
        let (mut near, far) = tokio::io::duplex(4000);
        let serving = tokio::spawn(server(far));
        let request = "GET /index.html HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        near.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        near.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 404");
        assert!(serving.await.unwrap().is_err());
    }
}
