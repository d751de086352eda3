//! As much of HTTP/1.1 as a demonstration needs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::whoami::Whoami;

/// Longest request head.
const HEAD: u64 = 8 * 1024;
/// Bytes are made in pieces of this size.
const PIECE: usize = 64 * 1024;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// `/`: who answers.
    Who,
    /// `/bytes/N`: N bytes.
    Bytes(u64),
    /// `POST /bytes`: how many bytes its body has.
    Count,
    /// `/healthz`.
    Health,
    /// Anything else.
    Nothing,
}

/// Answers one request and closes.
pub(crate) fn answer(stream: &mut TcpStream, client: SocketAddr, whoami: &Whoami) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let Some((asked, length)) = read_head(&mut reader)? else { return Ok(()) };
    match asked {
        Asked::Count => {
            let counted = io::copy(&mut reader.take(length), &mut io::sink())?;
            reply(stream, "200 OK", "text/plain", format!("{counted}\n").as_bytes())
        }
        Asked::Who => reply(stream, "200 OK", "application/json", whoami.json(client).as_bytes()),
        Asked::Health => reply(stream, "200 OK", "text/plain", b"ok\n"),
        Asked::Nothing => {
            reply(stream, "404 Not Found", "text/plain", b"there are /, /healthz, /bytes/N and POST /bytes\n")
        }
        Asked::Bytes(count) => send_bytes(stream, count),
    }
}

/// What is asked for, and the length of the body; `None` where the client left without a word.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<(Asked, u64)>> {
    let mut head = reader.take(HEAD);
    let mut first = String::new();
    if head.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut length = 0;
    let mut line = String::new();
    // The head is read to its end, so that closing resets nothing.
    while head.read_line(&mut line)? > 0 && line.trim_end() != "" {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    Ok(Some((parse(&first), length)))
}

fn parse(request_line: &str) -> Asked {
    let mut words = request_line.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    match (method, path, path.strip_prefix("/bytes/").map(str::parse)) {
        ("POST", "/bytes", _) => Asked::Count,
        ("POST", ..) => Asked::Nothing,
        (_, _, Some(Ok(count))) => Asked::Bytes(count),
        (_, "/", _) => Asked::Who,
        (_, "/healthz", _) => Asked::Health,
        _ => Asked::Nothing,
    }
}

fn reply(stream: &mut TcpStream, status: &str, kind: &str, body: &[u8]) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)
}

fn send_bytes(stream: &mut TcpStream, count: u64) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {count}\r\n\
         Connection: close\r\n\r\n"
    )?;
    // Readable, so that a capture on the way shows at once whether it was encrypted.
    let piece = b"edgeloom ".repeat(PIECE / 9);
    let mut left = count;
    while left > 0 {
        let length = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&piece[..length])?;
        left -= length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_ends_where_the_body_begins() {
        let mut request = &b"POST /bytes HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"[..];
        assert_eq!(read_head(&mut request).unwrap(), Some((Asked::Count, 3)));
        assert_eq!(request, b"abc");
        assert_eq!(read_head(&mut &b""[..]).unwrap(), None);
    }

    #[test]
    fn paths_are_told_apart() {
        assert_eq!(parse("GET / HTTP/1.1\r\n"), Asked::Who);
        assert_eq!(parse("GET /bytes/100000000 HTTP/1.1"), Asked::Bytes(100_000_000));
        assert_eq!(parse("GET /bytes/-1 HTTP/1.1"), Asked::Nothing);
        assert_eq!(parse("GET /healthz HTTP/1.1"), Asked::Health);
        assert_eq!(parse("POST /bytes HTTP/1.1"), Asked::Count);
        assert_eq!(parse("POST / HTTP/1.1"), Asked::Nothing);
        assert_eq!(parse(""), Asked::Nothing);
    }
}
