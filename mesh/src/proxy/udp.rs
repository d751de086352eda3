//! UDP flows: a client's address and the Service address that it called, bound to one endpoint.
//!
//! ```text
//! client ─> caller ─┬─(datagrams of QUIC)──────────┬─> target ─> pod
//!                   └─(frames on a session's stream)┘
//! ```
//!
//! A flow is set up on the session's stream to the endpoint's node, with its first datagrams; once that
//! node has said that it knows the flow, the rest ride QUIC datagrams, except those that none holds.
//! Flows end when idle, when their endpoint is gone from the model, or with the session. Their number is
//! bounded on both sides, and what cannot be queued is dropped and counted, as UDP does.

mod caller;
mod frames;
mod session;
mod target;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use edgeloom_tunnel::{PeerId, Verified};
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::Proxy;
use crate::config::Settings;
use crate::wire::{Code, Datagram, Direction, Frame, FrameKind};
use caller::CallerFlow;
use target::TargetFlow;

/// Frames that wait for a session's stream: some 100 ms of full-size datagrams at 10 Mbit/s.
const QUEUE: usize = 128;

/// How much longer the target's side keeps an idle flow than the caller's, which can end it for both.
const TARGET_GRACE: Duration = Duration::from_secs(30);

/// All UDP flows of an agent.
pub(super) struct Udp {
    callers: Mutex<Callers>,
    targets: Mutex<HashMap<(PeerId, u32), Arc<TargetFlow>>>,
    next_flow: AtomicU32,
    max_flows: usize,
    idle: Duration,
}

/// The flows of clients here, by what they called and by their number, and what they share.
#[derive(Default)]
struct Callers {
    by_address: HashMap<(SocketAddr, SocketAddr), Arc<CallerFlow>>,
    by_number: HashMap<(PeerId, u32), Arc<CallerFlow>>,
    sessions: HashMap<PeerId, mpsc::Sender<Frame>>,
    replies: HashMap<SocketAddr, Weak<UdpSocket>>,
}

/// When a flow last carried something.
#[derive(Debug)]
struct Used {
    start: Instant,
    milliseconds: AtomicU64,
}

impl Used {
    fn now() -> Self {
        Self { start: Instant::now(), milliseconds: AtomicU64::new(0) }
    }

    fn touch(&self) {
        let age = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.milliseconds.store(age, Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.milliseconds.load(Ordering::Relaxed)))
    }
}

impl Udp {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            callers: Mutex::default(),
            targets: Mutex::default(),
            next_flow: AtomicU32::new(rand::random()),
            max_flows: settings.max_udp_flows,
            idle: Duration::from_secs(settings.udp_idle_seconds),
        }
    }

    fn callers(&self) -> MutexGuard<'_, Callers> {
        // Every change of the maps is a single call of theirs.
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn targets(&self) -> MutexGuard<'_, HashMap<(PeerId, u32), Arc<TargetFlow>>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Takes a datagram that another node's agent sent.
    pub fn take_datagram(&self, from: &Verified, bytes: &[u8]) {
        match Datagram::decode(bytes) {
            Ok(Datagram { flow, direction: Direction::ToTarget, payload }) => {
                self.to_target((from.peer, flow), payload);
            }
            Ok(Datagram { flow, direction: Direction::ToCaller, payload }) => {
                self.to_caller((from.peer, flow), payload);
            }
            Err(error) => {
                self.metrics.dropped("malformed");
                tracing::debug!(node = %from.node, %error, "datagram dropped");
            }
        }
    }

    /// Ends flows that are idle or have lost their endpoint.
    pub(super) fn sweep_udp(&self) {
        let flows: Vec<_> = self.udp.callers().by_address.values().cloned().collect();
        for flow in flows {
            if flow.used.idle() >= self.udp.idle || !self.is_served(&flow) {
                self.end_caller(&flow, true);
            }
        }
        let limit = self.udp.idle + TARGET_GRACE;
        self.udp.targets().retain(|_, flow| flow.used.idle() < limit);
        self.udp.callers().replies.retain(|_, socket| socket.strong_count() > 0);
    }

    /// Sends a payload of a flow to the other agent: as a datagram, or on the stream if none holds it.
    fn send(&self, peer: PeerId, datagram: Datagram<'_>, stream: &mpsc::Sender<Frame>) {
        let fits = self.carrier.max_datagram_size(peer).is_some_and(|max| datagram.size() <= max);
        if fits && self.carrier.send_datagram(peer, Bytes::from(datagram.encode())).is_ok() {
            self.metrics.sent("datagram");
            return;
        }
        self.queue(stream, datagram.flow, datagram.payload);
    }

    fn queue(&self, stream: &mpsc::Sender<Frame>, flow: u32, payload: &[u8]) {
        match stream.try_send(Frame { flow, kind: FrameKind::Data(payload.to_vec()) }) {
            Ok(()) => self.metrics.sent("stream"),
            Err(_) => self.metrics.dropped("queue_full"),
        }
    }
}

/// Sends without waiting. Not by tokio's `try_send`, which knows nothing of a new socket and refuses.
fn send_now(socket: &UdpSocket, payload: &[u8], to: Option<SocketAddr>) -> io::Result<usize> {
    let socket = SockRef::from(socket);
    match to {
        None => socket.send(payload),
        Some(to) => socket.send_to(payload, &to.into()),
    }
}

/// Tells the other side that a flow has ended. If the queue is full, it finds out by itself.
fn close(stream: &mpsc::Sender<Frame>, flow: u32, code: Code) {
    let _ = stream.try_send(Frame { flow, kind: FrameKind::Close(code) });
}

#[cfg(test)]
mod tests;
