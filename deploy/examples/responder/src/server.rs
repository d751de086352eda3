//! Listeners: HTTP, and echo over TCP and UDP.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::http;
use crate::whoami::Whoami;

const HTTP_PORT: u16 = 8080;
const TCP_PORT: u16 = 7000;
const UDP_PORT: u16 = 9000;
/// A client that says nothing for so long is left.
const IDLE: Duration = Duration::from_secs(300);
/// Largest UDP payload.
const DATAGRAM: usize = 65_507;

/// Serves until the process ends.
pub(crate) fn serve() -> Result<(), String> {
    let whoami = Whoami::from_environment();
    let http = bind(HTTP_PORT, TcpListener::bind)?;
    let echo = bind(TCP_PORT, TcpListener::bind)?;
    let datagrams = bind(UDP_PORT, UdpSocket::bind)?;
    println!("responder: HTTP on {HTTP_PORT}, TCP echo on {TCP_PORT}, UDP echo on {UDP_PORT}");
    thread::scope(|scope| {
        scope.spawn(|| accept(&http, &whoami, http::answer));
        scope.spawn(|| accept(&echo, &whoami, echo_lines));
        scope.spawn(|| echo_datagrams(&datagrams, &whoami));
    });
    Ok(())
}

/// Binds to both families, or to IPv4 alone on a host without IPv6.
fn bind<T>(port: u16, bind: impl Fn(SocketAddr) -> io::Result<T>) -> Result<T, String> {
    bind((Ipv6Addr::UNSPECIFIED, port).into())
        .or_else(|_| bind((Ipv4Addr::UNSPECIFIED, port).into()))
        .map_err(|error| format!("cannot listen on port {port}: {error}"))
}

type Answer = fn(&mut TcpStream, SocketAddr, &Whoami) -> io::Result<()>;

fn accept(listener: &TcpListener, whoami: &Whoami, answer: Answer) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else {
            // Out of descriptors, most likely: let some connections end.
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        let whoami = whoami.clone();
        thread::spawn(move || {
            let _ = stream.set_read_timeout(Some(IDLE));
            // A client that leaves in the middle needs no answer.
            let _ = stream.peer_addr().and_then(|client| answer(&mut stream, client, &whoami));
        });
    }
}

/// Echoes what comes, and says who echoes before the first byte.
fn echo_lines(stream: &mut TcpStream, _: SocketAddr, whoami: &Whoami) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    let mut prefix = whoami.prefix();
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(std::mem::take(&mut prefix).as_bytes())?;
        stream.write_all(&buffer[..length])?;
    }
}

fn echo_datagrams(socket: &UdpSocket, whoami: &Whoami) {
    let mut buffer = [0; DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, client)) => {
                let answer = [whoami.prefix().as_bytes(), &buffer[..length]].concat();
                // What cannot be sent back is lost, as datagrams may be.
                let _ = socket.send_to(&answer[..answer.len().min(DATAGRAM)], client);
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}
