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
    /// `/healthz`.
    Health,
    /// Anything else.
    Nothing,
}

/// Answers one request and closes.
pub(crate) fn answer(stream: &mut TcpStream, client: SocketAddr, whoami: &Whoami) -> io::Result<()> {
    let Some(asked) = read_head(stream)? else { return Ok(()) };
    match asked {
        Asked::Who => reply(stream, "200 OK", "application/json", whoami.json(client).as_bytes()),
        Asked::Health => reply(stream, "200 OK", "text/plain", b"ok\n"),
        Asked::Nothing => {
            reply(stream, "404 Not Found", "text/plain", b"there are /, /healthz and /bytes/N\n")
        }
        Asked::Bytes(count) => send_bytes(stream, count),
    }
}

fn read_head(stream: &TcpStream) -> io::Result<Option<Asked>> {
    let mut reader = BufReader::new(stream.take(HEAD));
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut line = String::new();
    // The head is read to its end, so that closing resets nothing.
    while reader.read_line(&mut line)? > 0 && line.trim_end() != "" {
        line.clear();
    }
    Ok(Some(parse(&first)))
}

fn parse(request_line: &str) -> Asked {
    let path = request_line.split_whitespace().nth(1).unwrap_or_default();
    match path.strip_prefix("/bytes/").map(str::parse) {
        Some(Ok(count)) => Asked::Bytes(count),
        Some(Err(_)) => Asked::Nothing,
        None if path == "/" => Asked::Who,
        None if path == "/healthz" => Asked::Health,
        None => Asked::Nothing,
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
    fn paths_are_told_apart() {
        assert_eq!(parse("GET / HTTP/1.1\r\n"), Asked::Who);
        assert_eq!(parse("GET /bytes/100000000 HTTP/1.1"), Asked::Bytes(100_000_000));
        assert_eq!(parse("GET /bytes/-1 HTTP/1.1"), Asked::Nothing);
        assert_eq!(parse("GET /healthz HTTP/1.1"), Asked::Health);
        assert_eq!(parse(""), Asked::Nothing);
    }
}
