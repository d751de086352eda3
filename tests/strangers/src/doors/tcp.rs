//! The carriers over TCP, and flows on a LAN.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use edgeloom_mesh::wire::{Measure, Preface};
use edgeloom_tunnel::identity::disguised_client_config;
use edgeloom_tunnel::lan::LAN_ALPN;
use edgeloom_tunnel::wire::message::Message;
use futures::{SinkExt as _, StreamExt as _};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message as Piece;

use super::frames::Speaker;
use super::{Heard, Knock, PATIENCE};

/// A frame behind its length, as carriers have them.
fn record(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u16).to_be_bytes()[..], frame].concat()
}

async fn connect(
    at: std::net::SocketAddr,
    tls: rustls::ClientConfig,
    heard: &mut Heard,
) -> Result<TlsStream<TcpStream>> {
    let tcp = timeout(PATIENCE, TcpStream::connect(at)).await.context("no connection")??;
    heard.ports.push(tcp.local_addr()?.port());
    let name = ServerName::try_from("edgeloom.invalid")?;
    Ok(timeout(PATIENCE, TlsConnector::from(Arc::new(tls)).connect(name, tcp))
        .await
        .context("no handshake")??)
}

impl Knock<'_> {
    pub(super) async fn tls(&self, alpn: &str, heard: &mut Heard) -> Result<()> {
        let tls = self.guard.client_config(alpn.as_bytes(), Some(self.target.peer))?;
        let mut stream = connect(self.target.at, tls, heard).await?;
        let speaker = Speaker::new(self.guard, &self.target.peer)?;
        stream.write_all(&record(&speaker.hello(Speaker::probe()))).await?;
        stream.flush().await?;
        heard.note = "the handshake stands".to_owned();
        let mut buffer = [0; 2048];
        let until = tokio::time::Instant::now() + PATIENCE;
        while let Ok(read) = tokio::time::timeout_at(until, stream.read(&mut buffer)).await {
            match read? {
                0 => break,
                count => heard.bytes += count as u64,
            }
        }
        Ok(())
    }

    /// A measurement sends back what comes, to whom it speaks with at all.
    pub(super) async fn lan(&self, heard: &mut Heard) -> Result<()> {
        let tls = self.guard.client_config(LAN_ALPN, Some(self.target.peer))?;
        let mut stream = connect(self.target.at, tls, heard).await?;
        let mut opening = Preface::Measure(Measure::Echo).encode();
        opening.extend_from_slice(b"anybody there?");
        stream.write_all(&opening).await?;
        stream.flush().await?;
        heard.note = "the handshake stands".to_owned();
        let mut buffer = [0; 2048];
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.context("no answer")??;
        heard.bytes += read as u64;
        Ok(())
    }

    /// The relay's challenge comes before anything is proven; what comes after the proof counts.
    pub(super) async fn websocket(&self, heard: &mut Heard) -> Result<()> {
        let stream = connect(self.websocket, disguised_client_config(b"http/1.1")?, heard).await?;
        let url = format!("wss://{}/carrier/1", self.websocket);
        let upgraded = timeout(PATIENCE, tokio_tungstenite::client_async(url, stream)).await;
        let (mut socket, _) = upgraded.context("no upgrade")??;
        let piece = timeout(PATIENCE, socket.next()).await.context("no challenge")?;
        let challenge = piece.context("the relay ended it")??.into_data();
        ensure!(challenge.len() == 18, "a challenge of {} bytes", challenge.len());
        let challenge = challenge[2..].try_into()?;
        let speaker = Speaker::new(self.guard, &self.target.peer)?;
        for message in [Message::Attach { challenge }, Speaker::probe()] {
            socket.send(Piece::binary(record(&speaker.hello(message)))).await?;
        }
        heard.note = "the challenge came".to_owned();
        let until = tokio::time::Instant::now() + PATIENCE;
        while let Ok(Some(piece)) = tokio::time::timeout_at(until, socket.next()).await {
            if let Piece::Binary(bytes) = piece? {
                heard.bytes += bytes.len() as u64;
            }
        }
        Ok(())
    }
}
