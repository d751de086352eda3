//! One message, one answer.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends `message` and prints what comes back; tries every address of the name.
pub(crate) fn call(protocol: &str, target: &str, message: &str) -> Result<(), String> {
    let addresses: Vec<_> = target.to_socket_addrs().map_err(|error| format!("{target}: {error}"))?.collect();
    let mut failure = format!("{target}: no address");
    for address in addresses {
        let answer = match protocol {
            "tcp" => over_tcp(address, message),
            _ => over_udp(address, message),
        };
        match answer {
            Ok(answer) => {
                println!("{}", String::from_utf8_lossy(&answer));
                return Ok(());
            }
            Err(error) => failure = format!("{protocol} {address}: {error}"),
        }
    }
    Err(failure)
}

fn over_tcp(address: SocketAddr, message: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(message.as_bytes())?;
    // The far end must still be able to answer after this.
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn over_udp(address: SocketAddr, message: &str) -> io::Result<Vec<u8>> {
    let local = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(message.as_bytes())?;
    let mut answer = vec![0; 65_507];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}
