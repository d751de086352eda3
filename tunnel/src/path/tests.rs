//! Two ends over a simulated network in simulated time, and single events.

use std::collections::HashSet;
use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::status::DirectKind;

const PUNCHED: Kind = Kind::Direct(DirectKind::Punched);
const LAN: Kind = Kind::Direct(DirectKind::Lan);
pub(super) const NEVER: Duration = Duration::from_secs(u32::MAX as u64);
pub(super) const IDLE: Flow =
    Flow { sending: false, unanswered: Duration::ZERO, sent: NEVER, received: NEVER };
pub(super) const FLOWS: Flow =
    Flow { sending: true, unanswered: Duration::ZERO, sent: Duration::ZERO, received: Duration::ZERO };

pub(super) fn direct(port: u16) -> RouteKey {
    RouteKey::Direct(SocketAddr::from(([192, 0, 2, 1], port)))
}

pub(super) fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A peer that answers on the routes of `answers` after `rtt`, simulated from the one end.
pub(super) struct World {
    start: Instant,
    pub(super) now: Instant,
    pub(super) paths: Paths,
    rtt: Vec<(RouteKey, Duration)>,
    pub(super) flow: Flow,
    pending: Vec<(Instant, RouteKey, u64)>,
    pub(super) probes: usize,
    pub(super) used: Vec<(Duration, RouteKey)>,
}

impl World {
    pub(super) fn new(flow: Flow) -> Self {
        let now = Instant::now();
        let mut paths = Paths::new(true, 1);
        paths.set_demand(now, Demand::Active);
        Self {
            start: now,
            now,
            paths,
            rtt: Vec::new(),
            flow,
            pending: Vec::new(),
            probes: 0,
            used: Vec::new(),
        }
    }

    pub(super) fn answer(&mut self, route: RouteKey, rtt: Option<Duration>) {
        self.rtt.retain(|(known, _)| *known != route);
        self.rtt.extend(rtt.map(|rtt| (route, rtt)));
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            for (_, route, id) in self.pending.extract_if(.., |(at, ..)| *at <= self.now).collect::<Vec<_>>()
            {
                self.paths.answered(self.now, route, id, 1);
            }
            for action in self.paths.poll(self.now, self.flow) {
                match action {
                    Action::Probe { route, id, .. } => {
                        self.probes += 1;
                        let rtt = self.rtt.iter().find(|(known, _)| *known == route);
                        self.pending.extend(rtt.map(|(_, rtt)| (self.now + *rtt, route, id)));
                    }
                    Action::Use(route) => self.used.push((self.now - self.start, route)),
                    _ => {}
                }
            }
            self.now += ms(1);
        }
    }

    pub(super) fn active(&self) -> Option<RouteKey> {
        self.paths.current().map(|candidate| candidate.route)
    }
}

#[test]
fn the_silence_after_an_exchange_is_settled_by_one_probe_at_most() {
    let mut world = World::new(FLOWS);
    world.paths.add(world.now, direct(1), PUNCHED, Origin::Told);
    world.answer(direct(1), Some(ms(20)));
    world.run(ms(1000));
    let mut after = |sent_last: u64| {
        world.flow = IDLE;
        world.run(ms(3000));
        let before = world.probes;
        for silence in 0..2000 {
            world.flow = Flow { unanswered: ms(silence + sent_last), sent: ms(silence), ..FLOWS };
            world.run(ms(1));
        }
        world.probes - before
    };
    assert_eq!(after(0), 0, "the peer had the last word");
    assert_eq!(after(30), 0, "an acknowledgement went out last");
    assert_eq!(after(50), 1, "something else did");
    // What goes out on a path that has died is in doubt as ever.
    world.answer(direct(1), None);
    let before = world.probes;
    world.flow = Flow { unanswered: ms(2000), ..FLOWS };
    world.run(ms(500));
    assert!(world.probes - before >= 5, "{} probes", world.probes - before);
}

#[test]
fn a_relayed_path_is_used_at_once_and_a_direct_one_as_soon_as_it_answers() {
    let mut world = World::new(FLOWS);
    let relayed = RouteKey::Relayed(PeerId::random());
    world.paths.add(world.now, relayed, Kind::Relayed, Origin::Told);
    world.paths.add(world.now, direct(1), PUNCHED, Origin::Told);
    world.answer(relayed, Some(ms(40)));
    world.run(ms(1));
    assert_eq!(world.active(), Some(relayed));
    world.run(ms(100));
    assert_eq!(world.active(), Some(relayed), "the hole is not open yet");
    world.answer(direct(1), Some(ms(20)));
    world.run(ms(300));
    assert_eq!(world.active(), Some(direct(1)));
}

#[test]
fn of_two_relays_the_nearer_is_taken_whichever_answers_first() {
    for flow in [IDLE, FLOWS] {
        let mut world = World::new(flow);
        let [far, near] = [80, 30].map(|rtt| {
            let relayed = RouteKey::Relayed(PeerId::random());
            world.answer(relayed, Some(ms(rtt)));
            relayed
        });
        world.paths.add(world.now, far, Kind::Relayed, Origin::Told);
        world.run(ms(300));
        assert_eq!(world.active(), Some(far));
        world.paths.add(world.now, near, Kind::Relayed, Origin::Told);
        world.run(ms(2000));
        assert_eq!(world.active(), Some(near));
        let before = world.probes;
        world.run(ms(60_000));
        assert!(world.used.len() == 2 && world.probes - before <= 70, "{} probes", world.probes - before);
    }
}

#[test]
fn a_relay_that_has_become_slow_is_left_for_one_that_is_near() {
    let mut world = World::new(FLOWS);
    let [used, other] = [0, 1].map(|_| RouteKey::Relayed(PeerId::random()));
    for (route, rtt) in [(used, 20), (other, 40)] {
        world.answer(route, Some(ms(rtt)));
        world.paths.add(world.now, route, Kind::Relayed, Origin::Told);
        world.run(ms(300));
    }
    world.run(ms(10_000));
    assert_eq!(world.active(), Some(used), "nothing speaks against it");
    world.answer(used, Some(ms(200)));
    world.run(ms(60_000));
    assert_eq!(world.active(), Some(other));
    assert_eq!(world.used.len(), 2);
}

#[test]
fn a_first_answer_that_took_long_keeps_no_path_from_being_used() {
    for flow in [IDLE, FLOWS] {
        let mut world = World::new(flow);
        let relayed = RouteKey::Relayed(PeerId::random());
        world.paths.add(world.now, relayed, Kind::Relayed, Origin::Told);
        world.paths.add(world.now, direct(1), PUNCHED, Origin::Told);
        world.answer(relayed, Some(ms(20)));
        // As where a router looks for its neighbour first: what waited comes at once.
        world.answer(direct(1), Some(ms(1000)));
        world.run(ms(900));
        world.answer(direct(1), Some(ms(20)));
        world.run(ms(900));
        assert_eq!(world.active(), Some(direct(1)));
    }
}

#[test]
fn a_direct_path_that_is_slow_is_not_asked_for_ever() {
    let mut world = World::new(IDLE);
    let relayed = RouteKey::Relayed(PeerId::random());
    world.paths.add(world.now, relayed, Kind::Relayed, Origin::Told);
    world.paths.add(world.now, direct(1), PUNCHED, Origin::Told);
    world.answer(relayed, Some(ms(20)));
    world.answer(direct(1), Some(ms(300)));
    world.run(ms(5000));
    assert_eq!(world.active(), Some(relayed));
    let before = world.probes;
    world.run(ms(20_000));
    assert!(world.probes - before <= 3, "{} probes", world.probes - before);
}

#[test]
fn a_dead_path_is_left_within_a_second_while_packets_flow() {
    for rtt in [1, 20, 100] {
        let mut world = World::new(FLOWS);
        let relayed = RouteKey::Relayed(PeerId::random());
        world.paths.add(world.now, relayed, Kind::Relayed, Origin::Told);
        world.paths.add(world.now, direct(1), PUNCHED, Origin::Told);
        world.answer(relayed, Some(ms(2 * rtt)));
        world.answer(direct(1), Some(ms(rtt)));
        world.run(ms(5000));
        assert_eq!(world.active(), Some(direct(1)));
        world.answer(direct(1), None);
        let died = world.now;
        while world.active() == Some(direct(1)) {
            world.flow.unanswered = world.now - died;
            world.run(ms(10));
            assert!(world.now - died <= ms(1000), "rtt {rtt}: still on the dead path");
        }
        assert_eq!(world.active(), Some(relayed));
        // And back when it answers again, without anybody asking.
        world.flow.unanswered = Duration::ZERO;
        world.answer(direct(1), Some(ms(rtt)));
        world.run(ms(5000));
        assert_eq!(world.active(), Some(direct(1)), "rtt {rtt}");
    }
}

#[test]
fn one_lost_probe_and_a_small_gain_move_nothing() {
    let mut world = World::new(FLOWS);
    world.paths.add(world.now, direct(1), PUNCHED, Origin::Told);
    world.answer(direct(1), Some(ms(20)));
    world.run(ms(3000));
    world.paths.add(world.now, direct(2), PUNCHED, Origin::Told);
    world.answer(direct(2), Some(ms(17)));
    world.run(ms(60_000));
    world.answer(direct(1), None);
    let before = world.probes;
    while world.probes == before {
        world.run(ms(1));
    }
    world.answer(direct(1), Some(ms(20)));
    world.run(ms(60_000));
    assert_eq!(world.used.len(), 1, "{:?}", world.used);
}

#[test]
fn the_lan_is_taken_when_it_shows_up() {
    let mut world = World::new(IDLE);
    world.paths.add(world.now, direct(1), PUNCHED, Origin::Told);
    world.answer(direct(1), Some(ms(3)));
    world.answer(direct(2), Some(ms(1)));
    world.run(ms(1000));
    world.paths.add(world.now, direct(2), LAN, Origin::Told);
    world.run(ms(1000));
    assert_eq!(world.active(), Some(direct(2)));
}

#[test]
fn an_idle_path_costs_one_probe_every_25_seconds() {
    let mut world = World::new(IDLE);
    world.paths.add(world.now, direct(1), PUNCHED, Origin::Told);
    world.answer(direct(1), Some(ms(20)));
    world.run(ms(2000));
    world.paths.set_demand(world.now, Demand::Keep);
    world.probes = 0;
    world.run(Duration::from_secs(250));
    assert!((9..=11).contains(&world.probes), "{} probes", world.probes);
    world.paths.set_demand(world.now, Demand::None);
    world.probes = 0;
    world.run(Duration::from_secs(60));
    assert_eq!(world.probes, 0);
}

#[test]
fn an_idle_path_forgets_the_queue_of_long_ago() {
    let mut world = World::new(FLOWS);
    world.paths.add(world.now, direct(1), PUNCHED, Origin::Told);
    world.answer(direct(1), Some(ms(450)));
    world.run(ms(10_000));
    assert!(world.paths.current().unwrap().is_settled());
    world.paths.set_demand(world.now, Demand::Keep);
    (world.flow, world.rtt) = (IDLE, vec![(direct(1), ms(20))]);
    world.run(Duration::from_secs(60));
    assert_eq!(world.paths.current().unwrap().rtt(), Some(ms(20)));
}

#[test]
fn a_beat_keeps_the_path_it_goes_by_and_a_probe_proves_it_seldom() {
    let mut world = World::new(IDLE);
    world.paths.add(world.now, direct(1), PUNCHED, Origin::Told);
    world.answer(direct(1), Some(ms(20)));
    world.run(ms(2000));
    world.paths.set_demand(world.now, Demand::Keep);
    world.probes = 0;
    for _ in 0..15 {
        // It goes out, and its acknowledgement comes in 30 ms later.
        for since in 0..30 {
            world.flow = Flow { unanswered: ms(20_000), received: ms(20_000), sent: ms(since), ..FLOWS };
            world.run(ms(1));
        }
        for since in (0..20_000).step_by(100) {
            let unanswered = ms(since.min(2000));
            let sending = since < 2000;
            world.flow = Flow { sending, unanswered, sent: ms(since + 30), received: ms(since) };
            world.run(ms(100));
        }
    }
    assert!((3..=5).contains(&world.probes), "{} probes in five minutes", world.probes);
    // What goes out and gets nothing back keeps nothing open.
    world.probes = 0;
    world.flow = Flow { sent: Duration::ZERO, ..IDLE };
    world.run(Duration::from_secs(250));
    assert!((9..=11).contains(&world.probes), "{} probes", world.probes);
}

#[test]
fn a_path_that_worked_is_tried_for_ever_and_often_enough_for_its_hole_to_stay_open() {
    let mut world = World::new(IDLE);
    world.paths.add(world.now, direct(1), PUNCHED, Origin::Told);
    world.answer(direct(1), Some(ms(20)));
    world.run(ms(2000));
    world.answer(direct(1), None);
    world.paths.set_demand(world.now, Demand::Keep);
    world.run(Duration::from_secs(360));
    world.probes = 0;
    world.run(Duration::from_secs(100));
    assert!(world.probes >= 4, "{} probes", world.probes);
    world.answer(direct(1), Some(ms(20)));
    world.run(Duration::from_secs(26));
    assert!(world.paths.is_direct(world.now));
}

#[test]
fn what_never_answered_is_given_up_in_the_end() {
    let mut world = World::new(IDLE);
    world.paths.add(world.now, direct(1), PUNCHED, Origin::Told);
    world.paths.add(world.now, direct(2), PUNCHED, Origin::Configured);
    world.run(EXPIRY + ms(1000));
    let left: Vec<_> = world.paths.candidates().iter().map(|candidate| candidate.route).collect();
    assert_eq!(left, vec![direct(2)]);
    assert!(world.probes < 100, "{} probes", world.probes);
}

#[test]
fn a_passive_end_uses_and_follows_what_the_peer_uses() {
    let now = Instant::now();
    let mut paths = Paths::new(true, 1);
    paths.heard(now, direct(1), PUNCHED, 5, true);
    let actions = paths.poll(now, IDLE);
    assert!(actions.contains(&Action::Use(direct(1))), "{actions:?}");
    let [Action::Probe { id, .. }] =
        actions.iter().filter(|a| matches!(a, Action::Probe { .. })).copied().collect::<Vec<_>>()[..]
    else {
        panic!("the peer's probe is returned once: {actions:?}")
    };
    assert!(paths.answered(now + ms(20), direct(1), id, 5).is_some());
    // Its NAT rebinds: the same peer from another port.
    let later = now + Duration::from_secs(30);
    paths.heard(later, direct(2), PUNCHED, 5, true);
    assert_eq!(paths.current().map(|c| c.route), Some(direct(2)));
    // A probe that is not in use moves nothing.
    paths.heard(later, direct(3), PUNCHED, 5, false);
    assert_eq!(paths.current().map(|c| c.route), Some(direct(2)));
}

#[test]
fn a_restart_is_believed_only_from_an_answer_and_dates_from_the_first_sign() {
    let now = Instant::now();
    let mut paths = Paths::new(true, 1);
    paths.heard(now, direct(1), PUNCHED, 5, true);
    assert!(paths.answered(now, direct(1), 1, 5).is_some());
    paths.poll(now, IDLE);
    let sign = now + Duration::from_secs(3);
    paths.heard(sign, direct(1), PUNCHED, 6, true);
    let actions = paths.poll(sign, IDLE);
    assert!(!actions.iter().any(|a| matches!(a, Action::Restarted { .. })), "a replayed probe kills nothing");
    let Some(Action::Probe { id, .. }) = actions.iter().find(|a| matches!(a, Action::Probe { .. })) else {
        panic!("the sign is followed up at once: {actions:?}")
    };
    paths.answered(sign + ms(20), direct(1), *id, 6);
    assert!(paths.poll(sign + ms(20), IDLE).contains(&Action::Restarted { since: sign }));
}

#[test]
fn an_answer_to_nothing_is_nothing() {
    let now = Instant::now();
    let mut paths = Paths::new(true, 1);
    paths.add(now, direct(1), PUNCHED, Origin::Told);
    assert_eq!(paths.answered(now, direct(1), 77, 5), None);
    assert_eq!(paths.answered(now, direct(2), 1, 5), None);
    assert!(!paths.is_direct(now));
}

proptest! {
    /// Whatever comes in whatever order: bounded, no panic, and traffic only uses what is a candidate.
    #[test]
    fn any_order_of_events_is_survived(events in prop::collection::vec((0u8..8, 0u16..40, 0u64..50, 0u64..3000), 0..200)) {
        let mut now = Instant::now();
        let mut paths = Paths::new(true, 0);
        let mut sent = HashSet::new();
        for (event, port, id, wait) in events {
            now += ms(wait);
            match event {
                0 => paths.add(now, direct(port), PUNCHED, Origin::Told),
                1 => paths.heard(now, direct(port), PUNCHED, id % 3, id % 2 == 0),
                2 => { paths.answered(now, direct(port), id, id % 3); }
                3 => paths.remove(direct(port)),
                4 => paths.set_demand(now, [Demand::None, Demand::Keep, Demand::Active][usize::from(port) % 3]),
                5 => paths.add(now, direct(port), LAN, Origin::Configured),
                6 => paths.urge(now),
                _ => {
                    let flow = Flow { sending: id % 2 == 0, unanswered: ms(wait), ..FLOWS };
                    for action in paths.poll(now, flow) {
                        if let Action::Probe { id, .. } = action {
                            prop_assert!(sent.insert(id), "each probe has its own id");
                        }
                    }
                    let next = paths.next_poll(now, flow);
                    prop_assert!(paths.demand() != Demand::None || next.is_none_or(|at| at + MOST >= now));
                }
            }
            prop_assert!(paths.candidates().len() <= MAX_CANDIDATES);
        }
    }
}

const MOST: Duration = Duration::from_secs(10);
