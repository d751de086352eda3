//! The reading side of a session, which ends where the node is silent for too long.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Silence after which a node is gone: as long as its Lease stands. It says every twenty seconds at the latest that
/// it is well, and one that is slow to say much is heard by each part of it.
pub(super) const SILENCE: Duration = Duration::from_secs(40);

/// Fails with [`io::ErrorKind::TimedOut`] when nothing came for [`SILENCE`].
pub(super) struct Listener<R> {
    inner: R,
    patience: Pin<Box<Sleep>>,
}

impl<R> Listener<R> {
    /// Listens from now on.
    pub(super) fn new(inner: R) -> Self {
        Self { inner, patience: Box::pin(tokio::time::sleep(SILENCE)) }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Listener<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if polled.is_ready() {
            self.patience.as_mut().reset(Instant::now() + SILENCE);
            return polled;
        }
        self.patience.as_mut().poll(cx).map(|()| {
            let silent = format!("nothing was heard of the node for {} s", SILENCE.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, silent))
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_byte_is_a_sign_of_life_and_silence_is_the_end() {
        let (mut node, hub) = tokio::io::duplex(64);
        let mut listener = Listener::new(hub);
        let said = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(35)).await;
                node.write_all(b"x").await.unwrap();
            }
            Instant::now()
        };
        let heard = async {
            let mut byte = [0; 1];
            for _ in 0..3 {
                listener.read_exact(&mut byte).await.unwrap();
            }
            (listener.read_exact(&mut byte).await.unwrap_err().kind(), Instant::now())
        };
        let (last, (error, ended)) = tokio::join!(said, heard);
        assert_eq!(error, io::ErrorKind::TimedOut);
        let silence = ended - last;
        assert!(silence >= SILENCE && silence < SILENCE + Duration::from_secs(1), "{silence:?}");
    }
}
