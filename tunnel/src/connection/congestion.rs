//! Congestion control that follows the path: quinn fixes a controller per connection, so ours wraps another and
//! exchanges it when traffic moves.
//!
//! BBR where packets cross a WAN, for CUBIC (RFC 9438) collapses with the losses there; CUBIC where the round trip
//! is that of a LAN, where it is the faster of the two. After a move the old path's state means nothing: the
//! controller starts anew, and may send a few packets beyond its window at once, so that acknowledgements come and
//! show what the dead path swallowed, instead of a time-out that has doubled with each failure.

mod bbr;
mod rate;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bbr::Bbr;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

use crate::config::Congestion;

/// A path with a shorter round trip is treated as a LAN's, and one that was until it is as long as the other: a
/// round trip near the border must not start the controller anew with each probe.
const LAN_RTT: Duration = Duration::from_millis(2);
const WAN_RTT: Duration = Duration::from_millis(4);
/// Packets that may go beyond the window after a move.
const PUSH: u64 = 16;

/// What the controllers of one peer's connections are told. The engine writes it, they read it.
#[derive(Debug)]
pub(crate) struct PathState {
    choice: Congestion,
    lan: AtomicBool,
    moves: AtomicU64,
    rtt_micros: AtomicU64,
}

impl PathState {
    pub(crate) fn new(choice: Congestion) -> Arc<Self> {
        let (lan, moves, rtt_micros) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { choice, lan, moves, rtt_micros })
    }

    /// Traffic moved to another path.
    pub(crate) fn moved(&self, lan: bool, rtt: Option<Duration>) {
        self.lan.store(false, Ordering::Relaxed);
        self.measured(lan, rtt);
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// The path in use was measured.
    pub(crate) fn measured(&self, lan: bool, rtt: Option<Duration>) {
        let border = if self.lan.load(Ordering::Relaxed) { WAN_RTT } else { LAN_RTT };
        let near = lan || rtt.is_some_and(|rtt| rtt < border);
        if self.lan.swap(near, Ordering::Relaxed) != near {
            self.moves.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(rtt) = rtt {
            self.rtt_micros.store(rtt.as_micros() as u64, Ordering::Relaxed);
        }
    }

    /// Round trip time of the path in use.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        match self.rtt_micros.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    fn build(&self, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let cubic = match self.choice {
            Congestion::Auto => self.lan.load(Ordering::Relaxed),
            Congestion::Bbr => false,
            Congestion::Cubic => true,
        };
        if cubic { Arc::new(CubicConfig::default()).build(now, mtu) } else { Box::new(Bbr::new(now, mtu)) }
    }
}

/// Makes the controllers of one peer's connections.
pub(crate) struct Factory(pub(crate) Arc<PathState>);

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let inner = self.0.build(now, mtu);
        let moves = self.0.moves.load(Ordering::Relaxed);
        Box::new(Following { path: self.0.clone(), moves, inner, mtu, in_flight: 0, push: 0 })
    }
}

struct Following {
    path: Arc<PathState>,
    moves: u64,
    inner: Box<dyn Controller>,
    mtu: u16,
    in_flight: u64,
    /// Bytes that may still go beyond the window.
    push: u64,
}

impl Following {
    fn moved(&self) -> bool {
        self.path.moves.load(Ordering::Relaxed) != self.moves
    }

    fn most_push(&self) -> u64 {
        PUSH * u64::from(self.mtu)
    }

    fn follow(&mut self, now: Instant) {
        if self.moved() {
            self.moves = self.path.moves.load(Ordering::Relaxed);
            self.inner = self.path.build(now, self.mtu);
            self.push = self.most_push();
        }
    }
}

impl Controller for Following {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.follow(now);
        self.in_flight += bytes;
        self.push = self.push.saturating_sub(bytes);
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.follow(now);
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.in_flight = in_flight;
        self.push = 0;
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(lost_bytes);
        self.inner.on_congestion_event(now, sent, persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        let push = if self.moved() { self.most_push() } else { self.push };
        let window = self.inner.window();
        if push == 0 { window } else { window.max(self.in_flight + push) }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            path: self.path.clone(),
            moves: self.moves,
            inner: self.inner.clone_box(),
            mtu: self.mtu,
            in_flight: self.in_flight,
            push: self.push,
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use quinn::congestion::Cubic;

    use super::*;

    fn controller(path: &Arc<PathState>) -> Box<Following> {
        let built = Arc::new(Factory(path.clone())).build(Instant::now(), 1200);
        built.into_any().downcast().unwrap()
    }

    #[test]
    fn the_algorithm_follows_the_path() {
        let path = PathState::new(Congestion::Auto);
        let mut controller = controller(&path);
        assert!(controller.inner.clone_box().into_any().is::<Bbr>());
        path.moved(true, None);
        controller.on_sent(Instant::now(), 1200, 1);
        assert!(controller.inner.clone_box().into_any().is::<Cubic>());
        // A relay far away, then the measured round trip of one nearby.
        path.moved(false, Some(Duration::from_millis(40)));
        controller.on_sent(Instant::now(), 1200, 2);
        assert!(controller.inner.clone_box().into_any().is::<Bbr>());
        path.measured(false, Some(Duration::from_micros(300)));
        controller.on_sent(Instant::now(), 1200, 3);
        assert!(controller.inner.clone_box().into_any().is::<Cubic>());
    }

    #[test]
    fn a_round_trip_near_the_border_changes_the_algorithm_once() {
        let path = PathState::new(Congestion::Auto);
        path.moved(false, Some(Duration::from_micros(1_900)));
        let before = path.moves.load(Ordering::Relaxed);
        for micros in [2_100, 1_900, 3_000, 1_800, 2_500] {
            path.measured(false, Some(Duration::from_micros(micros)));
        }
        assert_eq!(path.moves.load(Ordering::Relaxed), before);
        path.measured(false, Some(Duration::from_micros(4_500)));
        path.measured(false, Some(Duration::from_micros(3_000)));
        assert_eq!(path.moves.load(Ordering::Relaxed), before + 1);
    }

    #[test]
    fn a_move_opens_a_full_window_for_a_few_packets_only() {
        let path = PathState::new(Congestion::Cubic);
        let mut controller = controller(&path);
        let now = Instant::now();
        controller.on_sent(now, 1 << 20, 1);
        assert!(controller.window() < 1 << 20);
        path.moved(false, None);
        let mut packets = 0;
        while controller.window() >= controller.in_flight + 1200 {
            packets += 1;
            controller.on_sent(now, 1200, 1 + packets);
        }
        assert!((10..=PUSH + 1).contains(&packets), "{packets} packets");
    }
}
