//! The way of a flow to another node's agent and back, whatever carries it: a stream of the QUIC connection between
//! the two, or on a LAN a TCP connection with TLS of its own.
//!
//! Both have the same meaning. A half that is dropped before its end is a reset to the other side; on a TCP
//! connection that ends both directions, and carries no [`Code`]: a refusal is told there in the place of
//! [`CONNECTED`](crate::wire::CONNECTED), as the one byte of its side.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use edgeloom_tunnel::{LanRecv, LanSend, LanStream, RecvStream, SendStream, Stream};
use futures::future::Either;
use quinn::{ReadError, VarInt, WriteError};
use tokio::time::timeout;

use crate::wire::Code;

/// First read of an idle connection; doubled while reads fill it.
pub(crate) const SMALL_READ: usize = 4 << 10;
/// Largest read: a few of the largest segments that the kernel hands over at once (64 KiB).
pub(crate) const LARGE_READ: usize = 256 << 10;
/// How long a refusal over TCP waits until the other side has taken it.
const REFUSAL_LIMIT: Duration = Duration::from_secs(2);

/// Why a flow broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The TCP connection on this side failed, mostly by a reset.
    #[error("the connection on this side: {0}")]
    Socket(#[from] io::Error),
    /// The other agent reset or stopped the stream.
    #[error("the other side: {}", .0.as_str())]
    Peer(Code),
    /// The connection between the agents was lost.
    #[error("the tunnel: {0}")]
    Tunnel(String),
}

impl From<ReadError> for Broken {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Peer(Code::from_number(code.into_inner())),
            other => Self::Tunnel(other.to_string()),
        }
    }
}

impl From<WriteError> for Broken {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Peer(Code::from_number(code.into_inner())),
            other => Self::Tunnel(other.to_string()),
        }
    }
}

/// What became of a TCP connection between the agents.
fn lan(error: &io::Error) -> Broken {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => {
            Broken::Peer(Code::Reset)
        }
        _ => Broken::Tunnel(error.to_string()),
    }
}

/// The half towards the peer, reset when dropped unfinished.
pub(crate) struct Outlet {
    send: Sender,
    code: Code,
    finished: bool,
}

enum Sender {
    Quic(SendStream),
    Lan(LanSend),
}

/// The half from the peer, stopped when dropped unread.
pub(crate) struct Inlet {
    recv: Receiver,
    code: Code,
}

enum Receiver {
    Quic(RecvStream),
    Lan(LanReader),
}

/// What a read needs to be as large as what comes.
struct LanReader {
    recv: LanRecv,
    size: usize,
}

/// Both halves of a stream, guarded against being dropped unseen.
pub(crate) fn guarded(stream: Stream) -> (Outlet, Inlet) {
    let code = Code::Leaving;
    let outlet = Outlet { send: Sender::Quic(stream.send), code, finished: false };
    (outlet, Inlet { recv: Receiver::Quic(stream.recv), code })
}

/// Both halves of a TCP connection.
pub(crate) fn guarded_lan(stream: LanStream) -> (Outlet, Inlet) {
    let (send, recv) = stream.split();
    let (code, reader) = (Code::Leaving, LanReader { recv, size: SMALL_READ });
    (Outlet { send: Sender::Lan(send), code, finished: false }, Inlet { recv: Receiver::Lan(reader), code })
}

/// Says no before anything else was said.
pub(crate) async fn refuse(mut outlet: Outlet, mut inlet: Inlet, code: Code) {
    outlet.because(code);
    inlet.because(code);
    let (Sender::Lan(send), Receiver::Lan(reader)) = (&mut outlet.send, &mut inlet.recv) else { return };
    // Closed with bytes unread it would be a reset, which may overtake the byte that says why.
    let told = async {
        send.write_all(&[code.number()]).await?;
        send.finish().await?;
        while reader.read().await?.is_some() {}
        Ok::<(), io::Error>(())
    };
    // Who does not take it is gone, or will learn of a reset.
    let _ = timeout(REFUSAL_LIMIT, told).await;
}

impl Outlet {
    /// Sends some of `bytes`; how many.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        match &mut self.send {
            Sender::Quic(send) => Ok(send.write(bytes).await?),
            Sender::Lan(send) => send.write(bytes).await.map_err(|error| lan(&error)),
        }
    }

    /// Sends all of `bytes`.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        match &mut self.send {
            Sender::Quic(send) => Ok(send.write_all(bytes).await?),
            Sender::Lan(send) => send.write_all(bytes).await.map_err(|error| lan(&error)),
        }
    }

    /// Sends all of `chunk`, without a copy where that can be.
    pub(crate) async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), Broken> {
        match &mut self.send {
            Sender::Quic(send) => Ok(send.write_chunk(chunk).await?),
            Sender::Lan(send) => send.write_all(&chunk).await.map_err(|error| lan(&error)),
        }
    }

    /// Returns when the other side wants no more, though nothing is written.
    pub(crate) fn stopped(&self) -> impl Future<Output = Broken> + Send + use<> {
        match &self.send {
            Sender::Quic(send) => {
                let stopped = send.stopped();
                Either::Left(async move {
                    match stopped.await {
                        Ok(Some(code)) => Broken::Peer(Code::from_number(code.into_inner())),
                        Ok(None) => Broken::Peer(Code::Reset),
                        Err(error) => Broken::Tunnel(error.to_string()),
                    }
                })
            }
            Sender::Lan(send) => {
                let broken = send.broken();
                Either::Right(async move { lan(&broken.await) })
            }
        }
    }

    /// Returns when what carries the stream is gone, though a write waits. A QUIC stream's own calls tell that; a TCP
    /// connection's wait for as long as the kernel sends again.
    pub(crate) fn lost(&self) -> impl Future<Output = Broken> + Send + use<> {
        match &self.send {
            Sender::Quic(_) => Either::Left(std::future::pending()),
            Sender::Lan(send) => {
                let broken = send.broken();
                Either::Right(async move { lan(&broken.await) })
            }
        }
    }

    /// Whether the other host is known to have what was sent. A QUIC stream does not say.
    pub(crate) fn is_heard(&self) -> bool {
        match &self.send {
            Sender::Quic(_) => false,
            Sender::Lan(send) => send.is_heard(),
        }
    }

    /// Ends the data in order.
    pub(crate) async fn finish(&mut self) -> Result<(), Broken> {
        match &mut self.send {
            // It fails only on a stream that was ended already.
            Sender::Quic(send) => drop(send.finish()),
            Sender::Lan(send) => send.finish().await.map_err(|error| lan(&error))?,
        }
        self.finished = true;
        Ok(())
    }

    /// Says why the half is reset, if it is.
    pub(crate) fn because(&mut self, code: Code) {
        self.code = code;
    }
}

impl Inlet {
    /// The first byte; none if the other side ended without one.
    pub(crate) async fn first_byte(&mut self) -> Result<Option<u8>, Broken> {
        Ok(self.read_chunk(1).await?.map(|chunk| chunk[0]))
    }

    /// What came, at most `most` bytes; none at the orderly end.
    pub(crate) async fn read_chunk(&mut self, most: usize) -> Result<Option<Bytes>, Broken> {
        match &mut self.recv {
            Receiver::Quic(recv) => Ok(recv.read_chunk(most, true).await?.map(|chunk| chunk.bytes)),
            Receiver::Lan(reader) => reader.read_most(most).await.map_err(|error| lan(&error)),
        }
    }

    /// What came, in place of what is in `chunks`; nothing at the orderly end. While nothing comes, `chunks` takes no
    /// memory.
    pub(crate) async fn read_chunks(&mut self, chunks: &mut Vec<Bytes>) -> Result<(), Broken> {
        match &mut self.recv {
            Receiver::Quic(recv) => recv.read_chunks(chunks).await?,
            Receiver::Lan(reader) => {
                *chunks = Vec::new();
                chunks.extend(reader.read().await.map_err(|error| lan(&error))?);
            }
        }
        Ok(())
    }

    /// Says why the half is stopped, if it is.
    pub(crate) fn because(&mut self, code: Code) {
        self.code = code;
    }
}

impl LanReader {
    /// As much as came, which makes the next read larger or smaller.
    async fn read(&mut self) -> io::Result<Option<Bytes>> {
        let size = self.size;
        let read = self.read_most(size).await?;
        let count = read.as_ref().map_or(0, Bytes::len);
        if count == size {
            self.size = (size * 2).min(LARGE_READ);
        } else if count < size / 4 {
            self.size = SMALL_READ.max(size / 2);
        }
        Ok(read)
    }

    async fn read_most(&mut self, most: usize) -> io::Result<Option<Bytes>> {
        let bytes = self.recv.read(most).await?;
        Ok((!bytes.is_empty()).then_some(bytes))
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if let (Sender::Quic(send), false) = (&mut self.send, self.finished) {
            let _ = send.reset(number(self.code));
        }
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        if let Receiver::Quic(recv) = &mut self.recv {
            let _ = recv.stop(number(self.code));
        }
    }
}

fn number(code: Code) -> VarInt {
    VarInt::from_u32(code.number().into())
}

const _: () = assert!(VarInt::MAX.into_inner() > u8::MAX as u64, "every code is a valid QUIC error code");
