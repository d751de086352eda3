//! Frames on a stream, both ways.

use bytes::{Buf, BytesMut};
use tokio::sync::mpsc;

use crate::stream::{Broken, Inlet, Outlet};
use crate::wire::{Code, Frame, WireError};

/// Most bytes taken from a stream at once.
const READ: usize = 64 << 10;

/// Bytes of frames that are gathered for one write.
const WRITE: usize = 32 << 10;

/// Reads frames from a stream.
pub(super) struct FrameReader {
    inlet: Inlet,
    buffer: BytesMut,
}

/// Why there are no more frames.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the stream: {0}")]
    Stream(#[from] Broken),
    #[error("a frame: {0}")]
    Frame(#[from] WireError),
    #[error("the stream ended within a frame")]
    Short,
}

impl FrameReader {
    /// `buffer` holds what was read of the stream already.
    pub(super) fn new(inlet: Inlet, buffer: BytesMut) -> Self {
        Self { inlet, buffer }
    }

    /// The next frame; `None` at the orderly end.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some((frame, taken)) = Frame::decode(&self.buffer)? {
                self.buffer.advance(taken);
                return Ok(Some(frame));
            }
            match self.inlet.read_chunk(READ).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(FrameError::Short),
            }
        }
    }

    /// Says why the stream is stopped, if it is.
    pub(super) fn because(&mut self, code: Code) {
        self.inlet.because(code);
    }
}

/// Writes frames as they are queued, several at a time where several wait; ends when no more can come.
pub(super) async fn write(outlet: &mut Outlet, queue: &mut mpsc::Receiver<Frame>) -> Result<(), Broken> {
    let mut bytes = Vec::new();
    while let Some(frame) = queue.recv().await {
        frame.encode(&mut bytes);
        while bytes.len() < WRITE {
            let Ok(frame) = queue.try_recv() else { break };
            frame.encode(&mut bytes);
        }
        outlet.write_all(&bytes).await?;
        bytes.clear();
    }
    Ok(())
}
