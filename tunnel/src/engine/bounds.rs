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
            self.mux.budget.set(now, rate_now);
            self.metrics.rate(rate_now);
        }
        if direct != direct_now {
            tracing::info!(allowed = direct_now, "direct paths");
            self.direct_changed(now);
        }
    }

    /// Whether flows may go over TCP on the LAN now. Those that run keep a rate that was set since, and end with the
    /// direct paths: they know no other way.
    pub(crate) fn uses_lan_tcp(&self) -> bool {
        self.config.uses_lan_tcp()
    }

    /// Direct paths are left where they are forbidden, and looked for where they are allowed again.
    fn direct_changed(&mut self, now: Instant) {
        // A relay is talked to directly whatever is allowed, and talks so to all.
        let concerned = |peer: &&PeerId| !self.config.relay && !self.relays.contains(peer);
        if !self.config.allows_direct() {
            self.connections.lan.recheck(|with| !concerned(&&with.peer));
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::connection::testing::Bench;

    /// Bound of everything that is waited for, far above what it takes.
    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_site_says_holds_for_running_flows_over_tcp() {
        let mut bench = Bench::on_lan().await;
        let (near, far) = bench.lan_flow().await;
        let ((mut send, _), (_still_open, mut recv)) = (near.split(), far.split());
        bench.b.tunnel.set_bounds(Bounds { direct: true, rate: Some(1_000_000) });
        assert_eq!(bench.b.tunnel.lan(bench.a.tunnel.peer_id()), None, "new ones go by QUIC");
        let before = Instant::now();
        let received = async {
            let mut received = 0;
            while received < 300_000 {
                received += recv.read(64 << 10).await.unwrap().len();
            }
        };
        let sent = async { send.write_all(&[7; 300_000]).await.unwrap() };
        tokio::time::timeout(SOON, async { tokio::join!(sent, received) }).await.unwrap();
        let took = before.elapsed();
        assert!(took >= Duration::from_millis(250), "300 kB at 1 MB a second took {took:?}");
        bench.b.tunnel.set_bounds(Bounds { direct: false, rate: None });
        let ended = tokio::time::timeout(SOON, recv.read(1)).await.expect("it ends");
        assert!(ended.is_err(), "and not in order");
        assert!(send.write_all(b"more").await.is_err());
    }
}
