//! Two ends and the ways between them, of which some lose packets, over minutes and a day of simulated time.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::tests::{FLOWS, IDLE, direct, ms};
use super::*;
use crate::status::DirectKind;
use crate::wire::frame::SEAL;
use crate::wire::message::Message;

const PUNCHED: Kind = Kind::Direct(DirectKind::Punched);
/// How often the ends are polled where calls begin and end, and how long one counts as a flow.
const WATCH: Duration = Duration::from_millis(250);
const LINGERS: Duration = Duration::from_secs(2);
const MINUTE: Duration = Duration::from_secs(60);
const SEEDS: std::ops::Range<u64> = 0..8;
/// IP and UDP, of IPv4.
const HEADERS: usize = 28;

/// A way: one of it both ends call by the same name.
struct Way {
    route: RouteKey,
    kind: Kind,
    /// Share of packets that are lost each way.
    loss: f64,
    delay: Duration,
}

#[derive(Clone, Copy)]
enum Packet {
    Probe { id: u64, in_use: bool, shunned: bool },
    Answer { id: u64 },
}

/// What flows between the ends.
#[derive(Clone, Copy, PartialEq)]
enum Traffic {
    Nothing,
    Always,
    /// A call every so often.
    Calls(Duration),
}

struct Pair {
    start: Instant,
    now: Instant,
    ends: [Paths; 2],
    ways: Vec<Way>,
    coming: Vec<(Instant, usize, usize, Packet)>,
    traffic: Traffic,
    moves: [Vec<(Duration, RouteKey)>; 2],
    /// Bytes of IP of probes and answers, of both ends.
    bytes: usize,
    dice: StdRng,
}

impl Pair {
    fn new(seed: u64, traffic: Traffic, ways: &[(RouteKey, Kind, f64, u64)]) -> Self {
        let now = Instant::now();
        let mut ends = [Paths::new(true, 1), Paths::new(false, 1 << 32)];
        let ways: Vec<_> = ways
            .iter()
            .map(|(route, kind, loss, delay)| Way {
                route: *route,
                kind: *kind,
                loss: *loss,
                delay: ms(*delay),
            })
            .collect();
        for end in &mut ends {
            end.set_demand(now, Demand::Active);
            ways.iter().for_each(|way| end.add(now, way.route, way.kind, Origin::Told));
        }
        let (coming, moves, dice) = (Vec::new(), [Vec::new(), Vec::new()], StdRng::seed_from_u64(seed));
        Self { start: now, now, ends, ways, coming, traffic, moves, bytes: 0, dice }
    }

    /// A direct path and a relayed one.
    fn beside_a_relay(seed: u64, traffic: Traffic, losses: [f64; 2]) -> Self {
        let relayed = RouteKey::Relayed(PeerId::random());
        let ways = [(direct(1), PUNCHED, losses[0], 10), (relayed, Kind::Relayed, losses[1], 20)];
        Self::new(seed, traffic, &ways)
    }

    fn flow(&self) -> Flow {
        let since = self.now - self.start;
        let flows = match self.traffic {
            Traffic::Nothing => false,
            Traffic::Always => true,
            Traffic::Calls(every) => ms((since.as_millis() % every.as_millis()) as u64) < LINGERS,
        };
        if flows { FLOWS } else { IDLE }
    }

    fn send(&mut self, from: usize, route: RouteKey, packet: Packet) {
        self.bytes += bytes(packet);
        let Some(index) = self.ways.iter().position(|way| way.route == route) else { return };
        let way = &self.ways[index];
        if !self.dice.random_bool(way.loss) {
            self.coming.push((self.now + way.delay, from ^ 1, index, packet));
        }
    }

    fn receive(&mut self, end: usize, way: usize, packet: Packet) {
        let Way { route, kind, .. } = self.ways[way];
        match packet {
            Packet::Probe { id, in_use, shunned } => {
                self.ends[end].peer_shuns(route, shunned);
                self.ends[end].heard(self.now, route, kind, 1, in_use);
                self.send(end, route, Packet::Answer { id });
            }
            Packet::Answer { id } => {
                self.ends[end].answered(self.now, route, id, 1);
            }
        }
        self.poll(end);
    }

    fn poll(&mut self, end: usize) {
        let flow = self.flow();
        let demand = if flow.sending { Demand::Active } else { Demand::Keep };
        if self.ends[end].demand() != demand {
            self.ends[end].set_demand(self.now, demand);
        }
        for action in self.ends[end].poll(self.now, flow) {
            match action {
                Action::Probe { route, id, in_use, shunned } => {
                    self.send(end, route, Packet::Probe { id, in_use, shunned })
                }
                Action::Use(route) => self.moves[end].push((self.now - self.start, route)),
                _ => {}
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let flow = self.flow();
            let polls = self.ends.iter().filter_map(|paths| paths.next_poll(self.now, flow));
            let next = polls.chain(self.coming.iter().map(|(at, ..)| *at)).min();
            let rest = if matches!(self.traffic, Traffic::Calls(_)) { WATCH } else { MINUTE };
            let next = next.map_or(end, |at| at.min(self.now + rest));
            self.now = next.clamp(self.now + ms(1), end.max(self.now + ms(1)));
            let due = self.coming.extract_if(.., |(at, ..)| *at <= self.now).collect::<Vec<_>>();
            for (_, end, way, packet) in due {
                self.receive(end, way, packet);
            }
            (0..2).for_each(|end| self.poll(end));
        }
    }

    /// The ways that the two ends use.
    fn used(&self) -> [Option<usize>; 2] {
        self.ends.each_ref().map(|paths| {
            let route = paths.working(self.now)?.route;
            self.ways.iter().position(|way| way.route == route)
        })
    }

    fn forget(&mut self) {
        self.moves = [Vec::new(), Vec::new()];
        self.bytes = 0;
    }

    fn moved(&self) -> usize {
        self.moves.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// Length on the wire.
fn bytes(packet: Packet) -> usize {
    let message = match packet {
        Packet::Probe { id, in_use, shunned } => Message::Probe { id, epoch: 1, in_use, shunned },
        Packet::Answer { id } => {
            Message::Answer { id, epoch: 1, observed: Some(([192, 0, 2, 1], 20006).into()) }
        }
    };
    let mut plain = Vec::new();
    message.encode(&mut plain);
    HEADERS + SEAL + plain.len()
}

fn relayed() -> RouteKey {
    RouteKey::Relayed(PeerId::random())
}

#[test]
fn a_direct_path_that_loses_much_is_left_for_a_clean_relay_and_taken_back() {
    let calls = Traffic::Calls(Duration::from_secs(5));
    for (traffic, left, back) in [(Traffic::Always, MINUTE / 2, MINUTE * 3), (calls, MINUTE * 5, MINUTE * 15)]
    {
        for seed in SEEDS {
            let mut pair = Pair::beside_a_relay(seed, traffic, [0.0, 0.0]);
            pair.run(MINUTE);
            assert_eq!(pair.used(), [Some(0); 2], "seed {seed}");
            pair.ways[0].loss = 0.3;
            pair.run(left);
            assert_eq!(pair.used(), [Some(1); 2], "seed {seed}: {:?}", pair.moves);
            pair.forget();
            pair.run(MINUTE * 10);
            assert_eq!(pair.moved(), 0, "seed {seed}: {:?}", pair.moves);
            pair.ways[0].loss = 0.0;
            pair.run(back);
            assert_eq!((pair.used(), pair.moved()), ([Some(0); 2], 1), "seed {seed}: {:?}", pair.moves);
        }
    }
}

#[test]
fn a_little_loss_moves_nothing_to_a_relay() {
    for (seed, loss) in SEEDS.flat_map(|seed| [0.01, 0.02].map(|loss| (seed, loss))) {
        let mut pair = Pair::beside_a_relay(seed, Traffic::Always, [loss, 0.0]);
        pair.run(ms(1000));
        pair.forget();
        pair.run(MINUTE * 30);
        assert_eq!((pair.used(), pair.moved()), ([Some(0); 2], 0), "seed {seed}, {loss}");
    }
}

#[test]
fn of_two_paths_of_a_kind_the_one_that_loses_much_is_left() {
    let relays = [(relayed(), Kind::Relayed), (relayed(), Kind::Relayed)];
    let addresses = [(direct(1), PUNCHED), (direct(2), PUNCHED)];
    for [a, b] in [relays, addresses] {
        for seed in SEEDS {
            let mut pair = Pair::new(seed, Traffic::Always, &[(a.0, a.1, 0.0, 10), (b.0, b.1, 0.0, 10)]);
            pair.run(MINUTE);
            let used = pair.used()[0].unwrap();
            assert_eq!(pair.used(), [Some(used); 2], "seed {seed}");
            pair.ways[used].loss = 0.2;
            pair.run(MINUTE);
            assert_eq!(pair.used(), [Some(used ^ 1); 2], "seed {seed}: {:?}", pair.moves);
            // It is as good as the other again, which is no reason to move once more.
            pair.ways[used].loss = 0.0;
            pair.forget();
            pair.run(MINUTE * 10);
            assert_eq!(pair.moved(), 0, "seed {seed}: {:?}", pair.moves);
        }
    }
}

#[test]
fn paths_that_lose_now_more_and_now_less_than_each_other_are_not_left_in_turn() {
    // Each way, of which 0.05 to 0.1 are up to a fifth of the round trips.
    let shares = [(0.025, 0.05, 0), (0.05, 0.1, 2)];
    for kinds in [[PUNCHED, Kind::Relayed], [Kind::Relayed; 2]] {
        for (seed, (least, most, moves)) in SEEDS.flat_map(|seed| shares.map(|share| (seed, share))) {
            let name = |kind| if kind == PUNCHED { direct(1) } else { relayed() };
            let ways = kinds.map(|kind| (name(kind), kind, 0.0, 10));
            let mut pair = Pair::new(seed, Traffic::Always, &ways);
            pair.run(ms(5000));
            pair.forget();
            for _ in 0..20 {
                for way in 0..2 {
                    pair.ways[way].loss = pair.dice.random_range(least..most);
                }
                pair.run(MINUTE / 2);
            }
            assert!(pair.moved() <= moves, "seed {seed}: {:?}", pair.moves);
        }
    }
}

#[test]
fn a_path_is_in_question_while_packets_flow_and_are_lost() {
    for (traffic, loss, wanted) in
        [(Traffic::Always, 0.3, true), (Traffic::Always, 0.0, false), (Traffic::Nothing, 0.3, false)]
    {
        let mut pair = Pair::new(1, traffic, &[(direct(1), PUNCHED, 0.0, 10)]);
        pair.run(MINUTE);
        pair.ways[0].loss = loss;
        pair.run(MINUTE);
        // Whoever knows no other path looks for one then.
        assert_eq!(pair.ends[0].is_in_question(pair.now), wanted, "{loss}");
    }
}

#[test]
fn an_idle_pair_sends_no_more_bytes_a_day_however_much_is_lost() {
    // What is lost while packets flow, and then while none do.
    for (before, loss, most) in
        [(0.0, 0.0, 700_000), (0.0, 0.02, 800_000), (0.0, 0.3, 1_500_000), (0.3, 0.3, 1_500_000)]
    {
        let mut pair = Pair::beside_a_relay(1, Traffic::Always, [before, 0.0]);
        pair.run(MINUTE);
        assert_eq!(pair.used(), [Some(usize::from(before > 0.0)); 2]);
        (pair.traffic, pair.ways[0].loss) = (Traffic::Nothing, loss);
        pair.forget();
        pair.run(MINUTE * 60 * 24);
        assert!(pair.bytes < most, "{before}, {loss}: {} bytes", pair.bytes);
    }
}
