//! The dialling side: keeps a carrier to each relay to which the engine wants one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Carrier;
use super::dial::{self, Dialled};
use super::link::{self, Deliver};
use crate::config::Carriers;
use crate::engine::Handle;
use crate::engine::carriers::{Opened, Wanted};
use crate::identity::Guard;
use crate::metrics::Metrics;
use crate::socket::Mux;

/// Back-off of dialling a relay.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// A carrier that was up this long ended by chance: the next is dialled as if it were the first.
const STEADY: Duration = Duration::from_secs(10);

/// What carriers of this node are made of.
#[derive(Clone)]
pub(crate) struct Keeper {
    pub(crate) config: Arc<Carriers>,
    pub(crate) guard: Guard,
    pub(crate) engine: Handle,
    pub(crate) mux: Arc<Mux>,
    pub(crate) metrics: Metrics,
}

impl Keeper {
    /// Runs until `stop`; waits for what it started.
    pub(crate) async fn run(self, mut wanted: watch::Receiver<Wanted>, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let mut kept: HashMap<PeerId, CancellationToken> = HashMap::new();
        loop {
            let now_wanted = wanted.borrow_and_update().to.clone();
            for (_, unwanted) in kept.extract_if(|relay, _| !now_wanted.contains_key(relay)) {
                unwanted.cancel();
            }
            for (relay, addresses) in now_wanted {
                kept.entry(relay).or_insert_with(|| {
                    let until = stop.child_token();
                    tasks.spawn(self.clone().keep(relay, addresses, wanted.clone(), until.clone()));
                    until
                });
            }
            let changed = stop.run_until_cancelled(wanted.changed()).await;
            if !matches!(changed, Some(Ok(()))) {
                break;
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Keeps a carrier to `relay` until `stop`.
    async fn keep(
        self,
        relay: PeerId,
        addresses: Vec<SocketAddr>,
        mut wanted: watch::Receiver<Wanted>,
        stop: CancellationToken,
    ) {
        let mut wait = FIRST_RETRY;
        let mut told = false;
        loop {
            let place = wanted.borrow().place;
            let Some(dialled) = stop.run_until_cancelled(self.dial(relay, &addresses)).await else { return };
            let begun = Instant::now();
            match dialled {
                Ok(dialled) => {
                    told = false;
                    self.carry(relay, dialled, &stop).await;
                }
                Err(reason) if told => tracing::debug!(%relay, %reason, "no carrier"),
                Err(reason) => {
                    told = true;
                    tracing::info!(%relay, %reason, "neither UDP nor a carrier over TCP leads to the relay");
                }
            }
            if begun.elapsed() >= STEADY {
                wait = FIRST_RETRY;
            }
            let jittered = wait.mul_f64(rand::random_range(0.5..1.0));
            wait = (wait * 2).min(LAST_RETRY);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(jittered) => {}
                moved = wanted.wait_for(|wanted| wanted.place != place) => match moved {
                    Ok(_) => wait = FIRST_RETRY,
                    Err(_) => return,
                }
            }
        }
    }

    async fn dial(&self, relay: PeerId, addresses: &[SocketAddr]) -> Result<Dialled, String> {
        let tls = dial::tls(&self.guard, Some(relay)).map_err(|error| error.to_string())?;
        let attach = |challenge| self.engine.lock().attachment(&relay, challenge);
        dial::dial(dial::ways(addresses, &self.config), tls, &self.config, Some(&attach)).await
    }

    async fn carry(&self, relay: PeerId, dialled: Dialled, stop: &CancellationToken) {
        let Dialled { stream, remote, kind } = dialled;
        tracing::info!(%relay, %remote, kind = kind.as_str(), "carrier is up");
        let carrier = Arc::new(Carrier::new(remote, kind, Some(relay), stop.child_token()));
        carry(self.parts(), &carrier, stream, Opened::Dialled).await;
    }

    fn parts(&self) -> Parts<'_> {
        Parts { engine: &self.engine, mux: &self.mux, metrics: &self.metrics }
    }
}

/// What a carrier runs on.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) engine: &'a Handle,
    pub(super) mux: &'a Mux,
    pub(super) metrics: &'a Metrics,
}

/// Runs a carrier from its first frame to its last.
pub(super) async fn carry(parts: Parts<'_>, carrier: &Arc<Carrier>, stream: link::Io, opened: Opened) {
    if !parts.engine.lock().carrier_opened(Instant::now(), carrier, opened) {
        return tracing::debug!(remote = %carrier.remote, "no room for the peer of a carrier");
    }
    parts.engine.wake();
    let open = parts.metrics.carriers.open.with_label_values(&[carrier.kind.as_str()]);
    open.inc();
    let meter = parts.metrics.meter(carrier.kind);
    let mut inlet = Inlet { mux: parts.mux, carrier };
    let running = link::run(stream, &carrier.queue, &mut inlet, &meter);
    let ended = carrier.stop.run_until_cancelled(running).await;
    open.dec();
    parts.engine.lock().carrier_ended(Instant::now(), carrier);
    parts.engine.wake();
    let reason = match ended {
        Some(Err(error)) => error.to_string(),
        Some(Ok(())) => "the other end closed it".to_owned(),
        None => "it is not needed".to_owned(),
    };
    tracing::debug!(remote = %carrier.remote, kind = carrier.kind.as_str(), reason, "carrier ended");
}

/// Hands what a carrier brings to the socket.
struct Inlet<'a> {
    mux: &'a Mux,
    carrier: &'a Carrier,
}

impl Deliver for Inlet<'_> {
    fn most(&self) -> usize {
        self.mux.max_receive_segments()
    }

    fn deliver(&mut self, batch: &mut [u8], stride: usize) -> bool {
        self.mux.carried(self.carrier, batch, stride)
    }
}
