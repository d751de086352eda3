//! Servers and clients, blocking and with a time-out.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::host::Place;

pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// A TCP server in a place that tells each caller its name and the caller's address; until the test ends.
pub(crate) fn serve_tcp(place: &Place, at: SocketAddr, name: &'static str) {
    place.run(|| {
        let listener = TcpListener::bind(at).unwrap();
        thread::spawn(move || greet(&listener, name));
    });
}

pub(crate) fn greet(listener: &TcpListener, name: &str) {
    while let Ok((mut stream, from)) = listener.accept() {
        // A caller that goes away is its own affair.
        write!(stream, "{name} {}", from.ip()).ok();
    }
}

/// A UDP server in a place that answers each datagram with its name and the datagram.
pub(crate) fn serve_udp(place: &Place, at: SocketAddr, name: &'static str) {
    place.run(|| {
        let socket = UdpSocket::bind(at).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let answer = [name.as_bytes(), b" ", &buffer[..length]].concat();
                socket.send_to(&answer, from).ok();
            }
        });
    });
}

/// Connects and returns the peer's address as the client sees it, with what the server said.
pub(crate) fn call_tcp(to: SocketAddr) -> io::Result<(SocketAddr, String)> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok((stream.peer_addr().unwrap_or(to), said))
}

/// Asks with a connected socket.
pub(crate) fn ask_connected(to: SocketAddr, text: &str) -> io::Result<(SocketAddr, String)> {
    let socket = udp(to)?;
    socket.connect(to)?;
    socket.send(text.as_bytes())?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok((socket.peer_addr()?, String::from_utf8_lossy(&buffer[..length]).into_owned()))
}

/// Asks with an unconnected socket, and returns who the answer seems to come from.
pub(crate) fn ask(to: SocketAddr, text: &str) -> io::Result<(SocketAddr, String)> {
    ask_with(&udp(to)?, to, text)
}

pub(crate) fn ask_with(socket: &UdpSocket, to: SocketAddr, text: &str) -> io::Result<(SocketAddr, String)> {
    socket.send_to(text.as_bytes(), to)?;
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((from, String::from_utf8_lossy(&buffer[..length]).into_owned()))
}

/// An unbound UDP socket of the address' family.
pub(crate) fn udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}
