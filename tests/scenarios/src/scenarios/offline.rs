//! The cloud is gone, for longer than anything that is leased or cached.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use edgeloom_lab::Fault;
use nix::sys::signal::Signal;

use crate::command::{Done, eventually};
use crate::mechanism::signal;
use crate::scenarios::operators::endpoints;
use crate::world::{World, fault};

/// A Service with a pod at site B, under a name that nobody has asked for.
const NEVER_ASKED: &str = include_str!("never-asked.yaml");
/// How long calls may fail after the agent's return, and views differ after the control's.
const RETURN: Duration = Duration::from_secs(5);
const AGREEMENT: Duration = Duration::from_secs(10);
/// How long a node is silent, and when that has been noticed at the latest: its Lease stands for 40 s.
const SILENT: Duration = Duration::from_secs(60);
const NOTICED: Duration = Duration::from_secs(55);

/// Calls, names and pods outlive the cloud, and the agent's death meanwhile.
pub(crate) fn cloud_gone(world: &mut World) -> Result<()> {
    world.apply(NEVER_ASKED)?;
    world.kubectl("rollout status deployment/never-asked --timeout=60s")?;
    eventually(Duration::from_secs(10), || {
        let services = world.meshctl_at("edge-a", "services")?.to_string();
        ensure!(services.contains("never-asked"), "site A has not heard of the Service");
        Ok(())
    })?;
    lose_cloud(world)?;
    let gone = Instant::now();
    world.expect_orders().context("just after the cloud went")?;
    while gone.elapsed() < Duration::from_secs(world.offline_seconds) {
        thread::sleep(Duration::from_secs(5));
    }
    world.expect_orders().context("a new call, long after the cloud went")?;
    let target = "never-asked.default.svc.cluster.local";
    for (protocol, port) in [("tcp", 7000), ("udp", 9000)] {
        let call = ["responder", "call", protocol, &format!("{target}:{port}"), "offline"];
        let answer = world.in_client(&call)?.output("a name that was never asked before")?;
        ensure!(answer.contains("at site-b: offline"), "{protocol}: {answer:?}");
    }
    killed_agent(world)
}

/// SIGKILL of the agent leaves its containers alone, and calls work soon after its return.
fn killed_agent(world: &mut World) -> Result<()> {
    for host in ["edge-a", "edge-b"] {
        let before = containers(world, host)?;
        ensure!(!before.is_empty(), "no container runs on {host}");
        world.inject_for_good(&signal(host, "edgecore", Signal::SIGKILL))?;
        thread::sleep(Duration::from_secs(2));
        ensure!(containers(world, host)? == before, "containers on {host} changed when the agent was killed");
        world.start_edge(host)?;
        eventually(RETURN, || world.expect_orders())
            .with_context(|| format!("after the agent of {host} returned"))?;
        ensure!(containers(world, host)? == before, "containers on {host} changed when the agent returned");
    }
    Ok(())
}

/// A node that was silent for longer than its Lease is Ready again soon, and its pods stay as they were.
pub(crate) fn silent_node_returns(world: &mut World) -> Result<()> {
    world.expect_orders()?;
    let before = containers(world, "edge-b")?;
    ensure!(!before.is_empty(), "no container runs on edge-b");
    world.inject_for_good(&signal("edge-b", "edgecore", Signal::SIGKILL))?;
    world.afterwards(World::bring_up);
    let killed = Instant::now();
    eventually(NOTICED, || {
        ensure!(ready(world)? == "Unknown", "kubectl: a node that is silent is not NotReady");
        ensure!(!has_session(world)?, "meshctl: a node that is silent is connected");
        Ok(())
    })?;
    thread::sleep(SILENT.saturating_sub(killed.elapsed()));
    world.start_edge("edge-b")?;
    eventually(AGREEMENT, || {
        ensure!(ready(world)? == "True", "edge-b is back and not Ready");
        let taints = world.kubectl("get node edge-b -o jsonpath={.spec.taints[*].key}")?;
        ensure!(taints.trim().is_empty(), "edge-b is back and has taints: {taints}");
        ensure!(has_session(world)?, "meshctl: edge-b is back and not connected");
        world.expect_orders()
    })?;
    ensure!(containers(world, "edge-b")? == before, "the containers on edge-b changed");
    Ok(())
}

/// A node whose link was down for longer than its Lease, while all daemons lived, is Ready again soon after, and
/// so are its pods.
pub(crate) fn link_returns(world: &mut World) -> Result<()> {
    world.expect_orders()?;
    let before = containers(world, "edge-b")?;
    world.inject_for_good(&Fault::Cut { name: "edge-b".into(), silent: true })?;
    world.afterwards(|world| world.inject_for_good(&fault::restore("edge-b")));
    let cut = Instant::now();
    eventually(NOTICED, || {
        ensure!(ready(world)? == "Unknown", "kubectl: a node that is cut off is not NotReady");
        ensure!(ready_pods(world)? == 0, "kubectl: pods of a node that is cut off are Ready");
        Ok(())
    })?;
    thread::sleep(SILENT.saturating_sub(cut.elapsed()));
    world.inject_for_good(&fault::restore("edge-b"))?;
    eventually(AGREEMENT, || {
        ensure!(ready(world)? == "True", "edge-b's link is back and it is not Ready");
        let pods = ready_pods(world)?;
        ensure!(pods == 2, "edge-b's link is back and {pods} of its 2 pods of orders are Ready");
        world.expect_orders()
    })?;
    ensure!(containers(world, "edge-b")? == before, "the containers on edge-b changed");
    Ok(())
}

/// How many pods of orders are Ready.
fn ready_pods(world: &World) -> Result<usize> {
    let path = "jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}";
    let states = world.kubectl(&format!("-n shop get pods -l app=orders -o {path}"))?;
    Ok(states.split_whitespace().filter(|state| *state == "True").count())
}

/// The state of edge-b's condition `Ready`.
fn ready(world: &World) -> Result<String> {
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    Ok(world.kubectl(&format!("get node edge-b -o {path}"))?.trim().to_owned())
}

/// Whether the control says that edge-b is connected.
fn has_session(world: &World) -> Result<bool> {
    let status = world.meshctl("status")?;
    let nodes = status.as_array().context("`meshctl status -o json` is no list")?;
    let node = nodes.iter().find(|node| node["node"] == "edge-b");
    let node = node.context("`meshctl status` has no edge-b")?;
    node["session"]["connected"]
        .as_bool()
        .context("`meshctl status` does not say whether edge-b is connected")
}

/// Id, process and start time of every container of a host.
fn containers(world: &World, host: &str) -> Result<Vec<String>> {
    let socket = edgeloom_lab::containerd::SOCKET;
    let tasks =
        world.in_host(host, &["ctr", "-a", socket, "-n", "k8s.io", "tasks", "ls"])?.output("ctr tasks ls")?;
    let line = |line: &str| -> Option<String> {
        let mut words = line.split_whitespace();
        let (id, pid) = (words.next()?, words.next()?);
        // The 22nd field; the program's name before may have blanks, but ends with a parenthesis.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.to_owned();
        Some(format!("{id} {pid} {started}"))
    };
    let mut found: Vec<_> = tasks.lines().filter_map(line).collect();
    found.sort();
    Ok(found)
}

/// Every process of the cloud host is killed, its link is down; afterwards it starts again.
fn lose_cloud(world: &mut World) -> Result<()> {
    world.inject_for_good(&fault::cut("cloud"))?;
    world.inject_for_good(&Fault::Kill { name: "cloud".into() })?;
    world.afterwards(|world| {
        world.inject_for_good(&Fault::Boot { name: "cloud".into() })?;
        world.bring_up()
    });
    Ok(())
}

/// The control returns before the edges' links do, by more than a Lease stands; what was changed meanwhile is agreed
/// upon soon after.
pub(crate) fn control_returns(world: &mut World) -> Result<()> {
    world.apply(&NEVER_ASKED.replace("never-asked", "short-lived"))?;
    lose_cloud(world)?;
    world.inject_for_good(&Fault::Boot { name: "cloud".into() })?;
    world.inject_for_good(&fault::cut("cloud"))?;
    world.start_control()?;
    world.kubectl("-n shop scale deployment/orders --replicas=3")?;
    world.kubectl("delete service short-lived")?;
    world.kubectl("-n shop delete pod -l app=client --wait=false")?;
    world.afterwards(|world| world.kubectl("-n shop scale deployment/orders --replicas=2").map(drop));
    thread::sleep(SILENT);
    ensure!(ready(world)? == "Unknown", "kubectl: a node that is silent is not NotReady");
    world.inject_for_good(&fault::restore("cloud"))?;
    eventually(AGREEMENT, || agree(world))
}

/// kubectl, the runtimes and meshctl say the same.
fn agree(world: &World) -> Result<()> {
    let running = world.kubectl(
        "-n shop get pods -l app=orders --field-selector=status.phase=Running -o jsonpath={.items[*].metadata.name}",
    )?;
    ensure!(running.split_whitespace().count() == 3, "kubectl: pods of orders that run: {running}");
    let in_runtime = running_containers(world, "edge-b", "orders")?;
    ensure!(in_runtime == 3, "the runtime on edge-b runs {in_runtime} of orders");
    let services = world.meshctl_at("edge-a", "services")?;
    let list = services.as_array().context("`meshctl services -o json` is no list")?;
    ensure!(!list.iter().any(|s| s["name"] == "short-lived"), "meshctl: the deleted Service is still there");
    let (_, far) = endpoints(&services, "orders")?;
    ensure!(far == 3, "meshctl: far endpoints of orders: {far}");
    let clients = world.kubectl("-n shop get pods -l app=client -o jsonpath={.items[*].status.phase}")?;
    ensure!(clients.trim() == "Running", "kubectl: pods of client: {clients}");
    ensure!(running_containers(world, "edge-a", "client")? == 1, "the runtime on edge-a runs not one client");
    world.expect_orders()
}

fn running_containers(world: &World, host: &str, name: &str) -> Result<usize> {
    let filter = format!("labels.\"io.kubernetes.container.name\"=={name}");
    let ctr = ["ctr", "-a", edgeloom_lab::containerd::SOCKET, "-n", "k8s.io"];
    let list = |rest: &[&str]| -> Result<String> {
        let done: Done = world.in_host(host, &[&ctr[..], rest].concat())?;
        done.output("ctr")
    };
    let (known, tasks) = (list(&["containers", "ls", "-q", &filter])?, list(&["tasks", "ls"])?);
    let runs = |id: &&str| tasks.lines().any(|line| line.starts_with(*id) && line.contains("RUNNING"));
    Ok(known.lines().filter(runs).count())
}
