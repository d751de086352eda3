//! Taking connections, and what comes on them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::HandshakeData;
use tokio::sync::Semaphore;

use super::dial::show_taken;
use super::ledger::Lease;
use super::{Connections, Usage, code};
use crate::alpn::Alpn;
use crate::carrier::address::is_carrier;
use crate::identity::{Admitted, Joiner, Verified};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::share::Shares;
use crate::socket::Mux;
use crate::{Accepted, Stream};

/// How long a handshake may take. The peer gives up when it likes; giving up before it on a busy host would only make
/// it come again.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a stranger may stay.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);

/// The places of handshakes, and of connections of strangers: in all, of a member, and of a source.
#[derive(Clone)]
struct Places {
    limits: Limits,
    metrics: Metrics,
    members: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    of_peers: Shares,
    of_sources: Shares,
}

impl Places {
    fn new(limits: Limits, metrics: Metrics) -> Self {
        Self {
            members: Arc::new(Semaphore::new(limits.handshakes)),
            strangers: Arc::new(Semaphore::new(limits.strangers)),
            of_peers: Shares::new(limits.handshakes_per_peer),
            of_sources: Shares::new(limits.strangers_per_source),
            limits,
            metrics,
        }
    }

    /// A place, until it is dropped, for whom comes from `source`: a member's is its virtual address, which tells it by
    /// more than the network's part.
    fn take(&self, is_member: bool, source: IpAddr) -> Option<impl Send + use<>> {
        let (of_one, of_all) = match is_member {
            true => (&self.of_peers, &self.members),
            false => (&self.of_sources, &self.strangers),
        };
        of_one.take(source).zip(of_all.clone().try_acquire_owned().ok())
    }

    fn tell(&self) {
        let Self { limits, metrics, .. } = self;
        metrics.in_use("strangers_per_source", self.of_sources.most() as u64);
        metrics.in_use("handshakes_per_peer", self.of_peers.most() as u64);
        metrics.in_use("handshakes", (limits.handshakes - self.members.available_permits()) as u64);
        metrics.in_use("strangers", (limits.strangers - self.strangers.available_permits()) as u64);
    }
}

/// Takes connections until the endpoint closes.
pub(crate) async fn accept(
    connections: Arc<Connections>,
    endpoint: quinn::Endpoint,
    server: quinn::ServerConfig,
    mux: Arc<Mux>,
) {
    let places = Places::new(connections.config.limits.clone(), connections.metrics.clone());
    while let Some(incoming) = endpoint.accept().await {
        let remote = incoming.remote_address();
        let known = mux.peer_of_virtual(&remote);
        // A stranger on a carrier is named by where it comes from.
        let remote = mux.table.carrier(&remote).map_or(remote, |carrier| carrier.remote);
        if known.is_none() && !incoming.remote_address_validated() {
            // A stranger shows first that it receives where it says it is.
            let _ = incoming.retry();
            continue;
        }
        let Some(place) = places.take(known.is_some(), remote.ip()) else {
            connections.metrics.busy(&remote);
            incoming.refuse();
            continue;
        };
        // Which protocol a member wants shows in the handshake.
        let alpn = if known.is_some() { Alpn::Mesh } else { Alpn::Join };
        let Some(lease) = connections.ledger.lease(alpn, known) else {
            connections.metrics.no_memory(&remote);
            incoming.refuse();
            continue;
        };
        let guest = (known.is_none() && !is_carrier(&incoming.remote_address()))
            .then(|| mux.table.guests.admit(remote));
        places.tell();
        let accepting = match known {
            Some(peer) => {
                let path = connections.path_state(&peer);
                incoming.accept_with(Arc::new(connections.config.server_for(&server, &path, lease.first())))
            }
            None => incoming.accept(),
        };
        let (serving, places) = (connections.clone(), places.clone());
        connections.tasks.spawn(async move {
            serving.take(accepting, known, remote, lease).await;
            drop((guest, place));
            places.tell();
        });
    }
}

impl Connections {
    /// Sees a handshake through, and a stranger until it has joined.
    async fn take(
        self: &Arc<Self>,
        accepting: Result<quinn::Connecting, quinn::ConnectionError>,
        known: Option<libp2p::PeerId>,
        remote: SocketAddr,
        lease: Lease,
    ) {
        let connection = match accepting {
            Ok(connecting) => tokio::time::timeout(PATIENCE, connecting).await,
            Err(error) => Ok(Err(error)),
        };
        match connection {
            Ok(Ok(connection)) => {
                if let Some((joiner, _lease)) = self.admit(&connection, known, lease) {
                    let joins = self.join(joiner, remote, &connection);
                    let _ = tokio::time::timeout(JOIN_PATIENCE, joins).await;
                    connection.close(code::SHUTDOWN, b"joining took too long");
                }
            }
            Ok(Err(error)) => {
                self.metrics.links.refused.with_label_values(&["handshake"]).inc();
                tracing::debug!(%remote, %error, "handshake");
            }
            Err(_) => tracing::debug!(%remote, "handshake timed out"),
        }
    }

    /// Lets a connection in if its protocol, credential and path fit, and returns who it is if it is to join.
    fn admit(
        self: &Arc<Self>,
        connection: &quinn::Connection,
        known: Option<libp2p::PeerId>,
        lease: Lease,
    ) -> Option<(Joiner, Lease)> {
        let refuse = |reason: &'static str, text: &str| {
            self.metrics.links.refused.with_label_values(&[reason]).inc();
            tracing::info!(remote = %connection.remote_address(), reason = text, "connection refused");
            connection.close(code::REFUSED, text.as_bytes());
        };
        let handshake = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
        let alpn = handshake.and_then(|data| data.protocol).and_then(|name| Alpn::from_wire(&name));
        match (self.guard.admit(connection), alpn) {
            (Ok(Admitted::Joiner(joiner)), Some(Alpn::Join)) => return Some((joiner, lease)),
            (Ok(Admitted::Member(verified)), Some(alpn))
                if self.accepted(&verified.peer, alpn) >= self.config.limits.connections_per_peer =>
            {
                refuse("connections", "the peer has as many connections as it may");
            }
            (Ok(Admitted::Member(verified)), Some(alpn)) if known == Some(verified.peer) => {
                self.metrics.links.handshakes.with_label_values(&["accepted"]).inc();
                self.register(alpn, connection, lease, false, verified);
                show_taken(connection);
            }
            (Ok(_), _) => refuse("path", "the connection came by a path that is not the peer's"),
            (Err(refusal), _) => refuse(refusal.reason(), &refusal.to_string()),
        }
        None
    }

    /// Hands the streams of a joining peer on.
    async fn join(&self, from: Joiner, remote: SocketAddr, connection: &quinn::Connection) {
        while let Ok((send, recv)) = connection.accept_bi().await {
            let stream = Stream::from((send, recv));
            let accepted = Accepted::Join { from: from.clone(), remote, stream };
            if self.incoming.send(accepted).await.is_err() {
                return;
            }
        }
    }
}

/// Takes streams and datagrams off a connection until it ends.
pub(super) async fn serve(
    connections: &Connections,
    alpn: Alpn,
    from: &Arc<Verified>,
    connection: &quinn::Connection,
    usage: &Arc<Usage>,
) {
    let streams = async {
        while let Ok(halves) = connection.accept_bi().await {
            let stream = Stream::counted(halves, usage.accept());
            let accepted = Accepted::Stream { from: from.clone(), alpn, stream };
            if connections.incoming.send(accepted).await.is_err() {
                return;
            }
        }
    };
    let datagrams = async {
        while let Ok(bytes) = connection.read_datagram().await {
            // The other end's path changed: it wanted the acknowledgement only.
            if bytes.is_empty() {
                continue;
            }
            // Late datagrams are worth less than new ones are delayed: a full queue drops.
            let full = alpn == Alpn::Mesh
                && connections.incoming.try_send(Accepted::Datagram { from: from.clone(), bytes }).is_err();
            if full {
                connections.metrics.dropped("incoming full");
            }
        }
    };
    tokio::join!(streams, datagrams);
}
