//! Container logs in CRI's format: `TIME STREAM TAG CONTENT`, where tag `P` is a part of a line and `F` its end.

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

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(line: Vec<u8>) {
            let _ = parse_line(&line);
        }
    }
}
