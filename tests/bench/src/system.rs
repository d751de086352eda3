//! The system as the quickstart brings it up, with the servers, nebula and the forwarded ports beside it.

mod child;
mod kubernetes;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use edgeloom_lab::{Conditions, Fault, Lab, NatKind, Topology, Wan, nat};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::agents;
use crate::load::{self, Load, Over, Report};
use crate::nebula;
use crate::rows::{Place, Sample, Way};

pub(crate) use child::Child;
use kubernetes::Kubernetes;

/// Directory of labs.
const LABS: &str = "/var/lib/edgeloom-lab";
/// Where the internet reaches site B, and its edge host behind the NAT.
const SITE_B: &str = "203.0.113.22";
const EDGE_B: &str = "192.168.10.2";
/// The same host on the network of both.
const EDGE_B_ON_LAN: &str = "192.168.50.2";
/// Where an agent's configuration is.
const AGENT_CONFIG: &str = "/etc/edgeloom/edgecore.yaml";
/// Seconds that one run may take; every load ends by itself before.
const LONGEST: &str = "240";
/// Dials that are timed for the round trip.
const DIALS: usize = 21;
/// Echoes after which little of what a path was before is left in the smoothed round trip (RFC 9002: an eighth each).
const ECHOES: usize = 30;
/// How long many Services may take until they are with an agent.
const LOADED: Duration = Duration::from_secs(240);
/// Time in which an agent settles before and after its memory is looked at.
const SETTLE: Duration = Duration::from_secs(5);

/// The system, up.
pub(crate) struct System {
    lab: Lab,
    repository: PathBuf,
    /// Certificates and configurations; the hosts see it.
    folder: TempDir,
    /// Where the Service and its pod answer.
    service: SocketAddr,
    pod: SocketAddr,
    /// A process of the client's pod, for its network namespace.
    client: i32,
    /// Servers and nebula.
    _beside: Vec<Child>,
    name: String,
    /// On one LAN: what flows from site A go over, once that was settled.
    same_lan: Option<SameLan>,
}

/// What is settled where both hosts are on one LAN.
#[derive(Debug, Default)]
struct SameLan {
    over: Option<Way>,
    /// What the agents' files said at first.
    told: Vec<(&'static str, String)>,
}

impl System {
    /// Brings it up; a lab of that name that was there is removed first.
    pub(crate) fn up(repository: &Path, name: &str, place: Place) -> Result<Self> {
        Self::down(repository, name)?;
        let folder = tempfile::Builder::new().prefix("edgeloom-bench").tempdir()?;
        load::write_certificate(folder.path())?;
        let topology = folder.path().join("topology.yaml");
        fs::write(&topology, serde_yaml_ng::to_string(&arrangement(place))?)?;
        let mut quickstart = script(repository, name);
        run(quickstart.arg("up").env("TOPOLOGY", &topology), "deploy/quickstart.sh up")?;
        let lab = Lab::open(Path::new(LABS), name)?;
        let kubernetes = Kubernetes::of(&lab);
        let (service, pod) = kubernetes.apply()?;
        match place {
            Place::Lan => without_offloads(&lab, "eth0")?,
            Place::SameLan => without_offloads(&lab, "eth1")?,
            Place::Loopback | Place::Offloads | Place::SameLanOffloads | Place::Wan => {}
        }
        forward_ports(&lab)?;
        let (server, client) = (in_pod(&lab, "edge-b", "server")?, in_pod(&lab, "edge-a", "client")?);
        let mut beside = vec![
            serve(lab.command("edge-b", "nsenter")?, Some(server), folder.path())?,
            serve(lab.command("edge-b", "env")?, None, folder.path())?,
        ];
        if nebula::version().is_some() {
            beside.extend(nebula::start(&lab, folder.path(), SITE_B)?);
        }
        let name = name.to_owned();
        let repository = repository.to_owned();
        let same_lan = place.is_same_lan().then(SameLan::default);
        let mut system =
            Self { lab, repository, folder, service, pod, client, _beside: beside, name, same_lan };
        system.carry(Way::Service)?;
        system.settle()?;
        Ok(system)
    }

    /// Removes a lab, whole or not.
    pub(crate) fn down(repository: &Path, name: &str) -> Result<()> {
        run(script(repository, name).arg("down"), "deploy/quickstart.sh down")
    }

    /// Removes it.
    pub(crate) fn remove(self) -> Result<()> {
        let (repository, name) = (self.repository.clone(), self.name.clone());
        drop(self);
        Self::down(&repository, &name)
    }

    /// Waits until the agents have found the direct path: what goes by the relay is another measurement.
    fn settle(&self) -> Result<()> {
        let mut last = String::new();
        for _ in 0..60 {
            // A first call makes the agents look for each other.
            let called = self.measure(Way::Service, Load::Echo { count: 1 });
            last = self.meshctl("edge-a", &["peers", "-o", "json"])?;
            if called.is_ok() && kubernetes::is_direct(&last, "edge-b") {
                return Ok(());
            }
            thread::sleep(Duration::from_secs(1));
        }
        bail!("no direct path between the two sites within a minute; meshctl peers says: {last}")
    }

    /// Where both hosts are on one LAN, has flows of site A go over what a way says, or lets them be.
    pub(crate) fn carry(&mut self, way: Way) -> Result<()> {
        let Some(mut same_lan) = self.same_lan.take() else { return Ok(()) };
        let settled = match way {
            Way::Service | Way::ServiceQuic if same_lan.over != Some(way) => {
                self.settle_on_lan(&mut same_lan, way)
            }
            _ => Ok(()),
        };
        self.same_lan = Some(same_lan);
        settled
    }

    fn settle_on_lan(&mut self, same_lan: &mut SameLan, way: Way) -> Result<()> {
        same_lan.over = None;
        if same_lan.told.is_empty() {
            for host in ["edge-a", "edge-b"] {
                same_lan.told.push((host, fs::read_to_string(self.lab.host(host)?.path(AGENT_CONFIG)?)?));
            }
            self.tell(&same_lan.told[1], Way::Service)?;
        }
        self.tell(&same_lan.told[0], way)?;
        self.until_carried(way)?;
        same_lan.over = Some(way);
        Ok(())
    }

    /// Starts an agent anew with what its file said, and this way of flows on a LAN.
    fn tell(&mut self, (host, told): &(&'static str, String), way: Way) -> Result<()> {
        let choice = if way == Way::Service { "auto" } else { "never" };
        fs::write(self.lab.host(host)?.path(AGENT_CONFIG)?, format!("{told}overlay:\n  lanTcp: {choice}\n"))?;
        let (name, program) = ((*host).to_owned(), "edgecore".to_owned());
        self.lab.inject(&Fault::Signal { name, program, signal: Signal::SIGKILL })?;
        run(script(&self.repository, &self.name).args(["__step", "start_edge", host]), "starting the agent")
    }

    /// Waits until the path is the LAN's, and flows go over what they are to.
    fn until_carried(&self, way: Way) -> Result<()> {
        let mut last = String::new();
        for _ in 0..60 {
            // Enough for the agent to compare the two ways.
            let called = self.measure(Way::Service, Load::Bulk { seconds: 2 });
            last = self.meshctl("edge-a", &["peers", "-o", "json"])?;
            if called.is_ok() && kubernetes::is_on_lan(&last, "edge-b", way == Way::Service) {
                return Ok(());
            }
            thread::sleep(Duration::from_secs(1));
        }
        bail!("flows do not go by {} within a minute; meshctl peers says: {last}", way.name())
    }

    /// Gives the way from site A these conditions.
    pub(crate) fn set_wan(&mut self, conditions: Conditions) -> Result<()> {
        let fault = Fault::Wan { name: "nat-a".into(), wan: Wan::both(conditions) };
        self.lab.inject(&fault)?;
        // An idle path is measured every 25 s, and what is measured is smoothed: an echo is a measurement.
        for _ in 0..ECHOES {
            for (host, peer) in [("edge-a", "edge-b"), ("edge-b", "edge-a")] {
                // One that is lost is one that is missing.
                self.meshctl(host, &["ping", "--count", "1", peer])?;
            }
        }
        Ok(())
    }

    /// Makes so many Services before the server's pod, and waits until the server's host has them all.
    pub(crate) fn add_services(&self, count: usize) -> Result<()> {
        Kubernetes::of(&self.lab).add_services(count)?;
        let end = Instant::now() + LOADED;
        while Instant::now() < end {
            let status: Value = serde_json::from_str(&self.meshctl("edge-b", &["status", "-o", "json"])?)?;
            if ["services", "endpoints"].iter().all(|what| status[what].as_u64() >= Some(count as u64)) {
                thread::sleep(SETTLE);
                return Ok(());
            }
            thread::sleep(Duration::from_secs(1));
        }
        bail!("edge-b has not all of them within {} s", LOADED.as_secs())
    }

    /// What meshctl says on a host.
    fn meshctl(&self, host: &str, words: &[&str]) -> Result<String> {
        let program = self.repository.join("target/release/meshctl");
        let mut command = self.lab.command(host, &program.to_string_lossy())?;
        let output = command.args(["--socket", "/run/edgeloom/edgecore.sock"]).args(words).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The round trip time between the two hosts, as a TCP handshake takes it.
    pub(crate) fn round_trip(&self) -> Result<Duration> {
        let micros = self.measure(Way::Tcp, Load::Dial { count: DIALS })?.value;
        Ok(Duration::from_secs_f64(micros / 1e6))
    }

    /// One run of a load.
    pub(crate) fn measure(&self, way: Way, load: Load) -> Result<Sample> {
        if let Load::Idle { count } = load {
            return self.measure_idle(way, load, count);
        }
        let carriers = self.carriers(way)?;
        let before = agents::processor_time(&carriers)?;
        let output = self.client(way, load)?.stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "{} by {}: no result", load.words().join(" "), way.name());
        let spent = agents::processor_time(&carriers)?.saturating_sub(before);
        let report = serde_json::from_slice(&output.stdout)?;
        Ok(match report {
            Report::Bulk(received) => {
                let gib = received.bytes as f64 / f64::from(1 << 30);
                let cpu_per_gib = (!carriers.is_empty()).then(|| spent.as_secs_f64() / gib);
                Sample { value: received.mbit_s, cpu_per_gib, ..Sample::default() }
            }
            Report::Times(times) => {
                let spread = crate::stats::Spread::of(&times).context("no times")?;
                Sample { value: spread.median, ..Sample::default() }
            }
            Report::Churn { per_second, failed } => Sample { value: per_second, failed, ..Sample::default() },
        })
    }

    fn measure_idle(&self, way: Way, load: Load, count: usize) -> Result<Sample> {
        let carriers = self.carriers(way)?;
        let [a, b] = carriers[..] else { bail!("there are not two agents") };
        let memory = || Ok::<_, anyhow::Error>([agents::anonymous_kib(a)?, agents::anonymous_kib(b)?]);
        thread::sleep(SETTLE);
        let before = memory()?;
        let mut child = self.client(way, load)?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut ready = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut ready)?;
        thread::sleep(SETTLE);
        let after = memory();
        drop(child.stdin.take());
        child.wait()?;
        ensure!(ready.trim() == "ready", "the {count} connections could not be made");
        let grown = [0, 1].map(|side| -> Result<f64> {
            let after = after.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            Ok((after[side] - before[side]) / count as f64)
        });
        let [grown_a, grown_b] = grown;
        Ok(Sample { value: count as f64, memory: Some([grown_a?, grown_b?]), ..Sample::default() })
    }

    /// The programs that carry what goes by a way, and are no part of it by themselves.
    fn carriers(&self, way: Way) -> Result<Vec<i32>> {
        let program = match way {
            Way::Service | Way::ServiceQuic => "edgecore",
            Way::Nebula => "nebula",
            Way::Tcp | Way::Tls | Way::Quic | Way::Tunnel | Way::Near | Way::Pod => return Ok(Vec::new()),
        };
        let mut pids = Vec::new();
        for host in ["edge-a", "edge-b"] {
            pids.extend(self.lab.host(host)?.processes_named(program).iter().map(|process| process.pid));
        }
        Ok(pids)
    }

    fn client(&self, way: Way, load: Load) -> Result<Command> {
        let site_b = if self.same_lan.is_some() { EDGE_B_ON_LAN } else { SITE_B };
        let public = |port: u16| format!("{site_b}:{port}");
        let (host, to, over) = match way {
            Way::Service | Way::ServiceQuic => ("edge-a", self.service.to_string(), Over::Tcp),
            Way::Tcp => ("edge-a", public(load::PORT), Over::Tcp),
            Way::Tls => ("edge-a", public(load::TLS_PORT), Over::Tls),
            Way::Quic => ("edge-a", public(load::QUIC_PORT), Over::Quic),
            Way::Nebula => ("edge-a", format!("{}:{}", nebula::ADDRESSES[1], load::PORT), Over::Tcp),
            Way::Tunnel => bail!("tunnels have no client"),
            Way::Near => ("edge-b", self.service.to_string(), Over::Tcp),
            Way::Pod => ("edge-b", self.pod.to_string(), Over::Tcp),
        };
        let mut command = self.lab.command(host, "timeout")?;
        command.arg(LONGEST);
        if matches!(way, Way::Service | Way::ServiceQuic) {
            command.args(["nsenter", "--net", "--target", &self.client.to_string()]);
        }
        command.arg(std::env::current_exe()?).args(["load", "--to", &to, "--over", over.name()]);
        command.arg("--folder").arg(self.folder.path()).args(load.words());
        Ok(command)
    }
}

/// The quickstart's hosts, with a WAN where there is to be one.
fn arrangement(place: Place) -> Topology {
    if place.is_same_lan() {
        return Topology::two_sites_on_one_lan(NatKind::default());
    }
    let mut topology = Topology::two_sites(NatKind::default());
    if place == Place::Wan {
        // At one site only: what passes two of them costs twice.
        let site_a = topology.nats.iter_mut().filter(|nat| nat.name == "nat-a");
        site_a.for_each(|nat| nat.outside.wan = Some(Wan::default()));
    }
    topology
}

fn script(repository: &Path, name: &str) -> Command {
    let mut script = Command::new(repository.join("deploy/quickstart.sh"));
    script.env("LAB_NAME", name).env("BUILD_PROFILE", "release");
    script
}

/// Runs a program to its end; what it says goes to standard error.
fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("cannot run {what}"))?;
    ensure!(status.success(), "{what} did not succeed (above is what it said)");
    Ok(())
}

/// What the cables do for the hosts: nothing.
fn without_offloads(lab: &Lab, interface: &str) -> Result<()> {
    for host in ["edge-a", "edge-b"] {
        let mut command = lab.command(host, "ethtool")?;
        command.args(["-K", interface]);
        command.args("tso off gso off gro off tx-udp-segmentation off".split(' '));
        run(&mut command, "ethtool (apt-get install ethtool)")?;
    }
    Ok(())
}

/// Lets the ports of the servers and of nebula through the NAT of site B.
fn forward_ports(lab: &Lab) -> Result<()> {
    let (tcp, tls, quic) = (load::PORT, load::TLS_PORT, load::QUIC_PORT);
    let (wan, nebula) = (nat::WAN, nebula::PORT);
    let rules = format!(
        "table ip bench {{\n chain inwards {{\n type nat hook prerouting priority dstnat\n \
         iifname {wan} tcp dport {{ {tcp}, {tls} }} dnat to {EDGE_B}\n \
         iifname {wan} udp dport {{ {quic}, {nebula} }} dnat to {EDGE_B}\n }}\n}}\n"
    );
    run(lab.command("nat-b", "nft")?.arg(&rules), "nft")
}

/// A process of the pod of that role.
fn in_pod(lab: &Lab, host: &str, role: &str) -> Result<i32> {
    let processes = lab.host(host)?.processes();
    let is = |pid: i32| agents::variable(pid, kubernetes::ROLE).as_deref() == Some(role);
    let found = processes.iter().find(|process| process.in_pod && is(process.pid));
    found.map(|process| process.pid).with_context(|| format!("no process of the {role}'s pod on {host}"))
}

/// Starts a server in a host, or in the network namespace of one of its pods.
fn serve(mut command: Command, pod: Option<i32>, folder: &Path) -> Result<Child> {
    if let Some(pid) = pod {
        command.args(["--net", "--target", &pid.to_string()]);
    }
    command.arg(std::env::current_exe()?).args(["serve", "--folder"]).arg(folder);
    Child::spawn_until(&mut command, "listening")
}
