//! What passed on the way, as tcpdump took it: IPv4 in Ethernet frames.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::doors::{Knocked, frames_refuse, is_handshake};

/// Header of a pcap file, and of a packet in it.
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
const ETHERNET: usize = 14;
const UDP: u8 = 17;
const TCP: u8 = 6;
/// Bytes in which a connection is refused whose keys are there already: a dozen padded packets in search of the path's
/// size, connection ids, acknowledgements, and the refusal. A node where nodes join can refuse others only then. Less
/// than a quarter of what a member is sent that has the node echo.
const CLOSING: usize = 16 << 10;
/// What a TLS handshake may cost the server's side, its certificate with a credential in it and a refusal included, and
/// for a WebSocket the upgrade and the challenge.
const HANDSHAKE: usize = 4096;

/// What one UDP datagram or TCP segment carried.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) tcp: bool,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) payload: Vec<u8>,
    /// TCP's sequence number.
    pub(crate) sequence: u32,
}

/// The packets of a pcap file.
pub(crate) fn packets(file: &Path) -> Result<Vec<Packet>> {
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let mut found = Vec::new();
    let mut rest = bytes.get(FILE_HEADER..).context("a capture without a header")?;
    while let Some((header, after)) = rest.split_at_checked(PACKET_HEADER) {
        let length = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let Some((frame, next)) = after.split_at_checked(length) else { break };
        rest = next;
        found.extend(read(frame));
    }
    Ok(found)
}

fn read(frame: &[u8]) -> Option<Packet> {
    let ip = frame.get(ETHERNET..).filter(|_| frame[12..14] == [0x08, 0x00])?;
    let word = |bytes: &[u8], at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
    let (protocol, total) = (*ip.get(9)?, usize::from(word(ip, 2)?));
    // Without the padding of short frames; 0 is a batch that the kernel had not cut up yet.
    let ip = if total == 0 { ip } else { ip.get(..total)? };
    let segment = ip.get(usize::from(ip[0] & 0x0f) * 4..)?;
    let from = SocketAddrV4::new(address(12)?, word(segment, 0)?).into();
    let to = SocketAddrV4::new(address(16)?, word(segment, 2)?).into();
    let head = match protocol {
        UDP => 8,
        TCP => usize::from(*segment.get(12)? >> 4) * 4,
        _ => return None,
    };
    let sequence = u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?);
    Some(Packet { tcp: protocol == TCP, from, to, payload: segment.get(head..)?.to_vec(), sequence })
}

/// What one end sent to the other's ports.
#[derive(Debug, Default)]
struct Sent {
    handshake: usize,
    refusals: usize,
    /// Bytes of QUIC packets behind the handshake.
    behind: usize,
    /// Bytes of frames that are no refusal.
    frames: usize,
    /// Bytes by own port.
    tcp: BTreeMap<u16, usize>,
}

impl Sent {
    fn take(&mut self, packet: &Packet) {
        let Some(first) = packet.payload.first() else { return };
        if packet.tcp {
            *self.tcp.entry(packet.to.port()).or_default() += packet.payload.len();
        } else if is_handshake(&packet.payload) {
            self.handshake += 1;
        } else if frames_refuse(&packet.payload) {
            self.refusals += 1;
        } else if *first >= edgeloom_tunnel::wire::frame::QUIC {
            self.behind += packet.payload.len();
        } else {
            self.frames += packet.payload.len();
        }
    }

    /// Whether it is nothing but handshakes that refuse.
    fn is_nothing(&self) -> bool {
        self.frames == 0 && self.behind <= CLOSING && self.tcp.values().all(|bytes| *bytes <= HANDSHAKE)
    }
}

/// Looks at what was sent to each who knocked, and prints it.
///
/// # Errors
/// Where a stranger was sent more than a refusal, or a member no more than that.
pub(crate) fn judge(doors: &Path, captures: &[PathBuf]) -> Result<()> {
    let knocked: Vec<Knocked> = serde_json::from_slice(&std::fs::read(doors)?)?;
    let taken: Vec<Packet> = captures
        .iter()
        .map(|file| packets(file))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect();
    println!(
        "{:<14} {:<8} {:<12} {:>9} {:>9} {:>7} {:>6} {:>9}",
        "who", "target", "door", "handshake", "refusals", "behind", "frames", "tcp bytes"
    );
    let mut wrong = Vec::new();
    let mut heard = 0;
    for one in knocked.iter().filter(|one| !one.ports.is_empty()) {
        let mut sent = Sent::default();
        let theirs = |packet: &&Packet| {
            packet.from == one.at && packet.tcp == one.tcp && one.ports.contains(&packet.to.port())
        };
        taken.iter().filter(theirs).for_each(|packet| sent.take(packet));
        let tcp: usize = sent.tcp.values().sum();
        println!(
            "{:<14} {:<8} {:<12} {:>9} {:>9} {:>7} {:>6} {tcp:>9}",
            one.who, one.target, one.door, sent.handshake, sent.refusals, sent.behind, sent.frames
        );
        heard += sent.handshake + sent.refusals + sent.frames + tcp;
        let shown = sent.behind + sent.frames + tcp;
        // What is less than a refusal may take is not told from one where it is encrypted.
        let hidden = one.bytes as usize > CLOSING && sent.is_nothing();
        let stranger = one.wanted == Some(false);
        if stranger && !sent.is_nothing() || shown < one.bytes as usize || hidden {
            wrong.push(format!("{} at the {}'s {}: {sent:?}", one.who, one.target, one.door));
        }
    }
    ensure!(heard > 0, "the captures hold nothing of this");
    ensure!(wrong.is_empty(), "the capture shows otherwise: {}", wrong.join("; "));
    Ok(())
}
