//! What peers say, and what is said to them.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use libp2p::PeerId;

use super::{Engine, PeerState};
use crate::carrier::address::is_carrier;
use crate::identity::Verified;
use crate::path::{Action, Demand, Kind, RouteKey};
use crate::socket::Source;
use crate::status::DirectKind;
use crate::wire::frame::Control;
use crate::wire::message::{Hello, Message};
use crate::wire::seal::hint;
use crate::wire::stamp::{Novelty, micros};

/// How often what needs a relay is looked at while there is no direct path.
const RETRY: Duration = Duration::from_secs(1);
/// The kind of a path on the LAN.
const LAN: Kind = Kind::Direct(DirectKind::Lan);

impl Engine {
    /// A message of `peer` that is authentic.
    pub(super) fn message(
        &mut self,
        now: Instant,
        peer: PeerId,
        source: Source,
        stamp: u64,
        message: Message,
    ) {
        if let Source::Relayed(session) = &source
            && session.peer.peer != peer
        {
            return self.metrics.dropped("not authentic");
        }
        let answers = matches!(message, Message::Answer { .. });
        if !self.accepts(&peer, &source) || (!answers && !self.is_new(now, &peer, &source, stamp)) {
            return;
        }
        if message.asks() && !self.vouched(&peer) {
            // Known by name is not enough: it is to show its credential.
            let Some(hint) = self.peers.get(&peer).map(|state| hint(&state.public)) else { return };
            return self.reply_raw(&source, &Control::WhoAreYou { hint }.encode());
        }
        match message {
            Message::Probe { id, epoch, in_use, shunned } => {
                tracing::trace!(%peer, ?source, id, in_use, shunned, "probe came");
                let observed = source.address().filter(|address| !is_carrier(address));
                let answer = Message::Answer { id, epoch: self.epoch, observed };
                // Known before the answer is out: what the peer sends next may be here before this returns.
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.paths.peer_shuns(source.route(), shunned);
                }
                self.heard(now, peer, &source, epoch, in_use);
                self.send(&peer, &source, &answer);
            }
            Message::Answer { id, epoch, observed } => {
                if self.answered(now, peer, &source, id, epoch, observed).is_some()
                    && let Some(state) = self.peers.get_mut(&peer)
                {
                    state.stamps.restart(stamp, now);
                }
            }
            Message::Candidates { addresses, answered } => {
                self.told_of(now, peer, &addresses);
                if !answered {
                    self.tell(now, peer, true);
                }
            }
            Message::Open { peer: to } => self.open_session(now, peer, &source, &to),
            Message::Session { session, side, key, peer: other, observed } => {
                self.session_given(now, peer, session, side, &key, &other, observed);
            }
            Message::Refused { peer: other, reason } => self.session_refused(peer, &other, reason),
            // It comes before a carrier is one, or not at all.
            Message::Attach { .. } => self.metrics.dropped("malformed"),
            Message::Fill { id, padding } => self.fill_back(now, &peer, &source, id, padding),
            Message::Filled { id, padding } => self.filled(&peer, &source, id, padding),
        }
        self.service(now, peer);
    }

    /// Whether a frame of `peer` is none that came before. One that is late by a known way may be of a node whose clock
    /// was set back: a probe of our own tells.
    fn is_new(&mut self, now: Instant, peer: &PeerId, source: &Source, stamp: u64) -> bool {
        let Some(state) = self.peers.get_mut(peer) else { return false };
        if source.address().is_some_and(|address| is_carrier(&address)) {
            // What it brings cannot be of before its handshake.
            state.stamps.restart(stamp, now);
            return true;
        }
        match state.stamps.take(stamp, now) {
            Novelty::New => return true,
            Novelty::Again => {}
            Novelty::Late => {
                state.paths.hurry(source.route());
                state.next_poll = Some(now);
            }
        }
        self.metrics.dropped("replayed");
        false
    }

    /// Whether `peer` showed a credential, here or in a connection, that is good now.
    pub(super) fn vouched(&self, peer: &PeerId) -> bool {
        let Some(trust) = self.guard.trust() else { return false };
        let now = SystemTime::now();
        let good = |verified: &Verified| trust.recheck(verified, now).is_ok();
        let shown = self.peers.get(peer).and_then(|state| state.verified.as_ref());
        shown.is_some_and(good) || self.connections.verified(peer).is_some_and(|verified| good(&verified))
    }

    /// Whether frames of `peer` are taken by this way: where direct paths are switched off, only to and from
    /// relays. A carrier is its peer's alone.
    fn accepts(&self, peer: &PeerId, source: &Source) -> bool {
        match source {
            Source::Relayed(_) => true,
            Source::Direct(address) if is_carrier(address) => {
                self.mux.table.carrier(address).is_some_and(|carrier| carrier.peer == Some(*peer))
            }
            Source::Direct(_) => {
                self.config.allows_direct() || self.config.relay || self.relays.contains(peer)
            }
        }
    }

    fn heard(&mut self, now: Instant, peer: PeerId, source: &Source, epoch: u64, in_use: bool) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let (route, kind) = match source {
            Source::Direct(address) => {
                self.mux.table.bind(*address, &state.slot);
                let carrier = self.mux.table.carrier(address);
                let kind =
                    carrier.map_or_else(|| direct_kind(state, *address, false), |carrier| carrier.kind);
                (RouteKey::Direct(*address), Kind::Direct(kind))
            }
            Source::Relayed(session) => (RouteKey::Relayed(session.relay.peer), Kind::Relayed),
        };
        state.paths.heard(now, route, kind, epoch, in_use);
    }

    fn answered(
        &mut self,
        now: Instant,
        peer: PeerId,
        source: &Source,
        id: u64,
        epoch: u64,
        observed: Option<SocketAddr>,
    ) -> Option<Duration> {
        let is_relay = self.relays.contains(&peer);
        let state = self.peers.get_mut(&peer)?;
        let route = source.route();
        let rtt = state.paths.answered(now, route, id, epoch)?;
        tracing::trace!(%peer, ?route, id, ?rtt, ?observed, "probe answered");
        state.stranger_to = false;
        state.sees_us_at = observed.or(state.sees_us_at);
        if let RouteKey::Direct(address) = route {
            self.mux.table.bind(address, &state.slot);
        }
        let measured = state.paths.current().filter(|current| current.route == route);
        if let Some(current) = measured {
            self.connections.path_state(&peer).measured(current.kind == LAN, current.rtt());
        }
        self.metrics.paths.probe_rtt.observe(rtt.as_secs_f64());
        for (_, waiting) in state.pings.extract_if(.., |(ping, _)| *ping == id) {
            let _ = waiting.send(rtt);
        }
        if let (true, Some(observed)) = (is_relay, observed) {
            self.seen_at(now, peer, observed);
        }
        Some(rtt)
    }

    /// A relay sees this node at `observed`. If that is news, a NAT on the way maps to another port now, and peers
    /// are told.
    fn seen_at(&mut self, now: Instant, relay: PeerId, observed: SocketAddr) {
        if self.observed.insert(relay, observed) == Some(observed) {
            return;
        }
        for state in self.peers.values_mut().filter(|state| !state.sessions.is_empty()) {
            state.told = None;
            state.next_poll = Some(now);
            state.paths.urge(now);
        }
    }

    /// Does what the peer's paths ask for, wakes who waits for a path, and asks relays.
    pub(super) fn service(&mut self, now: Instant, peer: PeerId) {
        let demand = self.demand(now, &peer);
        let clock = self.mux.table.clock();
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let flow = state.flow(clock);
        if state.paths.demand() != demand {
            state.paths.set_demand(now, demand);
        }
        let actions = state.paths.poll(now, flow);
        self.end_dead_carriers(&peer);
        let restarted = actions.iter().any(|action| matches!(action, Action::Restarted { .. }));
        for action in actions {
            self.act(now, peer, action);
        }
        self.ask_relays(now, peer);
        if restarted && self.relays.contains(&peer) {
            self.relay_lost(now, peer);
        }
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if state.paths.working(now).is_some() {
            if state.unreachable_since.take().is_some() {
                self.connections.stir(&peer);
            }
            for waiting in state.waiters.drain(..) {
                let _ = waiting.send(state.slot.virtual_address);
            }
        } else if state.unreachable_since.is_none() {
            state.unreachable_since = Some(now);
        }
        state.next_poll = state.paths.next_poll(now, state.flow(clock));
        if demand != Demand::None && !state.paths.is_direct(now) {
            // Relays are asked, and addresses told, by a clock of their own.
            let retry = now + RETRY;
            state.next_poll = Some(state.next_poll.map_or(retry, |at| at.min(retry)));
        }
    }

    fn act(&mut self, now: Instant, peer: PeerId, action: Action) {
        match action {
            Action::Probe { route, id, in_use, shunned } => {
                let Some(source) = self.source(&peer, route) else { return };
                tracing::trace!(%peer, ?route, id, in_use, shunned, "probe goes");
                self.metrics.paths.probes.inc();
                self.send(&peer, &source, &Message::Probe { id, epoch: self.epoch, in_use, shunned });
            }
            Action::Use(route) => {
                let Some(state) = self.peers.get_mut(&peer) else { return };
                let Some(used) = state.route(route) else { return };
                if let RouteKey::Direct(address) = route {
                    self.mux.table.bind(address, &state.slot);
                }
                state.slot.set_route(Some(used));
                let path = self.path_of(&peer);
                tracing::info!(%peer, node = self.name(&peer), %path, "path");
                self.metrics.paths.changes.with_label_values(&[path.kind()]).inc();
                let (lan, rtt) = self.nearness(&peer);
                self.connections.path_changed(&peer, lan, rtt);
                if self.relays.contains(&peer) {
                    self.relay_moved(now, peer);
                    self.relay_works(now);
                }
            }
            Action::Proven(_) => self.remember(),
            Action::Forget(RouteKey::Direct(address)) => {
                if let Some(state) = self.peers.get(&peer) {
                    self.mux.table.unbind(address, &state.slot);
                }
                if let Some(carrier) = self.mux.table.carrier(&address) {
                    carrier.stop.cancel();
                }
            }
            Action::Forget(RouteKey::Relayed(_)) => {}
            Action::Restarted { since } => {
                tracing::info!(%peer, node = self.name(&peer), "peer restarted");
                self.connections.close_peer(&peer, since, "the peer restarted");
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.told = None;
                    state.asked.clear();
                }
            }
        }
    }

    /// Whether the path in use is on the LAN, and its round trip time.
    fn nearness(&self, peer: &PeerId) -> (bool, Option<Duration>) {
        let current = self.peers.get(peer).and_then(|state| state.paths.current());
        current.map_or((false, None), |current| (current.kind == LAN, current.rtt()))
    }

    pub(super) fn name(&self, peer: &PeerId) -> String {
        self.peers.get(peer).and_then(PeerState::node).map_or_else(|| "?".to_owned(), |node| node.to_string())
    }

    pub(super) fn source(&self, peer: &PeerId, route: RouteKey) -> Option<Source> {
        match route {
            RouteKey::Direct(address) => Some(Source::Direct(address)),
            RouteKey::Relayed(relay) => {
                self.peers.get(peer)?.sessions.get(&relay).cloned().map(Source::Relayed)
            }
        }
    }

    /// Sends a message by the way that `to` names.
    pub(super) fn send(&self, peer: &PeerId, to: &Source, message: &Message) {
        let Some(state) = self.peers.get(peer) else { return };
        let stamp = self.stamps.next(micros(SystemTime::now()));
        let credential = state.stranger_to.then(|| self.guard.credential()).flatten();
        let frame = match credential {
            Some(credential) => {
                let hello = Hello { credential: &credential.encode(), message: message.clone() };
                state.key.hello(stamp, hello.encode())
            }
            None => {
                let mut plain = Vec::with_capacity(64);
                message.encode(&mut plain);
                state.key.seal(stamp, plain)
            }
        };
        self.reply_raw(to, &frame);
    }

    pub(super) fn reply_raw(&self, to: &Source, frame: &[u8]) {
        match to {
            Source::Direct(address) => self.mux.send_frame(*address, frame),
            Source::Relayed(session) => self.mux.send_frame_relayed(session, frame),
        }
    }
}

/// What kind of direct path leads to `address` of this peer; `told` if the peer itself or a relay named it.
pub(super) fn direct_kind(state: &PeerState, address: SocketAddr, told: bool) -> DirectKind {
    let configured = state.member.as_ref().is_some_and(|member| member.addresses.contains(&address));
    let known =
        state.paths.candidates().iter().find(|c| c.route == RouteKey::Direct(address)).map(|c| c.kind);
    match known {
        Some(Kind::Direct(kind)) => kind,
        _ if configured => DirectKind::Public,
        _ if is_private(&address.ip()) => DirectKind::Lan,
        _ if told && address.is_ipv6() => DirectKind::Public,
        _ => DirectKind::Punched,
    }
}

/// Whether packets can be sent there at all.
pub(super) fn usable(address: &SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !is_carrier(address)
}

/// Whether the address means something at its own site only.
pub(super) fn is_private(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_private() || ip.is_link_local() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64)
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}
