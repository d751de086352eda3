//! Both ends of a flow over a simulated network in simulated time, while its ways are cut and healed.

use proptest::prelude::*;

use super::tests::{NEVER, direct, ms};
use super::*;
use crate::status::DirectKind;

const PUNCHED: Kind = Kind::Direct(DirectKind::Punched);
const TCP: Kind = Kind::Direct(DirectKind::Tcp);
/// How often time is looked at, and packets of the flow go out.
const STEP: Duration = Duration::from_millis(2);
/// How often the ends are polled where nothing comes in.
const TICK: Duration = Duration::from_millis(10);
/// Packets that went out this recently are a flow.
const FLOWING: Duration = Duration::from_secs(2);

/// A way between the two ends, as each of them names it.
#[derive(Clone, Debug)]
struct Way {
    names: [RouteKey; 2],
    /// Whether it carries what the one end sends, and the other.
    up: [bool; 2],
    /// Of each end's probes every second one is lost.
    lossy: [bool; 2],
    delay: Duration,
    /// Whether the second end's NAT lets in what comes from the name that it knows the first by.
    open: bool,
    probes: [u32; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packet {
    Probe { id: u64, in_use: bool },
    Answer { id: u64 },
    Data,
    Acknowledgement,
}

struct End {
    paths: Paths,
    sent: Option<Instant>,
    received: Option<Instant>,
    moves: Vec<(Duration, RouteKey)>,
}

/// The first end sends a flow to the second, which acknowledges it.
struct Network {
    start: Instant,
    now: Instant,
    ends: [End; 2],
    ways: Vec<Way>,
    coming: Vec<(Instant, usize, usize, Packet)>,
    flows: bool,
    next_port: u16,
    /// A rebinding that the second end is told of by a relay.
    news: Vec<(Instant, RouteKey)>,
    last_acknowledged: Instant,
    stood_still: Duration,
}

impl Network {
    fn new(flows: bool) -> Self {
        let now = Instant::now();
        let end = |leads| {
            let mut paths = Paths::new(leads, if leads { 1 } else { 1 << 32 });
            paths.set_demand(now, Demand::Active);
            End { paths, sent: None, received: None, moves: Vec::new() }
        };
        Self {
            start: now,
            now,
            ends: [end(true), end(false)],
            ways: Vec::new(),
            coming: Vec::new(),
            flows,
            next_port: 100,
            news: Vec::new(),
            last_acknowledged: now,
            stood_still: Duration::ZERO,
        }
    }

    /// Two sites behind NATs with a punched hole and two relays, and packets that flow by the hole.
    fn punched() -> Self {
        let mut network = Self::new(true);
        network.add([direct(1), direct(2)], [PUNCHED; 2], [Origin::Told; 2], 10);
        for _ in 0..2 {
            let relayed = RouteKey::Relayed(PeerId::random());
            network.add([relayed; 2], [Kind::Relayed; 2], [Origin::Told; 2], 10);
        }
        network.run(ms(5000));
        assert_eq!(network.used(), [Some(0); 2]);
        network.forget();
        network
    }

    fn add(&mut self, names: [RouteKey; 2], kinds: [Kind; 2], origins: [Origin; 2], delay: u64) {
        for end in 0..2 {
            if origins[end] != Origin::Heard {
                self.ends[end].paths.add(self.now, names[end], kinds[end], origins[end]);
            }
        }
        let (up, lossy, probes) = ([true; 2], [false; 2], [0; 2]);
        self.ways.push(Way { names, up, lossy, delay: ms(delay), open: true, probes });
    }

    fn forget(&mut self) {
        (self.last_acknowledged, self.stood_still) = (self.now, Duration::ZERO);
        self.ends.iter_mut().for_each(|end| end.moves.clear());
    }

    fn cut(&mut self, way: usize) {
        self.ways[way].up = [false; 2];
    }

    fn heal(&mut self, way: usize) {
        self.ways[way].up = [true; 2];
    }

    /// The first end's NAT takes another port for the first way. The first end sees at a relay that it did, and
    /// tells the second.
    fn rebind(&mut self) {
        self.next_port += 1;
        self.ways[0].names[1] = direct(self.next_port);
        self.ways[0].open = false;
        self.news.push((self.now + ms(500), direct(self.next_port)));
    }

    /// The ways that the two ends use.
    fn used(&self) -> [Option<usize>; 2] {
        [0, 1].map(|end| {
            let route = self.ends[end].paths.working(self.now)?.route;
            self.ways.iter().position(|way| way.names[end] == route)
        })
    }

    fn is_live(&self) -> bool {
        let used = self.used();
        (0..2).all(|end| {
            used[end].is_some_and(|way| self.ways[way].up[end] && (end == 1 || self.ways[way].open))
        })
    }

    fn flow(&self, end: usize) -> Flow {
        let End { sent, received, .. } = self.ends[end];
        let sending = sent.is_some_and(|at| self.now - at < FLOWING);
        let since = |at: Option<Instant>| at.map_or(NEVER, |at| self.now - at);
        let unanswered = if sending { since(received) } else { Duration::ZERO };
        Flow { sending, unanswered, sent: since(sent), received: since(received) }
    }

    fn send(&mut self, from: usize, route: RouteKey, packet: Packet) {
        let Some(index) = self.ways.iter().position(|way| way.names[from] == route) else { return };
        let way = &mut self.ways[index];
        way.open |= from == 1;
        if matches!(packet, Packet::Probe { .. }) {
            way.probes[from] += 1;
            if way.lossy[from] && way.probes[from].is_multiple_of(2) {
                return;
            }
        }
        if way.up[from] && (from == 1 || way.open) {
            self.coming.push((self.now + way.delay, from ^ 1, index, packet));
        }
    }

    fn send_flow(&mut self, from: usize, packet: Packet) {
        self.ends[from].sent = Some(self.now);
        if let Some(route) = self.ends[from].paths.current().map(|current| current.route) {
            self.send(from, route, packet);
        }
    }

    /// Whether the first end sends: as QUIC does, ever more seldom while nothing is acknowledged.
    fn sends(&self) -> bool {
        let silence = self.now - self.last_acknowledged;
        silence < ms(300) || self.ends[0].sent.is_none_or(|sent| self.now - sent >= silence / 2)
    }

    fn receive(&mut self, end: usize, way: usize, packet: Packet) {
        let now = self.now;
        let route = self.ways[way].names[end];
        match packet {
            Packet::Probe { id, in_use } => {
                self.send(end, route, Packet::Answer { id });
                let kind = self.kind(end, way);
                self.ends[end].paths.heard(now, route, kind, 1, in_use);
                self.poll(end);
            }
            Packet::Answer { id } => {
                self.ends[end].paths.answered(now, route, id, 1);
                self.poll(end);
            }
            Packet::Data | Packet::Acknowledgement => {
                if self.ends[end].paths.current().map(|current| current.route) == Some(route) {
                    self.ends[end].received = Some(now);
                }
                if packet == Packet::Data {
                    self.send_flow(end, Packet::Acknowledgement);
                } else {
                    self.stood_still = self.stood_still.max(now - self.last_acknowledged);
                    self.last_acknowledged = now;
                }
            }
        }
    }

    fn kind(&self, end: usize, way: usize) -> Kind {
        let other = self.ways[way].names[end ^ 1];
        let known = self.ends[end ^ 1].paths.candidates().iter().find(|candidate| candidate.route == other);
        known.map_or(PUNCHED, |candidate| candidate.kind)
    }

    fn poll(&mut self, end: usize) {
        let flow = self.flow(end);
        let demand = if flow.sending || !self.flows { Demand::Active } else { Demand::Keep };
        if self.ends[end].paths.demand() != demand {
            self.ends[end].paths.set_demand(self.now, demand);
        }
        for action in self.ends[end].paths.poll(self.now, flow) {
            match action {
                Action::Probe { route, id, in_use, .. } => {
                    self.send(end, route, Packet::Probe { id, in_use })
                }
                Action::Use(route) => {
                    self.ends[end].moves.push((self.now - self.start, route));
                    // What connections do when their path moved.
                    if self.flows {
                        self.send_flow(end, [Packet::Data, Packet::Acknowledgement][end]);
                    }
                }
                _ => {}
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut next = self.now;
        while self.now < end {
            self.now += STEP;
            for (_, end, way, packet) in
                self.coming.extract_if(.., |(at, ..)| *at <= self.now).collect::<Vec<_>>()
            {
                self.receive(end, way, packet);
            }
            for (_, route) in self.news.extract_if(.., |(at, _)| *at <= self.now).collect::<Vec<_>>() {
                self.ends[1].paths.add(self.now, route, PUNCHED, Origin::Told);
                self.ends[1].paths.urge(self.now);
            }
            if self.flows && self.sends() {
                self.send_flow(0, Packet::Data);
            }
            if self.now >= next {
                next = self.now + TICK;
                self.poll(0);
                self.poll(1);
            }
        }
    }

    /// How long it takes until `done`.
    fn until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let began = self.now;
        while !done(self) {
            self.run(STEP);
            assert!(self.now - began < limit, "not within {limit:?}: {:?}", self.used());
        }
        self.now - began
    }

    fn moves(&self) -> usize {
        self.ends.iter().map(|end| end.moves.len()).sum()
    }
}

#[test]
fn both_ends_leave_a_path_that_is_cut_and_the_flow_goes_on() {
    // Whenever it is cut: a probe may have been answered the moment before.
    for before in (0..1000).step_by(50) {
        let mut network = Network::punched();
        network.run(ms(before));
        network.cut(0);
        network.run(ms(2000));
        assert!(network.is_live() && network.stood_still <= ms(500), "{before}: {:?}", network.stood_still);
        assert!(network.moves() <= 4, "{:?}", network.ends.each_ref().map(|end| &end.moves));
    }
}

#[test]
fn an_end_whose_acknowledgements_go_the_cut_way_notices_as_soon() {
    let mut network = Network::punched();
    // Only what the second end sends is lost: to it the path looks as good as before until the first leaves it.
    network.ways[0].up[1] = false;
    network.run(ms(3000));
    assert!(network.is_live() && network.stood_still <= ms(600), "{:?}", network.stood_still);
}

#[test]
fn a_relay_that_is_killed_is_left_by_both_ends() {
    let mut network = Network::punched();
    network.cut(0);
    network.run(ms(3000));
    let relay = network.used()[0].unwrap();
    network.forget();
    network.cut(relay);
    network.run(ms(2000));
    assert!(network.is_live() && network.stood_still <= ms(500), "{:?}", network.stood_still);
}

#[test]
fn a_nat_that_rebinds_costs_half_a_second_and_a_second_later_the_path_is_direct_again() {
    let mut network = Network::punched();
    network.rebind();
    let took = network.until(ms(2000), |network| {
        network.now - network.start > ms(5300) && network.used() == [Some(0); 2] && network.is_live()
    });
    assert!(took <= ms(1500), "direct after {took:?}");
    network.run(ms(500));
    assert!(network.stood_still <= ms(500), "{:?}", network.stood_still);
    network.forget();
    network.run(ms(60_000));
    assert_eq!(network.moves(), 0, "{:?}", network.ends.each_ref().map(|end| &end.moves));
}

#[test]
fn two_ends_that_go_by_different_relays_meet_at_one() {
    for moved in [0, 1] {
        let mut network = Network::punched();
        network.cut(0);
        network.run(ms(3000));
        let other = 3 - network.used()[moved].unwrap();
        let route = network.ways[other].names[moved];
        network.ends[moved].paths.take(route);
        network.run(ms(5000));
        let used = network.used();
        assert!(network.is_live() && used[0] == used[1], "{used:?}");
        network.forget();
        network.run(ms(60_000));
        assert_eq!(network.moves(), 0, "{:?}", network.ends.each_ref().map(|end| &end.moves));
    }
}

#[test]
fn where_every_way_was_cut_the_first_that_heals_is_taken_soon() {
    for outage in (2..120).step_by(11) {
        let mut network = Network::punched();
        (0..3).for_each(|way| network.cut(way));
        network.run(Duration::from_secs(outage));
        network.heal(2);
        let took = network.until(ms(5000), Network::is_live);
        assert!(took <= ms(1500), "{took:?} after {outage} s");
    }
}

/// A carrier that the first end dialled, beside UDP of which only its probes are lost.
fn beside_a_carrier(flows: bool) -> Network {
    let mut network = Network::new(flows);
    network.add([direct(1), direct(2)], [PUNCHED; 2], [Origin::Told; 2], 10);
    network.add([direct(3), direct(4)], [TCP; 2], [Origin::Told, Origin::Heard], 10);
    network
}

#[test]
fn two_ends_that_prefer_different_paths_settle() {
    for flows in [true, false] {
        let mut network = beside_a_carrier(flows);
        // The end that dialled finds that UDP loses much; the other does not.
        network.ways[0].lossy[0] = true;
        network.run(Duration::from_secs(40));
        network.forget();
        network.run(Duration::from_secs(60));
        let moves = network.ends.each_ref().map(|end| &end.moves);
        assert!(network.moves() <= 4, "{flows}: {} moves, {moves:?}", network.moves());
        // UDP loses nothing any more: both take it.
        network.ways[0].lossy[0] = false;
        network.run(Duration::from_secs(180));
        assert_eq!(network.used(), [Some(0); 2], "{flows}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever is cut, healed or bound anew, both ends are soon where packets pass if there is such a way, and stay.
    #[test]
    fn both_ends_end_on_a_way_that_works(
        events in prop::collection::vec((0u8..5, 0usize..3, 0u64..3000), 0..12),
        left in 1usize..3,
    ) {
        let mut network = Network::punched();
        for (event, way, wait) in events {
            match event {
                0 => network.cut(way),
                1 => network.ways[way].up[0] = false,
                2 => network.ways[way].up[1] = false,
                3 => network.heal(way),
                _ => network.rebind(),
            }
            network.run(ms(wait));
        }
        network.heal(left);
        network.until(ms(3000), Network::is_live);
        network.run(ms(15_000));
        network.forget();
        network.run(ms(30_000));
        prop_assert!(network.is_live());
        prop_assert!(network.moves() <= 2, "{:?}", network.ends.each_ref().map(|end| &end.moves));
    }
}
