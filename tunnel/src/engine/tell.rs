//! Where a node may be reached: what is told to peers, and what they tell.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libp2p::PeerId;

use super::messages::{direct_kind, is_private, usable};
use super::{Engine, PeerState};
use crate::path::{Kind, Origin, RouteKey};
use crate::socket::Source;
use crate::wire::message::{MAX_CANDIDATES, Message};

/// Back-off of telling a peer our addresses over a relay while no direct path is found.
const FIRST_TELL: Duration = Duration::from_secs(1);
const LAST_TELL: Duration = Duration::from_secs(600);

impl Engine {
    /// Addresses at which `peer` says it may be reached.
    pub(super) fn told_of(&mut self, now: Instant, peer: PeerId, addresses: &[SocketAddr]) {
        if !self.config.allows_direct() {
            return;
        }
        let own_site = self.own_site();
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let site = state.site().or_else(|| self.connections.verified(&peer).map(|known| known.site.clone()));
        let near = own_site.is_some() && own_site == site;
        for address in addresses {
            // Private ranges repeat: an address of another site means nothing here.
            if !usable(address) || (is_private(&address.ip()) && !near) || self.local.contains(address) {
                continue;
            }
            let kind = Kind::Direct(direct_kind(state, *address, true));
            state.paths.add(now, RouteKey::Direct(*address), kind, Origin::Told);
        }
        state.paths.urge(now);
    }

    fn own_site(&self) -> Option<edgeloom_model::Site> {
        let credential = self.guard.credential()?;
        edgeloom_model::Site::new(credential.claims().site.clone()).ok()
    }

    /// Tells `peer` own addresses, over a relay.
    pub(super) fn tell(&mut self, now: Instant, peer: PeerId, answered: bool) {
        if !self.config.allows_direct() {
            return;
        }
        let own_site = self.own_site();
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let Some(session) = state.working_session(now) else { return };
        let site = state.site().or_else(|| self.connections.verified(&peer).map(|known| known.site.clone()));
        let near = own_site.is_some() && own_site == site;
        let local = self.local.iter().filter(|address| near || !is_private(&address.ip()));
        let addresses = to_tell(self.observed.values().chain(local).copied());
        let told = state.told.map_or(0, |(_, count)| count);
        if !answered {
            state.told = Some((now, told.saturating_add(1)));
        }
        self.send(&peer, &Source::Relayed(session), &Message::Candidates { addresses, answered });
    }

    /// Whether it is time to tell again.
    pub(super) fn tell_due(state: &PeerState, now: Instant) -> bool {
        state.told.is_none_or(|(at, count)| now.saturating_duration_since(at) >= tell_again(count))
    }
}

/// Addresses for a peer to try, each once and no more than it takes. Several relays see a node at the same address, and
/// one without a NAT has it at an interface too.
fn to_tell(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut seen = HashSet::new();
    addresses.filter(|address| seen.insert(*address)).take(MAX_CANDIDATES).collect()
}

/// How long after they were told so often own addresses are told again.
fn tell_again(count: u32) -> Duration {
    (FIRST_TELL * 3u32.pow(count.min(6).saturating_sub(1))).min(LAST_TELL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_once_wherever_it_was_seen() {
        let address = |number: u8| SocketAddr::from(([192, 0, 2, number], 20006));
        let told = to_tell([1, 2, 1, 3, 2].into_iter().map(address));
        assert_eq!(told, [1, 2, 3].map(address));
        // What is told twice leaves no room for what is not.
        let many = std::iter::repeat_n([1, 2], MAX_CANDIDATES).flatten().chain([3]).map(address);
        assert_eq!(to_tell(many), [1, 2, 3].map(address));
        assert_eq!(to_tell((0..=u8::MAX).map(address)).len(), MAX_CANDIDATES);
    }

    #[test]
    fn addresses_are_told_less_and_less_often() {
        let seconds = [0, 1, 2, 3, 4, 5, 6, 7, u32::MAX].map(|count| tell_again(count).as_secs());
        assert_eq!(seconds, [1, 1, 3, 9, 27, 81, 243, 243, 243]);
    }
}
