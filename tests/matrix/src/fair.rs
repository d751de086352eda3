//! A relay that one node floods: what it leaves to another.
//!
//! The relay forwards at a set rate. One node sends to three others by it, as much as goes, each on a connection of
//! its own; another sends to one. By flows the flood would have three quarters; by nodes each has half.

use std::path::Path as FilePath;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use edgeloom_lab::{Lab, NatKind};

use crate::cells::Path;
use crate::node::Event;
use crate::place::{self, Lane, RELAYS};
use crate::process::{Node, Start};
use crate::run::{ANSWER, READY, start_relay_with};
use crate::{LABS, cluster};

/// What the relay forwards, in Mbit/s.
const RATE: u32 = 40;
/// How long the flood goes on, and how long it has to itself at first.
const FLOOD: Duration = Duration::from_secs(14);
const ALONE: Duration = Duration::from_secs(3);
/// What the other node sends meanwhile, in bytes: four seconds of its half.
const BYTES: u64 = 10 << 20;
/// What share of the half it has to get: the first round trips, and headers, are in the time.
const SHARE: f64 = 0.8;
/// Small requests that it makes before, and what half of them may take: a round trip takes 20 ms, and what waits at the
/// relay does so for its own node.
const REQUESTS: usize = 21;
const REQUEST: f64 = 80.0;

/// Where each node is: its name, its lane and which of the lane's two hosts it has.
const FLOODER: (&str, usize, usize) = ("flooder", 0, 0);
const FLOODED: [(&str, usize, usize); 3] = [("one", 0, 1), ("two", 1, 1), ("three", 2, 1)];
const OTHER: (&str, usize, usize) = ("other", 1, 0);
const TARGET: (&str, usize, usize) = ("target", 2, 0);

/// Floods a relay in a lab of that name, which goes afterwards.
pub(crate) fn run(name: &str) -> Result<()> {
    let (mut topology, lanes) = place::lanes(FLOODED.len(), &[]);
    for nat in &mut topology.nats {
        nat.kind = NatKind::SYMMETRIC;
    }
    let lab = Lab::up(FilePath::new(LABS), name, &topology).map_err(anyhow::Error::from);
    let result = lab.and_then(|lab| in_lab(&lab, &lanes));
    Lab::down(FilePath::new(LABS), name).context("the lab does not go down")?;
    result
}

fn in_lab(lab: &Lab, lanes: &[Lane]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    cluster::create(folder)?;
    for (name, ..) in [FLOODER, OTHER, TARGET].iter().chain(&FLOODED) {
        cluster::identity(folder, name)?;
    }
    let _relay = start_relay_with(lab, folder, 0, &["--relay-mbit", &RATE.to_string()])?;
    let start = |who, peers: &[&str]| start(lab, lanes, folder, who, peers);
    let _sinks = FLOODED.map(|who| start(who, &[FLOODER.0]));
    let _target = start(TARGET, &[OTHER.0])?;
    let mut flooder = start(FLOODER, &FLOODED.map(|(name, ..)| name))?;
    let mut other = start(OTHER, &[TARGET.0])?;
    for node in [&flooder, &other] {
        node.expect("the relay does not answer", READY, |event| matches!(event, Event::Ready).then_some(()))?;
    }
    let quiet = requests(&mut other)?;
    flooder.tell(&format!("flood {}", FLOOD.as_secs()))?;
    let began = Instant::now();
    std::thread::sleep(ALONE);
    let busy = requests(&mut other)?;
    let (before, counted) = (arrived(lab, lanes)?, Instant::now());
    let rate = transfer(&mut other)?;
    let flood = (arrived(lab, lanes)? - before) as f64 * 8e-6 / counted.elapsed().as_secs_f64();
    ensure!(began.elapsed() < FLOOD, "the flood was over before the transfer");
    flooder.expect("the flood does not end", FLOOD, |event| matches!(event, Event::Flooded).then_some(()))?;
    println!("of {RATE} Mbit/s: {flood:.1} to the flood on three connections, {rate:.1} to the other on one");
    println!("a request beside the flood: {busy:.0} ms (p50), {quiet:.0} before it");
    let half = f64::from(RATE) / 2.0;
    ensure!(rate >= half * SHARE, "the other has {rate:.1} Mbit/s of its {half}");
    ensure!(flood >= half * SHARE, "nothing was flooded: {flood:.1} Mbit/s");
    ensure!(busy <= REQUEST, "a request takes {busy:.0} ms beside the flood");
    Ok(())
}

fn start(
    lab: &Lab,
    lanes: &[Lane],
    folder: &FilePath,
    (name, lane, host): (&str, usize, usize),
    peers: &[&str],
) -> Result<Node> {
    let lane = &lanes[lane];
    let relay = format!("{}={}", RELAYS[0], lane.relays[0]);
    let mut words = vec!["--listen".to_owned(), lane.listen.to_string(), "--relay".into(), relay];
    words.extend(peers.iter().flat_map(|peer| ["--peer".to_owned(), format!("{peer}@{peer}")]));
    Node::start(lab, &Start { folder, host: &lane.hosts[host], name, site: name, words })
}

/// Bytes of the flood that came to the three, by the counters of their NATs.
fn arrived(lab: &Lab, lanes: &[Lane]) -> Result<u64> {
    let bytes = FLOODED.iter().map(|(_, lane, host)| {
        let counters = lab.counters(&lanes[*lane].nats[*host])?;
        Ok(counters.get(RELAYS[0]).map_or(0, |traffic| traffic.received_bytes))
    });
    bytes.sum()
}

/// Median time of some small requests, in milliseconds.
fn requests(node: &mut Node) -> Result<f64> {
    let (mut times, mut direct) = (Vec::new(), false);
    for _ in 0..REQUESTS {
        node.tell("visit")?;
        times.push(node.expect("no answer", ANSWER, |event| match event {
            Event::Answer { ms } => Some(ms),
            Event::Path { kind, .. } => {
                direct |= Path::from_kind(&kind).is_direct();
                None
            }
            _ => None,
        })?);
    }
    ensure!(!direct, "between symmetric NATs there is a direct path");
    times.sort_by(f64::total_cmp);
    Ok(times[REQUESTS / 2])
}

/// Rate of a transfer, in Mbit/s.
fn transfer(node: &mut Node) -> Result<f64> {
    node.tell(&format!("send {BYTES}"))?;
    node.expect("the transfer does not end", FLOOD * 2, |event| match event {
        Event::Sent(received) => Some(BYTES as f64 * 8e-3 / received.ms),
        _ => None,
    })
}
