//! Why a peer is reached the way it is: every candidate probed at once, by what is small and by what is large, and what
//! came of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libp2p::PeerId;

use super::{Engine, Handle, KEEP_AFTER_USE};
use crate::error::OpenError;
use crate::path::{Candidate, Kind, Origin, RouteKey};
use crate::status::{Attempt, DirectKind, Nat, Path, Standing, Trace};

/// How long answers are waited for: above what a probe is given before it counts as lost.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often is looked which ways answer, and which sizes are due by them.
const LOOK: Duration = Duration::from_millis(30);
/// How often ways are probed meanwhile.
const AGAIN: Duration = Duration::from_millis(500);
/// What QUIC's packets want at least (RFC 9000, section 14).
const LEAST: u16 = 1200;

impl Handle {
    /// Probes every known way to `peer`, waits for the answers and tells what came of it.
    pub(crate) async fn trace(&self, peer: PeerId) -> Result<Trace, OpenError> {
        let end = Instant::now() + PATIENCE;
        let trial = {
            let mut engine = self.lock();
            let now = Instant::now();
            let Some(state) = engine.peers.get_mut(&peer) else {
                return Err(OpenError::UnknownPeer(peer.into()));
            };
            state.keep_until = state.keep_until.max(now + KEEP_AFTER_USE);
            state.paths.probe_all(now);
            // Whoever asks while another trace is on shares what that finds.
            let trial = state.trial.filter(|(_, since)| now.saturating_duration_since(*since) < PATIENCE);
            let trial = *state.trial.insert(trial.unwrap_or_else(|| (rand::random(), now)));
            engine.service(now, peer);
            trial.0
        };
        self.wake();
        let mut again = Instant::now() + AGAIN;
        while Instant::now() < end {
            tokio::time::sleep(LOOK).await;
            let now = Instant::now();
            let mut engine = self.lock();
            engine.try_sizes(now, &peer, trial);
            if now >= again {
                again += AGAIN;
                engine.probe_again(now, peer);
            }
        }
        self.lock().trace_of(&peer, Instant::now()).ok_or(OpenError::UnknownPeer(peer.into()))
    }
}

impl Engine {
    /// Probes every known way once more: one probe may be lost, or have come before the peer knew of the session.
    fn probe_again(&mut self, now: Instant, peer: PeerId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.paths.probe_all(now);
            self.service(now, peer);
        }
    }

    fn trace_of(&self, peer: &PeerId, now: Instant) -> Option<Trace> {
        let state = self.peers.get(peer)?;
        let in_use = state.paths.working(now).map(|candidate| candidate.route);
        let mut candidates: Vec<&Candidate> = state.paths.candidates().iter().collect();
        let order = |candidate: &&Candidate| {
            (Some(candidate.route) != in_use, candidate.kind.rank(), candidate.rtt().unwrap_or(Duration::MAX))
        };
        candidates.sort_by_key(order);
        let attempts = candidates.iter().map(|candidate| self.attempt(candidate, in_use, now)).collect();
        Some(Trace {
            path: self.path_of(peer),
            attempts,
            why: self.why(peer, &candidates, now),
            nat: self.nat(now),
            seen_at: self.sightings(now),
            datagram: self.connections.datagram(peer),
        })
    }

    fn attempt(&self, candidate: &Candidate, in_use: Option<RouteKey>, now: Instant) -> Attempt {
        let standing = match candidate.answered_at() {
            _ if in_use == Some(candidate.route) => Standing::InUse,
            Some(_) if candidate.alive(now) => Standing::Answers,
            Some(_) => Standing::Lost,
            None => Standing::Silent,
        };
        Attempt {
            path: self.shown(candidate),
            learnt: learnt(candidate),
            standing,
            rtt: candidate.rtt(),
            loss: candidate.loss(),
            answers: candidate.answers(),
            datagram: candidate.largest().filter(|_| candidate.answers_now(now)),
        }
    }

    fn why(&self, peer: &PeerId, candidates: &[&Candidate], now: Instant) -> String {
        let why = self.why_kind(peer, candidates, now);
        let works = self.peers.get(peer).and_then(|state| state.paths.working(now));
        match works.and_then(Candidate::largest) {
            Some(largest) if largest < LEAST => {
                format!(
                    "{why}; no connection comes about: packets of {LEAST} bytes do not pass, of {largest} do"
                )
            }
            _ => why,
        }
    }

    fn why_kind(&self, peer: &PeerId, candidates: &[&Candidate], now: Instant) -> String {
        let direct: Vec<_> = candidates.iter().filter(|c| c.kind.rank() < Kind::Relayed.rank()).collect();
        let paths = self.peers.get(peer).map(|state| &state.paths);
        let works = paths.and_then(|paths| paths.working(now));
        if let (Some(works), Some(left)) = (works, paths.and_then(|paths| paths.passed_over(now))) {
            return self.why_not(works, left);
        }
        match works.map(|candidate| candidate.kind) {
            Some(Kind::Direct(DirectKind::Lan)) => "at an address of the site's own network, the nearest".into(),
            Some(Kind::Direct(DirectKind::Public)) => "at an address that anybody can reach".into(),
            Some(Kind::Direct(DirectKind::Punched)) => {
                "through holes in the NATs: packets of both ends opened them".into()
            }
            Some(Kind::Direct(DirectKind::Tcp | DirectKind::Wss)) => {
                "over TCP: no UDP comes back from there; a firewall on the way blocks it".into()
            }
            Some(Kind::Relayed) if !self.config.direct => {
                "relayed: direct paths are switched off in this node's configuration".into()
            }
            Some(Kind::Relayed) if !self.config.site.direct => {
                "relayed: direct paths are switched off for this node's site (kubectl get sites)".into()
            }
            Some(Kind::Relayed) if direct.is_empty() => {
                "relayed: the peer has told of no address that this node could try; are direct paths switched off \
                 there, or is its UDP blocked?"
                    .into()
            }
            Some(Kind::Relayed) => format!(
                "relayed: {} direct {} probed and none answers; either UDP between the sites is blocked, or both \
                 NATs map by destination, or one does and the other filters by port",
                direct.len(),
                if direct.len() == 1 { "address was" } else { "addresses were" }
            ),
            None => format!("no path: {}", self.tried(peer)),
        }
    }

    /// Why traffic goes by `used` though `left` works.
    fn why_not(&self, used: &Candidate, left: &Candidate) -> String {
        let by = match self.shown(left) {
            Path::Relayed { relay } => format!("relay on {}", self.named(&relay)),
            path => format!("path {path}"),
        };
        let word = if used.kind == Kind::Relayed { "relayed" } else { "direct" };
        let share = |candidate: &Candidate| candidate.loss() * 100.0;
        format!(
            "{word}: the {by} answers, but {:.0} % of the round trips by it are lost, and {:.0} % by this one; it is \
             taken again when it has been clean for some minutes",
            share(left),
            share(used),
        )
    }

    /// Where relays and peers on the way out of the site see this node.
    fn sightings(&self, now: Instant) -> Vec<(PeerId, SocketAddr)> {
        let outside = |kind| matches!(kind, Kind::Direct(DirectKind::Public | DirectKind::Punched));
        let sees = |(peer, state): (&PeerId, &super::PeerState)| {
            let candidate = state.paths.working(now).filter(|candidate| outside(candidate.kind))?;
            candidate.answered_at()?;
            Some((*peer, state.sees_us_at?))
        };
        self.peers.iter().filter_map(sees).collect()
    }

    /// What the NATs do, as far as those who see this node can tell.
    pub(crate) fn nat(&self, now: Instant) -> Nat {
        nat(&self.sightings(now).iter().map(|(_, at)| *at).collect::<Vec<_>>(), &self.local)
    }
}

fn learnt(candidate: &Candidate) -> &'static str {
    match (candidate.origin, candidate.kind) {
        (_, Kind::Relayed) => "a relay gave a session",
        (Origin::Configured, _) => "configured",
        (Origin::Remembered, _) => "it worked before a restart",
        (Origin::Told, _) => "told by the peer or a relay",
        (Origin::Heard, _) => "a probe of the peer came from there",
    }
}

/// By the family that has most observers: each has NATs of its own.
fn nat(seen_at: &[SocketAddr], local: &[SocketAddr]) -> Nat {
    let (v4, v6): (Vec<SocketAddr>, Vec<_>) = seen_at.iter().partition(|address| address.is_ipv4());
    let seen_at = if v6.len() > v4.len() { v6 } else { v4 };
    let distinct: BTreeSet<_> = seen_at.iter().collect();
    match (distinct.len(), seen_at.as_slice()) {
        (0, _) | (_, []) => Nat::Unknown,
        (1, [at, ..]) if local.contains(at) => Nat::None,
        (1, [at]) => Nat::Undetermined { seen_at: *at },
        (1, [at, ..]) => Nat::EndpointIndependent { seen_at: *at },
        _ => Nat::ByDestination,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_observers_tell_of_the_nat() {
        let at = |port| SocketAddr::from(([203, 0, 113, 7], port));
        let own = SocketAddr::from(([203, 0, 113, 9], 20006));
        for (seen, want) in [
            (vec![], Nat::Unknown),
            (vec![own, own], Nat::None),
            (vec![at(1)], Nat::Undetermined { seen_at: at(1) }),
            (vec![at(1), at(1)], Nat::EndpointIndependent { seen_at: at(1) }),
            (vec![at(1), at(2)], Nat::ByDestination),
        ] {
            assert_eq!(nat(&seen, &[own]), want, "{seen:?}");
        }
    }
}
