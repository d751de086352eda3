//! Making connections.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use libp2p::PeerId;
use quinn::{Connection, ConnectionError, VarInt};

use super::ledger::Lease;
use super::{Connections, Key, code};
use crate::alpn::Alpn;
use crate::error::OpenError;
use crate::identity::{Admitted, Verified};

/// Name in the TLS handshake; peers are known by their keys.
const SERVER_NAME: &str = "edgeloom";
/// How long a peer may take to show that it took a connection. One that says nothing is of a release that shows
/// nothing: a connection that is still open by then is good.
const TAKING: Duration = Duration::from_secs(2);

/// What is needed to dial.
#[derive(Clone)]
pub(crate) struct Dialler {
    pub(crate) endpoint: quinn::Endpoint,
    /// How long a handshake may take.
    pub(crate) patience: Duration,
}

/// A connection whose peer was admitted.
struct Made {
    connection: Connection,
    lease: Lease,
    peer: Verified,
}

impl Connections {
    /// Sees to it that a connection to `peer`, whose path works at `address`, is open. Of many that ask at the same
    /// time one dials.
    pub(crate) async fn dial(
        self: &Arc<Self>,
        dialler: &Dialler,
        peer: PeerId,
        alpn: Alpn,
        address: SocketAddr,
    ) -> Result<(), OpenError> {
        if self.is_open(&peer, alpn) {
            return Ok(());
        }
        let turn = {
            let mut dialling = self.dialling.lock().unwrap_or_else(PoisonError::into_inner);
            dialling.retain(|_, turn| Arc::strong_count(turn) > 1);
            dialling.entry((peer, alpn)).or_default().clone()
        };
        let _turn = turn.lock().await;
        if self.is_open(&peer, alpn) {
            return Ok(());
        }
        self.connect(dialler, peer, alpn, address).await
    }

    /// Makes a connection to `peer`, which streams can be put on at once: what the peer makes of it they learn with it.
    async fn connect(
        self: &Arc<Self>,
        dialler: &Dialler,
        peer: PeerId,
        alpn: Alpn,
        address: SocketAddr,
    ) -> Result<(), OpenError> {
        let made = self.shake_hands(dialler, peer, alpn, address).await?;
        self.register(alpn, &made.connection, made.lease, true, made.peer);
        Ok(())
    }

    /// Makes one more connection to `peer`, beside those that work: no stream is put on it before the peer has taken
    /// it. A peer that has as many as it allows says so only after its handshake.
    pub(super) async fn connect_beside(
        self: &Arc<Self>,
        dialler: &Dialler,
        peer: PeerId,
        alpn: Alpn,
        address: SocketAddr,
    ) -> Result<(), OpenError> {
        let made = self.shake_hands(dialler, peer, alpn, address).await?;
        taken(&made.connection).await.map_err(|error| lost((peer, alpn), error))?;
        self.register(alpn, &made.connection, made.lease, true, made.peer);
        Ok(())
    }

    /// A connection to `peer`.
    async fn shake_hands(
        &self,
        dialler: &Dialler,
        peer: PeerId,
        alpn: Alpn,
        address: SocketAddr,
    ) -> Result<Made, OpenError> {
        let path = self.path_state(&peer);
        let lease = self.ledger.lease(alpn, Some(peer)).ok_or_else(|| self.no_memory(peer))?;
        let client = self
            .config
            .client(&self.guard, alpn, peer, &path, lease.first())
            .map_err(|error| refused((peer, alpn), error.to_string()))?;
        let connecting = dialler
            .endpoint
            .connect_with(client, address, SERVER_NAME)
            .map_err(|error| OpenError::Lost(peer.into(), error.to_string()))?;
        let connection = tokio::time::timeout(dialler.patience, connecting)
            .await
            .map_err(|_| OpenError::TimedOut { peer: peer.into(), alpn, waited: dialler.patience })?
            .map_err(|error| lost((peer, alpn), error))?;
        match self.guard.admit(&connection) {
            Ok(Admitted::Member(verified)) if verified.peer == peer => {
                self.metrics.links.handshakes.with_label_values(&["dialled"]).inc();
                Ok(Made { connection, lease, peer: verified })
            }
            Ok(_) => {
                connection.close(code::REFUSED, b"not the peer that was dialled");
                Err(refused((peer, alpn), "another peer answered".into()))
            }
            Err(refusal) => {
                self.metrics.links.refused.with_label_values(&[refusal.reason()]).inc();
                connection.close(code::REFUSED, refusal.to_string().as_bytes());
                Err(refused((peer, alpn), refusal.to_string()))
            }
        }
    }

    fn no_memory(&self, peer: PeerId) -> OpenError {
        let bound = self.ledger.buffers().0 >> 20;
        OpenError::NoMemory { peer: peer.into(), held: self.ledger.held() >> 20, bound }
    }
}

/// Shows the peer that dialled `connection` that it is taken.
///
/// A handshake does not say so: it is over before the peer's credential is looked at, and its connections counted. The
/// frame that allows a stream of a kind that nobody uses (MAX_STREAMS, RFC 9000, section 19.11) is sent again until it
/// has arrived, and older releases pass it over.
pub(super) fn show_taken(connection: &Connection) {
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(1));
}

/// Waits until the other end shows that it took `connection`.
async fn taken(connection: &Connection) -> Result<(), ConnectionError> {
    match tokio::time::timeout(TAKING, connection.open_uni()).await {
        Ok(opened) => opened.map(drop),
        Err(_) => connection.close_reason().map_or(Ok(()), Err),
    }
}

fn refused((peer, alpn): Key, reason: String) -> OpenError {
    OpenError::Refused { peer: peer.into(), alpn, reason }
}

/// Why there is no connection.
fn lost(key: Key, error: ConnectionError) -> OpenError {
    match error {
        ConnectionError::TransportError(_) | ConnectionError::ConnectionClosed(_) => {
            refused(key, error.to_string())
        }
        ConnectionError::ApplicationClosed(close) => {
            refused(key, String::from_utf8_lossy(&close.reason).into_owned())
        }
        error => OpenError::Lost(key.0.into(), error.to_string()),
    }
}
