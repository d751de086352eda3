//! Dialling: TLS on the overlay's port and WebSockets on theirs, a little after each other, and the first to be up
//! wins.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::link::{self, Io};
use super::websocket::{self, Purpose};
use crate::config::Carriers;
use crate::identity::{Guard, JOIN_ALPN, disguised_client_config};
use crate::status::DirectKind;

/// How long one way is tried alone (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// How long one way may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Name in the TLS handshake of carriers; it is not sent.
const SERVER_NAME: &str = "edgeloom";

/// One way to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Tls(SocketAddr),
    WebSocket(SocketAddr),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Tls(address) => write!(f, "tcp {address}"),
            Way::WebSocket(address) => write!(f, "wss {address}"),
        }
    }
}

/// TLS to every address first, for it costs least; then WebSockets.
pub(crate) fn ways(addresses: &[SocketAddr], config: &Carriers) -> Vec<Way> {
    let mut ways: Vec<Way> = addresses.iter().copied().map(Way::Tls).collect();
    for address in addresses {
        let way = Way::WebSocket(SocketAddr::new(address.ip(), config.websocket_port));
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    ways
}

/// A carrier about to be one.
pub(crate) struct Dialled {
    pub(crate) stream: Io,
    pub(crate) remote: SocketAddr,
    pub(crate) kind: DirectKind,
}

impl fmt::Debug for Dialled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dialled({} {})", self.kind.as_str(), self.remote)
    }
}

/// What a WebSocket's challenge is answered with; `None` for who joins and is not asked.
pub(crate) type Attach<'a> = Option<&'a (dyn Fn([u8; 16]) -> Option<Vec<u8>> + Sync)>;

/// Tries `ways`; `tls` is the configuration for those over TLS alone.
///
/// # Errors
/// What each way failed with, in one text.
pub(crate) async fn dial(
    ways: Vec<Way>,
    tls: Arc<rustls::ClientConfig>,
    config: &Carriers,
    attach: Attach<'_>,
) -> Result<Dialled, String> {
    let mut running = FuturesUnordered::new();
    let mut ways = ways.into_iter();
    let mut failures = Vec::new();
    loop {
        if let Some(way) = ways.next() {
            let tls = tls.clone();
            running.push(async move {
                let tried = tokio::time::timeout(PATIENCE, attempt(way, tls, config, attach)).await;
                tried.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| (way, error))
            });
        } else if running.is_empty() {
            return Err(failures.join("; "));
        }
        let stagger = if ways.len() > 0 { STAGGER } else { PATIENCE };
        tokio::select! {
            Some(ended) = running.next() => match ended {
                Ok(dialled) => return Ok(dialled),
                Err((way, error)) => failures.push(format!("{way}: {error}")),
            },
            () = tokio::time::sleep(stagger) => {}
        }
    }
}

async fn attempt(
    way: Way,
    tls: Arc<rustls::ClientConfig>,
    config: &Carriers,
    attach: Attach<'_>,
) -> io::Result<Dialled> {
    match way {
        Way::Tls(address) => {
            let tcp = connect(address).await?;
            let name = ServerName::try_from(SERVER_NAME).expect("the constant is a name");
            let stream = Box::new(TlsConnector::from(tls).connect(name, tcp).await?);
            Ok(Dialled { stream, remote: address, kind: DirectKind::Tcp })
        }
        Way::WebSocket(address) => {
            let tcp = match config.proxy.as_ref().filter(|proxy| proxy.leads_to(&address)) {
                Some(proxy) => proxy.connect(address).await?,
                None => connect(address).await?,
            };
            let stream = web(tcp, address, attach).await?;
            Ok(Dialled { stream, remote: address, kind: DirectKind::Wss })
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    link::tune(&tcp);
    Ok(tcp)
}

/// The WebSocket, with the relay's challenge answered.
async fn web(tcp: TcpStream, address: SocketAddr, attach: Attach<'_>) -> io::Result<Io> {
    let disguise = disguised_client_config(websocket::ALPN).map_err(io::Error::other)?;
    let name = ServerName::IpAddress(address.ip().into());
    let tls = TlsConnector::from(Arc::new(disguise)).connect(name, tcp).await?;
    let purpose = if attach.is_some() { Purpose::Carry } else { Purpose::Join };
    let mut stream = websocket::client(tls, &address.to_string(), purpose).await?;
    if let Some(attach) = attach {
        let challenge = link::read_frame(&mut stream).await?;
        let challenge = challenge.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let frame = attach(challenge).ok_or_else(|| io::Error::other("this node has no credential"))?;
        link::write_frame(&mut stream, &frame).await?;
    }
    Ok(Box::new(stream))
}

/// TLS for carriers to `relay`, or to whoever serves joining.
pub(crate) fn tls(
    guard: &Guard,
    relay: Option<libp2p::PeerId>,
) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    let alpn = if relay.is_some() { super::ALPN } else { JOIN_ALPN };
    Ok(Arc::new(guard.client_config(alpn, relay)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[test]
    fn the_cheapest_ways_come_first() {
        let addresses = ["192.0.2.1:20006".parse().unwrap(), "[2001:db8::1]:20006".parse().unwrap()];
        let order: Vec<String> = ways(&addresses, &Carriers::default()).iter().map(Way::to_string).collect();
        assert_eq!(
            order,
            ["tcp 192.0.2.1:20006", "tcp [2001:db8::1]:20006", "wss 192.0.2.1:443", "wss [2001:db8::1]:443"]
        );
    }

    #[tokio::test]
    async fn every_failure_is_told() {
        let closed = edgeloom_ports::free();
        let guard = Guard::new(Arc::new(Identity::generate().unwrap()), None, None).unwrap();
        let ways = vec![Way::Tls(closed), Way::WebSocket(closed)];
        let error = dial(ways, tls(&guard, None).unwrap(), &Carriers::default(), None).await.unwrap_err();
        assert!(error.contains(&format!("tcp {closed}: ")) && error.contains("wss"), "{error}");
    }
}
