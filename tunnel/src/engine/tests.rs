use prometheus::Registry;
use tokio::sync::mpsc;

use super::*;
use crate::connection::quic::Settings;
use crate::identity::Identity;
use crate::path::{Action, Demand, Flow};
use crate::socket::{PeerSlot, Session};

/// An engine without peers, whose socket is on the loopback interface.
fn handle() -> Handle {
    let config = Config { listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() };
    let identity = Arc::new(Identity::generate().unwrap());
    let key = OwnKey::new(&identity.keypair().clone().try_into_ed25519().unwrap());
    let guard = Guard::new(identity, None, None).unwrap();
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let mux = Mux::bind(&config, metrics.clone(), mpsc::channel(1).0).unwrap();
    let settings = Settings::new(&config);
    let connections =
        Connections::new(guard.clone(), metrics.clone(), settings, mpsc::channel(1).0, mux.budget.clone());
    Handle::new(config, guard, key, mux, connections, metrics, Store::new(None))
}

#[tokio::test(start_paused = true)]
async fn calls_that_gave_up_leave_nothing_behind() {
    let handle = handle();
    let peer = Identity::generate().unwrap().peer_id();
    handle.lock().ensure_peer(peer).unwrap();
    for _ in 0..3 {
        let error = handle.path(peer, Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(error, OpenError::NoPath { .. }), "{error}");
    }
    let mut engine = handle.lock();
    engine.peers.get_mut(&peer).unwrap().pings.push((7, oneshot::channel().0));
    let now = Instant::now();
    let next = engine.tick(now);
    let state = &engine.peers[&peer];
    assert_eq!((state.waiters.len(), state.pings.len()), (0, 0));
    assert_eq!(engine.demand(now, &peer), Demand::Keep, "it was used of late, and nobody waits");
    assert!(next - now > Duration::from_millis(100), "the loop rests: {:?}", next - now);
}

#[tokio::test(start_paused = true)]
async fn who_waits_keeps_a_path_in_demand() {
    let handle = handle();
    let peer = Identity::generate().unwrap().peer_id();
    handle.lock().ensure_peer(peer).unwrap();
    let waits = tokio::spawn({
        let handle = handle.clone();
        async move { handle.path(peer, Duration::from_secs(1)).await }
    });
    tokio::task::yield_now().await;
    let now = Instant::now();
    handle.lock().tick(now);
    assert_eq!(handle.lock().demand(now, &peer), Demand::Active);
    waits.await.unwrap().unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn addresses_are_told_by_a_relay_that_works() {
    let handle = handle();
    let mut engine = handle.lock();
    let peer = Identity::generate().unwrap().peer_id();
    let relays = [0, 1].map(|_| Identity::generate().unwrap().peer_id());
    let mut now = Instant::now();
    let state = engine.ensure_peer(peer).unwrap();
    let relay_slots = relays.map(PeerSlot::new);
    for (relay, slot) in relays.iter().zip(&relay_slots) {
        let session = Session::new(1, 0, &[1; 16], slot.clone(), state.slot.clone());
        state.sessions.insert(*relay, Arc::new(session));
        state.paths.add(now, RouteKey::Relayed(*relay), Kind::Relayed, Origin::Told);
    }
    // Whichever comes first in the map: each is the dead one once.
    for (dead, alive) in [(0, 1), (1, 0)] {
        state.paths.set_demand(now, Demand::Active);
        for _ in 0..5 {
            state.paths.hurry(RouteKey::Relayed(relays[dead]));
            state.paths.hurry(RouteKey::Relayed(relays[alive]));
            for action in state.paths.poll(now, Flow::default()) {
                if let Action::Probe { route, id, .. } = action
                    && route == RouteKey::Relayed(relays[alive])
                {
                    state.paths.answered(now, route, id, 1);
                }
            }
            now += Duration::from_secs(2);
        }
        let session = state.working_session(now).unwrap();
        assert_eq!(session.relay.peer, relays[alive]);
    }
}
