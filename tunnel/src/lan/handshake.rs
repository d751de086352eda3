//! Making such connections, at both ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{Account, Buffered, LAN_ALPN, LanStream, Register};
use crate::error::Named;
use crate::identity::{Admitted, Guard, Refusal, Verified};

/// How long a connect, and the handshake on it, may take: on a LAN both are over in milliseconds.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(3);
/// Name in the TLS handshake; it is not sent, peers are known by their keys.
const SERVER_NAME: &str = "edgeloom";

/// Why there is no connection over TCP with a peer.
#[derive(Debug, thiserror::Error)]
pub enum LanError {
    /// The path in use is none of the LAN's, or this node makes no such connections.
    #[error("{0} is not reached on the LAN")]
    NotOnLan(Named),
    /// Nothing answered, or what answered refused.
    #[error("TCP {address}: {source}; does the peer's overlay.lanTcp allow it, and a firewall the port?")]
    Failed {
        /// Where.
        address: SocketAddr,
        /// What the system, or TLS, said.
        source: io::Error,
    },
    /// Who answered is not who it should be, or no member.
    #[error("TCP {address}: {refusal}")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
}

/// What a node's connections are counted by.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) register: Register,
    pub(crate) account: Account,
}

/// Connects to `peer` at `address`, showing and checking what `guard` holds.
///
/// # Errors
/// [`LanError`] but [`LanError::NotOnLan`].
pub async fn dial(guard: &Guard, peer: PeerId, address: SocketAddr) -> Result<LanStream, LanError> {
    let (tls, _) = connect(guard, peer, address).await?;
    Ok(LanStream::new(tls, None, None))
}

/// Accepts a connection, from members alone. For tests and whoever has a listener of its own.
///
/// # Errors
/// If the handshake fails, or the peer is no member.
pub async fn accept(guard: &Guard, tcp: TcpStream) -> io::Result<(Verified, LanStream)> {
    let config = guard.server_config(&[LAN_ALPN]).map_err(io::Error::other)?;
    let tls = TlsAcceptor::from(Arc::new(config)).accept(Buffered::new(tcp)).await?;
    let tls = TlsStream::from(tls);
    let verified = judge(guard, &tls).map_err(|refusal| io::Error::other(refusal.to_string()))?;
    Ok((verified, LanStream::new(tls, None, None)))
}

impl Origin {
    /// [`dial`], with the connection in the register.
    pub(crate) async fn dial(
        self,
        guard: &Guard,
        peer: PeerId,
        address: SocketAddr,
    ) -> Result<LanStream, LanError> {
        let (tls, verified) = connect(guard, peer, address).await?;
        let place = self.register.place(&Arc::new(verified), tls.get_ref().0.socket(), false);
        Ok(LanStream::new(tls, Some(self.account), place))
    }
}

/// Takes a connection whose handshake was accepted; none if the peer has as many as it may.
pub(crate) fn admit(tls: TlsStream<Buffered>, from: &Arc<Verified>, origin: Origin) -> Option<LanStream> {
    let place = origin.register.place(from, tls.get_ref().0.socket(), true)?;
    Some(LanStream::new(tls, Some(origin.account), Some(place)))
}

async fn connect(
    guard: &Guard,
    peer: PeerId,
    address: SocketAddr,
) -> Result<(TlsStream<Buffered>, Verified), LanError> {
    let failed = |source: io::Error| LanError::Failed { address, source };
    let within = |limit: Duration| {
        move |_| failed(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}")))
    };
    let tcp = tokio::time::timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await;
    let tcp = tcp.map_err(within(CONNECT_PATIENCE))?.map_err(failed)?;
    let socket = Buffered::new(tcp);
    socket.socket().tune();
    let config =
        guard.client_config(LAN_ALPN, Some(peer)).map_err(|error| failed(io::Error::other(error)))?;
    let name = ServerName::try_from(SERVER_NAME).expect("the constant is a name");
    let shaking = TlsConnector::from(Arc::new(config)).connect(name, socket);
    let shaken = tokio::time::timeout(HANDSHAKE_PATIENCE, Box::pin(shaking)).await;
    let tls = TlsStream::from(shaken.map_err(within(HANDSHAKE_PATIENCE))?.map_err(failed)?);
    let verified = judge(guard, &tls).map_err(|refusal| LanError::Refused { address, refusal })?;
    Ok((tls, verified))
}

/// Who is at the other end, if it may be.
fn judge(guard: &Guard, tls: &TlsStream<Buffered>) -> Result<Verified, Refusal> {
    let (_, session) = tls.get_ref();
    if session.alpn_protocol() != Some(LAN_ALPN) {
        return Err(Refusal::Protocol);
    }
    match guard.admit_tls(LAN_ALPN, session.peer_certificates().unwrap_or_default())? {
        Admitted::Member(verified) => Ok(verified),
        Admitted::Joiner(_) => Err(Refusal::Protocol),
    }
}
