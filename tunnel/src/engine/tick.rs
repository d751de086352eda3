//! What happens with time: the loop that feeds the engine, and how much each peer is needed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Engine, Handle, PeerState};
use crate::interfaces;
use crate::metrics::PATHS;
use crate::path::Demand;
use crate::socket::Inbound;

/// How often the traffic of connected peers is looked at while some flows: a dead path is noticed within this
/// plus a few probes.
const WATCH: Duration = Duration::from_millis(50);
/// How often where none does.
const REST: Duration = Duration::from_millis(500);
/// How often own addresses and idle sessions are looked at.
const SURVEY: Duration = Duration::from_secs(5);
/// Least time between two looks at all peers when frames come in, which are answered at once in any case: a relay
/// has thousands of peers, and as many frames a second.
const SPACING: Duration = Duration::from_millis(10);
/// Frames taken at once before time is looked at again.
const BATCH: usize = 256;

/// Feeds the engine until `stop`.
pub(crate) async fn run(
    handle: Handle,
    mut inbound: mpsc::Receiver<Inbound>,
    exclude: Arc<[String]>,
    stop: CancellationToken,
) {
    let mut next_survey = Instant::now();
    let mut batch = Vec::with_capacity(BATCH);
    let mut wake_at = Instant::now();
    loop {
        let now = Instant::now();
        if now >= next_survey {
            next_survey = now + SURVEY;
            let port = handle.lock().port();
            let local = interfaces::candidates(&exclude, port);
            handle.lock().survey(now, local);
        }
        if now >= wake_at {
            wake_at = handle.lock().tick(Instant::now()).min(next_survey);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            count = inbound.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return;
                }
                let mut engine = handle.lock();
                let now = Instant::now();
                for inbound in batch.drain(..) {
                    engine.receive(now, inbound);
                }
                wake_at = wake_at.min(now + SPACING);
            }
            () = handle.woken() => wake_at = Instant::now(),
            () = tokio::time::sleep_until(wake_at.into()) => {}
        }
    }
}

impl Engine {
    pub(super) fn port(&self) -> u16 {
        self.mux.local_address().port()
    }

    /// Takes up own addresses, ends idle sessions, counts peers.
    fn survey(&mut self, now: Instant, local: Vec<std::net::SocketAddr>) {
        self.set_local(now, local);
        self.account(now);
        self.metrics.in_use("frames_per_second_of_one_address", self.mux.most_frames());
        self.expire_sessions(now);
        self.close_unreachable(now);
        let mut counts = PATHS.map(|kind| (kind, 0));
        for peer in self.peers.keys() {
            let kind = self.path_of(peer).kind();
            if let Some((_, count)) = counts.iter_mut().find(|(known, _)| *known == kind) {
                *count += 1;
            }
        }
        let passed_over = self.peers.values().filter(|state| state.paths.passed_over(now).is_some());
        self.metrics.paths.passed_over.set(passed_over.count() as i64);
        for (kind, count) in counts {
            self.metrics.paths.peers.with_label_values(&[kind]).set(count);
        }
    }

    fn close_unreachable(&mut self, now: Instant) {
        let patience = self.config.unreachable_timeout;
        let gone = |state: &PeerState| {
            state.unreachable_since.is_some_and(|since| now.saturating_duration_since(since) >= patience)
        };
        for (peer, _) in self.peers.iter().filter(|(_, state)| gone(state)) {
            self.connections.close_peer(peer, now, "no path to the peer");
        }
    }

    /// Does what is due. Returns when to come again.
    pub(super) fn tick(&mut self, now: Instant) -> Instant {
        let clock = self.mux.table.clock();
        let mut due = Vec::new();
        let mut flowing = false;
        for (peer, state) in &mut self.peers {
            state.forget_gone();
            let flow = state.flow(clock);
            flowing |= flow.sending || !state.waiters.is_empty();
            // Who flows, or waits, is looked at every time: its demand changes without an event.
            let busy = flow.sending || !state.waiters.is_empty();
            if busy || state.paths.demand() == Demand::Active || state.next_poll.is_some_and(|at| at <= now) {
                due.push(*peer);
            }
        }
        for peer in due {
            self.service(now, peer);
        }
        let carriers = self.want_carriers(now);
        let rest = if flowing { WATCH } else { REST };
        let polls = self.peers.values().filter_map(|state| state.next_poll).chain(carriers);
        polls.min().map_or(now + rest, |at| at.clamp(now + Duration::from_millis(1), now + rest))
    }

    /// How much `peer` is needed now.
    pub(super) fn demand(&self, now: Instant, peer: &PeerId) -> Demand {
        let Some(state) = self.peers.get(peer) else { return Demand::None };
        let works = state.paths.working(now).is_some();
        let relay = self.relays.contains(peer);
        if !state.waiters.is_empty() || state.flow(self.mux.table.clock()).sending || (relay && !works) {
            return Demand::Active;
        }
        if relay || state.keep_until > now || self.kept.contains(peer) || self.connections.is_connected(peer)
        {
            return Demand::Keep;
        }
        // While every relay is away nobody could bring two nodes together again: known paths stay open.
        let cut_off = !self.relays.is_empty() && !self.relays.iter().any(|relay| self.works(now, relay));
        let proven = state.paths.candidates().iter().any(|candidate| candidate.answered_at().is_some());
        if cut_off && proven { Demand::Keep } else { Demand::None }
    }

    fn works(&self, now: Instant, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|state| state.paths.working(now).is_some())
    }
}
