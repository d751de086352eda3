//! Flows over TCP with TLS to nodes on the LAN, where that was measured to carry more than QUIC.
//!
//! ```text
//! outgoing ─ take ─> LanTcp ─(nothing is ready, or QUIC is as fast)─> a QUIC stream
//!                      │ Choice (pure): is it measured? is it faster? how many are kept ready?
//!                      └ run: measures, dials, closes
//! ```
//!
//! No flow waits for any of it: connections are made before they are needed, and a flow that finds none goes by QUIC.
//! What such a flow loses is said in [`edgeloom_tunnel::lan`]: it ends with the LAN that it began on, so the node's
//! configuration decides whether there are any.

mod choice;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edgeloom_tunnel::{LanStream, PeerId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::carrier::Carrier;
use crate::measure;
use choice::{Choice, Step};

/// How often the peers in use are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long what was taken is gathered before more is made.
const GATHER: Duration = Duration::from_millis(10);
/// A connection that waited so long for a flow is closed.
const UNUSED: Duration = Duration::from_secs(60);
/// How long the accepting side lets one wait: longer than the dialling side does, so that none is closed at the moment
/// when it is used.
pub(crate) const WAITING_LIMIT: Duration = Duration::from_secs(90);

/// What flows to one peer go by, for an operator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Compared {
    /// Whether flows go over TCP now.
    pub(crate) over_tcp: bool,
    /// Bytes a second by QUIC and by TCP when it was measured.
    pub(crate) quic: f64,
    pub(crate) tcp: f64,
    /// How long ago that was.
    pub(crate) ago: Duration,
}

/// The TCP connections of an agent to nodes on the LAN.
pub(crate) struct LanTcp {
    carrier: Arc<dyn Carrier>,
    peers: Mutex<HashMap<PeerId, Peer>>,
    /// Something was taken, or is to be looked at.
    wake: Notify,
}

#[derive(Default)]
struct Peer {
    choice: Choice,
    ready: Vec<Ready>,
    /// Handshakes that are under way.
    coming: usize,
}

/// A connection that waits for a flow.
struct Ready {
    stream: LanStream,
    since: Instant,
}

impl Ready {
    fn is_good(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < UNUSED && self.stream.is_alive()
    }
}

impl LanTcp {
    pub(crate) fn new(carrier: Arc<dyn Carrier>) -> Arc<Self> {
        Arc::new(Self { carrier, peers: Mutex::default(), wake: Notify::new() })
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<PeerId, Peer>> {
        // A choice that was left half made costs a flow its better way, no more.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for a flow to `peer`, if that is the better way and one is ready.
    pub(crate) fn take(&self, peer: PeerId) -> Option<LanStream> {
        if !self.carrier.uses_lan_tcp() {
            return None;
        }
        let now = Instant::now();
        let (mut peers, lan) = (self.peers(), self.carrier.lan(peer));
        let state = peers.entry(peer).or_default();
        state.choice.flow(now, lan);
        let goes_to = state.choice.goes_to(now)?;
        // The path may have moved since it was looked at.
        lan.filter(|lan| lan.address == goes_to)?;
        self.wake.notify_one();
        // The newest is the least likely to be dead.
        while let Some(ready) = state.ready.pop() {
            if ready.is_good(now) {
                return Some(ready.stream);
            }
        }
        state.choice.missed(now);
        None
    }

    /// A connection that was taken led to the endpoint.
    pub(crate) fn proved(&self, peer: PeerId) {
        if let Some(state) = self.peers().get_mut(&peer) {
            state.choice.proved();
        }
    }

    /// A connection that was taken turned out dead: so are those that were made with it.
    pub(crate) fn dead(&self, peer: PeerId) {
        if let Some(state) = self.peers().get_mut(&peer) {
            state.choice.dead(Instant::now());
            state.ready.clear();
        }
    }

    /// What flows to a peer go by, where that was measured.
    pub(crate) fn compared(&self, peer: PeerId) -> Option<Compared> {
        let (peers, now) = (self.peers(), Instant::now());
        let choice = &peers.get(&peer)?.choice;
        let verdict = choice.verdict()?;
        Some(Compared {
            over_tcp: choice.goes_to(now).is_some(),
            quic: verdict.quic,
            tcp: verdict.tcp,
            ago: now.saturating_duration_since(verdict.at),
        })
    }

    /// Measures, makes connections and closes them, until `stop`; waits for what it began.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        if !self.carrier.uses_lan_tcp() {
            return;
        }
        let tasks = TaskTracker::new();
        loop {
            for (peer, step) in self.look(Instant::now()) {
                let lan_tcp = self.clone();
                let stop = stop.clone();
                match step {
                    Step::Measure => drop(tasks.spawn(async move {
                        stop.run_until_cancelled(lan_tcp.measure(peer)).await;
                    })),
                    Step::Dial(count) => (0..count).for_each(|_| {
                        let (lan_tcp, stop) = (lan_tcp.clone(), stop.clone());
                        tasks.spawn(async move { stop.run_until_cancelled(lan_tcp.dial(peer)).await });
                    }),
                    Step::Nothing | Step::Close => {}
                }
            }
            let woken = async {
                tokio::select! {
                    () = self.wake.notified() => tokio::time::sleep(GATHER).await,
                    () = tokio::time::sleep(LOOK) => {}
                }
            };
            if stop.run_until_cancelled(woken).await.is_none() {
                break;
            }
        }
        tasks.close();
        tasks.wait().await;
        self.peers().clear();
    }

    /// Closes what is not needed, and says what else is to be done.
    fn look(&self, now: Instant) -> Vec<(PeerId, Step)> {
        let mut peers = self.peers();
        peers.retain(|_, state| !state.choice.is_stale(now));
        let step = |(peer, state): (&PeerId, &mut Peer)| {
            state.ready.retain(|ready| ready.is_good(now));
            let ready = state.ready.len() + state.coming;
            let step = state.choice.look(now, self.carrier.lan(*peer), ready);
            match step {
                Step::Close => state.ready.clear(),
                Step::Dial(count) => state.coming += count,
                Step::Nothing | Step::Measure => {}
            }
            (*peer, step)
        };
        peers.iter_mut().map(step).collect()
    }

    async fn dial(&self, peer: PeerId) {
        let dialled = self.carrier.dial_lan(peer).await;
        let (mut peers, now) = (self.peers(), Instant::now());
        let Some(state) = peers.get_mut(&peer) else { return };
        state.coming = state.coming.saturating_sub(1);
        match dialled {
            // What came too late is closed by the next look.
            Ok(stream) => state.ready.push(Ready { stream, since: now }),
            Err(error) => {
                tracing::debug!(%peer, %error, "no TCP connection on the LAN");
                state.choice.dead(now);
            }
        }
    }

    async fn measure(&self, peer: PeerId) {
        let before = self.carrier.lan(peer);
        let compared = measure::compare(&*self.carrier, peer).await;
        let (mut peers, now) = (self.peers(), Instant::now());
        let Some(state) = peers.get_mut(&peer) else { return };
        match (compared, before) {
            (Ok((quic, tcp)), Some(lan)) => {
                state.choice.measured(now, lan.address, quic, tcp);
                let mbit = |bytes: f64| (bytes * 8.0 / 1e6).round();
                let over_tcp = state.choice.goes_to(now).is_some();
                tracing::info!(
                    %peer, address = %lan.address, quic_mbit = mbit(quic), tcp_mbit = mbit(tcp), over_tcp,
                    "measured what carries flows on the LAN"
                );
            }
            (Ok(_), None) => state.choice.failed(now),
            (Err(error), _) => {
                tracing::debug!(%peer, %error, "what carries flows on the LAN is not measured");
                state.choice.failed(now);
            }
        }
        self.wake.notify_one();
    }
}

#[cfg(test)]
impl LanTcp {
    /// Has measured that TCP is faster, and one connection ready.
    pub(crate) async fn make_ready(&self, peer: PeerId) {
        let lan = self.carrier.lan(peer).expect("the test's peer is on the LAN");
        {
            let (mut peers, now) = (self.peers(), Instant::now());
            let choice = &mut peers.entry(peer).or_default().choice;
            choice.flow(now, Some(lan));
            choice.look(now, Some(lan), 0);
            choice.measured(now, lan.address, 1.0, 2.0);
        }
        self.dial(peer).await;
    }

    /// Connections that wait for a flow, and are good for one.
    pub(crate) fn ready(&self, peer: PeerId) -> usize {
        let (peers, now) = (self.peers(), Instant::now());
        peers.get(&peer).map_or(0, |state| state.ready.iter().filter(|ready| ready.is_good(now)).count())
    }
}
