//! What the node's site allows, and what is done where it changes.

use std::time::Instant;

use libp2p::PeerId;

use super::Engine;
use crate::config::Bounds;
use crate::path::{Candidate, Origin, RouteKey};

impl Engine {
    /// Replaces what the site allows.
    pub(crate) fn set_bounds(&mut self, now: Instant, bounds: Bounds) {
        let (direct, rate) = (self.config.allows_direct(), self.config.lowest_rate());
        self.config.site = bounds;
        let (direct_now, rate_now) = (self.config.allows_direct(), self.config.lowest_rate());
        if rate != rate_now {
            tracing::info!(bytes_per_second = rate_now, "the rate at which this node may send is another");
            self.mux.set_rate(now, rate_now);
            self.metrics.rate(rate_now);
        }
        if direct != direct_now {
            tracing::info!(allowed = direct_now, "direct paths");
            self.direct_changed(now);
        }
    }

    /// Whether flows may go over TCP on the LAN now. Those that run go on whatever changes: they know no other way.
    pub(crate) fn uses_lan_tcp(&self) -> bool {
        self.config.uses_lan_tcp()
    }

    /// Direct paths are left where they are forbidden, and looked for where they are allowed again.
    fn direct_changed(&mut self, now: Instant) {
        // A relay is talked to directly whatever is allowed, and talks so to all.
        let concerned = |peer: &&PeerId| !self.config.relay && !self.relays.contains(peer);
        for peer in self.peers.keys().filter(concerned).copied().collect::<Vec<_>>() {
            if !self.config.allows_direct() {
                self.leave_direct(now, &peer);
            }
            let Some(state) = self.peers.get_mut(&peer) else { continue };
            state.told = None;
            state.next_poll = Some(now);
            state.paths.urge(now);
            self.service(now, peer);
        }
    }

    /// Gives up every direct path to `peer`. The peer notices by the probe that says by which way this node's traffic
    /// goes now, and by those of its own that are answered no more.
    fn leave_direct(&mut self, now: Instant, peer: &PeerId) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        let is_direct = |candidate: &&Candidate| {
            !matches!(candidate.route, RouteKey::Relayed(_)) && !candidate.kind.is_carrier()
        };
        let used = state.paths.current().filter(is_direct).is_some();
        let direct: Vec<_> =
            state.paths.candidates().iter().filter(is_direct).map(|c| (c.route, c.kind, c.origin)).collect();
        for (route, kind, origin) in direct {
            state.paths.remove(route);
            if origin == Origin::Configured {
                // Known again where it is allowed again.
                state.paths.add(now, route, kind, origin);
            }
        }
        if used {
            state.slot.set_route(None);
        }
    }
}
