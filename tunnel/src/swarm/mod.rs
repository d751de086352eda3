//! libp2p on the shared socket: who the neighbours are, and what the outside sees of this node.
//!
//! mDNS finds members on the LAN, also with every relay gone: they become candidates of the engine. identify and
//! AutoNAT v2, spoken with the relays, tell whether this node is reachable from outside. The swarm carries no
//! traffic of Services; paths are punched by the engine's own probes, which share the socket and so its mappings.
//! Every connection passes the same credential check as on the raw endpoint.

mod muxer;
mod observed;
mod transport;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::autonat::v2 as autonat;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::{Multiaddr, Transport as _, multiaddr::Protocol};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{PeerId, identify, mdns};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::RelayPeer;
use crate::engine::Handle;
use crate::error::Error;
use crate::identity::Guard;
use crate::metrics::Metrics;
use crate::socket::{Libp2pSocket, Mux};

/// Version of the protocol family, for identify.
const PROTOCOL: &str = "edgeloom/1";
/// A connection on which nothing is spoken is closed, for it costs the uplink.
const IDLE: Duration = Duration::from_secs(30);
/// How long a relay is visited: AutoNAT would otherwise go on asking what a silent NAT never answers, at some
/// megabytes a day.
const VISIT: Duration = Duration::from_secs(20);
/// How often a relay is asked again what it sees, where nothing changed here: behind a NAT that costs some 40 KB each
/// time, most of it what AutoNAT sends from elsewhere in vain. A change of the own addresses asks at once.
pub const RENEW: Duration = Duration::from_secs(4 * 3600);
/// How often a relay that did not answer is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// What the swarm is told while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// Own addresses.
    pub(crate) local: Vec<SocketAddr>,
    /// The relays.
    pub(crate) relays: Vec<RelayPeer>,
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    observed: observed::Behaviour,
    autonat: autonat::client::Behaviour,
    autonat_server: Toggle<autonat::server::Behaviour>,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

/// The swarm, ready to run.
pub(crate) struct Neighbourhood {
    swarm: Swarm<Behaviour>,
    engine: Handle,
    metrics: Metrics,
    surroundings: watch::Receiver<Surroundings>,
    /// When each relay is dialled next.
    due: HashMap<PeerId, Instant>,
    /// When each relay that was dialled is left again.
    leave: HashMap<PeerId, Instant>,
}

impl Neighbourhood {
    /// Sets the second endpoint up on the shared socket.
    pub(crate) fn new(
        guard: &Guard,
        mux: &Arc<Mux>,
        engine: Handle,
        metrics: Metrics,
        serve: bool,
        surroundings: watch::Receiver<Surroundings>,
    ) -> Result<Self, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Endpoint(format!("libp2p: {error}"));
        let socket = Arc::new(Libp2pSocket(mux.clone()));
        let transport = transport::Quic::new(guard, socket, surroundings.clone(), metrics.clone())
            .map_err(|error| failed(&error))?
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed();
        let own = guard.identity().peer_id();
        let config = identify::Config::new(PROTOCOL.to_owned(), guard.identity().public())
            .with_agent_version(concat!("edgeloom/", env!("CARGO_PKG_VERSION")).to_owned())
            .with_interval(RENEW);
        // A host on which multicast is not to be had does without neighbours.
        let mdns = mdns::tokio::Behaviour::new(mdns::Config::default(), own).inspect_err(
            |error| tracing::info!(%error, "no mDNS: peers on the LAN are found by their relays only"),
        );
        let behaviour = Behaviour {
            identify: identify::Behaviour::new(config),
            observed: observed::Behaviour::default(),
            autonat: autonat::client::Behaviour::default(),
            autonat_server: serve.then(autonat::server::Behaviour::default).into(),
            mdns: mdns.ok().into(),
        };
        let config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE);
        let mut swarm = Swarm::new(transport, behaviour, own, config);
        let any = Multiaddr::from(IpAddr::from([0, 0, 0, 0])).with(Protocol::Udp(0)).with(Protocol::QuicV1);
        swarm.listen_on(any).map_err(|error| failed(&error))?;
        Ok(Self { swarm, engine, metrics, surroundings, due: HashMap::new(), leave: HashMap::new() })
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let next = self.visit_relays();
            tokio::select! {
                () = stop.cancelled() => return,
                event = self.swarm.select_next_some() => self.event(event),
                changed = self.surroundings.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Another address is seen from outside as another, too.
                    self.due.clear();
                }
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    /// Dials the relays that are due. Returns when the next is.
    fn visit_relays(&mut self) -> Instant {
        let now = Instant::now();
        let relays = self.surroundings.borrow().relays.clone();
        for relay in &relays {
            if relay.peer == *self.swarm.local_peer_id()
                || self.due.get(&relay.peer).is_some_and(|due| *due > now)
            {
                continue;
            }
            self.due.insert(relay.peer, now + RETRY);
            let addresses = relay.addresses.iter().map(transport::multiaddr).collect();
            let dial = DialOpts::peer_id(relay.peer)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .addresses(addresses);
            if let Err(error) = self.swarm.dial(dial.build()) {
                tracing::debug!(relay = %relay.peer, %error, "libp2p");
            }
        }
        for (relay, _) in self.leave.extract_if(|_, leave| *leave <= now).collect::<Vec<_>>() {
            let _ = self.swarm.disconnect_peer_id(relay);
        }
        self.due.retain(|peer, _| relays.iter().any(|relay| relay.peer == *peer));
        self.due.values().chain(self.leave.values()).min().copied().unwrap_or(now + RENEW)
    }

    fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                let addresses = found
                    .into_iter()
                    .filter_map(|(peer, address)| Some((peer, transport::socket_address(&address)?)));
                self.engine.lock().neighbours(Instant::now(), addresses.collect());
                self.engine.wake();
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => {
                let now = Instant::now();
                if let Some(due) = self.due.get_mut(&peer_id) {
                    *due = now + RENEW;
                    self.leave.entry(peer_id).or_insert(now + VISIT);
                }
                // identify would put the listening port in place of the observed one, which is right behind no NAT
                // that maps ports.
                self.swarm.behaviour_mut().observed.push(info.observed_addr);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Autonat(event)) => {
                let reachable = event.result.is_ok();
                tracing::info!(address = %event.tested_addr, reachable, "seen from outside");
                self.metrics.paths.reachable.set(i64::from(reachable));
            }
            SwarmEvent::ConnectionEstablished { .. } | SwarmEvent::ConnectionClosed { .. } => {
                self.metrics.paths.libp2p_peers.set(self.swarm.network_info().num_peers() as i64);
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                tracing::debug!(?peer_id, %error, "libp2p");
            }
            _ => {}
        }
    }
}
