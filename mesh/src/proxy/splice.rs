//! Bytes between a TCP connection and a stream, both ways, until both have ended.
//!
//! FIN becomes the stream's finish and the other way round, each direction by itself. A reset on either
//! side resets everything. Nothing is buffered here beyond one read: a reader that stops fills the
//! stream's window, then the sockets' buffers, then stops the writer.

use std::io;

use bytes::{Bytes, BytesMut};
use prometheus::IntCounter;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::ends::Socket;
use crate::stream::{Broken, Inlet, LARGE_READ, Outlet, SMALL_READ};
use crate::wire::Code;

/// Chunks that are written at once.
const CHUNKS: usize = 32;

/// Counters of the bytes carried.
#[derive(Clone, Debug)]
pub(super) struct Carried {
    pub(super) sent: IntCounter,
    pub(super) received: IntCounter,
}

/// What is in hand when the copying begins.
#[derive(Default)]
pub(super) struct InHand {
    /// Read from the socket, not yet sent to the stream.
    pub(super) for_stream: Bytes,
    /// Nothing more comes from the socket.
    pub(super) socket_ended: bool,
    /// Read from the stream, not yet written to the socket.
    pub(super) for_socket: Bytes,
}

/// Carries bytes until both directions have ended. On an error both ends are reset as they are dropped.
pub(super) async fn splice(
    mut socket: Socket,
    mut outlet: Outlet,
    mut inlet: Inlet,
    hand: InHand,
    carried: &Carried,
) -> Result<(), Broken> {
    outlet.because(Code::Reset);
    inlet.because(Code::Reset);
    let InHand { for_stream, socket_ended, for_socket } = hand;
    let lost = outlet.lost();
    let up = up(&socket, &mut outlet, for_stream, socket_ended, &carried.sent);
    let down = down(&socket, &mut inlet, for_socket, &carried.received);
    tokio::select! {
        // What has ended in order did so, whatever became of its carrier since.
        biased;
        ended = async { tokio::try_join!(up, down) } => drop(ended?),
        why = lost => return Err(why),
    }
    socket.complete();
    Ok(())
}

/// Socket to stream.
async fn up(
    socket: &Socket,
    outlet: &mut Outlet,
    first: Bytes,
    ended: bool,
    sent: &IntCounter,
) -> Result<(), Broken> {
    if !first.is_empty() {
        outlet.write_chunk(first).await?;
    }
    if !ended {
        copy_up(socket.tcp(), outlet, sent).await?;
    }
    outlet.finish().await
}

async fn copy_up(tcp: &TcpStream, outlet: &mut Outlet, sent: &IntCounter) -> Result<(), Broken> {
    let stopped = outlet.stopped();
    tokio::pin!(stopped);
    let (mut buffer, mut size) = (BytesMut::new(), SMALL_READ);
    loop {
        if buffer.capacity() - buffer.len() < size / 2 {
            buffer.reserve(size);
        }
        match tcp.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                if read >= size / 2 {
                    size = (size * 2).min(LARGE_READ);
                }
                sent.inc_by(read as u64);
                outlet.write_chunk(buffer.split().freeze()).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Nothing is held for a connection that is idle.
                (buffer, size) = (BytesMut::new(), SMALL_READ.max(size / 2));
                tokio::select! {
                    ready = tcp.readable() => ready?,
                    // The other side wants no more: without this, a reset there would go unseen while
                    // the client is silent.
                    why = &mut stopped => return Err(why),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Stream to socket.
async fn down(socket: &Socket, inlet: &mut Inlet, first: Bytes, received: &IntCounter) -> Result<(), Broken> {
    received.inc_by(first.len() as u64);
    write_all(socket.tcp(), &mut [first]).await?;
    let mut chunks = Vec::new();
    loop {
        inlet.read_chunks(&mut chunks).await?;
        if chunks.is_empty() {
            return Ok(socket.finish()?);
        }
        received.inc_by(chunks.iter().map(|chunk| chunk.len() as u64).sum());
        write_all(socket.tcp(), &mut chunks).await?;
    }
}

/// Writes all chunks, as many at a time as the socket takes.
async fn write_all(tcp: &TcpStream, mut chunks: &mut [Bytes]) -> io::Result<()> {
    loop {
        while chunks.first().is_some_and(Bytes::is_empty) {
            chunks = &mut chunks[1..];
        }
        if chunks.is_empty() {
            return Ok(());
        }
        match try_write(tcp, chunks) {
            Ok(written) => advance(chunks, written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tcp.ready(Interest::WRITABLE).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// By itself, so that the list of what is written is not kept while nothing can be.
fn try_write(tcp: &TcpStream, chunks: &[Bytes]) -> io::Result<usize> {
    let mut slices = [io::IoSlice::new(&[]); CHUNKS];
    for (slice, chunk) in slices.iter_mut().zip(chunks) {
        *slice = io::IoSlice::new(chunk);
    }
    tcp.try_write_vectored(&slices[..chunks.len().min(CHUNKS)])
}

fn advance(chunks: &mut [Bytes], mut written: usize) {
    for chunk in chunks {
        let taken = written.min(chunk.len());
        drop(chunk.split_to(taken));
        written -= taken;
    }
}
