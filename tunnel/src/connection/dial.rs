//! Making connections.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use libp2p::PeerId;
use quinn::ConnectionError;

use super::{Connections, code};
use crate::alpn::Alpn;
use crate::error::OpenError;
use crate::identity::Admitted;

/// Name in the TLS handshake; peers are known by their keys.
const SERVER_NAME: &str = "edgeloom";

/// What is needed to dial.
#[derive(Clone)]
pub(crate) struct Dialler {
    pub(crate) endpoint: quinn::Endpoint,
    /// How long a handshake may take.
    pub(crate) patience: Duration,
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

    pub(super) async fn connect(
        self: &Arc<Self>,
        dialler: &Dialler,
        peer: PeerId,
        alpn: Alpn,
        address: SocketAddr,
    ) -> Result<(), OpenError> {
        let refused = |reason: String| OpenError::Refused { peer: peer.into(), alpn, reason };
        let path = self.path_state(&peer);
        let client =
            self.config.client(&self.guard, alpn, peer, &path).map_err(|error| refused(error.to_string()))?;
        let connecting = dialler
            .endpoint
            .connect_with(client, address, SERVER_NAME)
            .map_err(|error| OpenError::Lost(peer.into(), error.to_string()))?;
        let connection = tokio::time::timeout(dialler.patience, connecting)
            .await
            .map_err(|_| OpenError::TimedOut { peer: peer.into(), alpn, waited: dialler.patience })?
            .map_err(|error| match error {
                ConnectionError::TransportError(_) | ConnectionError::ConnectionClosed(_) => {
                    refused(error.to_string())
                }
                ConnectionError::ApplicationClosed(close) => {
                    refused(String::from_utf8_lossy(&close.reason).into_owned())
                }
                error => OpenError::Lost(peer.into(), error.to_string()),
            })?;
        match self.guard.admit(&connection) {
            Ok(Admitted::Member(verified)) if verified.peer == peer => {
                self.metrics.handshakes.with_label_values(&["dialled"]).inc();
                self.register(alpn, &connection, true, verified);
                Ok(())
            }
            Ok(_) => {
                connection.close(code::REFUSED, b"not the peer that was dialled");
                Err(refused("another peer answered".into()))
            }
            Err(refusal) => {
                self.metrics.refused.with_label_values(&[refusal.reason()]).inc();
                connection.close(code::REFUSED, refusal.to_string().as_bytes());
                Err(refused(refusal.to_string()))
            }
        }
    }
}
