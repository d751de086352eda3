//! A proxy as companies have it: CONNECT to port 443 (RFC 9110, section 9.3.6), and nothing else.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::Result;

/// Bytes of a request's head at most.
const HEAD: u64 = 8192;

/// Serves until it is killed.
pub(crate) fn serve(listen: SocketAddr) -> Result<()> {
    for client in TcpListener::bind(listen)?.incoming() {
        let client = client?;
        // A connection that breaks is nobody else's business.
        thread::spawn(move || serve_one(&client));
    }
    Ok(())
}

fn serve_one(mut client: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    let Some(target) = read_target(&mut reader)? else {
        return client.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n");
    };
    let Ok(server) = TcpStream::connect(target) else {
        return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
    };
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    thread::scope(|scope| {
        let up = scope.spawn(|| pass(&mut reader, &server));
        let down = pass(&mut &server, client);
        up.join().unwrap_or(Ok(())).and(down)
    })
}

/// The address after CONNECT, once the head has been read; `None` for what is not let through.
fn read_target(reader: &mut impl io::BufRead) -> io::Result<Option<SocketAddr>> {
    let mut head = io::Read::take(reader, HEAD);
    let mut first = String::new();
    head.read_line(&mut first)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let target = first.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    Ok(target.and_then(|target| target.parse().ok()).filter(|target: &SocketAddr| target.port() == 443))
}

/// Bytes one way, until their end, which is passed on.
fn pass(from: &mut impl io::Read, mut to: &TcpStream) -> io::Result<()> {
    let copied = io::copy(from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    copied.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connect_to_443_is_let_through() {
        let target = |text: &str| read_target(&mut text.as_bytes()).unwrap();
        let head = "CONNECT 203.0.113.10:443 HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(target(head), Some("203.0.113.10:443".parse().unwrap()));
        for text in ["CONNECT 203.0.113.10:20006 HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "", "CONNECT x"]
        {
            assert_eq!(target(text), None, "{text:?}");
        }
    }
}
