//! sock_diag(7) messages: listing sockets with what our programs keep about them, and ending them. Pure.

use std::net::{IpAddr, SocketAddr};

use crate::abi::{self, Address};

// Of <linux/sock_diag.h>, <linux/inet_diag.h> and <linux/netlink.h>.
pub(crate) const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const REQ_SK_BPF_STORAGES: u16 = 2;
const STORAGE_REQ_MAP_FD: u16 = 1;
const ATTRIBUTE_STORAGES: u16 = 20;
const STORAGE: u16 = 1;
const STORAGE_VALUE: u16 = 3;
/// Flags of an attribute's type.
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Sizes of `struct nlmsghdr`, `inet_diag_req_v2`, `inet_diag_sockid` and `inet_diag_msg`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const SOCKET_ID: usize = 48;
const MESSAGE: usize = 72;
/// Where a socket id has its cookie, in two words, the lower first.
const COOKIE: usize = 40;

/// A socket that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) family: u8,
    /// `struct inet_diag_sockid`, with the cookie that makes it this socket and no other.
    id: [u8; SOCKET_ID],
    /// The peer as the kernel has it.
    pub(crate) peer: SocketAddr,
    /// What `reverse` holds for it, if anything: told of TCP sockets only.
    storage: Vec<u8>,
}

/// What an answer of the kernel is made of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Socket(Found),
    Done,
    /// A negative errno, or 0 for an acknowledgement.
    Status(i32),
}

/// Asks for the sockets of a family and protocol, with their entries of the map `reverse`.
pub(crate) fn list(family: u8, protocol: u8, map: i32) -> Vec<u8> {
    let mut request = vec![family, protocol, 0, 0];
    // Every state: UDP knows one only, and a closing TCP socket must go as well.
    request.extend(u32::MAX.to_ne_bytes());
    request.extend([0; SOCKET_ID]);
    let map = attribute(STORAGE_REQ_MAP_FD, &map.to_ne_bytes());
    request.extend(attribute(REQ_SK_BPF_STORAGES | NESTED, &map));
    message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, &request)
}

/// Asks for the end of one socket.
pub(crate) fn destroy(found: &Found, protocol: u8) -> Vec<u8> {
    let mut request = vec![found.family, protocol, 0, 0];
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(found.id);
    debug_assert_eq!(request.len(), REQUEST);
    message(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, &request)
}

/// Reads one datagram of the kernel; what is cut off or not understood ends it.
pub(crate) fn parts(mut datagram: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    while let Some(header) = datagram.first_chunk::<HEADER>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = datagram.get(HEADER..length) else { break };
        match kind {
            NLMSG_DONE => parts.push(Part::Done),
            NLMSG_ERROR => {
                let Some(code) = body.first_chunk::<4>() else { break };
                parts.push(Part::Status(i32::from_ne_bytes(*code)));
            }
            SOCK_DIAG_BY_FAMILY => parts.extend(socket(body).map(Part::Socket)),
            _ => {}
        }
        let Some(rest) = datagram.get(aligned(length)..) else { break };
        datagram = rest;
    }
    parts
}

impl Found {
    /// The number that the kernel gives to no other socket.
    pub(crate) fn cookie(&self) -> u64 {
        let word = |at: usize| self.id[at..].first_chunk().map_or(0, |word| u32::from_ne_bytes(*word));
        u64::from(word(COOKIE)) | u64::from(word(COOKIE + 4)) << 32
    }

    /// Whether our programs pointed this socket at the backend that it is connected to.
    pub(crate) fn was_pointed_at(&self, backend: SocketAddr) -> bool {
        if self.peer != backend {
            return false;
        }
        let want = abi::Backend::from(backend);
        let (entries, _) = self.storage.as_chunks::<{ size_of::<abi::Translation>() }>();
        entries
            .iter()
            .take(abi::TRANSLATIONS as usize)
            .filter_map(|entry| translation(entry))
            .any(|(at, id)| at == want && id != 0)
    }
}

/// The backend and the Service's number of one entry of `struct translations`.
fn translation(bytes: &[u8]) -> Option<(abi::Backend, u32)> {
    let word = |at: usize| bytes.get(at..at + 4)?.first_chunk().map(|word| u32::from_ne_bytes(*word));
    let base = std::mem::offset_of!(abi::Translation, backend);
    let mut addr = Address::default();
    for (index, to) in addr.word.iter_mut().enumerate() {
        *to = word(base + index * 4)?;
    }
    let at = base + std::mem::offset_of!(abi::Backend, port);
    let port = u16::from_ne_bytes(*bytes.get(at..at + 2)?.first_chunk()?);
    let id = word(std::mem::offset_of!(abi::Translation, service_id))?;
    Some((abi::Backend { addr, port, pad: [0; 2] }, id))
}

fn socket(body: &[u8]) -> Option<Found> {
    let family = *body.first()?;
    let id: [u8; SOCKET_ID] = *body.get(4..4 + SOCKET_ID)?.first_chunk()?;
    let port = u16::from_be_bytes([id[2], id[3]]);
    let ip = match i32::from(family) {
        libc::AF_INET => IpAddr::from(*id[20..].first_chunk::<4>()?),
        libc::AF_INET6 => IpAddr::from(*id[20..].first_chunk::<16>()?).to_canonical(),
        _ => return None,
    };
    let storages = find(body.get(MESSAGE..)?, ATTRIBUTE_STORAGES);
    let value = storages.and_then(|all| find(find(all, STORAGE)?, STORAGE_VALUE));
    Some(Found { family, id, peer: SocketAddr::new(ip, port), storage: value.unwrap_or_default().to_vec() })
}

/// The first attribute of a type.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some([l0, l1, k0, k1]) = attributes.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([*k0, *k1]) & TYPE_MASK == kind {
            return Some(value);
        }
        attributes = attributes.get(aligned(length)..)?;
    }
    None
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut out = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    out.extend(value);
    out.resize(aligned(out.len()), 0);
    out
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut out = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    // Sequence and port: there is one question at a time on the socket.
    out.extend([0; 8]);
    out.extend(body);
    out
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer of the kernel for a socket connected to `peer` with one translation.
    fn answer(peer: SocketAddr, backend: SocketAddr, service: u32) -> Vec<u8> {
        let mut id = [0; SOCKET_ID];
        id[2..4].copy_from_slice(&peer.port().to_be_bytes());
        let family = match peer.ip() {
            IpAddr::V4(v4) => {
                id[20..24].copy_from_slice(&v4.octets());
                libc::AF_INET
            }
            IpAddr::V6(v6) => {
                id[20..36].copy_from_slice(&v6.octets());
                libc::AF_INET6
            }
        };
        let entry = abi::Backend::from(backend);
        let mut value = vec![0; size_of::<abi::Translations>()];
        // In the second slot.
        let at = size_of::<abi::Translation>() + std::mem::offset_of!(abi::Translation, backend);
        for (index, word) in entry.addr.word.iter().enumerate() {
            value[at + index * 4..][..4].copy_from_slice(&word.to_ne_bytes());
        }
        value[at + 16..][..2].copy_from_slice(&entry.port.to_ne_bytes());
        let at = size_of::<abi::Translation>() + std::mem::offset_of!(abi::Translation, service_id);
        value[at..][..4].copy_from_slice(&service.to_ne_bytes());
        let storage = attribute(STORAGE, &attribute(STORAGE_VALUE, &value));
        let mut body = vec![family as u8, 1, 0, 0];
        body.extend(id);
        body.extend([0; MESSAGE - 4 - SOCKET_ID]);
        body.extend(attribute(19, b"other"));
        body.extend(attribute(ATTRIBUTE_STORAGES | NESTED, &storage));
        message(SOCK_DIAG_BY_FAMILY, 0, &body)
    }

    #[test]
    fn only_sockets_that_were_pointed_there_match() {
        for backend in ["10.244.1.2:80", "[fd00::2]:80"] {
            let backend: SocketAddr = backend.parse().unwrap();
            let other = SocketAddr::new(backend.ip(), 81);
            let found = |peer, entry, service| match &parts(&answer(peer, entry, service))[..] {
                [Part::Socket(found)] => found.was_pointed_at(backend),
                other => panic!("{other:?}"),
            };
            assert!(found(backend, backend, 7));
            // Connected there by itself, elsewhere by us, or never used.
            assert!(!found(backend, other, 7));
            assert!(!found(other, backend, 7));
            assert!(!found(backend, backend, 0));
        }
    }

    #[test]
    fn ends_and_errors_are_told_apart() {
        let mut datagram = message(NLMSG_DONE, 0, &0i32.to_ne_bytes());
        datagram.extend(message(NLMSG_ERROR, 0, &(-libc::EPERM).to_ne_bytes()));
        assert_eq!(parts(&datagram), [Part::Done, Part::Status(-libc::EPERM)]);
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(mut datagram in proptest::collection::vec(any::<u8>(), 0..400), kind in 0u16..24) {
            parts(&datagram);
            if datagram.len() >= HEADER {
                let length = datagram.len() as u32;
                datagram[..4].copy_from_slice(&length.to_ne_bytes());
                datagram[4..6].copy_from_slice(&kind.to_ne_bytes());
                for part in parts(&datagram) {
                    if let Part::Socket(found) = part {
                        found.was_pointed_at(found.peer);
                    }
                }
            }
        }
    }
}
