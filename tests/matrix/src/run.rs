//! Runs cells: each in a lane of the lab, several at a time.

use std::collections::VecDeque;
use std::path::Path as FilePath;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use edgeloom_lab::Lab;
use serde::Serialize;

use crate::cells::{Cell, Path, Place};
use crate::node::Event;
use crate::place::{self, Lane, PROXY_LISTEN, RELAYS};
use crate::process::{Node, Start};
use crate::{LABS, cluster};

/// Cells of two NATs that run at the same time.
const PAIRS: usize = 4;
/// How long a node may take to reach a relay.
pub(crate) const READY: Duration = Duration::from_secs(20);
/// How long a first answer may take.
pub(crate) const ANSWER: Duration = Duration::from_secs(16);
/// How long a direct path is waited for: the burst of probes and the first repetitions lie within.
const DIRECT: Duration = Duration::from_secs(4);
/// How long a trace may take.
const TRACED: Duration = Duration::from_secs(5);
/// How long a direct path may still give way to a better one.
const SETTLE: Duration = Duration::from_millis(500);
/// Bytes whose way through the NATs is counted.
const PAYLOAD: u64 = 1 << 20;

/// By which way the payload went, as the NAT's counters have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// Straight to the other's NAT, or to the other.
    Straight,
    /// To a relay.
    Relay,
    /// It never came out of the outermost NAT.
    Inside,
    /// It was not all of one way.
    Mixed,
}

/// What was found of a cell.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Found {
    /// The path in the end.
    pub(crate) path: Path,
    /// Over what the first node speaks to the relay, where it is not UDP.
    pub(crate) carrier: Option<String>,
    /// From the call to its answer, in milliseconds.
    pub(crate) first_byte_ms: f64,
    /// From the call to the last change of path, in milliseconds.
    pub(crate) final_path_ms: f64,
    /// The way of 1 MiB.
    pub(crate) way: Way,
    /// The largest packet that a trace saw come back, where it was asked.
    pub(crate) datagram: Option<u16>,
}

/// How a cell fared.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// It ran; whether as predicted is [`Outcome::is_good`]'s to say.
    Found(Found),
    /// It could not be run to its end.
    Failed(String),
}

impl Outcome {
    /// Whether the path and the way of the bytes are the predicted ones.
    pub(crate) fn is_good(&self, cell: &Cell) -> bool {
        match self {
            Self::Found(found) => {
                same(cell.predicted, found.path)
                    && found.carrier.as_deref() == cell.carrier
                    && fits(cell, found.way)
                    && found.datagram == cell.datagram
            }
            Self::Failed(_) => false,
        }
    }
}

/// A global IPv6 address behind a filter is public by its looks and punched by its ways: the tunnel calls it
/// either, by who hears of it first.
fn same(predicted: Path, found: Path) -> bool {
    found == predicted || (predicted == Path::Punched && found == Path::Public)
}

/// Whether bytes go that way where all is as predicted.
fn fits(cell: &Cell, way: Way) -> bool {
    match cell.predicted {
        Path::Lan => way == Way::Inside,
        // Behind one carrier's NAT the holes are on its inside.
        Path::Public | Path::Punched => matches!(way, Way::Straight | Way::Inside),
        // A proxy has a way out of its own.
        Path::Relayed if cell.place == Place::Proxy => way == Way::Inside,
        Path::Relayed => way == Way::Relay,
        Path::None => false,
    }
}

/// What all lanes share.
struct Run<'a> {
    lab: Mutex<Lab>,
    folder: &'a FilePath,
    waiting: Mutex<VecDeque<(usize, Cell)>>,
    done: Mutex<Vec<(usize, Cell, Outcome)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the cells in a lab of that name, which goes afterwards; the results keep the cells' order.
pub(crate) fn run(name: &str, cells: Vec<Cell>) -> Result<Vec<(Cell, Outcome)>> {
    let mut places: Vec<_> = cells.iter().map(|cell| cell.place).collect();
    places.sort_by_key(|place| *place as u8);
    places.dedup();
    let (topology, lanes) = place::lanes(PAIRS, &places);
    let result = Lab::up(FilePath::new(LABS), name, &topology)
        .map_err(anyhow::Error::from)
        .and_then(|lab| in_lab(lab, lanes, cells));
    Lab::down(FilePath::new(LABS), name).context("the lab does not go down")?;
    result
}

fn in_lab(lab: Lab, lanes: Vec<Lane>, cells: Vec<Cell>) -> Result<Vec<(Cell, Outcome)>> {
    let folder = tempfile::tempdir()?;
    cluster::create(folder.path())?;
    let _relay = start_relay(&lab, folder.path(), 0)?;
    let waiting = cells.into_iter().enumerate().collect();
    let run = Run {
        lab: Mutex::new(lab),
        folder: folder.path(),
        waiting: Mutex::new(waiting),
        done: Mutex::default(),
    };
    thread::scope(|scope| {
        for lane in &lanes {
            scope.spawn(|| run.work(lane));
        }
    });
    let mut done = run.done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _, _)| *number);
    Ok(done.into_iter().map(|(_, cell, outcome)| (cell, outcome)).collect())
}

/// Starts one of the two relays.
pub(crate) fn start_relay(lab: &Lab, folder: &FilePath, index: usize) -> Result<Node> {
    start_relay_with(lab, folder, index, &[])
}

/// Starts one of the two relays, with further words.
pub(crate) fn start_relay_with(lab: &Lab, folder: &FilePath, index: usize, more: &[&str]) -> Result<Node> {
    let name = RELAYS[index];
    cluster::identity(folder, name)?;
    let words =
        ["--serve", "--listen", "[::]:20006"].iter().chain(more).copied().map(str::to_owned).collect();
    let mut relay = Node::start(lab, &Start { folder, host: name, name, site: "cloud", words })?;
    relay.await_up(READY)?;
    Ok(relay)
}

impl Run<'_> {
    /// Takes the cells that fit the lane, one after the other.
    fn work(&self, lane: &Lane) {
        loop {
            let next = {
                let mut waiting = lock(&self.waiting);
                let fits = waiting.iter().position(|(_, cell)| cell.place == lane.place);
                fits.and_then(|position| waiting.remove(position))
            };
            let Some((number, cell)) = next else { return };
            let outcome = match self.cell(number, &cell, lane) {
                Ok(found) => Outcome::Found(found),
                Err(error) => Outcome::Failed(format!("{error:#}")),
            };
            let word = if outcome.is_good(&cell) { "" } else { "  NOT AS PREDICTED" };
            eprintln!("  {}{word}", cell.name);
            lock(&self.done).push((number, cell, outcome));
        }
    }

    fn cell(&self, number: usize, cell: &Cell, lane: &Lane) -> Result<Found> {
        self.prepare(cell, lane)?;
        let names = ["a", "b"].map(|side| format!("c{number}{side}"));
        let sites = if cell.one_site { ["one", "one"] } else { ["one", "two"] };
        for name in &names {
            cluster::identity(self.folder, name)?;
        }
        let _proxy = lane.proxy.as_ref().map(|host| Node::proxy(&lock(&self.lab), host)).transpose()?;
        let [mut a, _b] = self.start(lane, &names, sites)?;
        a.tell("visit")?;
        let mut found = await_path(&a)?;
        found.way = self.way(&mut a, lane)?;
        if cell.datagram.is_some() {
            a.tell("trace")?;
            found.datagram = a.expect("no trace", TRACED, |event| match event {
                Event::Traced { datagram } => Some(datagram),
                _ => None,
            })?;
        }
        Ok(found)
    }

    /// Both nodes, once a relay answers each.
    fn start(&self, lane: &Lane, names: &[String; 2], sites: [&str; 2]) -> Result<[Node; 2]> {
        let start = |own: usize| {
            let other = own ^ 1;
            let at = lane.public.filter(|_| other == 1).map_or(String::new(), |at| format!("={at}"));
            let listen = if own == 1 && lane.public.is_some() {
                "0.0.0.0:20006".into()
            } else {
                lane.listen.to_string()
            };
            let mut words = vec![
                "--listen".into(),
                listen,
                "--relay".into(),
                format!("{}={}", RELAYS[0], lane.relays[0]),
                "--peer".into(),
                format!("{}@{}{at}", names[other], sites[other]),
            ];
            if own == 0 && lane.proxy.is_some() {
                words.extend(["--proxy".into(), format!("http://{PROXY_LISTEN}")]);
            }
            let (folder, name) = (self.folder, names[own].as_str());
            let start = Start { folder, host: &lane.hosts[own], name, site: sites[own], words };
            Node::start(&lock(&self.lab), &start)
        };
        let nodes = [start(0)?, start(1)?];
        for node in &nodes {
            node.expect("no relay answers", READY, |event| matches!(event, Event::Ready).then_some(()))?;
        }
        Ok(nodes)
    }

    fn prepare(&self, cell: &Cell, lane: &Lane) -> Result<()> {
        let mut lab = lock(&self.lab);
        for (nat, kind) in lane.nats.iter().zip(cell.nats) {
            lab.set_nat_kind(nat, kind)?;
        }
        let first = lane.nats.first().context("every lane has a NAT")?;
        Ok(lab.set_egress(first, cell.egress)?)
    }

    /// Sends some bytes, and looks at the gate which way they went.
    fn way(&self, node: &mut Node, lane: &Lane) -> Result<Way> {
        let counted = || -> Result<[u64; 2]> {
            let counters = lock(&self.lab).counters(&lane.gate)?;
            let sent = |name: &str| counters.get(name).map_or(0, |traffic| traffic.sent_bytes);
            Ok([sent(&lane.across), RELAYS.iter().map(|relay| sent(relay)).sum()])
        };
        let before = counted()?;
        node.tell(&format!("send {PAYLOAD}"))?;
        node.expect("the payload does not arrive", Duration::from_secs(20), |event| {
            matches!(event, Event::Sent(_)).then_some(())
        })?;
        let after = counted()?;
        let most = |index: usize| after[index] - before[index] >= PAYLOAD;
        let little = |index: usize| after[index] - before[index] < PAYLOAD / 10;
        Ok(match (most(0), most(1)) {
            (true, false) if little(1) => Way::Straight,
            (false, true) if little(0) => Way::Relay,
            _ if little(0) && little(1) => Way::Inside,
            _ => Way::Mixed,
        })
    }
}

/// The first answer, and where the path stays.
fn await_path(node: &Node) -> Result<Found> {
    let mut path = (Path::None, 0.0, None);
    let first_byte_ms = node.expect("no answer", ANSWER, |event| match event {
        Event::Answer { ms } => Some(ms),
        Event::Path { ms, kind, carrier, .. } => {
            path = (Path::from_kind(&kind), ms, carrier);
            None
        }
        _ => None,
    })?;
    let mut deadline = Instant::now() + if path.0.is_direct() { SETTLE } else { DIRECT };
    while let Some(event) = node.next(deadline)? {
        if let Event::Path { ms, kind, carrier, .. } = event {
            path = (Path::from_kind(&kind), ms, carrier);
            deadline = Instant::now() + if path.0.is_direct() { SETTLE } else { DIRECT };
        }
    }
    let (path, final_path_ms, carrier) = path;
    Ok(Found { path, carrier, first_byte_ms, final_path_ms, way: Way::Mixed, datagram: None })
}
