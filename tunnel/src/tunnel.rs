//! The handle that everything else holds.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use libp2p::PeerId;
use prometheus::Registry;
use quinn::SendDatagramError;
use quinn::TokioRuntime;
use tokio::sync::mpsc;

use crate::alpn::Alpn;
use crate::carrier::keeper::Keeper;
use crate::carrier::listen::{self, Listener};
use crate::config::{Bounds, Carriers, Config, Peer, RelayPeer};
use crate::connection::dial::Dialler;
use crate::connection::{Connections, accept, code, quic};
use crate::engine::{self, Handle};
use crate::error::{DatagramError, Error, OpenError};
use crate::identity::{Guard, Identity, SignedCredential, Trust};
use crate::lan::{LanError, LanPeer, LanStream};
use crate::metrics::Metrics;
use crate::socket::{Mux, RawSocket, drain};
use crate::status::{Nat, PeerStatus, Ping, Trace};
use crate::store::Store;
use crate::swarm::Neighbourhood;
use crate::wire::seal::OwnKey;
use crate::{Incoming, Stream};

/// Streams and datagrams that wait to be taken from [`Incoming`].
const INCOMING: usize = 1024;
/// Frames that wait for the engine.
const FRAMES: usize = 4096;
/// How often a stream is tried again after its connection was lost under it.
const ATTEMPTS: usize = 3;
/// How long a ping may take.
const PING_PATIENCE: Duration = Duration::from_secs(5);

/// Handle to the overlay; clones share it.
#[derive(Clone)]
pub struct Tunnel(Arc<Inner>);

struct Inner {
    guard: Guard,
    engine: Handle,
    connections: Arc<Connections>,
    dialler: Dialler,
    mux: Arc<Mux>,
    lan_tcp: bool,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tunnel({})", self.peer_id())
    }
}

impl Tunnel {
    /// Opens the socket and starts. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the socket cannot be bound, the identity or credential cannot be used, or metrics of the same name are
    /// registered already.
    pub async fn start(
        config: Config,
        identity: Arc<Identity>,
        credential: SignedCredential,
        trust: Trust,
        registry: &Registry,
    ) -> Result<(Self, Incoming), Error> {
        let keypair = identity.keypair().clone().try_into_ed25519();
        let key = OwnKey::new(&keypair.map_err(|error| Error::Identity(error.to_string()))?);
        let guard = Guard::new(identity, Some(credential), Some(trust));
        let guard = guard.map_err(|error| Error::Identity(error.to_string()))?;
        let metrics = Metrics::new(registry)?;
        let (frames, inbound) = mpsc::channel(FRAMES);
        let mux = Mux::bind(&config, metrics.clone(), frames)
            .map_err(|source| Error::Listen { address: config.listen, source })?;
        let (accepted, queue) = mpsc::channel(INCOMING);
        let settings = quic::Settings::new(&config);
        metrics.limits(&config, config.limits.buffers());
        let connections =
            Connections::new(guard.clone(), metrics.clone(), settings.clone(), accepted, mux.budget.clone());
        let tls = |error: rustls::Error| Error::Endpoint(error.to_string());
        let server = settings.server(&guard).map_err(tls)?;
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            quic::endpoint_config(),
            Some(server.clone()),
            Arc::new(RawSocket(mux.clone())),
            Arc::new(TokioRuntime),
        )
        .map_err(|error| Error::Endpoint(error.to_string()))?;
        let dialler = Dialler { endpoint: endpoint.clone(), patience: config.connect_timeout };
        let store = Store::new(config.state_dir.as_deref());
        let tasks = &connections.tasks;
        if let Some(writer) = store.writer() {
            let stop = connections.stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(writer).await });
        }
        let exclude: Arc<[String]> = config.exclude_interfaces.clone().into();
        let (libp2p, serve) = (config.libp2p, config.relay);
        let carriers = Arc::new(config.carriers.clone());
        let serves = Serves {
            relay: serve,
            join: config.serve_join,
            lan: config.may_use_lan_tcp(),
            any_port: config.listen.port() == 0,
        };
        let engine =
            Handle::new(config, guard.clone(), key, mux.clone(), connections.clone(), metrics.clone(), store);
        if libp2p {
            let surroundings = engine.lock().surroundings();
            let neighbourhood =
                Neighbourhood::new(&guard, &mux, engine.clone(), metrics.clone(), serve, surroundings)?;
            tasks.spawn(neighbourhood.run(connections.stop.clone()));
        }
        if serve {
            tasks.spawn(drain(mux.clone(), connections.stop.clone()));
        }
        start_carriers(&carriers, serves, &guard, &engine, &mux, &metrics, &connections)?;
        tasks.spawn(engine::run(engine.clone(), inbound, exclude, connections.stop.clone()));
        tasks.spawn(accept(connections.clone(), endpoint, server, mux.clone()));
        tasks.spawn(connections.clone().tend());
        tasks.spawn(connections.clone().keep_alive(dialler.clone(), engine.clone()));
        let inner = Inner { guard, engine, connections, dialler, mux, lan_tcp: serves.lan };
        Ok((Self(Arc::new(inner)), Incoming { queue }))
    }

    /// Own peer id.
    pub fn peer_id(&self) -> PeerId {
        self.0.guard.identity().peer_id()
    }

    /// What stands in this node's handshakes: for serving TLS over TCP with the same identity.
    pub fn guard(&self) -> &Guard {
        &self.0.guard
    }

    /// Opens a stream to `peer`, connecting first where no connection is open: by a relay at once, directly as
    /// soon as a direct path is found.
    pub async fn open(&self, peer: PeerId, alpn: Alpn) -> Result<Stream, OpenError> {
        self.try_open(peer, alpn).await.map_err(|error| self.named(error))
    }

    async fn try_open(&self, peer: PeerId, alpn: Alpn) -> Result<Stream, OpenError> {
        let inner = &self.0;
        let patience = inner.dialler.patience;
        let mut lost = OpenError::Lost(peer.into(), String::new());
        for _ in 0..ATTEMPTS {
            if inner.connections.stop.is_cancelled() {
                return Err(OpenError::ShuttingDown);
            }
            let address = inner.engine.path(peer, patience).await?;
            inner.connections.dial(&inner.dialler, peer, alpn, address).await?;
            match inner.connections.open(&inner.dialler, peer, alpn, address).await {
                Err(error @ OpenError::Lost(..)) => lost = error,
                opened => return opened,
            }
        }
        Err(lost)
    }

    /// An error with the name of its peer's node, where that is known: people know no peer ids.
    fn named(&self, mut error: OpenError) -> OpenError {
        if let Some(named) = error.peer_mut() {
            *named = self.0.engine.lock().named(&named.peer);
        }
        error
    }

    /// Sends a datagram on the open `mesh/1` connection to `peer`; it may be lost.
    pub fn send_datagram(&self, peer: PeerId, bytes: Bytes) -> Result<(), DatagramError> {
        let connection = self.0.connections.for_datagrams(&peer).ok_or(DatagramError::NotConnected)?;
        connection.send_datagram(bytes).map_err(|error| match error {
            SendDatagramError::TooLarge => {
                DatagramError::TooLarge { max: connection.max_datagram_size().unwrap_or_default() }
            }
            SendDatagramError::UnsupportedByPeer | SendDatagramError::Disabled => DatagramError::Unsupported,
            SendDatagramError::ConnectionLost(_) => DatagramError::NotConnected,
        })
    }

    /// Largest datagram, in bytes, that the connection to `peer` carries now.
    pub fn max_datagram_size(&self, peer: PeerId) -> Option<usize> {
        self.0.connections.for_datagrams(&peer)?.max_datagram_size()
    }

    /// Replaces the membership. Connections are made only by [`Tunnel::open`].
    pub fn set_peers(&self, peers: Vec<Peer>) {
        self.0.engine.lock().set_peers(Instant::now(), peers);
        self.0.engine.wake();
    }

    /// Replaces the peers to which a path is found and kept although nobody opens a stream: those that back a
    /// Service in use here, so that the first call is direct, and works with every relay gone.
    pub fn keep(&self, peers: impl IntoIterator<Item = PeerId>) {
        self.0.engine.lock().keep(Instant::now(), peers.into_iter().collect());
        self.0.engine.wake();
    }

    /// Replaces what the node's site allows. Direct paths that it forbids are left at once, for relays; those that it
    /// allows again are looked for.
    pub fn set_bounds(&self, bounds: Bounds) {
        self.0.engine.lock().set_bounds(Instant::now(), bounds);
        self.0.engine.wake();
    }

    /// Replaces the relays to register with.
    pub fn set_relays(&self, relays: Vec<RelayPeer>) {
        self.0.engine.lock().set_relays(Instant::now(), relays);
        self.0.engine.wake();
    }

    /// Replaces whom this node believes; connections of peers that it no longer does are closed.
    pub fn set_trust(&self, trust: Trust) {
        // First what comes, then what is there: what is admitted between the two is looked at as well.
        self.0.guard.set_trust(trust.clone());
        self.0.connections.recheck(&trust, SystemTime::now());
        self.0.engine.lock().recheck();
    }

    /// Shows another credential from the next handshake on.
    pub fn set_credential(&self, credential: SignedCredential) -> Result<(), Error> {
        self.0.guard.set_credential(credential).map_err(|error| Error::Identity(error.to_string()))
    }

    /// Every known peer and how it is reached.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.0.engine.lock().status()
    }

    /// Whether flows may go over TCP on the LAN at all: see [`Config::lan_tcp`].
    pub fn uses_lan_tcp(&self) -> bool {
        self.0.lan_tcp
    }

    /// The peer on the LAN, if the path in use to it is there and flows may go over TCP: see [`Tunnel::dial_lan`].
    pub fn lan(&self, peer: PeerId) -> Option<LanPeer> {
        self.0.engine.lock().lan(&peer).map(|(lan, _)| lan)
    }

    /// Connects to `peer` over TCP with TLS, for one flow. Unlike a stream the connection does not move when the path
    /// does: it ends with the LAN.
    ///
    /// # Errors
    /// [`LanError`].
    pub async fn dial_lan(&self, peer: PeerId) -> Result<LanStream, LanError> {
        let inner = &self.0;
        let found = inner.engine.lock().lan(&peer);
        let Some((LanPeer { address, .. }, slot)) = found else {
            return Err(LanError::NotOnLan(inner.engine.lock().named(&peer)));
        };
        let dialled = inner.connections.lan_origin(Some(slot)).dial(&inner.guard, peer, address).await?;
        // What was forbidden meanwhile has ended the connections that there were.
        match self.lan(peer) {
            Some(_) => Ok(dialled),
            None => Err(LanError::NotOnLan(inner.engine.lock().named(&peer))),
        }
    }

    /// Smoothed round trip time of the path in use to `peer`; none while no path is known to work.
    pub fn rtt(&self, peer: PeerId) -> Option<Duration> {
        self.0.engine.lock().rtt(&peer)
    }

    /// Sends a probe to `peer` over the path in use and waits for the answer.
    pub async fn ping(&self, peer: PeerId) -> Result<Ping, OpenError> {
        self.0.engine.ping(peer, PING_PATIENCE).await.map_err(|error| self.named(error))
    }

    /// Probes every known way to `peer` and tells what came of it. Takes about two seconds.
    pub async fn trace(&self, peer: PeerId) -> Result<Trace, OpenError> {
        self.0.engine.trace(peer).await.map_err(|error| self.named(error))
    }

    /// What the NATs between this node and those that see it do.
    pub fn nat(&self) -> Nat {
        self.0.engine.lock().nat(Instant::now())
    }

    /// Stops at once, without a word to any peer: what a crash does, for tests and last resorts.
    pub fn abort(&self) {
        self.0.dialler.endpoint.set_server_config(None);
        self.0.mux.shut();
        self.0.connections.stop.cancel();
        self.0.connections.close_all(code::SHUTDOWN, "");
        self.0.dialler.endpoint.close(code::SHUTDOWN, b"");
    }

    /// Stops taking connections, gives the open ones up to `drain` to fall silent, closes, and joins every task.
    pub async fn shutdown(&self, drain: Duration) {
        let inner = &self.0;
        inner.dialler.endpoint.set_server_config(None);
        inner.connections.drain(drain).await;
        inner.connections.stop.cancel();
        inner.connections.close_all(code::SHUTDOWN, "the node goes");
        inner.dialler.endpoint.close(code::SHUTDOWN, b"the node goes");
        let _ = tokio::time::timeout(Duration::from_secs(1), inner.dialler.endpoint.wait_idle()).await;
        inner.connections.tasks.close();
        inner.connections.tasks.wait().await;
    }
}

/// What this node is to others.
#[derive(Clone, Copy)]
struct Serves {
    relay: bool,
    join: bool,
    /// To nodes on the LAN: their flows over TCP.
    lan: bool,
    /// On whatever port was free for UDP: nobody expects TCP there.
    any_port: bool,
}

/// Takes carriers where this node serves others, and dials them where it needs them.
fn start_carriers(
    config: &Arc<Carriers>,
    serves: Serves,
    guard: &Guard,
    engine: &Handle,
    mux: &Arc<Mux>,
    metrics: &Metrics,
    connections: &Arc<Connections>,
) -> Result<(), Error> {
    let (guard, engine, mux, metrics) = (guard.clone(), engine.clone(), mux.clone(), metrics.clone());
    let (tasks, stop) = (&connections.tasks, &connections.stop);
    let takes_carriers = serves.relay || serves.join;
    if takes_carriers || serves.lan {
        let settings = || listen::Settings {
            carriers: takes_carriers,
            serve_join: serves.join,
            lan: serves.lan,
            connections: connections.clone(),
            guard: guard.clone(),
            engine: engine.clone(),
            mux: mux.clone(),
            metrics: metrics.clone(),
        };
        let failed = |address| move |source| Error::ListenTcp { address, source };
        if config.listen {
            let address = mux.local_address();
            match Listener::tls(address, settings()) {
                Ok(listener) => drop(tasks.spawn(listener.run(stop.clone()))),
                Err(error) if serves.any_port => tracing::debug!(%address, %error, "no carriers are taken"),
                Err(error) if !takes_carriers => {
                    tracing::warn!(%address, %error, "the TCP port cannot be had: nodes on the LAN send by QUIC alone");
                }
                Err(error) => return Err(failed(address)(error)),
            }
        }
        if let Some(address) = config.websocket_listen.filter(|_| takes_carriers) {
            let listener = Listener::websocket(address, settings()).map_err(failed(address))?;
            tasks.spawn(listener.run(stop.clone()));
        }
    }
    if config.dial {
        let wanted = engine.lock().wanted();
        let keeper = Keeper { config: config.clone(), guard, engine, mux, metrics };
        tasks.spawn(keeper.run(wanted, stop.clone()));
    }
    Ok(())
}

#[cfg(test)]
impl Tunnel {
    /// Where the socket is bound.
    pub(crate) fn local_address(&self) -> std::net::SocketAddr {
        self.0.mux.local_address()
    }

    /// What connections are made of.
    pub(crate) fn parts(&self) -> (&Arc<Connections>, &Dialler, &Handle) {
        (&self.0.connections, &self.0.dialler, &self.0.engine)
    }
}
