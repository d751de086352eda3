//! The server: sockets in, answers out.
//!
//! One task reads each UDP socket and answers at once what the zone or the cache knows; only questions
//! for upstream servers get a task of their own. Each TCP connection has a task. All of them are bounded
//! in number, belong to one tracker, and end with the cancellation token.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, ResponseCode};
use prometheus::Registry;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address;
use crate::forward::Forwarder;
use crate::message::{self, Asked};
use crate::metrics::{Answerer, Metrics};
use crate::resolve::Resolver;
use crate::transport::{read_frame, write_frame};
use crate::zone::Zone;

/// Questions that wait for upstream servers, at most.
const FORWARDING: usize = 512;
/// TCP connections, at most.
const CONNECTIONS: usize = 128;
/// A TCP connection that asks nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// A socket that fails is tried again after this, so that a failure that stays does not spin.
const PAUSE: Duration = Duration::from_millis(100);
/// Where a host names its upstream servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Where the server listens and whom it asks.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Addresses for UDP and TCP, as 169.254.96.16:53. Those that the host has not got are put on its
    /// loopback interface, and taken away in the end.
    pub listen: Vec<SocketAddr>,
    /// Servers for names that are not the cluster's; none: those of `resolv_conf`.
    pub upstreams: Vec<SocketAddr>,
    /// A resolv.conf(5), read again when it changes. It is never written.
    pub resolv_conf: PathBuf,
}

impl Default for ServerConfig {
    fn default() -> Self {
        let listen = SocketAddr::from(([169, 254, 96, 16], 53));
        Self { listen: vec![listen], upstreams: Vec::new(), resolv_conf: RESOLV_CONF.into() }
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen for DNS on {address}: {source}; is another DNS server running there?")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot add {address} to the loopback interface: {reason}; CAP_NET_ADMIN is needed")]
    Address { address: IpAddr, reason: String },
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    tasks: TaskTracker,
    token: CancellationToken,
    addresses: Vec<SocketAddr>,
    added: Vec<IpAddr>,
}

/// What all tasks share.
#[derive(Debug)]
struct Shared {
    resolver: Resolver,
    metrics: Metrics,
    forwarding: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    token: CancellationToken,
}

impl Server {
    /// Starts to answer. What is put into `zone` later counts from the next question on.
    pub async fn start(
        config: ServerConfig,
        zone: Arc<ArcSwap<Zone>>,
        registry: &Registry,
        token: CancellationToken,
    ) -> Result<Self, ServerError> {
        let mut server = Self {
            tasks: TaskTracker::new(),
            token: token.clone(),
            addresses: Vec::new(),
            added: Vec::new(),
        };
        let mut sockets = Vec::new();
        for address in &config.listen {
            sockets.push(server.bind(*address).await?);
        }
        // After what may fail for now and be tried again.
        let metrics = Metrics::register(registry)?;
        let own = server.addresses.clone();
        let shared = Arc::new(Shared {
            resolver: Resolver::new(
                zone,
                Forwarder::new(config.upstreams, config.resolv_conf, own, metrics.clone()),
                metrics.clone(),
            ),
            metrics,
            forwarding: Arc::new(Semaphore::new(FORWARDING)),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            token,
        });
        for (udp, tcp) in sockets {
            server.tasks.spawn(serve_datagrams(Arc::new(udp), shared.clone(), server.tasks.clone()));
            server.tasks.spawn(serve_connections(tcp, shared.clone(), server.tasks.clone()));
        }
        server.tasks.close();
        Ok(server)
    }

    /// Where it listens; with the port that the kernel chose where none was asked for.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Ends the server; returns when all its tasks have ended and its addresses are gone.
    pub async fn shutdown(self) {
        self.token.cancel();
        self.tasks.wait().await;
        for address in &self.added {
            if let Err(error) = address::remove(*address).await {
                tracing::warn!(%address, %error, "the DNS server's address stays on the loopback interface");
            }
        }
    }

    async fn bind(&mut self, address: SocketAddr) -> Result<(UdpSocket, TcpListener), ServerError> {
        let bound = match bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                let ip = address.ip();
                let added = address::add(ip).await;
                if added.map_err(|e| ServerError::Address { address: ip, reason: e.to_string() })? {
                    self.added.push(ip);
                }
                bind(address).await
            }
            bound => bound,
        };
        let (udp, tcp) = bound.map_err(|source| ServerError::Listen { address, source })?;
        self.addresses.push(udp.local_addr().map_err(|source| ServerError::Listen { address, source })?);
        Ok((udp, tcp))
    }
}

async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind(address).await?;
    let tcp = TcpListener::bind(udp.local_addr()?).await?;
    Ok((udp, tcp))
}

async fn serve_datagrams(socket: Arc<UdpSocket>, shared: Arc<Shared>, tasks: TaskTracker) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let received = tokio::select! {
            () = shared.token.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        match received {
            Ok((length, from)) => serve_datagram(&socket, from, &buffer[..length], &shared, &tasks).await,
            Err(error) => {
                // As after a client has closed its socket; nothing to be done about it.
                tracing::debug!(%error, "a DNS datagram could not be received");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers at once, or leaves it to a task that may wait for upstream servers.
async fn serve_datagram(
    socket: &Arc<UdpSocket>,
    from: SocketAddr,
    packet: &[u8],
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
) {
    let request = match message::read(packet) {
        Asked::Query(request) => request,
        Asked::Wrong(answer) => {
            shared.metrics.answered(Answerer::Nobody, answer.metadata.response_code);
            return reply(socket, from, &answer, message::MAX_DATAGRAM.into()).await;
        }
        Asked::Nothing => return,
    };
    let limit = request.datagram_limit();
    let pending = match shared.resolver.at_once(&request) {
        Ok(answer) => return reply(socket, from, &answer, limit).await,
        Err(pending) => pending,
    };
    let Ok(permit) = shared.forwarding.clone().try_acquire_owned() else {
        shared.metrics.rejected.inc();
        return reply(socket, from, &request.failure(ResponseCode::ServFail), limit).await;
    };
    let (socket, shared) = (socket.clone(), shared.clone());
    tasks.spawn(async move {
        let work = async {
            let answer = shared.resolver.follow(&request, pending).await;
            reply(&socket, from, &answer, limit).await;
        };
        tokio::select! { () = shared.token.cancelled() => {}, () = work => {} }
        drop(permit);
    });
}

async fn reply(socket: &UdpSocket, to: SocketAddr, answer: &Message, limit: usize) {
    if let Err(error) = socket.send_to(&message::write(answer, limit), to).await {
        tracing::debug!(%to, %error, "a DNS answer could not be sent");
    }
}

async fn serve_connections(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            () = shared.token.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a DNS connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = shared.connections.clone().try_acquire_owned() else {
            shared.metrics.rejected.inc();
            continue;
        };
        let shared = shared.clone();
        tasks.spawn(async move {
            shared.metrics.connections.inc();
            tokio::select! {
                () = shared.token.cancelled() => {}
                // The client went away: it knows best why.
                _ = serve_connection(stream, &shared) => {}
            }
            shared.metrics.connections.dec();
            drop(permit);
        });
    }
}

async fn serve_connection(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    loop {
        let Some(packet) = timeout(IDLE, read_frame(&mut stream)).await?? else { return Ok(()) };
        let answer = match message::read(&packet) {
            Asked::Nothing => return Ok(()),
            Asked::Wrong(answer) => {
                shared.metrics.answered(Answerer::Nobody, answer.metadata.response_code);
                *answer
            }
            Asked::Query(request) => match shared.resolver.at_once(&request) {
                Ok(answer) => answer,
                Err(pending) => match shared.forwarding.try_acquire() {
                    Ok(_permit) => shared.resolver.follow(&request, pending).await,
                    Err(_) => request.failure(ResponseCode::ServFail),
                },
            },
        };
        timeout(IDLE, write_frame(&mut stream, &message::write(&answer, u16::MAX.into()))).await??;
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
