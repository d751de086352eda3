//! The accepting side: of carriers, at relays and where nodes join; of flows over TCP, at every node that takes them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Carrier;
use super::keeper::{Parts, carry};
use super::link::{self, Io};
use super::websocket::{self, Purpose};
use crate::connection::Connections;
use crate::engine::Handle;
use crate::engine::carriers::Opened;
use crate::identity::{Admitted, Guard, JOIN_ALPN, Verified};
use crate::lan::{Buffered, LAN_ALPN};
use crate::metrics::Metrics;
use crate::share::Shares;
use crate::socket::Mux;
use crate::status::DirectKind;

/// Handshakes at the same time; the others wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// Of them, from one source: a site's NAT stands before many nodes.
const PER_SOURCE: usize = 64;
/// Hosts that only join, at the same time; of them, from one source; and how long one may stay.
const STRANGERS: usize = 64;
const STRANGERS_PER_SOURCE: usize = 16;
const JOIN_PATIENCE: Duration = Duration::from_secs(90);
/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that wait in the kernel's queue.
const BACKLOG: i32 = 1024;
/// How long is waited after the system refused a connection, for want of descriptors mostly.
const PAUSE: Duration = Duration::from_millis(100);

/// A port at which carriers are taken.
pub(crate) struct Listener {
    /// First, so that it is closed before the socket that the rest holds.
    tcp: TcpListener,
    kind: DirectKind,
    port: Arc<Port>,
}

/// What its carriers are made of.
struct Port {
    tls: TlsAcceptor,
    kind: DirectKind,
    serve_join: bool,
    connections: Arc<Connections>,
    guard: Guard,
    engine: Handle,
    mux: Arc<Mux>,
    metrics: Metrics,
    shares: Shares,
    strangers: Arc<Semaphore>,
    stranger_shares: Shares,
}

/// What a handshake led to.
enum Shaken {
    Carrier(Io, Opened),
    Lan(Box<(TlsStream<Buffered>, Verified)>),
}

/// What a listener is made from.
pub(crate) struct Settings {
    /// Take carriers.
    pub(crate) carriers: bool,
    pub(crate) serve_join: bool,
    /// Take flows of nodes on the LAN.
    pub(crate) lan: bool,
    pub(crate) connections: Arc<Connections>,
    pub(crate) guard: Guard,
    pub(crate) engine: Handle,
    pub(crate) mux: Arc<Mux>,
    pub(crate) metrics: Metrics,
}

impl Listener {
    /// Listens for TLS.
    pub(crate) fn tls(address: SocketAddr, settings: Settings) -> io::Result<Self> {
        let Settings { carriers, serve_join, lan, .. } = settings;
        let offers = [(carriers, super::ALPN), (serve_join, JOIN_ALPN), (lan, LAN_ALPN)];
        let alpns: Vec<&[u8]> = offers.into_iter().filter_map(|(is, alpn)| is.then_some(alpn)).collect();
        let tls = settings.guard.server_config(&alpns).map_err(io::Error::other)?;
        Self::bind(address, DirectKind::Tcp, tls, settings)
    }

    /// Listens for WebSockets over TLS.
    pub(crate) fn websocket(address: SocketAddr, settings: Settings) -> io::Result<Self> {
        let tls = settings.guard.disguised_server_config(&[websocket::ALPN]).map_err(io::Error::other)?;
        Self::bind(address, DirectKind::Wss, tls, settings)
    }

    fn bind(
        address: SocketAddr,
        kind: DirectKind,
        tls: rustls::ServerConfig,
        settings: Settings,
    ) -> io::Result<Self> {
        let Settings { carriers, serve_join, lan, connections, guard, engine, mux, metrics } = settings;
        let tcp = bind(address)?;
        tracing::info!(%address, kind = kind.as_str(), carriers, lan, "listening on TCP");
        let tls = TlsAcceptor::from(Arc::new(tls));
        let (shares, strangers) = (Shares::new(PER_SOURCE), Arc::new(Semaphore::new(STRANGERS)));
        let stranger_shares = Shares::new(STRANGERS_PER_SOURCE);
        let port = Port {
            tls,
            kind,
            serve_join,
            connections,
            guard,
            engine,
            mux,
            metrics,
            shares,
            strangers,
            stranger_shares,
        };
        Ok(Self { tcp, kind, port: Arc::new(port) })
    }

    /// Takes carriers until `stop`; waits for those that it took.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let Self { tcp, kind, port } = self;
        let tasks = TaskTracker::new();
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        while let Some(Ok(permit)) = stop.run_until_cancelled(handshakes.clone().acquire_owned()).await {
            match stop.run_until_cancelled(tcp.accept()).await {
                Some(Ok((stream, remote))) => {
                    tasks.spawn(port.clone().serve(stream, remote, permit, stop.child_token()));
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, kind = kind.as_str(), "a connection could not be taken");
                    tokio::time::sleep(PAUSE).await;
                }
                None => break,
            }
        }
        drop(tcp);
        tasks.close();
        tasks.wait().await;
    }
}

impl Port {
    /// One connection from its handshake to its end.
    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        remote: SocketAddr,
        permit: OwnedSemaphorePermit,
        stop: CancellationToken,
    ) {
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let Some(share) = self.shares.take(remote.ip()) else {
            return self.metrics.links.refused.with_label_values(&["busy"]).inc();
        };
        link::tune(&stream);
        let shaken = tokio::time::timeout(PATIENCE, Box::pin(self.handshake(stream)));
        let Some(shaken) = stop.run_until_cancelled(shaken).await else { return };
        let (stream, opened) = match shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(Shaken::Carrier(stream, opened)) => (stream, opened),
            Ok(Shaken::Lan(shaken)) => {
                let (stream, verified) = *shaken;
                drop((share, permit));
                let slot = {
                    let engine = self.engine.lock();
                    engine.uses_lan_tcp().then(|| engine.slot(&verified.peer))
                };
                let Some(slot) = slot else {
                    return tracing::debug!(%remote, "closed: the site does not allow it now");
                };
                return self.connections.take_lan(stream, verified, slot).await;
            }
            Err(error) => {
                self.metrics.links.refused.with_label_values(&["handshake"]).inc();
                return tracing::debug!(%remote, kind = self.kind.as_str(), %error, "carrier refused");
            }
        };
        drop((share, permit));
        let peer = match &opened {
            Opened::Accepted(verified) => Some(verified.peer),
            _ => None,
        };
        let carrier = Arc::new(Carrier::new(remote, self.kind, peer, stop));
        let parts = Parts { engine: &self.engine, mux: &self.mux, metrics: &self.metrics };
        let running = carry(parts, &carrier, stream, opened);
        if peer.is_some() {
            return running.await;
        }
        let busy = || self.metrics.links.refused.with_label_values(&["busy"]).inc();
        let Some(_share) = self.stranger_shares.take(remote.ip()) else { return busy() };
        let Ok(_stranger) = self.strangers.clone().try_acquire_owned() else { return busy() };
        let limit = async {
            tokio::time::sleep(JOIN_PATIENCE).await;
            carrier.stop.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = running => {}
            () = limit => {}
        }
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<Shaken> {
        if self.kind == DirectKind::Wss {
            let tls = self.tls.accept(stream).await?;
            return self.challenge(tls).await.map(|(stream, opened)| Shaken::Carrier(stream, opened));
        }
        let tls = TlsStream::from(self.tls.accept(Buffered::new(stream)).await?);
        let (_, session) = tls.get_ref();
        let alpn = session.alpn_protocol().ok_or_else(|| io::Error::other("no protocol was asked for"))?;
        let for_flows = alpn == LAN_ALPN;
        match self.guard.admit_tls(alpn, session.peer_certificates().unwrap_or_default()) {
            Ok(Admitted::Member(verified)) if for_flows => Ok(Shaken::Lan(Box::new((tls, verified)))),
            Ok(Admitted::Member(verified)) => {
                Ok(Shaken::Carrier(Box::new(tls), Opened::Accepted(Box::new(verified))))
            }
            Ok(Admitted::Joiner(_)) => Ok(Shaken::Carrier(Box::new(tls), Opened::Joining)),
            Err(refusal) => {
                self.metrics.links.refused.with_label_values(&[refusal.reason()]).inc();
                Err(io::Error::other(refusal.to_string()))
            }
        }
    }

    /// The WebSocket's handshake, in which a member proves itself.
    async fn challenge(&self, tls: impl link::ReadWrite + 'static) -> io::Result<(Io, Opened)> {
        let (mut stream, purpose) = websocket::server(tls).await?;
        if purpose == Purpose::Join {
            return match self.serve_join {
                true => Ok((Box::new(stream), Opened::Joining)),
                false => Err(io::Error::other("nodes do not join here")),
            };
        }
        let challenge: [u8; 16] = rand::random();
        link::write_frame(&mut stream, &challenge).await?;
        let frame = link::read_frame(&mut stream).await?;
        let attached = self.engine.lock().attach(Instant::now(), challenge, &frame);
        let verified = attached.ok_or_else(|| io::Error::other("the node did not prove its credential"))?;
        Ok((Box::new(stream), Opened::Accepted(Box::new(verified))))
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket =
        socket2::Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
