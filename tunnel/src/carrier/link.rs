//! Moving records: from the queue into the stream, from the stream to whoever takes batches of frames.

use std::io;
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::queue::Queue;
use super::record::{self, Records};

/// Nothing came for this long, although the node at one end probes every 25 s: the carrier is dead.
const SILENT: Duration = Duration::from_secs(90);
/// What was sent is not acknowledged for this long: the carrier is dead.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// Bytes that the kernel holds unsent: it must not queue for seconds what the queue before it bounds.
const UNSENT: u32 = 128 << 10;
/// Bytes of a buffer that are kept when little is written.
const SPARE: usize = 64 << 10;
/// How long a carrier that outruns the endpoint waits.
const PAUSE: Duration = Duration::from_millis(1);

/// A stream that carries.
pub trait ReadWrite: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> ReadWrite for S {}

/// Any such stream.
pub(crate) type Io = Box<dyn ReadWrite>;

/// Sets a connection up to carry: at once, and with little in the kernel.
pub(crate) fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // Each costs speed or patience where the system refuses it, nothing else.
    let _ = stream.set_nodelay(true);
    let _ = socket.set_tcp_notsent_lowat(UNSENT);
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
}

/// Counts the bytes of carriers of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pub(crate) sent: IntCounter,
    pub(crate) received: IntCounter,
}

impl Meter {
    /// One that nobody reads.
    pub(crate) fn uncounted() -> Self {
        let counter =
            || IntCounter::new("uncounted", "Nobody reads it.").expect("the constants are a metric");
        Self { sent: counter(), received: counter() }
    }
}

/// Who takes what comes.
pub(crate) trait Deliver: Send {
    /// Most frames in one batch.
    fn most(&self) -> usize;

    /// Takes frames of `stride` bytes, the last perhaps shorter. False if the next should wait a little.
    fn deliver(&mut self, batch: &mut [u8], stride: usize) -> bool;
}

/// Carries until the stream ends.
pub(crate) async fn run<S: ReadWrite>(
    stream: S,
    queue: &Queue,
    to: &mut impl Deliver,
    meter: &Meter,
) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(stream);
    tokio::select! {
        ended = read(reader, to, &meter.received) => ended,
        ended = write(writer, queue, &meter.sent) => ended,
    }
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    to: &mut impl Deliver,
    received: &IntCounter,
) -> io::Result<()> {
    let mut records = Records::new();
    let mut batch = Vec::new();
    loop {
        let read = tokio::time::timeout(SILENT, reader.read(records.space())).await;
        let count = read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if count == 0 {
            return Ok(());
        }
        records.filled(count);
        received.inc_by(count as u64);
        while let Some(stride) = records.batch(&mut batch, to.most()).map_err(io::Error::other)? {
            if !to.deliver(&mut batch, stride) {
                // TCP tells the other end, whose queue is where frames are dropped.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, queue: &Queue, sent: &IntCounter) -> io::Result<()> {
    let mut batch = Vec::new();
    loop {
        batch.clear();
        queue.take(&mut batch).await;
        let begun = Instant::now();
        writer.write_all(&batch).await?;
        writer.flush().await?;
        queue.wrote(batch.len(), begun.elapsed());
        sent.inc_by(batch.len() as u64);
        if batch.len() < batch.capacity() / 4 {
            // A burst is over; a relay has many carriers.
            batch.shrink_to(SPARE);
        }
    }
}

/// Writes one frame before the carrier runs.
pub(crate) async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(frame.len() + 2);
    if !record::put(&mut bytes, frame) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// Reads one frame before the carrier runs, and no byte behind it.
///
/// # Errors
/// If the stream fails or ends, or announces a frame of a length that there is not.
pub async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length == 0 || length > record::MAX_FRAME {
        return Err(io::Error::other(record::BadLength(length)));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Collect(mpsc::Sender<Vec<u8>>);

    impl Deliver for Collect {
        fn most(&self) -> usize {
            4
        }

        fn deliver(&mut self, batch: &mut [u8], stride: usize) -> bool {
            for frame in batch.chunks(stride) {
                self.0.send(frame.to_vec()).unwrap();
            }
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_come_out_as_they_went_in_and_the_end_is_noticed() {
        let (near, far) = tokio::io::duplex(100);
        let (collected, frames) = mpsc::channel();
        let receiving = tokio::spawn(async move {
            let silent = Queue::default();
            run(far, &silent, &mut Collect(collected), &Meter::uncounted()).await
        });
        let queue = Queue::default();
        assert_eq!(queue.push(Instant::now(), &[7; 1000], 300, false), 0);
        let meter = Meter::uncounted();
        let (ended, _) = mpsc::channel();
        let mut ended = Collect(ended);
        let sending = run(near, &queue, &mut ended, &meter);
        let _ = tokio::time::timeout(Duration::from_millis(50), sending).await;
        receiving.await.unwrap().unwrap();
        assert_eq!(frames.iter().map(|frame| frame.len()).collect::<Vec<_>>(), [300, 300, 300, 100]);
        assert_eq!(meter.sent.get(), 1000 + 4 * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_to_records_and_a_silent_end_are_left() {
        let (mut near, far) = tokio::io::duplex(100);
        near.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let (collected, _) = mpsc::channel();
        let queue = Queue::default();
        assert!(run(far, &queue, &mut Collect(collected), &Meter::uncounted()).await.is_err());
        let (_near, far) = tokio::io::duplex(100);
        let (collected, _) = mpsc::channel();
        let error = run(far, &queue, &mut Collect(collected), &Meter::uncounted()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
