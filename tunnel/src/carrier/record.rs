//! How frames lie in a byte stream: each behind its length, 2 bytes, big endian. Pure.

/// Longest frame: the largest UDP payload that is received, with a forwarder's header.
pub const MAX_FRAME: usize = 1504;
/// Bytes of a length.
const PREFIX: usize = 2;
/// What is read at once.
const READ: usize = 32 << 10;

/// The other end does not speak in records, or in longer ones than exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes was announced; between 1 and {MAX_FRAME} are allowed")]
pub struct BadLength(pub usize);

/// Appends `frame` to `out`; false, and nothing appended, if no record can hold it.
pub fn put(out: &mut Vec<u8>, frame: &[u8]) -> bool {
    if frame.is_empty() || frame.len() > MAX_FRAME {
        return false;
    }
    out.extend_from_slice(&(frame.len() as u16).to_be_bytes());
    out.extend_from_slice(frame);
    true
}

/// Takes records apart, however the stream was cut. Holds what was read and at most one record that is not whole.
#[derive(Debug)]
pub struct Records {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Records {
    /// Before the first byte of a stream.
    #[expect(
        clippy::new_without_default,
        reason = "it takes a buffer of tens of KiB, and says so by its name"
    )]
    pub fn new() -> Self {
        Self { buffer: vec![0; READ + PREFIX + MAX_FRAME], start: 0, end: 0 }
    }

    /// Where the stream's next bytes go.
    pub fn space(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        &mut self.buffer[self.end..]
    }

    /// So many bytes were put into [`Records::space`].
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.len());
    }

    /// The next whole frame.
    fn peek(&self) -> Result<Option<&[u8]>, BadLength> {
        let bytes = &self.buffer[self.start..self.end];
        let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*prefix));
        if length == 0 || length > MAX_FRAME {
            return Err(BadLength(length));
        }
        Ok(rest.get(..length))
    }

    /// Moves whole frames of one length, the last perhaps shorter and at most `most` of them, into `batch`, as GRO
    /// puts packets into one buffer. Returns their length; `None` if no frame is whole.
    pub fn batch(&mut self, batch: &mut Vec<u8>, most: usize) -> Result<Option<usize>, BadLength> {
        batch.clear();
        let mut stride = None;
        for _ in 0..most.max(1) {
            let frame = match self.peek() {
                Ok(Some(frame)) => frame,
                // What came in front of it is good; the error comes again.
                Err(error) if stride.is_none() => return Err(error),
                _ => break,
            };
            let length = frame.len();
            if stride.is_some_and(|stride| length > stride) {
                break;
            }
            batch.extend_from_slice(frame);
            self.start += PREFIX + length;
            if *stride.get_or_insert(length) > length {
                break;
            }
        }
        Ok(stride)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `stream` in pieces of the lengths in `cuts`, over and over.
    fn read(stream: &[u8], cuts: &[usize], most: usize) -> Result<Vec<Vec<u8>>, BadLength> {
        let (mut records, mut frames, mut batch) = (Records::new(), Vec::new(), Vec::new());
        let mut rest = stream;
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let space = records.space();
            let count = (*cuts.next().unwrap()).clamp(1, space.len()).min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            records.filled(count);
            while let Some(stride) = records.batch(&mut batch, most)? {
                assert!(batch.len() <= most * stride);
                frames.extend(batch.chunks(stride).map(<[u8]>::to_vec));
            }
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..MAX_FRAME), 0..40),
            cuts in prop::collection::vec(1usize..5000, 1..8),
            most in 1usize..64,
        ) {
            let mut stream = Vec::new();
            for frame in &frames {
                prop_assert!(put(&mut stream, frame));
            }
            prop_assert_eq!(read(&stream, &cuts, most), Ok(frames));
        }

        #[test]
        fn arbitrary_streams_are_survived(stream in prop::collection::vec(any::<u8>(), 0..8000), cut in 1usize..900) {
            let _ = read(&stream, &[cut], 64);
        }
    }

    #[test]
    fn every_byte_may_come_alone() {
        let mut stream = Vec::new();
        for frame in [&[1; 100][..], &[2; 100], &[3; 40], &[4; 100]] {
            assert!(put(&mut stream, frame));
        }
        let frames = read(&stream, &[1], 64).unwrap();
        assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 40, 100]);
    }

    #[test]
    fn what_came_in_front_of_a_bad_length_is_delivered_however_the_stream_was_cut() {
        let mut stream = Vec::new();
        assert!(put(&mut stream, &[1; 100]));
        stream.extend_from_slice(&[0, 0]);
        for cut in 1..=stream.len() {
            let (mut records, mut batch, mut frames) = (Records::new(), Vec::new(), Vec::new());
            let refused = stream.chunks(cut).find_map(|piece| {
                records.space()[..piece.len()].copy_from_slice(piece);
                records.filled(piece.len());
                loop {
                    match records.batch(&mut batch, 64) {
                        Ok(Some(_)) => frames.extend_from_slice(&batch),
                        Ok(None) => return None,
                        Err(error) => return Some(error),
                    }
                }
            });
            assert_eq!((refused, &frames[..]), (Some(BadLength(0)), &[1; 100][..]), "cut {cut}");
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        let mut stream = Vec::new();
        assert!(!put(&mut stream, &[]));
        assert!(!put(&mut stream, &[0; MAX_FRAME + 1]));
        assert!(stream.is_empty());
        assert_eq!(read(&[0, 0, 1], &[3], 1), Err(BadLength(0)));
        assert_eq!(read(b"GET / HTTP/1.1\r\n", &[16], 1), Err(BadLength(0x4745)));
    }
}
