//! The relay: forwards packets between two peers that find no direct path, and knows nothing of what is in them.
//!
//! [`table::Sessions`] decides, purely, who may have a session; a [`Forward`] is what the socket needs to send
//! one session's packets on, and counts them. They go on at once; where the way out is full they wait, shortly, in
//! [`fair::Fair`], which serves the peers in turn. Back-pressure is the loss that short queues make, seen end to end by
//! the peers' own congestion control.

mod fair;
mod table;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use fair::Fair;
pub(crate) use table::{Limits, Opened, Sessions};

use libp2p::PeerId;

use crate::socket::PeerSlot;
use crate::wire::frame::DataHeader;
use crate::wire::seal::DataKey;

/// Whose frame it is, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Onward {
    pub(crate) from: PeerId,
    pub(crate) to: SocketAddr,
}

/// One end of a forwarded session.
pub(crate) struct End {
    slot: Arc<PeerSlot>,
    key: DataKey,
    /// Number of the next frame towards this end.
    counter: AtomicU64,
    bytes: AtomicU64,
}

/// A session as the socket forwards it.
pub(crate) struct Forward {
    ends: [End; 2],
    last_used: AtomicU64,
}

impl Forward {
    pub(crate) fn new(slots: [Arc<PeerSlot>; 2], keys: &[[u8; 16]; 2], clock: u64) -> Self {
        let [a, b] = slots;
        let end = |slot, key| End {
            slot,
            key: DataKey::new(key),
            counter: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        Self { ends: [end(a, &keys[0]), end(b, &keys[1])], last_used: AtomicU64::new(clock) }
    }

    /// Verifies a frame of one end and gives it the header for the other, with where that is.
    pub(crate) fn turn(
        &self,
        header: &DataHeader,
        payload: &[u8],
        clock: u64,
    ) -> Result<(DataHeader, Onward), &'static str> {
        let from = &self.ends[usize::from(header.side & 1)];
        let to = &self.ends[usize::from(header.side & 1 ^ 1)];
        if header.down || !from.key.verify(header, payload) {
            return Err("not authentic");
        }
        let address = to.slot.direct().ok_or("peer away")?;
        from.bytes.fetch_add(payload.len() as u64, Ordering::Relaxed);
        self.last_used.store(clock, Ordering::Relaxed);
        let counter = to.counter.fetch_add(1, Ordering::Relaxed);
        let mut turned =
            DataHeader { session: header.session, side: header.side ^ 1, down: true, counter, tag: [0; 16] };
        to.key.sign(&mut turned, payload);
        Ok((turned, Onward { from: from.slot.peer, to: address }))
    }

    /// Clock of the last frame.
    pub(crate) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    /// Bytes that each end sent since the last call, by peer.
    pub(crate) fn take_bytes(&self) -> [(PeerId, u64); 2] {
        let of = |end: &End| (end.slot.peer, end.bytes.swap(0, Ordering::Relaxed));
        [of(&self.ends[0]), of(&self.ends[1])]
    }
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Forward({} <-> {})", self.ends[0].slot.peer, self.ends[1].slot.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Route;
    use crate::status::DirectKind;

    #[test]
    fn a_frame_leaves_for_the_other_end_under_its_key() {
        let slots = [PeerSlot::new(PeerId::random()), PeerSlot::new(PeerId::random())];
        let keys = [[1; 16], [2; 16]];
        let forward = Forward::new(slots.clone(), &keys, 1);
        let payload = [0x40; 64];
        let mut header = DataHeader { session: 5, side: 0, down: false, counter: 0, tag: [0; 16] };
        DataKey::new(&keys[0]).sign(&mut header, &payload);
        assert_eq!(forward.turn(&header, &payload, 2), Err("peer away"));
        let to: SocketAddr = "192.0.2.7:20006".parse().unwrap();
        slots[1].set_route(Some(Route::Direct { to, kind: DirectKind::Public }));
        let (turned, way) = forward.turn(&header, &payload, 2).unwrap();
        assert_eq!((way, turned.side, turned.down), (Onward { from: slots[0].peer, to }, 1, true));
        assert!(DataKey::new(&keys[1]).verify(&turned, &payload));
        assert_eq!(forward.take_bytes().map(|(_, bytes)| bytes), [64, 0]);
        assert_eq!(forward.take_bytes().map(|(_, bytes)| bytes), [0, 0]);
        // A frame that claims to be from the other end, or comes from a relay, is no frame of a node's.
        assert_eq!(forward.turn(&DataHeader { side: 1, ..header }, &payload, 2), Err("not authentic"));
        assert_eq!(forward.turn(&turned, &payload, 2), Err("not authentic"));
    }
}
