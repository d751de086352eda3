//! QUIC: the raw endpoint's protocols, libp2p's, and joining.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use edgeloom_api::hub::{FromNode, Hello, VERSION};
use edgeloom_api::join::JoinRequest;
use edgeloom_api::token::JoinToken;
use edgeloom_mesh::wire::{Measure, Preface};
use edgeloom_tunnel::Carriers;
use edgeloom_tunnel::frames;
use edgeloom_tunnel::identity::Guard;
use edgeloom_tunnel::join::{self, Proof};
use quinn::{ClientConfig, ConnectionId, Endpoint, EndpointConfig, TokioRuntime, TransportConfig};
use tokio::time::timeout;

use super::{Heard, Knock, PATIENCE};

/// Length of the nodes' connection ids, and the bit that is set in those of libp2p's endpoint.
const CID_LENGTH: usize = 8;
const LIBP2P_MARK: u8 = 0x80;
/// What a libp2p stream begins with, from either side.
const MULTISTREAM: &[u8] = b"\x13/multistream/1.0.0\n";

impl Knock<'_> {
    pub(super) async fn quic(&self, alpn: &'static str, heard: &mut Heard) -> Result<()> {
        let guard = self.joined.get().filter(|_| alpn == "hub/1").unwrap_or(self.guard);
        let socket = self.greet(guard, heard).await?;
        let mut config = EndpointConfig::default();
        // Packets are told from frames by this bit.
        config.grease_quic_bit(false);
        let endpoint = Endpoint::new(config, None, socket, Arc::new(TokioRuntime))?;
        let crypto = guard.quic_client_config(alpn.as_bytes(), Some(self.target.peer))?;
        let mut client = ClientConfig::new(crypto);
        let libp2p = alpn == "libp2p";
        client.initial_dst_cid_provider(Arc::new(move || {
            let mut id: [u8; CID_LENGTH] = rand::random();
            id[0] = if libp2p { id[0] | LIBP2P_MARK } else { id[0] & !LIBP2P_MARK };
            ConnectionId::new(&id)
        }));
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(Some((PATIENCE * 4).try_into()?));
        client.transport_config(Arc::new(transport));
        let connecting = endpoint.connect_with(client, self.target.at, "edgeloom.invalid")?;
        let connection = timeout(PATIENCE * 4, connecting).await.context("no handshake")??;
        let spoken = speak(&connection, &opening(alpn).await?, heard).await;
        connection.close(0u8.into(), b"");
        let _ = timeout(PATIENCE, endpoint.wait_idle()).await;
        spoken
    }

    /// Joins with the token that it was given, else renews what it has, else with a token that nobody made.
    pub(super) async fn join(&self, heard: &mut Heard) -> Result<()> {
        let trust = self.guard.trust().context("whoever knocks knows the CA")?;
        let credential = self.guard.credential();
        let made_up = JoinToken::new(self.authority, rand::random());
        let proof = match (self.token, &credential) {
            (Some(token), _) => Proof::Token(token),
            (None, Some(credential)) => Proof::Credential(credential, &trust),
            (None, None) => Proof::Token(&made_up),
        };
        let secret = if let Proof::Token(token) = &proof { token.secret() } else { "" };
        let request = JoinRequest {
            secret: secret.to_owned(),
            node: "visitor".to_owned(),
            hostname: "visitor".to_owned(),
            os: "linux".to_owned(),
            arch: "amd64".to_owned(),
            release: "0".to_owned(),
            routes: Vec::new(),
        };
        let carriers = Carriers { dial: false, ..Carriers::default() };
        let at = [self.target.at];
        let joined = join::request(self.guard.identity(), proof, &at, &carriers, &request).await?;
        heard.bytes = joined.credential.encode().len() as u64;
        heard.note = "a credential".to_owned();
        let guard =
            Guard::new(self.guard.identity().clone(), Some(joined.credential), Some((*trust).clone()))?;
        // One who knocks comes to this door once.
        let _ = self.joined.set(guard);
        Ok(())
    }
}

/// What a protocol's stream begins with, to which a node that serves it has an answer.
async fn opening(alpn: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match alpn {
        "hub/1" => {
            let hello = Hello {
                version: VERSION,
                release: "0".to_owned(),
                kinds: Vec::new(),
                digest: vec![0; 32].into(),
            };
            frames::write(&mut bytes, &FromNode::from(hello).encode()?).await?;
        }
        "kubelet/1" => bytes.extend_from_slice(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n"),
        "mesh/1" => {
            bytes = Preface::Measure(Measure::Echo).encode();
            // As much as no refusal takes.
            bytes.resize(bytes.len() + (64 << 10), 7);
        }
        "libp2p" => bytes.extend_from_slice(MULTISTREAM),
        _ => bytes.extend_from_slice(&[0; 64]),
    }
    Ok(bytes)
}

/// Opens a stream, speaks, and counts what is said.
async fn speak(connection: &quinn::Connection, opening: &[u8], heard: &mut Heard) -> Result<()> {
    let (mut send, mut recv) = timeout(PATIENCE, connection.open_bi()).await.context("no stream")??;
    send.write_all(opening).await?;
    let until = tokio::time::Instant::now() + PATIENCE;
    while let Ok(read) = tokio::time::timeout_at(until, recv.read_chunk(usize::MAX, true)).await {
        match read? {
            Some(chunk) => heard.bytes += chunk.bytes.len() as u64,
            None => break,
        }
    }
    heard.note = "the handshake stands".to_owned();
    Ok(())
}
