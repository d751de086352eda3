//! One long transfer between two sites, while what carries it is taken away piece by piece.

use std::path::Path as FilePath;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use edgeloom_lab::{Conditions, Fault, Lab, Wan};

use crate::cells::Path;
use crate::node::Event;
use crate::place::{self, Lane, RELAYS};
use crate::process::{Node, Start};
use crate::run::{ANSWER, READY, start_relay};
use crate::transfer::Received;
use crate::{LABS, cluster};

/// How long the transfer takes at the rate of the uplinks, if nothing goes wrong.
const LENGTH: Duration = Duration::from_secs(45);
/// When the first thing goes wrong, and how long after it the next.
const FIRST: Duration = Duration::from_secs(4);
const APART: Duration = Duration::from_secs(5);
/// Milliseconds for which the transfer may stand still.
pub(crate) const STILL: f64 = 1000.0;
/// The first site's address after its uplink got another.
const OTHER_ADDRESS: &str = "203.0.113.200/24";
const NAMES: [&str; 2] = ["one", "two"];

/// What goes wrong, or right again, in this order, and the path on which the transfer is before the next does.
const TROUBLES: [(&str, Trouble, Path); 7] = [
    ("no UDP from NAT to NAT", Trouble::Block, Path::Relayed),
    ("the relay in use is killed", Trouble::KillRelay, Path::Relayed),
    ("UDP from NAT to NAT again", Trouble::Unblock, Path::Punched),
    ("the first NAT forgets its mappings and takes other ports", Trouble::Rebind, Path::Punched),
    ("the first site's uplink gets another address", Trouble::Readdress, Path::Punched),
    ("no UDP from NAT to NAT", Trouble::Block, Path::Relayed),
    ("UDP from NAT to NAT again", Trouble::Unblock, Path::Punched),
];

#[derive(Debug, Clone, Copy)]
enum Trouble {
    Block,
    Unblock,
    KillRelay,
    Rebind,
    Readdress,
}

/// The site's parts, and what runs in it.
struct Ordeal {
    lab: Lab,
    lane: Lane,
    relays: [Option<Node>; 2],
    /// The relay that the path leads by, by its peer id.
    path: String,
    began: Instant,
}

/// Transfers so many bytes in a lab of that name, which goes afterwards.
pub(crate) fn run(name: &str, bytes: u64) -> Result<Received> {
    let (mut topology, lanes) = place::lanes(1, &[]);
    let rate = bytes as f64 * 8e-6 / LENGTH.as_secs_f64();
    topology.set_wans(&Wan::both(Conditions {
        delay: place::WAY,
        rate: Some(rate),
        ..Conditions::default()
    }));
    let lane = lanes.into_iter().next().context("one lane was asked for")?;
    let lab = Lab::up(FilePath::new(LABS), name, &topology).map_err(anyhow::Error::from);
    let result = lab.and_then(|lab| in_lab(lab, lane, bytes));
    Lab::down(FilePath::new(LABS), name).context("the lab does not go down")?;
    result
}

fn in_lab(lab: Lab, lane: Lane, bytes: u64) -> Result<Received> {
    let folder = tempfile::tempdir()?;
    cluster::create(folder.path())?;
    let relays = [start_relay(&lab, folder.path(), 0)?, start_relay(&lab, folder.path(), 1)?].map(Some);
    let [mut node, _other] = start(&lab, &lane, folder.path())?;
    let mut ordeal = Ordeal { lab, lane, relays, path: String::new(), began: Instant::now() };
    node.tell("visit")?;
    node.expect("no answer", ANSWER, |event| {
        ordeal.took(event, |event| matches!(event, Event::Answer { .. }))
    })?;
    ordeal.await_kind(&node, Path::Punched, ANSWER)?;
    ordeal.transfer(&mut node, bytes)
}

fn start(lab: &Lab, lane: &Lane, folder: &FilePath) -> Result<[Node; 2]> {
    for name in NAMES {
        cluster::identity(folder, name)?;
    }
    let start = |own: usize| {
        let relay = |index: usize| format!("{}={}", RELAYS[index], lane.relays[index]);
        let (listen, other) = (lane.listen.to_string(), NAMES[own ^ 1]);
        let words = ["--listen", &listen, "--relay", &relay(0), "--relay", &relay(1)].map(str::to_owned);
        let mut words = words.to_vec();
        words.extend(["--peer".into(), format!("{other}@{other}")]);
        let start = Start { folder, host: &lane.hosts[own], name: NAMES[own], site: NAMES[own], words };
        Node::start(lab, &start)
    };
    let nodes = [start(0)?, start(1)?];
    for node in &nodes {
        node.expect("no relay answers", READY, |event| matches!(event, Event::Ready).then_some(()))?;
    }
    Ok(nodes)
}

impl Ordeal {
    fn transfer(&mut self, node: &mut Node, bytes: u64) -> Result<Received> {
        node.tell(&format!("send {bytes}"))?;
        self.began = Instant::now();
        let mut before = ("the transfer began", Path::Punched);
        for (number, (sentence, trouble, path)) in (0..).zip(TROUBLES) {
            self.follow(node, self.began + FIRST + APART * number, before)?;
            println!("{:>6.1} s  {sentence}", self.began.elapsed().as_secs_f64());
            self.cause(trouble).with_context(|| sentence.to_owned())?;
            before = (sentence, path);
        }
        self.follow(node, Instant::now() + APART, before)?;
        let received = node.expect("the transfer does not end", LENGTH * 4, |event| match event {
            Event::Sent(received) => Some(received),
            other => self.took(other, |_| false).and(None),
        })?;
        for (at, ms) in &received.gaps {
            println!("{at:>6.1} s  stood still for {ms:.0} ms");
        }
        ensure!(received.longest_gap_ms <= STILL, "stood still for {:.0} ms", received.longest_gap_ms);
        Ok(received)
    }

    /// Takes what happens until `due`, when the path must be what follows from what was done last.
    fn follow(&mut self, node: &Node, due: Instant, (sentence, path): (&str, Path)) -> Result<()> {
        while let Some(event) = node.next(due)? {
            if let Event::Failed { error } = event {
                bail!("after {sentence:?}: {error}");
            }
            if self.took(event, |event| matches!(event, Event::Sent(_))).is_some() {
                bail!("the transfer was over before all that was to happen had happened");
            }
        }
        let took = APART.as_secs();
        ensure!(self.path.starts_with(path.name()), "{took} s after {sentence:?} the path is {}", self.path);
        Ok(())
    }

    /// Remembers and prints a change of path; says whether the event is the one that is waited for.
    fn took(&mut self, event: Event, wanted: impl Fn(&Event) -> bool) -> Option<()> {
        let found = wanted(&event).then_some(());
        if let Event::Path { path, .. } = event {
            println!("{:>6.1} s  path: {path}", self.began.elapsed().as_secs_f64());
            self.path = path;
        }
        found
    }

    fn await_kind(&mut self, node: &Node, kind: Path, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !self.path.starts_with(kind.name()) {
            let event = node.next(deadline)?.with_context(|| format!("the path is {}", self.path))?;
            let _ = self.took(event, |_| false);
        }
        Ok(())
    }

    fn cause(&mut self, trouble: Trouble) -> Result<()> {
        let gate = self.lane.gate.clone();
        match trouble {
            Trouble::Block => self.block(&gate),
            Trouble::Unblock => self.ruleset(&gate, "delete table inet apart\n"),
            Trouble::KillRelay => self.kill_relay(),
            Trouble::Rebind => Ok(self.lab.inject(&Fault::Rebind { name: gate })?),
            Trouble::Readdress => {
                Ok(self.lab.inject(&Fault::Readdress { name: gate, address: OTHER_ADDRESS.parse()? })?)
            }
        }
    }

    /// Drops UDP between the first NAT and the second's address.
    fn block(&self, gate: &str) -> Result<()> {
        let nats = &self.lab.topology().nats;
        let across = nats.iter().find(|nat| nat.name == self.lane.across).context("no second NAT")?;
        let address = across.outside.addresses[0].addr();
        let chain = "type filter hook forward priority -5; policy accept;";
        self.ruleset(
            gate,
            &format!(
                "table inet apart {{\n  chain forward {{\n    {chain}\n    meta l4proto udp ip daddr {address} drop\n    \
                 meta l4proto udp ip saddr {address} drop\n  }}\n}}\n"
            ),
        )
    }

    fn ruleset(&self, nat: &str, text: &str) -> Result<()> {
        let mut nft = self.lab.command(nat, "nft")?;
        let status = nft.arg(text).status()?;
        ensure!(status.success(), "nft does not take {text:?}");
        Ok(())
    }

    /// Kills the relay that the path leads by; where it leads by none, the first.
    fn kill_relay(&mut self) -> Result<()> {
        let used = self.relays.iter().position(|relay| {
            relay.as_ref().is_some_and(|relay| relay.peer().is_some_and(|peer| self.path.contains(peer)))
        });
        println!("          it is {}", RELAYS[used.unwrap_or_default()]);
        self.relays[used.unwrap_or_default()] = None;
        Ok(())
    }
}
