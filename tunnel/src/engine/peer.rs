//! What the engine knows of one peer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeloom_model::{NodeName, Site};
use libp2p::PeerId;
use tokio::sync::oneshot;

use super::carriers::Reach;
use crate::carrier::Carrier;
use crate::config::Peer;
use crate::identity::Verified;
use crate::path::{Candidate, Flow, Kind, Origin, Paths, RouteKey};
use crate::socket::{PeerSlot, Route, Session};
use crate::store::Remembered;
use crate::wire::message::{PublicKey, Refusal};
use crate::wire::seal::PairKey;
use crate::wire::stamp::Window;

/// Packets that went out this recently are a flow.
const FLOWING: u64 = 2_000;

/// What became of asking a relay for a session.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) at: Option<Instant>,
    pub(super) attempts: u32,
    pub(super) refused: Option<Refusal>,
}

/// One peer.
pub(crate) struct PeerState {
    pub(super) slot: Arc<PeerSlot>,
    pub(super) public: PublicKey,
    pub(super) key: PairKey,
    pub(super) paths: Paths,
    pub(super) member: Option<Peer>,
    pub(super) verified: Option<Verified>,
    /// Stamps of the frames that came from it.
    pub(super) stamps: Window,
    /// Own sessions with the peer, by relay.
    pub(super) sessions: HashMap<PeerId, Arc<Session>>,
    pub(super) asked: HashMap<PeerId, Asked>,
    pub(super) waiters: Vec<oneshot::Sender<SocketAddr>>,
    pub(super) pings: Vec<(u64, oneshot::Sender<Duration>)>,
    pub(super) keep_until: Instant,
    /// The peer may not know this node: frames to it carry the credential until it answers.
    pub(super) stranger_to: bool,
    /// When this node's addresses were last told, and how often.
    pub(super) told: Option<(Instant, u32)>,
    pub(super) unreachable_since: Option<Instant>,
    /// Where the peer saw this node when it last answered a direct probe.
    pub(super) sees_us_at: Option<SocketAddr>,
    /// Carriers between the peer and this node, the oldest first.
    pub(super) carriers: Vec<Arc<Carrier>>,
    /// Of a relay: whether UDP leads there.
    pub(super) reach: Option<Reach>,
    /// The trial of sizes that is on, or was last, and when it began.
    pub(super) trial: Option<(u64, Instant)>,
    pub(super) next_poll: Option<Instant>,
}

impl PeerState {
    pub(super) fn new(peer: PeerId, public: PublicKey, key: PairKey, own: PeerId) -> Self {
        let leads = own.to_bytes() < peer.to_bytes();
        Self {
            slot: PeerSlot::new(peer),
            public,
            key,
            paths: Paths::new(leads, rand::random()),
            member: None,
            verified: None,
            stamps: Window::default(),
            sessions: HashMap::new(),
            asked: HashMap::new(),
            waiters: Vec::new(),
            pings: Vec::new(),
            keep_until: Instant::now(),
            stranger_to: true,
            told: None,
            unreachable_since: None,
            sees_us_at: None,
            carriers: Vec::new(),
            reach: None,
            trial: None,
            next_poll: Some(Instant::now()),
        }
    }

    /// Forgets who waited and gave up: what nobody waits for keeps no path in demand.
    pub(super) fn forget_gone(&mut self) {
        self.waiters.retain(|waiting| !waiting.is_closed());
        self.pings.retain(|(_, waiting)| !waiting.is_closed());
    }

    pub(super) fn node(&self) -> Option<NodeName> {
        let member = self.member.as_ref().map(|member| &member.node);
        member.or(self.verified.as_ref().map(|verified| &verified.node)).cloned()
    }

    pub(super) fn site(&self) -> Option<Site> {
        let member = self.member.as_ref().map(|member| &member.site);
        member.or(self.verified.as_ref().map(|verified| &verified.site)).cloned()
    }

    /// What the hot path saw, at the table's clock.
    pub(super) fn flow(&self, clock: u64) -> Flow {
        let (sent, received) = self.slot.traffic.silence(clock);
        let since = |silence: Option<u64>| Duration::from_millis(silence.unwrap_or(u64::from(u32::MAX)));
        let sending = sent.is_some_and(|silence| silence < FLOWING);
        let unanswered = if sending { since(received) } else { Duration::ZERO };
        Flow { sending, unanswered, sent: since(sent), received: since(received) }
    }

    /// A session at a relay by which the peer is reached, as far as is known: the one in use, or another whose probes
    /// are not lost.
    pub(super) fn working_session(&self, now: Instant) -> Option<Arc<Session>> {
        let works = |candidate: &&Candidate| candidate.kind == Kind::Relayed && candidate.alive(now);
        let alive = self.paths.candidates().iter().filter(works);
        let others = alive.clone().max_by_key(|candidate| candidate.answered_at());
        let best = self.paths.current().filter(|current| works(current)).or(others)?;
        match best.route {
            RouteKey::Relayed(relay) => self.sessions.get(&relay).cloned(),
            RouteKey::Direct(_) => None,
        }
    }

    /// The table's form of `route`.
    pub(super) fn route(&self, route: RouteKey) -> Option<Route> {
        let kind = self.paths.candidates().iter().find(|candidate| candidate.route == route)?.kind;
        match (route, kind) {
            (RouteKey::Direct(to), Kind::Direct(kind)) => Some(Route::Direct { to, kind }),
            (RouteKey::Relayed(relay), _) => self.sessions.get(&relay).cloned().map(Route::Relayed),
            _ => None,
        }
    }

    /// What is kept of it on disk: who is known by name, with the direct addresses that worked.
    pub(super) fn remembered(&self) -> Option<Remembered> {
        let (node, site) = (self.node()?, self.site()?);
        let worked = |candidate: &&Candidate| {
            candidate.answered_at().is_some() || candidate.origin == Origin::Remembered
        };
        let addresses = self
            .paths
            .candidates()
            .iter()
            .filter(worked)
            .filter_map(|candidate| match (candidate.route, candidate.kind) {
                (RouteKey::Direct(address), Kind::Direct(kind)) if !kind.is_carrier() => {
                    Some((address, kind))
                }
                _ => None,
            })
            .collect();
        Some(Remembered { peer: self.slot.peer, node, site, addresses })
    }
}
