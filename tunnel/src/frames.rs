//! Messages on a stream: each preceded by its length, 4 bytes, big endian.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Memory taken for a message before its bytes are there: what a peer announces costs it nothing.
const CHUNK: usize = 64 << 10;

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed or ended within a message.
    #[error("the stream broke: {0}")]
    Io(#[from] io::Error),
    /// A message larger than allowed was announced.
    #[error("a message of {announced} bytes was announced, {allowed} are allowed")]
    TooLarge {
        /// Its length.
        announced: usize,
        /// The limit.
        allowed: usize,
    },
}

/// Reads one message of at most `allowed` bytes; `None` where the stream ends between messages.
pub async fn read<R: AsyncRead + Unpin>(
    reader: &mut R,
    allowed: usize,
) -> Result<Option<Vec<u8>>, FrameError> {
    let mut length = [0; 4];
    if reader.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut length[1..]).await?;
    let announced = u32::from_be_bytes(length) as usize;
    if announced > allowed {
        return Err(FrameError::TooLarge { announced, allowed });
    }
    let mut message = Vec::with_capacity(announced.min(CHUNK));
    let read = reader.take(announced as u64).read_to_end(&mut message).await?;
    if read < announced {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Some(message))
}

/// Writes one message.
pub async fn write<W: AsyncWrite + Unpin>(writer: &mut W, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    writer.write_all(&length.to_be_bytes()).await?;
    writer.write_all(message).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_keep_their_bounds() {
        let mut wire = Vec::new();
        for message in [&b"one"[..], b"", &[7; 100_000]] {
            write(&mut wire, message).await.unwrap();
        }
        let mut reader = &wire[..];
        assert_eq!(read(&mut reader, 1 << 20).await.unwrap().unwrap(), b"one");
        assert_eq!(read(&mut reader, 1 << 20).await.unwrap().unwrap(), b"");
        assert_eq!(read(&mut reader, 1 << 20).await.unwrap().unwrap(), [7; 100_000]);
        assert!(read(&mut reader, 1 << 20).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_message_that_is_cut_or_too_large_is_refused() {
        let mut wire = Vec::new();
        write(&mut wire, b"message").await.unwrap();
        for cut in 1..wire.len() {
            assert!(matches!(read(&mut &wire[..cut], 100).await, Err(FrameError::Io(_))), "{cut}");
        }
        assert!(matches!(
            read(&mut &wire[..], 6).await,
            Err(FrameError::TooLarge { announced: 7, allowed: 6 })
        ));
        // Four gigabytes announced and none sent: an error, not an allocation.
        assert!(read(&mut &[0xff, 0xff, 0xff, 0xff, 1][..], usize::MAX).await.is_err());
    }
}
