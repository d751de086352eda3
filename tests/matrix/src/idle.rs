//! What an idle edge costs its uplink.
//!
//! One node stands for an edge. It has a relay, which stands for the control as well: every 20 s the node tells it that
//! it is well. It keeps the path to a peer behind another NAT, and nobody calls. What passes its NAT is counted in three
//! spans. In the first the node meets the relay and visits its libp2p, which it does again every few hours; in the
//! second path and session come about, once; the third is nothing but keeping.

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use edgeloom_lab::Lab;
use edgeloom_lab::nat::Traffic;
use edgeloom_tunnel::VISITS;

use crate::cells::Path;
use crate::node::Event;
use crate::place::{self, Lane, RELAYS};
use crate::process::{Node, Start};
use crate::run::{ANSWER, READY, start_relay};
use crate::{LABS, cluster};

/// How long each span is: a visit takes 20 s and its connection another 30; a path that is kept is probed every 25 s, or
/// proven every 75.
const SPANS: [Duration; 3] = [Duration::from_secs(55), Duration::from_secs(10), Duration::from_secs(75)];
/// What a day may cost, in bytes of IP packets, both ways together.
const DAY: u64 = 2_000_000;
/// Seconds of a day.
const SECONDS: u64 = 86_400;
const NAMES: [&str; 2] = ["edge", "peer"];

/// Counts in a lab of that name, which goes afterwards.
pub(crate) fn run(name: &str) -> Result<()> {
    let (topology, lanes) = place::lanes(1, &[]);
    let lane = lanes.into_iter().next().context("one lane was asked for")?;
    let lab = Lab::up(FilePath::new(LABS), name, &topology).map_err(anyhow::Error::from);
    let result = lab.and_then(|lab| in_lab(&lab, &lane));
    Lab::down(FilePath::new(LABS), name).context("the lab does not go down")?;
    result
}

fn in_lab(lab: &Lab, lane: &Lane) -> Result<()> {
    let folder = tempfile::tempdir()?;
    cluster::create(folder.path())?;
    let _relay = start_relay(lab, folder.path(), 0)?;
    let [mut edge, _peer] = start(lab, lane, folder.path())?;
    let [visit, open, keep] = SPANS;
    ensure!(watch(&edge, visit)?.is_none(), "a path to a peer that nobody needs");
    let visited = passed(lab, lane)?;
    // What is told of the path comes after that.
    edge.tell("beat")?;
    edge.expect("no session", ANSWER, |event| matches!(event, Event::Beating).then_some(()))?;
    edge.tell("keep")?;
    let path = watch(&edge, open)?.context("no path to the peer")?;
    ensure!(path.starts_with(Path::Punched.name()), "the path to the peer is {path}");
    let opened = passed(lab, lane)?;
    ensure!(watch(&edge, keep)?.is_none(), "the path {path} was left although nothing happened");
    report([visited, opened, passed(lab, lane)?])
}

fn start(lab: &Lab, lane: &Lane, folder: &FilePath) -> Result<[Node; 2]> {
    for name in NAMES {
        cluster::identity(folder, name)?;
    }
    let start = |own: usize| {
        let other = NAMES[own ^ 1];
        let mut words = vec!["--listen".to_owned(), lane.listen.to_string()];
        words.extend(["--peer".into(), format!("{other}@{other}")]);
        words.extend(["--relay".into(), format!("{}={}", RELAYS[0], lane.relays[0])]);
        Node::start(lab, &Start { folder, host: &lane.hosts[own], name: NAMES[own], site: NAMES[own], words })
    };
    let nodes = [start(0)?, start(1)?];
    for node in &nodes {
        node.expect("no relay answers", READY, |event| matches!(event, Event::Ready).then_some(()))?;
    }
    Ok(nodes)
}

/// Lets the time pass. The path to the peer that it ends with, if it changed.
fn watch(node: &Node, span: Duration) -> Result<Option<String>> {
    let end = Instant::now() + span;
    let mut last = None;
    while let Some(event) = node.next(end)? {
        match event {
            Event::Path { path, .. } => last = Some(path),
            Event::Failed { error } => bail!("{error}"),
            _ => {}
        }
    }
    Ok(last)
}

/// Packets and bytes, both ways together.
type Both = [u64; 2];

/// What passed the edge's NAT so far, by neighbour.
fn passed(lab: &Lab, lane: &Lane) -> Result<BTreeMap<String, Both>> {
    let both = |traffic: Traffic| {
        let packets = traffic.sent_packets + traffic.received_packets;
        [packets, traffic.sent_bytes + traffic.received_bytes]
    };
    Ok(lab.counters(&lane.gate)?.into_iter().map(|(neighbour, traffic)| (neighbour, both(traffic))).collect())
}

/// Prints what each span brought, and holds the day that follows to its bound.
fn report(until: [BTreeMap<String, Both>; 3]) -> Result<()> {
    let mut bytes = [0; 3];
    for neighbour in until[2].keys() {
        let mut before = [0; 2];
        for ((until, span), sum) in until.iter().zip(SPANS).zip(&mut bytes) {
            let now = until.get(neighbour).copied().unwrap_or_default();
            let [packets, more] = [now[0] - before[0], now[1] - before[1]];
            if packets > 0 {
                println!("in {:>2} s, {neighbour:<8} {packets:>4} packets, {more:>6} bytes", span.as_secs());
            }
            before = now;
            *sum += more;
        }
    }
    let [visit, _, keep] = bytes;
    let (kept, visits) = (keep * SECONDS / SPANS[2].as_secs(), visit * SECONDS / VISITS.as_secs());
    let day = kept + visits;
    println!("a day: {:.2} MB, {:.2} of it for visits", day as f64 / 1e6, visits as f64 / 1e6);
    ensure!(keep > 0 && visit > 0, "nothing passed: the edge has no session, or met no relay");
    ensure!(day <= DAY, "an idle edge would cost {day} bytes a day, {DAY} are allowed");
    Ok(())
}
