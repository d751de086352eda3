//! What a received packet is, by its first bytes.

use quinn::{ConnectionId, ConnectionIdGenerator};

use crate::wire::frame;

/// Length of the connection ids that both endpoints make.
const CID_LENGTH: usize = 8;
/// Bit of a connection id's first byte that tells the endpoints apart.
const MARK: u8 = 0x80;
/// Bit of a QUIC packet's first byte: long header (RFC 9000, section 17.2).
const LONG: u8 = 0x80;
/// Where a long header has the length of the destination connection id.
const LONG_CID_LENGTH: usize = 5;

/// The endpoint that a connection id belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The endpoint for our own protocols.
    Raw,
    /// libp2p's endpoint.
    Libp2p,
}

impl Mark {
    /// A random connection id that carries the mark.
    pub(crate) fn connection_id(self) -> ConnectionId {
        let mut id: [u8; CID_LENGTH] = rand::random();
        match self {
            Mark::Raw => id[0] &= !MARK,
            Mark::Libp2p => id[0] |= MARK,
        }
        ConnectionId::new(&id)
    }

    fn of(id: u8) -> Self {
        if id & MARK == 0 { Mark::Raw } else { Mark::Libp2p }
    }
}

impl ConnectionIdGenerator for Mark {
    fn generate_cid(&mut self) -> ConnectionId {
        self.connection_id()
    }

    fn cid_len(&self) -> usize {
        CID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// Whether a QUIC packet has a long header, as all have until a handshake is done.
pub(super) fn opens(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first & LONG != 0)
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// QUIC, of the endpoint with this mark.
    Quic(Mark),
    /// Forwarder data.
    Data,
    /// Another frame of ours.
    Control,
    /// Nothing that can be one of these.
    Noise,
}

impl Class {
    pub(crate) fn of(packet: &[u8]) -> Self {
        let Some(&first) = packet.first() else { return Class::Noise };
        if first < frame::QUIC {
            return match first {
                frame::DATA => Class::Data,
                frame::SEALED | frame::HELLO | frame::WHO_ARE_YOU | frame::UNKNOWN_SESSION => Class::Control,
                _ => Class::Noise,
            };
        }
        let id = if first & LONG == 0 {
            packet.get(1)
        } else {
            match packet.get(LONG_CID_LENGTH) {
                // An id of a stranger's making, or none: our side marks every id that it makes.
                None | Some(0) => None,
                Some(_) => packet.get(LONG_CID_LENGTH + 1),
            }
        };
        id.map_or(Class::Noise, |id| Class::Quic(Mark::of(*id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_tell_the_endpoints_apart_in_both_header_forms() {
        for mark in [Mark::Raw, Mark::Libp2p] {
            for _ in 0..100 {
                let id = mark.connection_id();
                let mut short = vec![0x41];
                short.extend_from_slice(&id);
                assert_eq!(Class::of(&short), Class::Quic(mark));
                let mut long = vec![0xc3, 0, 0, 0, 1, id.len() as u8];
                long.extend_from_slice(&id);
                assert_eq!(Class::of(&long), Class::Quic(mark));
            }
        }
    }

    #[test]
    fn frames_and_noise() {
        assert_eq!(Class::of(&[frame::DATA]), Class::Data);
        assert_eq!(Class::of(&[frame::HELLO, 1]), Class::Control);
        for noise in [&[][..], &[0x3f], &[0x40], &[0xc0, 0, 0, 0, 1, 0, 5]] {
            assert_eq!(Class::of(noise), Class::Noise, "{noise:?}");
        }
    }
}
