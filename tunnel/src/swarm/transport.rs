//! libp2p's transport over the second endpoint of the shared socket.
//!
//! One listener that is there from the start; its addresses are those that the interfaces have. Dials leave by the
//! shared socket, except those that ask for a new port (AutoNAT's, which must not come from where the NAT's hole
//! is).

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use libp2p::PeerId;
use libp2p::core::multiaddr::Protocol;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::core::{Endpoint as Role, Multiaddr, Transport};
use quinn::{EndpointConfig, TokioRuntime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::ReusableBoxFuture;

use super::Surroundings;
use super::muxer::Muxer;
use crate::identity::{Admitted, Guard, Refusal};
use crate::metrics::Metrics;
use crate::share::{Share, Shares};
use crate::socket::{Guest, Guests, Libp2pSocket, Mark};

const ALPN: &[u8] = b"libp2p";
const SERVER_NAME: &str = "edgeloom";
/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Handshakes at the same time that others begin, and of them from one source: a site's NAT stands before many nodes.
const HANDSHAKES: usize = 256;
const HANDSHAKES_PER_SOURCE: usize = 64;
/// Streams of a connection: signalling only.
const STREAMS: u32 = 32;

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("handshake: {0}")]
    Handshake(#[from] quinn::ConnectionError),
    #[error("dial: {0}")]
    Dial(#[from] quinn::ConnectError),
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
    #[error("the handshake took too long")]
    TimedOut,
    #[error("no role but that of a dialler is known here")]
    Role,
}

/// A handshake's place, and its share of a source's.
type Place = (Share, OwnedSemaphorePermit);
type Connected = Result<(PeerId, Muxer), Failure>;

/// The transport.
pub(crate) struct Quic {
    guard: Guard,
    endpoint: quinn::Endpoint,
    incoming: BoxStream<'static, quinn::Incoming>,
    surroundings: watch::Receiver<Surroundings>,
    changed: ReusableBoxFuture<'static, bool>,
    listener: Option<ListenerId>,
    announced: Vec<SocketAddr>,
    metrics: Metrics,
    guests: Guests,
    /// Places for handshakes that others begin.
    places: Arc<Semaphore>,
    shares: Shares,
}

impl Quic {
    pub(super) fn new(
        guard: &Guard,
        socket: Arc<Libp2pSocket>,
        surroundings: watch::Receiver<Surroundings>,
        metrics: Metrics,
    ) -> Result<Self, Failure> {
        let mut server = quinn::ServerConfig::with_crypto(guard.quic_server_config(&[ALPN])?);
        server.transport_config(Arc::new(transport_config()));
        let guests = socket.0.table.guests.clone();
        let runtime = Arc::new(TokioRuntime);
        let endpoint =
            quinn::Endpoint::new_with_abstract_socket(endpoint_config(), Some(server), socket, runtime)?;
        let incoming = futures::stream::unfold(endpoint.clone(), |endpoint| async move {
            Some((endpoint.accept().await?, endpoint))
        });
        Ok(Self {
            guard: guard.clone(),
            endpoint,
            incoming: Box::pin(incoming),
            changed: ReusableBoxFuture::new(wait(surroundings.clone())),
            surroundings,
            listener: None,
            announced: Vec::new(),
            metrics,
            guests,
            places: Arc::new(Semaphore::new(HANDSHAKES)),
            shares: Shares::new(HANDSHAKES_PER_SOURCE),
        })
    }

    /// A place for the handshake of who shows that it receives where it says it is.
    fn seat(&self, incoming: quinn::Incoming) -> Option<(quinn::Incoming, Place)> {
        if !incoming.remote_address_validated() {
            let _ = incoming.retry();
            return None;
        }
        let share = self.shares.take(incoming.remote_address().ip());
        let Some(place) = share.zip(self.places.clone().try_acquire_owned().ok()) else {
            self.metrics.links.refused.with_label_values(&["busy"]).inc();
            incoming.refuse();
            return None;
        };
        Some((incoming, place))
    }

    /// The next address that came or went.
    fn next_address(
        &mut self,
        listener_id: ListenerId,
    ) -> Option<TransportEvent<BoxFuture<'static, Connected>, Failure>> {
        let wanted = self.surroundings.borrow().local.clone();
        if let Some(index) = self.announced.iter().position(|known| !wanted.contains(known)) {
            let listen_addr = multiaddr(&self.announced.swap_remove(index));
            return Some(TransportEvent::AddressExpired { listener_id, listen_addr });
        }
        let fresh = wanted.into_iter().find(|address| !self.announced.contains(address))?;
        self.announced.push(fresh);
        Some(TransportEvent::NewAddress { listener_id, listen_addr: multiaddr(&fresh) })
    }
}

impl Transport for Quic {
    type Output = (PeerId, Muxer);
    type Error = Failure;
    type ListenerUpgrade = BoxFuture<'static, Connected>;
    type Dial = BoxFuture<'static, Connected>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Failure>> {
        if socket_address(&address).is_none() || self.listener.is_some() {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        self.listener = Some(id);
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let known = self.listener == Some(id);
        if known {
            self.listener = None;
        }
        known
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<Failure>> {
        let to = socket_address(&address).filter(|to| to.port() != 0 && !to.ip().is_unspecified());
        let Some(to) = to else { return Err(TransportError::MultiaddrNotSupported(address)) };
        if options.role == Role::Listener {
            return Err(TransportError::Other(Failure::Role));
        }
        let expected = address.iter().find_map(|part| match part {
            Protocol::P2p(peer) => Some(peer),
            _ => None,
        });
        let guard = self.guard.clone();
        let shared =
            (options.port_use == PortUse::Reuse).then(|| (self.endpoint.clone(), self.guests.admit(to)));
        Ok(Box::pin(async move {
            let (endpoint, guest) = match shared {
                Some((endpoint, guest)) => (endpoint, Some(guest)),
                None => (new_port(to.ip())?, None),
            };
            let mut client = quinn::ClientConfig::new(guard.quic_client_config(ALPN, expected)?);
            client.transport_config(Arc::new(transport_config()));
            client.initial_dst_cid_provider(Arc::new(|| Mark::Libp2p.connection_id()));
            finish(guard, endpoint.connect_with(client, to, SERVER_NAME)?, guest).await
        }))
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Failure>> {
        let Some(listener_id) = self.listener else { return Poll::Pending };
        while let Poll::Ready(alive) = self.changed.poll(cx) {
            if !alive {
                return Poll::Pending;
            }
            // A clone has seen what this one has: without the mark it would be changed for ever.
            self.surroundings.mark_unchanged();
            let next = wait(self.surroundings.clone());
            self.changed.set(next);
        }
        if let Some(event) = self.next_address(listener_id) {
            return Poll::Ready(event);
        }
        while let Poll::Ready(Some(incoming)) = self.incoming.as_mut().poll_next(cx) {
            if let Some((incoming, place)) = self.seat(incoming) {
                let guard = self.guard.clone();
                let guest = self.guests.admit(incoming.remote_address());
                let send_back_addr = multiaddr(&incoming.remote_address());
                let local = self.announced.first().copied();
                let local_addr =
                    multiaddr(&local.unwrap_or_else(|| SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))));
                let upgrade = Box::pin(async move {
                    let connected = finish(guard, incoming.accept()?, Some(guest)).await;
                    drop(place);
                    connected
                });
                return Poll::Ready(TransportEvent::Incoming {
                    listener_id,
                    upgrade,
                    local_addr,
                    send_back_addr,
                });
            }
        }
        Poll::Pending
    }
}

async fn wait(mut surroundings: watch::Receiver<Surroundings>) -> bool {
    surroundings.changed().await.is_ok()
}

/// Completes a handshake and lets only members through.
async fn finish(guard: Guard, connecting: quinn::Connecting, guest: Option<Guest>) -> Connected {
    let connection = tokio::time::timeout(PATIENCE, connecting).await.map_err(|_| Failure::TimedOut)??;
    match guard.admit(&connection) {
        Ok(Admitted::Member(member)) => Ok((member.peer, Muxer::new(connection, guest))),
        Ok(Admitted::Joiner(_)) => Err(Refusal::Protocol.into()),
        Err(refusal) => {
            connection.close(1u32.into(), refusal.to_string().as_bytes());
            Err(refusal.into())
        }
    }
}

/// An endpoint with a port of its own, which ends with its connection.
fn new_port(to: IpAddr) -> io::Result<quinn::Endpoint> {
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    quinn::Endpoint::new(endpoint_config(), None, socket, Arc::new(TokioRuntime))
}

fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.cid_generator(|| Box::new(Mark::Libp2p));
    config.grease_quic_bit(false);
    config
}

fn transport_config() -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS.into())
        .max_concurrent_uni_streams(0u32.into())
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(None);
    transport
}

/// `/ip4/…/udp/…/quic-v1`.
pub(super) fn multiaddr(address: &SocketAddr) -> Multiaddr {
    let ip = address.ip().to_canonical();
    Multiaddr::from(ip).with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
}

/// The address in `/ip4/…/udp/…/quic-v1`, with or without a peer id behind.
pub(super) fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let (Protocol::Udp(port), Protocol::QuicV1) = (parts.next()?, parts.next()?) else { return None };
    match parts.next() {
        None | Some(Protocol::P2p(_)) => Some(SocketAddr::new(ip, port)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_there_and_back() {
        for text in ["192.0.2.1:20006", "[2001:db8::1]:443"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(socket_address(&multiaddr(&address)), Some(address));
        }
        let peer = format!("/ip4/192.0.2.1/udp/1/quic-v1/p2p/{}", PeerId::random());
        assert!(socket_address(&peer.parse().unwrap()).is_some());
        for other in ["/ip4/192.0.2.1/tcp/1", "/dns/x/udp/1/quic-v1", "/ip4/192.0.2.1/udp/1"] {
            assert_eq!(socket_address(&other.parse().unwrap()), None, "{other}");
        }
    }
}
