//! The stranger that repeats what a genuine node said, packet by packet, from an address of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use crate::capture::{Packet, packets};
use crate::doors::{Knocked, PATIENCE, frames_refuse, is_handshake};

/// Longest datagram that was one on the wire: captures hold batches that the kernel had not cut up yet.
const LONGEST: usize = 1500;
/// Packets of one kind that are repeated.
const MOST: usize = 2000;
const WHO: &str = "replayed";

/// Repeats all that the recordings hold for `targets`, and for the carriers of the first of them.
pub(crate) async fn everything(
    recordings: &[PathBuf],
    targets: &[(&str, SocketAddr)],
    websocket: SocketAddr,
) -> Result<Vec<Knocked>> {
    let mut recorded = Vec::new();
    for file in recordings {
        recorded.extend(packets(file)?);
    }
    let mut knocked = Vec::new();
    for (name, at) in targets {
        let to = |packet: &&Packet| !packet.tcp && packet.to == *at && packet.payload.len() <= LONGEST;
        let udp: Vec<&Packet> = recorded.iter().filter(to).collect();
        let (frames, quic): (Vec<&Packet>, Vec<&Packet>) =
            udp.into_iter().partition(|packet| packet.payload.first().is_some_and(|first| *first < 0x40));
        knocked.push(datagrams("frames", name, *at, &frames).await?);
        knocked.push(datagrams("quic", name, *at, &quic).await?);
    }
    let (control, at) = targets[0];
    for (door, at) in [("tls", at), ("websocket", websocket)] {
        for spoken in conversations(&recorded, at) {
            knocked.push(conversation(door, control, at, &spoken).await?);
        }
    }
    ensure!(knocked.iter().any(|one| one.tcp), "the recordings hold no carrier to be repeated");
    Ok(knocked)
}

fn knocked(door: &str, target: &str, at: SocketAddr) -> Knocked {
    Knocked {
        who: WHO.to_owned(),
        target: target.to_owned(),
        door: door.to_owned(),
        at,
        tcp: false,
        ports: Vec::new(),
        bytes: 0,
        wanted: Some(false),
        note: String::new(),
    }
}

/// All from one port, in their order; answers that are neither refusals nor handshakes count.
async fn datagrams(door: &str, target: &str, at: SocketAddr, recorded: &[&Packet]) -> Result<Knocked> {
    ensure!(!recorded.is_empty(), "the recordings hold no {door} for the {target}");
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(at).await?;
    let mut one = knocked(door, target, at);
    one.ports.push(socket.local_addr()?.port());
    let (mut buffer, mut sent, mut refusals) = ([0; 2048], 0, 0);
    let mut hear = |packet: &[u8]| {
        if frames_refuse(packet) || is_handshake(packet) {
            refusals += 1;
        } else {
            one.bytes += packet.len() as u64;
        }
    };
    for packet in recorded.iter().take(MOST) {
        // What the kernel refuses for its buffer is lost, as on a network.
        let _ = socket.send(&packet.payload).await;
        sent += 1;
        if sent % 50 == 0 {
            tokio::time::sleep(PATIENCE / 100).await;
        }
        while let Ok(length) = socket.try_recv(&mut buffer) {
            hear(&buffer[..length]);
        }
    }
    let until = Instant::now() + PATIENCE;
    while let Ok(Ok(length)) = timeout_at(until, socket.recv(&mut buffer)).await {
        hear(&buffer[..length]);
    }
    one.note = format!("{sent} packets repeated, {refusals} refusals and handshakes");
    Ok(one)
}

/// What clients said on each connection to `at`, put together by sequence numbers.
fn conversations(recorded: &[Packet], at: SocketAddr) -> Vec<Vec<u8>> {
    let mut by_client: BTreeMap<SocketAddr, BTreeMap<u32, &[u8]>> = BTreeMap::new();
    let said = recorded.iter().filter(|packet| packet.tcp && packet.to == at && !packet.payload.is_empty());
    for packet in said {
        by_client.entry(packet.from).or_default().insert(packet.sequence, &packet.payload);
    }
    by_client.into_values().map(|pieces| pieces.into_values().collect::<Vec<_>>().concat()).collect()
}

/// The whole conversation on a connection of its own. A handshake answers it; more would be read as records of TLS after
/// the server's finish, for which the keys are missing: how much came is for the capture to bound.
async fn conversation(door: &str, target: &str, at: SocketAddr, spoken: &[u8]) -> Result<Knocked> {
    let mut one = Knocked { tcp: true, ..knocked(door, target, at) };
    let mut tcp = timeout(PATIENCE, TcpStream::connect(at)).await??;
    one.ports.push(tcp.local_addr()?.port());
    // It may be closed on before all is said.
    let _ = tcp.write_all(spoken).await;
    let (mut buffer, mut count) = ([0; 4096], 0);
    let until = Instant::now() + PATIENCE;
    while let Ok(Ok(read @ 1..)) = timeout_at(until, tcp.read(&mut buffer)).await {
        count += read;
    }
    one.note = format!("{} bytes repeated, {count} of a handshake came back", spoken.len());
    Ok(one)
}
