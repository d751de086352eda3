//! Frames, and what a relay forwards.

use std::time::SystemTime;

use anyhow::{Context as _, Result};
use edgeloom_tunnel::PeerId;
use edgeloom_tunnel::identity::Guard;
use edgeloom_tunnel::wire::frame::{Control, DATA_HEADER, DataHeader};
use edgeloom_tunnel::wire::message::{Hello, Message, PublicKey};
use edgeloom_tunnel::wire::seal::{DataKey, OwnKey, PairKey, public_key};
use edgeloom_tunnel::wire::stamp::micros;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::{Heard, Knock, PATIENCE, frames_refuse};

/// Speaks in frames to one node.
pub(super) struct Speaker {
    key: PairKey,
    public: PublicKey,
    credential: Vec<u8>,
}

impl Speaker {
    pub(super) fn new(guard: &Guard, to: &PeerId) -> Result<Self> {
        let own = OwnKey::new(&guard.identity().keypair().clone().try_into_ed25519()?);
        let key = own.pair(&public_key(to).context("the target's key is no Ed25519")?);
        let key = key.context("the target's key is no point of the curve")?;
        let public = public_key(&guard.identity().peer_id()).context("the own key is no Ed25519")?;
        let credential = guard.credential().map(|credential| credential.encode()).unwrap_or_default();
        Ok(Self { key, public, credential })
    }

    pub(super) fn hello(&self, message: Message) -> Vec<u8> {
        self.key.hello(micros(SystemTime::now()), Hello { credential: &self.credential, message }.encode())
    }

    fn sealed(&self, message: &Message) -> Vec<u8> {
        let mut plain = Vec::new();
        message.encode(&mut plain);
        self.key.seal(micros(SystemTime::now()), plain)
    }

    /// What a frame of the target says.
    fn open(&self, packet: &[u8]) -> Option<Message> {
        match Control::parse(packet).ok()? {
            Control::Sealed { from, nonce, sealed } => {
                Message::parse(&self.key.open(&from, nonce, sealed).ok()?).ok()
            }
            Control::Hello { from, nonce, sealed } => {
                Some(Hello::parse(&self.key.open(&from, nonce, sealed).ok()?).ok()?.message)
            }
            _ => None,
        }
    }

    pub(super) fn probe() -> Message {
        Message::Probe { id: rand::random(), epoch: 7, in_use: false, shunned: false }
    }
}

/// What comes in `PATIENCE`.
async fn listen(socket: &UdpSocket) -> Vec<Vec<u8>> {
    let (mut packets, mut buffer) = (Vec::new(), [0; 2048]);
    let until = tokio::time::Instant::now() + PATIENCE;
    while let Ok(Ok(length)) = tokio::time::timeout_at(until, socket.recv(&mut buffer)).await {
        packets.push(buffer[..length].to_vec());
    }
    packets
}

impl Knock<'_> {
    async fn socket(&self, heard: &mut Heard) -> Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect(self.target.at).await?;
        heard.ports.push(socket.local_addr()?.port());
        Ok(socket)
    }

    /// Says hello from a port, and waits a little for an answer, or as long as one may take.
    pub(super) async fn greet(&self, guard: &Guard, heard: &mut Heard) -> Result<std::net::UdpSocket> {
        // Not connected: it is a QUIC endpoint's from now on.
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        heard.ports.push(socket.local_addr()?.port());
        let hello = Speaker::new(guard, &self.target.peer)?.hello(Speaker::probe());
        socket.send_to(&hello, self.target.at).await?;
        let _ = timeout(PATIENCE / 2, socket.recv(&mut [0; 2048])).await;
        Ok(socket.into_std()?)
    }

    pub(super) async fn frames(&self, heard: &mut Heard) -> Result<()> {
        let speaker = Speaker::new(self.guard, &self.target.peer)?;
        let socket = self.socket(heard).await?;
        let other = public_key(&self.other.peer).context("the other's key is no Ed25519")?;
        for message in [
            Speaker::probe(),
            Message::Open { peer: other },
            Message::Candidates { addresses: vec![self.target.at], answered: false },
        ] {
            socket.send(&speaker.sealed(&message)).await?;
            socket.send(&speaker.hello(message)).await?;
        }
        socket.send(&forged_data(rand::random())).await?;
        let (refusals, answers): (Vec<_>, Vec<_>) =
            listen(&socket).await.into_iter().partition(|packet| frames_refuse(packet));
        heard.bytes = answers.iter().map(|packet| packet.len() as u64).sum();
        heard.note = format!("{} answers, {} times \"who are you\"", answers.len(), refusals.len());
        Ok(())
    }

    /// Two of a kind want packets forwarded between them.
    pub(super) async fn forwarder(&self, heard: &mut Heard) -> Result<()> {
        let one = Speaker::new(self.guard, &self.target.peer)?;
        let two = Speaker::new(self.second, &self.target.peer)?;
        let (near, far) = (self.socket(heard).await?, self.socket(heard).await?);
        near.send(&one.hello(Speaker::probe())).await?;
        far.send(&two.hello(Speaker::probe())).await?;
        tokio::time::sleep(PATIENCE / 8).await;
        near.send(&one.hello(Message::Open { peer: two.public })).await?;
        let given = listen(&near).await.iter().find_map(|packet| match one.open(packet)? {
            Message::Session { session, side, key, .. } => Some((session, side, key)),
            _ => None,
        });
        heard.note = if given.is_some() { "a session" } else { "no session" }.to_owned();
        match given {
            Some((session, side, key)) => {
                let payload = [0x41; 64];
                let mut header = DataHeader { session, side, down: false, counter: 1, tag: [0; 16] };
                DataKey::new(&key).sign(&mut header, &payload);
                near.send(&data(&header, &payload)).await?;
            }
            // Sessions that others may have.
            None => {
                for _ in 0..8 {
                    near.send(&forged_data(rand::random())).await?;
                }
            }
        }
        let forwarded = listen(&far).await;
        let forwarded = forwarded.iter().filter(|packet| DataHeader::parse(packet).is_ok());
        heard.bytes = forwarded.map(|packet| packet.len() as u64).sum();
        Ok(())
    }
}

fn data(header: &DataHeader, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; DATA_HEADER];
    header.write(&mut frame);
    frame.extend_from_slice(payload);
    frame
}

fn forged_data(session: u32) -> Vec<u8> {
    data(&DataHeader { session, side: 0, down: false, counter: 1, tag: rand::random() }, &[0x41; 64])
}
