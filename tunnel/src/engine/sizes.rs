//! How large packets may be on each way to a peer: padded frames go out by all that answer, and come back or do not.
//!
//! The socket sends nothing in fragments (`IP_PMTUDISC_PROBE`), so what is larger than a link on the way is lost.

use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use libp2p::PeerId;

use super::acquaint::Bucket;
use super::{Engine, PeerState};
use crate::carrier::address::is_carrier;
use crate::path::{Envelope, RouteKey};
use crate::socket::Source;
use crate::wire::frame::DATA_HEADER;
use crate::wire::message::Message;
use crate::wire::stamp::micros;

/// Fills that are answered a second, of all peers: several traces at once, and 6 Mbit/s of whoever floods.
const PER_SECOND: f64 = 512.0;

/// What bounds the answers.
pub(super) fn bucket(now: Instant) -> Bucket {
    Bucket::new(now, PER_SECOND)
}

impl Engine {
    /// Tries the sizes that are due, by every way to `peer` that answers.
    pub(super) fn try_sizes(&mut self, now: Instant, peer: &PeerId, trial: u64) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        let PeerState { paths, sessions, .. } = state;
        let envelope = |route| match route {
            RouteKey::Direct(address) => Envelope { ipv6: is_wide(&address), header: 0 },
            RouteKey::Relayed(relay) => {
                let relay = sessions.get(&relay).and_then(|session| session.relay.direct());
                Envelope { ipv6: relay.is_some_and(|relay| is_wide(&relay)), header: DATA_HEADER as u16 }
            }
        };
        for (route, bytes) in paths.try_sizes(now, trial, envelope) {
            if let (Some(source), Some(fill)) = (self.source(peer, route), Message::fill(trial, bytes)) {
                self.send_sealed(peer, &source, &fill);
            }
        }
    }

    /// Sends back what `peer` filled, no larger than it came: never with a credential, and only to where the peer
    /// answered before, so that nobody else gets what an address that was made up would draw.
    pub(super) fn fill_back(&mut self, now: Instant, peer: &PeerId, source: &Source, id: u64, padding: u16) {
        let answers = |state: &PeerState| state.paths.answers_by(now, source.route());
        if self.peers.get(peer).is_some_and(answers) && self.fills.take(now) {
            self.send_sealed(peer, source, &Message::Filled { id, padding });
        }
    }

    /// What was filled came back.
    pub(super) fn filled(&mut self, peer: &PeerId, source: &Source, id: u64, padding: u16) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.paths.came_back(source.route(), id, Message::filled_bytes(padding));
        }
    }

    /// Sends a message whose frame has the length that the message says.
    fn send_sealed(&self, peer: &PeerId, to: &Source, message: &Message) {
        let Some(state) = self.peers.get(peer) else { return };
        let mut plain = Vec::new();
        message.encode(&mut plain);
        let frame = state.key.seal(self.stamps.next(micros(SystemTime::now())), plain);
        self.reply_raw(to, &frame);
    }
}

/// Whether packets to `address` have IPv6's header. What a carrier brings has none: the largest sizes are tried there.
fn is_wide(address: &SocketAddr) -> bool {
    address.is_ipv6() && !is_carrier(address)
}
