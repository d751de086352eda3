//! What a relay sends on: at once where its way out takes it, else in turn.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use quinn::udp::{EcnCodepoint, Transmit};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::mux::Mux;
use super::pace::Pace;
use crate::forwarder::Fair;
use crate::limits::Limits;

/// How often the log says that the way out is full.
const TOLD: Duration = Duration::from_secs(10);

/// Packets that go on together.
#[derive(Debug)]
struct Batch {
    to: SocketAddr,
    ecn: Option<EcnCodepoint>,
    contents: Vec<u8>,
    stride: usize,
}

impl Batch {
    fn transmit(&self) -> Transmit<'_> {
        let segment_size = (self.contents.len() > self.stride).then_some(self.stride);
        Transmit { destination: self.to, ecn: self.ecn, contents: &self.contents, segment_size, src_ip: None }
    }
}

/// What waits, and what each peer lost.
#[derive(Debug)]
pub(super) struct WayOut {
    state: Mutex<State>,
    /// Whether there is a rate.
    paced: bool,
    /// Whether anything waits: who comes after it waits too.
    waits: AtomicBool,
    filled: Notify,
}

#[derive(Debug)]
struct State {
    queue: Fair<Batch>,
    pace: Option<Pace>,
    dropped: HashMap<PeerId, u64>,
    /// Bytes that waited at most since that was last asked, in all and of one peer.
    most: (usize, usize),
    told: Option<Instant>,
}

impl WayOut {
    pub(super) fn new(limits: &Limits) -> Self {
        let queue = Fair::new(limits.relay_queue_kib << 10, limits.relay_queue_kib_per_peer << 10);
        let pace = limits.relay_rate().map(|rate| Pace::new(Instant::now(), rate));
        let paced = pace.is_some();
        let state = Mutex::new(State { queue, pace, dropped: HashMap::new(), most: (0, 0), told: None });
        Self { state, paced, waits: AtomicBool::new(false), filled: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lost(&mut self, now: Instant, peer: PeerId, bytes: usize) {
        *self.dropped.entry(peer).or_default() += bytes as u64;
        if self.told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD) {
            self.told = Some(now);
            let waiting = self.queue.bytes();
            tracing::warn!(%peer, waiting, "the relay's way out is full: it drops for who sends more than its share");
        }
    }
}

impl Mux {
    /// Sends packets of `from` on, or has them wait for their turn.
    pub(super) fn send_on(&self, from: PeerId, transmit: &Transmit<'_>) {
        let now = Instant::now();
        if !self.way_out.waits.load(Ordering::Acquire) && self.goes_now(now, transmit) {
            return;
        }
        let batch = Batch {
            to: transmit.destination,
            ecn: transmit.ecn,
            contents: transmit.contents.to_vec(),
            stride: transmit.segment_size.unwrap_or(transmit.contents.len()),
        };
        let mut state = self.way_out.lock();
        if let Some((peer, bytes)) = state.queue.push(now, from, batch.contents.len(), batch) {
            state.lost(now, peer, bytes);
            self.metrics.dropped("relay full");
        }
        let (all, of_peer) = (state.queue.bytes(), state.queue.bytes_of(&from));
        state.most = (state.most.0.max(all), state.most.1.max(of_peer));
        self.way_out.waits.store(!state.queue.is_empty(), Ordering::Release);
        drop(state);
        self.way_out.filled.notify_one();
    }

    /// Sends it, if rate and socket allow.
    fn goes_now(&self, now: Instant, transmit: &Transmit<'_>) -> bool {
        let bytes = transmit.contents.len();
        if self.way_out.paced
            && let Some(pace) = &mut self.way_out.lock().pace
            && !pace.take(now, bytes)
        {
            return false;
        }
        match self.transmit(transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.way_out.paced
                    && let Some(pace) = &mut self.way_out.lock().pace
                {
                    pace.give_back(bytes);
                }
                false
            }
            // What cannot be sent there at all is not sent later either.
            Err(_) => {
                self.metrics.dropped("socket full");
                true
            }
            Ok(()) => true,
        }
    }

    /// Sends what waits as long as it goes. Returns when the rate allows more, where it is the rate that does not.
    fn empty(&self) -> Option<Instant> {
        let now = Instant::now();
        loop {
            let mut state = self.way_out.lock();
            if let Some(at) = state.pace.as_mut().and_then(|pace| pace.ready_at(now)) {
                return Some(at);
            }
            let mut late = Vec::new();
            let next = state.queue.pop(now, |dropped| late.push(dropped));
            for (peer, bytes) in late {
                state.lost(now, peer, bytes);
                self.metrics.dropped("relay full");
            }
            self.way_out.waits.store(!state.queue.is_empty() || next.is_some(), Ordering::Release);
            let (peer, bytes, batch) = next?;
            drop(state);
            if !self.goes_now(now, &batch.transmit()) {
                self.way_out.lock().queue.unpop(now, peer, bytes, batch);
                return None;
            }
        }
    }

    /// Bytes that waited at most to be sent on, in all and of one peer, since the last call.
    pub(crate) fn most_waiting(&self) -> (usize, usize) {
        std::mem::take(&mut self.way_out.lock().most)
    }

    /// Bytes that were dropped for each peer since the last call.
    pub(crate) fn dropped_of_peers(&self) -> HashMap<PeerId, u64> {
        std::mem::take(&mut self.way_out.lock().dropped)
    }
}

/// Empties the queue of a relay whenever its way out takes more, until `stop`.
pub(crate) async fn drain(mux: Arc<Mux>, stop: CancellationToken) {
    let work = async {
        loop {
            if !mux.way_out.waits.load(Ordering::Acquire) {
                mux.way_out.filled.notified().await;
            }
            if mux.writable().await.is_err() {
                return;
            }
            match mux.empty() {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                // Others have work too, and a socket that is full says so late.
                None => tokio::task::yield_now().await,
            }
        }
    };
    stop.run_until_cancelled(work).await;
}
