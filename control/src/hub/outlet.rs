//! The sending half of a session's stream, which can be ended with a reason.

use edgeloom_api::hub::{Closing, FromControl};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::session::{Broken, say};

/// A stream, and whether all that was said on it left whole: what comes behind half a message is no message.
pub(super) struct Outlet<W> {
    write: W,
    whole: bool,
}

impl<W: AsyncWrite + Unpin> Outlet<W> {
    pub(super) fn new(write: W) -> Self {
        Self { write, whole: true }
    }

    pub(super) async fn say(&mut self, message: &FromControl) -> Result<(), Broken> {
        self.whole = false;
        say(&mut self.write, message).await?;
        self.whole = true;
        Ok(())
    }

    pub(super) async fn flush(&mut self) -> Result<(), Broken> {
        Ok(self.write.flush().await?)
    }

    /// Says why the stream ends, and ends it.
    pub(super) async fn close(mut self, closing: Closing) -> Result<(), Broken> {
        if self.whole {
            self.say(&closing.into()).await?;
            self.write.shutdown().await?;
        }
        Ok(())
    }
}
