//! Frames to messages: who sent it, and is that anybody we talk to.

use std::time::{Instant, SystemTime};

use libp2p::PeerId;

use super::{Engine, MAX_GUESTS};
use crate::identity::{Presented, SignedCredential};
use crate::socket::{Inbound, Source};
use crate::wire::frame::{Control, Hint};
use crate::wire::message::{Hello, Message, PublicKey};
use crate::wire::seal::{hint, peer_id, stamp};

/// Hellos of unknown peers that are looked at a second: each costs a key agreement and a signature.
const HELLOS_PER_SECOND: f64 = 1_000.0;

/// A token bucket that holds as many as come in a second.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant, per_second: f64) -> Self {
        Self { per_second, tokens: per_second, filled: now }
    }

    /// For the hellos of unknown peers.
    pub(super) fn hellos(now: Instant) -> Self {
        Self::new(now, HELLOS_PER_SECOND)
    }

    pub(super) fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.per_second);
        self.filled = now;
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

/// The sender of a hello, and what it said.
pub(super) struct Acquaintance {
    pub(super) peer: PeerId,
    pub(super) message: Message,
}

impl Engine {
    /// Takes one frame.
    pub(crate) fn receive(&mut self, now: Instant, inbound: Inbound) {
        let Inbound { source, frame } = inbound;
        match Control::parse(&frame) {
            Ok(Control::Sealed { from, nonce, sealed }) => self.sealed(now, source, from, nonce, sealed),
            Ok(Control::Hello { from, nonce, sealed }) => self.hello(now, source, &from, nonce, sealed),
            Ok(Control::WhoAreYou { hint }) => self.who_are_you(now, &source, hint),
            Ok(Control::UnknownSession { session }) => self.unknown_session(now, &source, session),
            Err(_) => self.metrics.dropped("malformed"),
        }
    }

    fn sealed(&mut self, now: Instant, source: Source, from: Hint, nonce: [u8; 12], sealed: &[u8]) {
        let Some(peer) = self.by_hint.get(&from).copied() else {
            // Answered where it came from, by less than it sent.
            return self.reply_raw(&source, &Control::WhoAreYou { hint: from }.encode());
        };
        let Some(state) = self.peers.get(&peer) else { return };
        let message = state.key.open(&from, nonce, sealed).and_then(|plain| Message::parse(&plain));
        match message {
            Ok(message) => self.message(now, peer, source, stamp(nonce), message),
            Err(_) => self.metrics.dropped("not authentic"),
        }
    }

    fn hello(&mut self, now: Instant, source: Source, from: &PublicKey, nonce: [u8; 12], sealed: &[u8]) {
        if let Some(Acquaintance { peer, message }) = self.open_hello(now, from, nonce, sealed, false) {
            self.message(now, peer, source, stamp(nonce), message);
        }
    }

    /// Opens a hello, and takes its sender in if its credential holds. That of one who showed a good one before is
    /// looked at `afresh` or not at all.
    pub(super) fn open_hello(
        &mut self,
        now: Instant,
        from: &PublicKey,
        nonce: [u8; 12],
        sealed: &[u8],
        afresh: bool,
    ) -> Option<Acquaintance> {
        let dropped = |reason| {
            self.metrics.dropped(reason);
            None
        };
        let Some(peer) = peer_id(from).filter(|peer| *peer != self.own) else {
            return dropped("malformed");
        };
        let opened = match self.peers.get(&peer) {
            Some(state) => state.key.open(from, nonce, sealed),
            None if self.peers.len() >= MAX_GUESTS.max(self.members() * 2) || !self.hellos.take(now) => {
                return dropped("too many hellos");
            }
            None => match self.key.pair(from) {
                Some(pair) => pair.open(from, nonce, sealed),
                None => return dropped("malformed"),
            },
        };
        let Ok(plain) = opened else { return dropped("not authentic") };
        let Ok(Hello { credential, message }) = Hello::parse(&plain) else {
            return dropped("malformed");
        };
        let known = !afresh && self.vouched(&peer);
        (known || self.get_acquainted(peer, credential)).then_some(Acquaintance { peer, message })
    }

    pub(super) fn members(&self) -> usize {
        self.peers.values().filter(|state| state.member.is_some()).count()
    }

    /// Takes a stranger in if its credential holds.
    fn get_acquainted(&mut self, peer: PeerId, credential: &[u8]) -> bool {
        let Some(trust) = self.guard.trust() else { return false };
        let credential = match SignedCredential::decode(credential) {
            Ok(credential) => Some(credential),
            Err(error) => {
                tracing::debug!(%peer, %error, "hello refused");
                self.metrics.links.refused.with_label_values(&["credential_form"]).inc();
                return false;
            }
        };
        match trust.verify(&Presented { peer, credential, spki: Vec::new() }, SystemTime::now()) {
            Ok(verified) => {
                tracing::debug!(%peer, node = %verified.node, "acquainted");
                if let Some(state) = self.ensure_peer(peer) {
                    state.verified = Some(verified);
                }
                true
            }
            Err(refusal) => {
                tracing::info!(%peer, %refusal, "hello refused");
                self.metrics.links.refused.with_label_values(&[refusal.reason()]).inc();
                false
            }
        }
    }

    /// A peer does not know this node: the next frames to it carry the credential.
    fn who_are_you(&mut self, now: Instant, source: &Source, asked: Hint) {
        if asked != hint(&self.key.public) {
            return;
        }
        let Some(peer) = self.probed_at(source) else { return };
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if !std::mem::replace(&mut state.stranger_to, true) {
            state.paths.urge_now(now);
            self.service(now, peer);
        }
    }

    /// The peer that is looked for where `source` is.
    fn probed_at(&self, source: &Source) -> Option<PeerId> {
        match source {
            Source::Relayed(session) => Some(session.peer.peer),
            Source::Direct(address) => {
                let route = crate::path::RouteKey::Direct(*address);
                let looks =
                    |state: &super::PeerState| state.paths.candidates().iter().any(|c| c.route == route);
                self.peers.iter().find(|(_, state)| looks(state)).map(|(peer, _)| *peer)
            }
        }
    }
}
