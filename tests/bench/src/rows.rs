//! What is measured and what is to be reached: data.
//!
//! A [`Row`] is one load over some [`Way`]s, one after the other and over again, so that a ratio is one of
//! neighbours in time. Its [`Figure`]s say what is made of the samples.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::Load;
use crate::stats::{Spread, short};

/// By what the client reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// From a pod at site A to the ClusterIP of a Service whose pod runs at site B.
    Service,
    /// As [`Way::Service`], on a LAN where flows may go over TCP, and do not.
    ServiceQuic,
    /// Plain TCP between the two edge hosts, by a port that the NAT of site B forwards.
    Tcp,
    /// As [`Way::Tcp`], with TLS 1.3 (rustls).
    Tls,
    /// QUIC by quinn alone between the two hosts, by a forwarded port.
    Quic,
    /// TCP in nebula between the two hosts.
    Nebula,
    /// Tunnel to tunnel, with no agents.
    Tunnel,
    /// From the host of the pod to the ClusterIP: near.
    Near,
    /// From the host of the pod to the pod.
    Pod,
}

impl Way {
    /// Name, for tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::ServiceQuic => "Service by QUIC",
            Self::Tcp => "TCP",
            Self::Tls => "TCP with TLS",
            Self::Quic => "raw quinn",
            Self::Nebula => "nebula",
            Self::Tunnel => "tunnel",
            Self::Near => "near Service",
            Self::Pod => "pod directly",
        }
    }
}

/// What lies between the two sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    /// The loopback interface: tunnels alone, and no lab.
    Loopback,
    /// Cables that segment, checksum and merge nothing for the hosts, as a plain network card.
    Lan,
    /// Cables with all offloads that veth has: packets of up to 64 KiB pass whole.
    Offloads,
    /// As [`Place::Lan`], with both hosts on one network, and flows between them over TCP.
    SameLan,
    /// As [`Place::SameLan`], with all offloads.
    SameLanOffloads,
    /// A WAN between site A's NAT and the internet, made in user space.
    Wan,
}

impl Place {
    /// Whether both hosts are on one network.
    pub(crate) fn is_same_lan(self) -> bool {
        matches!(self, Self::SameLan | Self::SameLanOffloads)
    }
}

/// What one run gave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Mbit/s, microseconds (the median of the run's), or connections a second.
    pub(crate) value: f64,
    /// Seconds of processor time of the agents, or of nebula, at both ends for each GiB carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_per_gib: Option<f64>,
    /// KiB by which the agents of site A and B grew for each idle connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<[f64; 2]>,
    /// Connections that failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) failed: u64,
}

impl Sample {
    /// In words, for whoever watches.
    pub(crate) fn shown(&self, load: Load) -> String {
        let mut text = format!("{} {}", short(self.value), load.unit());
        if let Some(cpu) = self.cpu_per_gib {
            text.push_str(&format!(", {} s of processor a GiB", short(cpu)));
        }
        if let Some([a, b]) = self.memory {
            text.push_str(&format!(", {} and {} KiB each", short(a), short(b)));
        }
        if self.failed > 0 {
            text.push_str(&format!(", {} failed", self.failed));
        }
        text
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The samples of one round, by way; a run that failed is missing.
pub(crate) type Round = std::collections::BTreeMap<Way, Sample>;

/// What is made of a round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Formula {
    /// One way's value to another's.
    Ratio(Way, Way),
    /// A way's value to so much.
    Share(Way, f64),
    /// Microseconds of one way beyond another's.
    Beyond(Way, Way),
    /// A time, in round trips.
    Trips(Way),
    /// Connections a second to what so many clients reach that wait for a round trip each.
    PerTrip(Way, usize),
    /// Processor time for a GiB.
    Cpu(Way),
    /// Growth for an idle connection: of site A's agent, or B's; or of one tunnel, or the other.
    Memory(Way, usize),
}

impl Formula {
    /// Its value for a round, where all that it needs is there; `trip` is the round trip time.
    pub(crate) fn value(self, round: &Round, trip: Duration) -> Option<f64> {
        let of = |way: Way| round.get(&way).copied();
        let value = |way: Way| of(way).map(|sample| sample.value);
        let micros = trip.as_secs_f64() * 1e6;
        match self {
            Self::Ratio(way, to) => Some(value(way)? / value(to)?),
            Self::Share(way, whole) => Some(value(way)? / whole),
            Self::Beyond(way, base) => Some(value(way)? - value(base)?),
            Self::Trips(way) => Some(value(way)? / micros),
            Self::PerTrip(way, clients) => Some(value(way)? * micros / 1e6 / clients as f64),
            Self::Cpu(way) => of(way)?.cpu_per_gib,
            Self::Memory(way, side) => of(way)?.memory?.get(side).copied(),
        }
    }

    /// The unit of its value, if it has one.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Ratio(..) | Self::Share(..) | Self::PerTrip(..) => "",
            Self::Beyond(..) => " µs",
            Self::Trips(_) => " RTT",
            Self::Cpu(_) => " s",
            Self::Memory(..) => " KiB",
        }
    }
}

/// What is to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Goal {
    /// Not less.
    AtLeast(f64),
    /// Not more.
    AtMost(f64),
}

impl Goal {
    /// Whether it is reached.
    pub(crate) fn is_reached(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

/// A line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) goal: Option<Goal>,
    pub(crate) formula: Formula,
}

impl Figure {
    /// What came of it: the median of the rounds' values.
    pub(crate) fn result(&self, rounds: &[Round], trip: Duration) -> Option<Spread> {
        let values: Vec<f64> = rounds.iter().filter_map(|round| self.formula.value(round, trip)).collect();
        Spread::of(&values)
    }
}

/// A load over some ways.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Name, for `--only`.
    pub(crate) name: String,
    pub(crate) place: Place,
    /// What the way from site A does to packets, each direction: `lab fault wan`.
    pub(crate) wan: String,
    /// The same in words.
    pub(crate) under: String,
    pub(crate) ways: Vec<Way>,
    pub(crate) load: Load,
    /// Services that there are besides, with an endpoint each.
    pub(crate) services: usize,
    pub(crate) rounds: usize,
    pub(crate) figures: Vec<Figure>,
}

use Way::{Near, Nebula, Pod, Quic, Service, ServiceQuic, Tcp, Tls, Tunnel};

/// Seconds of a transfer.
const BULK: u64 = 8;
/// Services beside the one that is called, where there are many.
const SERVICES: usize = 10_000;
/// Mbit/s of the WAN, and of the gigabit link.
const RATE: f64 = 200.0;

/// All rows, in the order in which they are run. Idle memory comes first: an agent that has carried much keeps what
/// it was given, and would seem to need nothing.
pub(crate) fn all() -> Vec<Row> {
    let [peers, streams] = tunnels();
    let mut rows = vec![peers, streams, idle(), bulk_local(Place::Lan), bulk_local(Place::Offloads)];
    rows.extend([Place::SameLan, Place::SameLanOffloads].map(bulk_same_lan));
    rows.push(first_byte_same_lan());
    rows.extend(near());
    rows.push(gigabit());
    for rtt in [20, 100] {
        rows.extend(["0", "0.1", "0.5", "2"].map(|loss| bulk_wan(rtt, loss)));
    }
    rows.extend(latency());
    rows.extend([32, 256].map(churn));
    rows
}

fn figure(what: impl Into<String>, goal: Option<Goal>, formula: Formula) -> Figure {
    Figure { what: what.into(), goal, formula }
}

fn row(name: impl Into<String>, place: Place, ways: &[Way], load: Load, figures: Vec<Figure>) -> Row {
    let (wan, under) = (String::new(), String::new());
    Row { name: name.into(), place, wan, under, ways: ways.to_vec(), load, services: 0, rounds: 3, figures }
}

fn idle() -> Row {
    let figures = vec![
        figure("memory of the calling agent for an idle connection", None, Formula::Memory(Service, 0)),
        figure("memory of the called agent for an idle connection", None, Formula::Memory(Service, 1)),
    ];
    let load = Load::Idle { count: 1000 };
    Row { under: "no WAN".into(), rounds: 1, ..row("idle", Place::Lan, &[Service], load, figures) }
}

/// 1,000 streams are below the bound of one connection.
fn tunnels() -> [Row; 2] {
    let memory = |what: &str, ends: [&str; 2]| {
        let figure = |side: usize| {
            figure(format!("memory of {} for {what}", ends[side]), None, Formula::Memory(Tunnel, side))
        };
        vec![figure(0), figure(1)]
    };
    let peers =
        memory("a peer with a QUIC connection", ["a tunnel that dialled", "a tunnel that was dialled"]);
    let streams = memory("an idle stream", ["the tunnel that opened it", "the other tunnel"]);
    let alone = |row: Row| Row { under: "tunnels alone".into(), rounds: 1, ..row };
    [
        alone(row("peers", Place::Loopback, &[Tunnel], Load::Peers { count: 200 }, peers)),
        alone(row("streams", Place::Loopback, &[Tunnel], Load::Streams { count: 1000 }, streams)),
    ]
}

fn bulk_local(place: Place) -> Row {
    let (name, under, goal) = match place {
        Place::Lan => ("lan", "no WAN, no offloads", true),
        _ => ("lan-offloads", "no WAN, offloads of veth", false),
    };
    let goal = |least| goal.then_some(Goal::AtLeast(least));
    let figures = vec![
        figure("bulk, one stream, processor-bound, to raw quinn", goal(0.8), Formula::Ratio(Service, Quic)),
        figure("the same, to nebula", goal(4.0), Formula::Ratio(Service, Nebula)),
        figure("the same, to TCP with TLS", None, Formula::Ratio(Service, Tls)),
        figure("the same, to plain TCP", None, Formula::Ratio(Service, Tcp)),
        figure("processor time of both agents for a GiB", None, Formula::Cpu(Service)),
        figure("processor time of nebula for a GiB", None, Formula::Cpu(Nebula)),
    ];
    let ways = [Service, Quic, Tcp, Tls, Nebula];
    Row { under: under.into(), rounds: 5, ..row(name, place, &ways, Load::Bulk { seconds: 6 }, figures) }
}

fn bulk_same_lan(place: Place) -> Row {
    let (name, under, goal) = match place {
        Place::SameLan => ("same-lan", "one LAN, no offloads", Some(Goal::AtLeast(0.8))),
        _ => ("same-lan-offloads", "one LAN, offloads of veth", None),
    };
    let figures = vec![
        figure("bulk, one stream over TCP, to TCP with TLS", goal, Formula::Ratio(Service, Tls)),
        figure("the same, by QUIC to TCP with TLS", None, Formula::Ratio(ServiceQuic, Tls)),
        figure("the same, over TCP to by QUIC", None, Formula::Ratio(Service, ServiceQuic)),
        figure("the same, over TCP to plain TCP", None, Formula::Ratio(Service, Tcp)),
        figure("processor time of both agents for a GiB, over TCP", None, Formula::Cpu(Service)),
        figure("processor time of both agents for a GiB, by QUIC", None, Formula::Cpu(ServiceQuic)),
    ];
    let ways = [Service, ServiceQuic, Tcp, Tls];
    Row { under: under.into(), ..row(name, place, &ways, Load::Bulk { seconds: 6 }, figures) }
}

fn first_byte_same_lan() -> Row {
    let figures = vec![
        figure(
            "new connection to first byte, over TCP to by QUIC",
            None,
            Formula::Ratio(Service, ServiceQuic),
        ),
        figure("the same, over TCP to plain TCP", None, Formula::Ratio(Service, Tcp)),
    ];
    let load = Load::FirstByte { count: 300 };
    let row = row("same-lan-first", Place::SameLanOffloads, &[Service, ServiceQuic, Tcp], load, figures);
    Row { under: "one LAN, offloads of veth".into(), ..row }
}

/// The one with many Services comes last: they stay.
fn near() -> [Row; 3] {
    let connect = |among: &str| {
        let what = format!("near Service{among}, connect to first byte, to the pod directly");
        vec![figure(what, Some(Goal::AtMost(1.03)), Formula::Ratio(Near, Pod))]
    };
    let bulk = vec![figure(
        "near Service, bulk, to the pod directly",
        Some(Goal::AtLeast(0.98)),
        Formula::Ratio(Near, Pod),
    )];
    let first = Load::FirstByte { count: 3000 };
    let near = |row: Row| Row { under: "one host".into(), rounds: 5, ..row };
    [
        near(row("near-connect", Place::Offloads, &[Near, Pod], first, connect(""))),
        near(row("near-bulk", Place::Offloads, &[Near, Pod], Load::Bulk { seconds: 4 }, bulk)),
        Row {
            services: SERVICES,
            ..near(row("near-many", Place::Offloads, &[Near, Pod], first, connect(" of 10,000")))
        },
    ]
}

fn gigabit() -> Row {
    let figures = vec![
        figure("bulk, one stream, to plain TCP", Some(Goal::AtLeast(0.95)), Formula::Ratio(Service, Tcp)),
        figure("the same, nebula to plain TCP", None, Formula::Ratio(Nebula, Tcp)),
    ];
    let bulk = row("gigabit", Place::Wan, &[Service, Tcp, Nebula], Load::Bulk { seconds: BULK }, figures);
    Row { wan: "delay=0.5,rate=1000".into(), under: "RTT 1 ms, 1 Gbit/s".into(), ..bulk }
}

fn bulk_wan(rtt: u32, loss: &str) -> Row {
    let goal = (rtt == 20 && loss == "0.5").then_some(Goal::AtLeast(0.9));
    let figures = vec![
        figure("bulk, one stream, to the link", goal, Formula::Share(Service, RATE)),
        figure("the same, plain TCP", None, Formula::Share(Tcp, RATE)),
        figure("the same, nebula", None, Formula::Share(Nebula, RATE)),
    ];
    let name = format!("wan-{rtt}-{loss}");
    let bulk = row(name, Place::Wan, &[Service, Tcp, Nebula], Load::Bulk { seconds: BULK }, figures);
    Row {
        wan: format!("delay={},rate={RATE},loss={loss}", rtt / 2),
        under: format!("RTT {rtt} ms, {RATE} Mbit/s, loss {loss} %"),
        ..bulk
    }
}

fn latency() -> [Row; 2] {
    let first = vec![
        figure("new connection to first byte", Some(Goal::AtMost(1.1)), Formula::Trips(Service)),
        figure("the same, plain TCP", None, Formula::Trips(Tcp)),
        figure("the same, nebula", None, Formula::Trips(Nebula)),
    ];
    let echo = vec![
        figure(
            "64 B and back on an open connection, beyond plain TCP",
            Some(Goal::AtMost(100.0)),
            Formula::Beyond(Service, Tcp),
        ),
        figure("the same, nebula", None, Formula::Beyond(Nebula, Tcp)),
    ];
    let ways = [Service, Tcp, Nebula];
    [
        at_20(row("first-byte", Place::Wan, &ways, Load::FirstByte { count: 80 }, first)),
        at_20(row("echo", Place::Wan, &ways, Load::Echo { count: 300 }, echo)),
    ]
}

fn churn(clients: usize) -> Row {
    let figures = vec![
        figure(
            format!("new connections a second, {clients} clients, to clients / RTT"),
            Some(Goal::AtLeast(0.9)),
            Formula::PerTrip(Service, clients),
        ),
        figure("the same, plain TCP", None, Formula::PerTrip(Tcp, clients)),
        figure("the same, nebula", None, Formula::PerTrip(Nebula, clients)),
    ];
    let load = Load::Churn { clients, seconds: 4 };
    at_20(row(format!("churn-{clients}"), Place::Wan, &[Service, Tcp, Nebula], load, figures))
}

fn at_20(row: Row) -> Row {
    Row { wan: "delay=10".into(), under: "RTT 20 ms".into(), ..row }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value: f64) -> Sample {
        Sample { value, ..Sample::default() }
    }

    #[test]
    fn names_are_not_used_twice_and_conditions_are_read() {
        let rows = all();
        let names: std::collections::BTreeSet<_> = rows.iter().map(|row| &row.name).collect();
        assert_eq!(names.len(), rows.len());
        for row in &rows {
            row.wan.parse::<edgeloom_lab::Conditions>().unwrap();
            assert_eq!(row.wan.is_empty(), row.place != Place::Wan, "{}", row.name);
        }
    }

    #[test]
    fn formulas_say_what_they_are_called() {
        let trip = Duration::from_millis(20);
        let round = Round::from([(Service, sample(30_000.0)), (Tcp, sample(40_000.0))]);
        let value = |formula: Formula| formula.value(&round, trip);
        assert_eq!(value(Formula::Ratio(Service, Tcp)), Some(0.75));
        assert_eq!(value(Formula::Share(Service, 60_000.0)), Some(0.5));
        assert_eq!(value(Formula::Beyond(Tcp, Service)), Some(10_000.0));
        assert_eq!(value(Formula::Trips(Service)), Some(1.5));
        // 30,000 a second, where 1,000 clients that wait 20 ms each come to 50,000.
        assert_eq!(value(Formula::PerTrip(Service, 1000)), Some(0.6));
        assert_eq!(value(Formula::Ratio(Service, Nebula)), None);
        assert_eq!(value(Formula::Cpu(Service)), None);
    }

    #[test]
    fn a_result_is_the_median_of_the_rounds_that_have_one() {
        let ratio = figure("", None, Formula::Ratio(Service, Tcp));
        let round = |service: f64| Round::from([(Service, sample(service)), (Tcp, sample(10.0))]);
        let rounds = [round(9.0), round(8.0), Round::from([(Service, sample(1.0))]), round(10.0)];
        let result = ratio.result(&rounds, Duration::ZERO).unwrap();
        assert_eq!((result.median, result.least, result.most), (0.9, 0.8, 1.0));
        assert_eq!(ratio.result(&[], Duration::ZERO), None);
    }

    #[test]
    fn goals_include_their_bound() {
        assert!(Goal::AtLeast(0.9).is_reached(0.9) && !Goal::AtLeast(0.9).is_reached(0.89));
        assert!(Goal::AtMost(1.1).is_reached(1.1) && !Goal::AtMost(1.1).is_reached(1.11));
    }
}
