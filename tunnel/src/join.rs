//! Joining, the joiner's side of `join/1`: from a token to a credential.
//!
//! The joiner has a socket of its own for this one conversation, since a tunnel needs the credential that comes
//! of it; where UDP does not answer within a second, the same conversation goes by a carrier. In TLS it takes any well-formed certificate; then the CA that the server offers is held to the hash in
//! the token, the certificate's credential to this CA, and only a control is shown the secret.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edgeloom_api::credential::{CredentialError, SignedCredential};
use edgeloom_api::join::{
    Ask, FromJoiner, FromServer, JoinRefused, JoinRequest, JoinResponse, Offer, VERSION,
};
use edgeloom_api::message::MessageError;
use edgeloom_api::token::JoinToken;
use futures::future::Either;
use quinn::{ConnectionId, Endpoint, EndpointConfig, TokioRuntime, TransportConfig};
use tokio::task::JoinSet;

use crate::carrier::{self, passage::Passage};
use crate::config::Carriers;
use crate::frames::{self, FrameError};
use crate::identity::{
    CertificateError, Guard, Identity, JOIN_ALPN, Presented, Refusal, Role, Trust, TrustError, Verified,
};

/// How long one address is tried.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long UDP is tried alone.
const UDP_ALONE: Duration = Duration::from_secs(1);
/// How long the control may take to answer: it waits for the cluster to give the node its pod ranges.
const ANSWER: Duration = Duration::from_secs(60);
/// Largest message from the control: a handful of certificates and addresses.
const MAX_ANSWER: usize = 256 << 10;
/// Connection ids are as long and marked as those of the raw endpoint that is dialled, which shares its socket.
const CID_LENGTH: usize = 8;
const CID_MARK: u8 = 0x80;

/// How the joiner convinces the control.
#[derive(Debug)]
pub enum Proof<'a> {
    /// By a token; nothing is known of the cluster yet.
    Token(&'a JoinToken),
    /// By the credential that it has, expired or not: a renewal.
    Credential(&'a SignedCredential, &'a Trust),
}

/// What came of it.
#[derive(Debug)]
pub struct Joined {
    /// The cluster's CA.
    pub offer: Offer,
    /// The node's credential, verified to be its own and signed by this CA.
    pub credential: SignedCredential,
    /// Everything else.
    pub response: JoinResponse,
    /// Who answered.
    pub control: Verified,
    /// Where it answered.
    pub address: SocketAddr,
}

/// Why the node did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nobody answered at any address.
    #[error(
        "no control answered at {0}; check the address, that UDP or TCP port 20006 is open there, and that edgeloom-control runs"
    )]
    Unreachable(String),
    /// The CA is not the token's.
    #[error(
        "the control at {0} has another CA than the join token names: the token is of another cluster, or somebody stands between"
    )]
    OtherCa(SocketAddr),
    /// The server is not the control of this cluster.
    #[error("the control at {address} is not to be believed: {refusal}")]
    Control {
        /// Where it is.
        address: SocketAddr,
        /// Why not.
        refusal: Box<Refusal>,
    },
    /// The control said no.
    #[error("the control refused: {}", .0.message)]
    Refused(JoinRefused),
    /// The control's CA cannot be used.
    #[error("the control's CA: {0}")]
    Ca(#[from] TrustError),
    /// The credential that came is not for this node.
    #[error("the credential from the control: {0}")]
    Credential(String),
    /// The control does not keep to the protocol.
    #[error(
        "the control at {address} does not keep to the protocol: {reason}; are both sides of the same release?"
    )]
    Protocol {
        /// Where it is.
        address: SocketAddr,
        /// What it did.
        reason: String,
    },
    /// This host has no socket for it.
    #[error("cannot open a UDP socket: {0}")]
    Socket(#[from] io::Error),
    /// This host's own certificate cannot be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Joins, or renews, at the first of `addresses` that answers, by UDP or as `carriers` allow.
pub async fn request(
    identity: &Arc<Identity>,
    proof: Proof<'_>,
    addresses: &[SocketAddr],
    carriers: &Carriers,
    request: &JoinRequest,
) -> Result<Joined, JoinError> {
    let guard = match &proof {
        Proof::Token(_) => Guard::new(Arc::clone(identity), None, None)?,
        Proof::Credential(credential, trust) => {
            let (credential, trust) = ((*credential).clone(), (*trust).clone());
            Guard::new(Arc::clone(identity), Some(credential), Some(trust))?
        }
    };
    let endpoint = endpoint()?;
    let mut failures = Vec::new();
    for address in addresses {
        match reach(&endpoint, &guard, *address, carriers).await? {
            Ok(reached) => {
                let joined = Conversation { guard: &guard, address: *address }
                    .hold(&reached.connection, &proof, request)
                    .await;
                reached.connection.close(0u8.into(), b"done");
                reached.endpoint.wait_idle().await;
                return joined;
            }
            Err(reason) => failures.push(format!("{address} ({reason})")),
        }
    }
    Err(JoinError::Unreachable(failures.join(", ")))
}

fn endpoint() -> Result<Endpoint, JoinError> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
        .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    Ok(Endpoint::new(endpoint_config(), None, socket, Arc::new(TokioRuntime))?)
}

fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    // The overlay tells QUIC from its other frames by this bit.
    config.grease_quic_bit(false);
    config
}

/// A connection to the control, with what it runs on.
struct Reached {
    connection: quinn::Connection,
    endpoint: Endpoint,
    /// The carrier, which ends with this.
    _carrier: JoinSet<()>,
}

/// By UDP, and after a moment by a carrier too: the first that answers. The outer error ends the attempt; the inner
/// one is of this address.
async fn reach(
    endpoint: &Endpoint,
    guard: &Guard,
    address: SocketAddr,
    carriers: &Carriers,
) -> Result<Result<Reached, String>, JoinError> {
    let by_udp = async {
        let dialled = dial(endpoint, guard, address, None).await?;
        let endpoint = endpoint.clone();
        Ok(dialled.map(|connection| Reached { connection, endpoint, _carrier: JoinSet::new() }))
    };
    let by_carrier = async {
        if !carriers.dial {
            return Ok(Err("carriers are switched off".to_owned()));
        }
        tokio::time::sleep(UDP_ALONE).await;
        reach_by_carrier(guard, address, carriers).await
    };
    let (by_udp, by_carrier) = (std::pin::pin!(by_udp), std::pin::pin!(by_carrier));
    let (first, second) = match futures::future::select(by_udp, by_carrier).await {
        Either::Left((Ok(Err(reason)), other)) => (reason, other.await?),
        Either::Right((Ok(Err(reason)), other)) => (reason, other.await?),
        Either::Left((ended, _)) | Either::Right((ended, _)) => return ended,
    };
    Ok(second.map_err(|second| format!("{first}; {second}")))
}

async fn reach_by_carrier(
    guard: &Guard,
    address: SocketAddr,
    carriers: &Carriers,
) -> Result<Result<Reached, String>, JoinError> {
    let tls = carrier::dial::tls(guard, None)?;
    let ways = carrier::dial::ways(&[address], carriers);
    let stream = match carrier::dial::dial(ways, tls, carriers, None).await {
        Ok(dialled) => dialled.stream,
        Err(reason) => return Ok(Err(reason)),
    };
    let passage = Passage::new();
    let mut running = JoinSet::new();
    running.spawn(passage.clone().run(stream));
    let runtime = Arc::new(TokioRuntime);
    let endpoint = Endpoint::new_with_abstract_socket(endpoint_config(), None, passage.clone(), runtime)?;
    let dialled = dial(&endpoint, guard, address, Some(passage.far)).await?;
    Ok(dialled.map(|connection| Reached { connection, endpoint, _carrier: running }))
}

/// Shakes hands with `address`, or by a carrier with what stands for it. The errors are as of [`reach`].
async fn dial(
    endpoint: &Endpoint,
    guard: &Guard,
    address: SocketAddr,
    carried: Option<SocketAddr>,
) -> Result<Result<quinn::Connection, String>, JoinError> {
    let mut config = quinn::ClientConfig::new(guard.quic_client_config(JOIN_ALPN, None)?);
    config.initial_dst_cid_provider(Arc::new(|| {
        let mut id: [u8; CID_LENGTH] = rand::random();
        id[0] &= !CID_MARK;
        ConnectionId::new(&id)
    }));
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(ANSWER.try_into().expect("a minute is a QUIC idle time-out")));
    config.transport_config(Arc::new(transport));
    let local_is_v6 = endpoint.local_addr()?.is_ipv6();
    let target = match carried.unwrap_or(address) {
        SocketAddr::V4(v4) if local_is_v6 => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        other => other,
    };
    let connecting = match endpoint.connect_with(config, target, "control.edgeloom.invalid") {
        Ok(connecting) => connecting,
        Err(error) => return Ok(Err(error.to_string())),
    };
    Ok(match tokio::time::timeout(PATIENCE, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) if is_busy(&error) => {
            Err("it is busy with other hosts that join; try again".to_owned())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    })
}

/// Whether an accepting side has no place left (RFC 9000, section 20.1).
fn is_busy(error: &quinn::ConnectionError) -> bool {
    let quinn::ConnectionError::ConnectionClosed(close) = error else { return false };
    close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED
}

struct Conversation<'a> {
    guard: &'a Guard,
    address: SocketAddr,
}

impl Conversation<'_> {
    async fn hold(
        &self,
        connection: &quinn::Connection,
        proof: &Proof<'_>,
        request: &JoinRequest,
    ) -> Result<Joined, JoinError> {
        let (mut send, mut recv) = connection.open_bi().await.map_err(|error| self.protocol(error))?;
        self.say(&mut send, &Ask { version: VERSION }.into()).await?;
        let offer = match self.hear(&mut recv).await? {
            FromServer::Offer(offer) => offer,
            FromServer::JoinRefused(refused) => return Err(JoinError::Refused(refused)),
            other => return Err(self.unexpected(&other)),
        };
        let presented = Guard::presented(connection).map_err(|refusal| self.control(refusal))?;
        let (trust, control) = self.judge(proof, &offer, &presented)?;
        self.say(&mut send, &request.clone().into()).await?;
        let response = match self.hear(&mut recv).await? {
            FromServer::JoinResponse(response) => response,
            FromServer::JoinRefused(refused) => return Err(JoinError::Refused(refused)),
            other => return Err(self.unexpected(&other)),
        };
        let credential = self.own_credential(&trust, &response)?;
        Ok(Joined { offer, credential, response, control, address: self.address })
    }

    /// Holds the offered CA to the token, or to what is trusted already, and the server's credential to it.
    fn judge(
        &self,
        proof: &Proof<'_>,
        offer: &Offer,
        presented: &Presented,
    ) -> Result<(Trust, Verified), JoinError> {
        let trust = match proof {
            Proof::Token(token) => {
                if !offer.authorities.first().is_some_and(|ca| token.names_ca(ca)) {
                    return Err(JoinError::OtherCa(self.address));
                }
                Trust::new(&offer.cluster, &offer.authorities)?
            }
            Proof::Credential(_, trust) => (*trust).clone(),
        };
        let control = trust
            .verify(presented, SystemTime::now())
            .and_then(|control| control.require(Role::Control).map(|()| control))
            .map_err(|refusal| self.control(refusal))?;
        Ok((trust, control))
    }

    fn own_credential(&self, trust: &Trust, response: &JoinResponse) -> Result<SignedCredential, JoinError> {
        let credential = SignedCredential::decode(&response.credential)
            .map_err(|error: CredentialError| JoinError::Credential(error.to_string()))?;
        let peer = self.guard.identity().peer_id();
        let own = Presented { peer, credential: Some(credential.clone()), spki: Vec::new() };
        trust
            .verify(&own, SystemTime::now())
            .map_err(|refusal| JoinError::Credential(refusal.to_string()))?;
        Ok(credential)
    }

    async fn say(&self, send: &mut quinn::SendStream, message: &FromJoiner) -> Result<(), JoinError> {
        let bytes = message.encode().map_err(|error| self.protocol(error))?;
        frames::write(send, &bytes).await.map_err(|error| self.protocol(error))
    }

    async fn hear(&self, recv: &mut quinn::RecvStream) -> Result<FromServer, JoinError> {
        let message = tokio::time::timeout(ANSWER, frames::read(recv, MAX_ANSWER)).await;
        let message =
            message.map_err(|_| self.protocol(format!("no answer within {} s", ANSWER.as_secs())))?;
        let bytes = message
            .map_err(|error: FrameError| self.protocol(error))?
            .ok_or_else(|| self.protocol("it ended the conversation"))?;
        FromServer::decode(&bytes).map_err(|error: MessageError| self.protocol(error))
    }

    fn control(&self, refusal: Refusal) -> JoinError {
        JoinError::Control { address: self.address, refusal: Box::new(refusal) }
    }

    fn unexpected(&self, message: &FromServer) -> JoinError {
        let what = match message {
            FromServer::Offer(_) => "an offer out of turn",
            FromServer::JoinResponse(_) => "an answer out of turn",
            FromServer::JoinRefused(_) => "a refusal out of turn",
            FromServer::Unknown(_) => "a message that this release does not know",
        };
        self.protocol(what)
    }

    fn protocol(&self, reason: impl ToString) -> JoinError {
        JoinError::Protocol { address: self.address, reason: reason.to_string() }
    }
}
