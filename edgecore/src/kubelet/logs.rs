//! Container logs in CRI's format: `TIME STREAM TAG CONTENT`, where tag `P` is a part of a line and `F` its end.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// RFC 3339 with nanoseconds.
    pub time: &'a [u8],
    /// `stdout` or `stderr`.
    pub stream: &'a [u8],
    /// Whether the line goes on in the next entry of its stream.
    pub partial: bool,
    /// What was written, without the line's end.
    pub content: &'a [u8],
}

/// Reads a line; `None` where it is not one of this format.
pub fn parse_line(line: &[u8]) -> Option<Entry<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, tags) = (parts.next()?, parts.next()?, parts.next()?);
    let content = parts.next().unwrap_or_default();
    if !matches!(stream, b"stdout" | b"stderr") {
        return None;
    }
    let tag = tags.split(|byte| *byte == b':').next()?;
    let partial = match tag {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Entry { time, stream, partial, content })
}

/// What of a log is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Lines from the end.
    pub tail: Option<usize>,
    /// Entries from this time on.
    pub since: Option<OffsetDateTime>,
    /// Whether each line begins with its time.
    pub timestamps: bool,
    /// Whether to go on with what is written later.
    pub follow: bool,
    /// Bytes of the answer at most.
    pub limit: Option<u64>,
}

/// Turns a log file's bytes into the answer's. Bytes go in as they are read, in pieces of any size.
#[derive(Debug)]
pub struct Filter {
    options: Options,
    left: Option<u64>,
    /// The beginning of a line whose end was not read yet.
    pending: Vec<u8>,
    /// Whether entries are still compared with `since`: they come in order, one that is new ends it.
    searching: bool,
    /// Streams whose line goes on: its next part gets no time.
    open: [bool; 2],
}

impl Filter {
    /// A filter at the beginning of a line.
    pub fn new(options: Options) -> Self {
        let (left, searching) = (options.limit, options.since.is_some());
        Self { options, left, pending: Vec::new(), searching, open: [false; 2] }
    }

    /// Whether the limit is reached: nothing more will come.
    pub fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Adds what `bytes` give to `out`.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !piece.ends_with(b"\n") {
                self.pending.extend_from_slice(piece);
            } else if self.pending.is_empty() {
                self.line(piece, out);
            } else {
                let mut line = std::mem::take(&mut self.pending);
                line.extend_from_slice(piece);
                self.line(&line, out);
            }
        }
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(entry) = parse_line(line) else { return };
        if self.searching && self.is_old(&entry) {
            return;
        }
        self.searching = false;
        let stream = usize::from(entry.stream == b"stderr");
        let continues = std::mem::replace(&mut self.open[stream], entry.partial);
        let from = out.len();
        if self.options.timestamps && !continues {
            out.extend_from_slice(entry.time);
            out.push(b' ');
        }
        out.extend_from_slice(entry.content);
        if !entry.partial {
            out.push(b'\n');
        }
        if let Some(left) = &mut self.left {
            let added = u64::try_from(out.len() - from).unwrap_or(u64::MAX);
            if added > *left {
                out.truncate(from + usize::try_from(*left).unwrap_or(usize::MAX));
            }
            *left = left.saturating_sub(added);
        }
    }

    fn is_old(&self, entry: &Entry<'_>) -> bool {
        let time =
            std::str::from_utf8(entry.time).ok().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
        matches!((time, self.options.since), (Some(time), Some(since)) if time < since)
    }
}

/// Where the last `lines` lines of a file begin, which `read(offset, buffer)` reads from.
pub fn tail_offset(
    length: u64,
    lines: usize,
    mut read: impl FnMut(u64, &mut [u8]) -> std::io::Result<()>,
) -> std::io::Result<u64> {
    const BLOCK: u64 = 16 << 10;
    if lines == 0 {
        return Ok(length);
    }
    let mut found = 0;
    let mut end = length;
    let mut buffer = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        buffer.resize(usize::try_from(end - begin).unwrap_or_default(), 0);
        read(begin, &mut buffer)?;
        for (index, byte) in buffer.iter().enumerate().rev() {
            let position = begin + index as u64;
            // The end of the last line begins none.
            if *byte == b'\n' && position + 1 < length {
                found += 1;
                if found == lines {
                    return Ok(position + 1);
                }
            }
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        for (line, expected) in [
            ("2026-01-01T00:00:00.1Z stdout F hello world\n", Some((false, "hello world"))),
            ("2026-01-01T00:00:00.1Z stderr P part", Some((true, "part"))),
            ("2026-01-01T00:00:00.1Z stdout F \n", Some((false, ""))),
            ("2026-01-01T00:00:00.1Z stdout F:x a", Some((false, "a"))),
            ("2026-01-01T00:00:00.1Z stdin F a", None),
            ("2026-01-01T00:00:00.1Z stdout X a", None),
            ("torn", None),
            ("", None),
        ] {
            let got = parse_line(line.as_bytes()).map(|entry| (entry.partial, entry.content));
            assert_eq!(got, expected.map(|(partial, content)| (partial, content.as_bytes())), "{line}");
        }
    }

    const LOG: &str = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stdout P tw\n\
                       2026-01-01T00:00:01Z stdout F o\n2026-01-01T00:00:02Z stderr F three\n";

    fn filtered(options: Options, piece: usize) -> String {
        let mut filter = Filter::new(options);
        let mut out = Vec::new();
        for piece in LOG.as_bytes().chunks(piece) {
            filter.feed(piece, &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn options() {
        let since = OffsetDateTime::parse("2026-01-01T00:00:01Z", &Rfc3339).unwrap();
        for piece in [1, 7, 1000] {
            assert_eq!(filtered(Options::default(), piece), "one\ntwo\nthree\n");
            assert_eq!(filtered(Options { since: Some(since), ..Options::default() }, piece), "two\nthree\n");
            assert_eq!(filtered(Options { limit: Some(6), ..Options::default() }, piece), "one\ntw");
            assert_eq!(
                filtered(Options { timestamps: true, ..Options::default() }, piece),
                "2026-01-01T00:00:00Z one\n2026-01-01T00:00:01Z two\n2026-01-01T00:00:02Z three\n"
            );
        }
    }

    #[test]
    fn tails() {
        let text = "a\nbb\nccc\n";
        for (lines, expected) in [(0, ""), (1, "ccc\n"), (2, "bb\nccc\n"), (3, text), (9, text)] {
            let read = |offset: u64, buffer: &mut [u8]| {
                let offset = usize::try_from(offset).unwrap();
                buffer.copy_from_slice(&text.as_bytes()[offset..offset + buffer.len()]);
                Ok(())
            };
            let offset = tail_offset(text.len() as u64, lines, read).unwrap();
            assert_eq!(&text[usize::try_from(offset).unwrap()..], expected, "{lines}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(line: Vec<u8>) {
            let _ = parse_line(&line);
        }
    }
}
