//! What a person does with kubectl and meshctl.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use edgeloom_lab::Host;

use crate::command::{self, eventually};
use crate::world::{CALL, World};

/// The verbs that a person uses most, each on objects of its own.
pub(crate) fn kubectl_verbs(world: &mut World) -> Result<()> {
    world.kubectl("create namespace verbs")?;
    world.afterwards(|world| world.kubectl("delete namespace verbs --ignore-not-found").map(drop));
    world.kubectl("-n verbs create configmap settings --from-literal=a=1")?;
    ensure!(world.kubectl("-n verbs get configmap settings -o jsonpath={.data.a}")? == "1", "get");
    world.kubectl("-n verbs label configmap settings tier=test")?;
    ensure!(world.kubectl("-n verbs get configmaps -l tier=test -o name")?.contains("settings"), "label");
    ensure!(world.kubectl("-n verbs describe configmap settings")?.contains("tier=test"), "describe");
    edit(world)?;
    let image = "edgeloom.io/examples/responder:0.1";
    world.kubectl(&format!("-n verbs create deployment web --image={image} -- responder serve"))?;
    world.kubectl("-n verbs rollout status deployment/web --timeout=60s")?;
    world.kubectl("-n verbs scale deployment/web --replicas=2")?;
    world.kubectl("-n verbs wait deployment/web --for=jsonpath={.status.readyReplicas}=2 --timeout=60s")?;
    let table = world.kubectl("-n verbs get pods -o wide")?;
    for column in ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"] {
        ensure!(table.contains(column), "`get pods -o wide` has no column {column}: {table}");
    }
    ensure!(table.matches("Running").count() == 2, "not two pods run: {table}");
    world.kubectl("-n verbs delete deployment web --timeout=60s")?;
    eventually(Duration::from_secs(40), || {
        let left = world.kubectl("-n verbs get pods -o name")?;
        ensure!(left.trim().is_empty(), "pods of a deleted Deployment remain: {left}");
        Ok(())
    })?;
    watch(world)
}

/// `kubectl edit`, with a program for an editor.
fn edit(world: &World) -> Result<()> {
    let mut kubectl = world.kubectl_command();
    let editor = r#"sed -i 's/^  a: .*/  a: "2"/'"#;
    kubectl.env("KUBE_EDITOR", editor).args(["-n", "verbs", "edit", "configmap", "settings"]);
    command::run(&mut kubectl, "", CALL)?.output("kubectl edit")?;
    let value = world.kubectl("-n verbs get configmap settings -o jsonpath={.data.a}")?;
    ensure!(value == "2", "after `kubectl edit` the value is {value:?}");
    Ok(())
}

/// `kubectl get -w` shows a change that comes while it runs.
fn watch(world: &World) -> Result<()> {
    let mut kubectl = world.kubectl_command();
    kubectl.args(["-n", "verbs", "get", "configmaps", "-w", "--request-timeout=6s"]);
    let seen = std::thread::scope(|scope| {
        let watching = scope.spawn(move || command::run(&mut kubectl, "", Duration::from_secs(15)));
        std::thread::sleep(Duration::from_secs(2));
        let made = world.kubectl("-n verbs create configmap latecomer");
        let seen = watching.join().map_err(|_| anyhow::anyhow!("the watch panicked"))?;
        made.and(seen)
    })?;
    ensure!(seen.out.contains("latecomer"), "`kubectl get -w` did not show what came: {}", seen.text());
    Ok(())
}

/// logs, exec with standard input and an exit code, by way of the control.
pub(crate) fn logs_and_exec(world: &mut World) -> Result<()> {
    let logs = world.kubectl("-n shop logs deployment/orders")?;
    ensure!(logs.contains("responder: HTTP on 8080"), "kubectl logs: {logs:?}");
    let said = world.kubectl("-n shop exec deployment/orders -- hostname")?;
    ensure!(said.starts_with("orders-"), "kubectl exec: {said:?}");
    let echoed = world.try_kubectl("-n shop exec -i deployment/client -- cat", "by standard input")?;
    ensure!(echoed.out == "by standard input", "kubectl exec -i: {}", echoed.text());
    let code = world.try_kubectl("-n shop exec deployment/client -- false", "")?;
    ensure!(!code.good, "kubectl exec of a program that fails ends with 0");
    let gone = world.try_kubectl("-n shop logs deployment/orders -c nobody", "")?;
    ensure!(!gone.good && gone.err.contains("nobody"), "logs of no container: {}", gone.text());
    Ok(())
}

/// What the example mounts is there, with the modes asked for; a changed ConfigMap arrives.
pub(crate) fn volumes(world: &mut World) -> Result<()> {
    let file = |path: &str| world.in_client(&["cat", path])?.output(path);
    ensure!(file("/etc/client/credentials/password")? == "not-a-secret-in-an-example", "the Secret");
    let mode = world.in_client(&["stat", "-Lc", "%a", "/etc/client/credentials/password"])?.output("stat")?;
    ensure!(mode.trim() == "400", "the Secret's mode is {mode:?}");
    ensure!(file("/etc/client/about-me/labels")?.contains("app=\"client\""), "the downward API's labels");
    ensure!(file("/etc/client/about-me/annotations")?.contains("calls orders"), "its annotations");
    ensure!(file("/etc/client/identity/namespace")? == "shop", "the projected namespace");
    ensure!(file("/etc/client/identity/ca.crt")?.contains("BEGIN CERTIFICATE"), "the projected CA");
    ensure!(file("/etc/client/identity/token")?.matches('.').count() == 2, "the projected token");
    ensure!(
        file("/var/run/secrets/kubernetes.io/serviceaccount/token")?.matches('.').count() == 2,
        "the token that every pod of a cluster has"
    );
    set_greeting(world, "another greeting")?;
    world.afterwards(|world| set_greeting(world, "two orders are on their way"));
    eventually(Duration::from_secs(90), || {
        let answer = world.call_orders()?;
        ensure!(answer.contains("another greeting"), "the changed ConfigMap did not arrive: {answer}");
        Ok(())
    })
}

fn set_greeting(world: &World, greeting: &str) -> Result<()> {
    let patch = serde_json::json!({ "data": { "greeting": greeting } }).to_string();
    let mut kubectl = world.kubectl_command();
    kubectl.args(["-n", "shop", "patch", "configmap", "orders", "--type=merge", "-p", &patch]);
    command::run(&mut kubectl, "", CALL)?.output("kubectl patch").map(drop)
}

/// Each command of meshctl, as JSON and as text.
pub(crate) fn meshctl(world: &mut World) -> Result<()> {
    let status = world.meshctl("status")?;
    ensure!(status.to_string().contains("edge-a"), "`meshctl status` does not name edge-a: {status}");
    let services = world.meshctl_at("edge-a", "services")?;
    ensure!(endpoints(&services, "orders")? == (0, 2), "endpoints of orders, seen at site A: {services}");
    let echoes = world.meshctl_at("edge-a", "ping edge-b")?;
    ensure!(echoes.to_string().contains("rttMs"), "`meshctl ping edge-b`: {echoes}");
    let trace = world.meshctl_at("edge-a", "trace edge-b")?;
    let bytes = trace["attempts"][0]["datagramBytes"].as_u64();
    ensure!(bytes >= Some(1200), "`meshctl trace edge-b` by the path in use: {trace}");
    let text = world.meshctl_text("status")?;
    ensure!(text.contains("edge-b"), "`meshctl status`: {text}");
    Ok(())
}

/// Endpoints of a Service, near and far, in what `meshctl services` says.
pub(crate) fn endpoints(services: &serde_json::Value, name: &str) -> Result<(u64, u64)> {
    let list = services.as_array().context("`meshctl services -o json` is no list")?;
    let service = list.iter().find(|service| service["name"] == name);
    let service = service.with_context(|| format!("`meshctl services` has no {name}"))?;
    let count = |field: &str| service[field].as_u64().unwrap_or(0);
    Ok((count("near"), count("far")))
}

/// What ends the name of a metric that is measured in something, and of every counter.
const UNITS: &[&str] = &["_seconds", "_bytes", "_ratio", "_info", "_total"];
/// Gauges without a unit: how many of something there are now, or 1 for yes and 0 for no.
const COUNTS: &[&str] = &[
    "edgeloom_api_connections",
    "edgeloom_api_watches",
    "edgeloom_datapath_feature",
    "edgeloom_datapath_frontends",
    "edgeloom_dns_cache_entries",
    "edgeloom_dns_tcp_connections",
    "edgeloom_edgecore_module_up",
    "edgeloom_edged_pods",
    "edgeloom_hub_client_connected",
    "edgeloom_hub_objects",
    "edgeloom_hub_sessions",
    "edgeloom_mesh_connections",
    "edgeloom_mesh_endpoints_set_aside",
    "edgeloom_mesh_objects",
    "edgeloom_mesh_udp_flows",
    "edgeloom_metastore_objects",
    "edgeloom_outbox_pending_writes",
    "edgeloom_store_resource_version",
    "edgeloom_tunnel_carriers",
    "edgeloom_tunnel_connections",
    "edgeloom_tunnel_forwarder_sessions",
    "edgeloom_tunnel_in_use",
    "edgeloom_tunnel_lan_tcp_connections",
    "edgeloom_tunnel_libp2p_peers",
    "edgeloom_tunnel_limit",
    "edgeloom_tunnel_peers",
    "edgeloom_tunnel_peers_off_lossy_path",
    "edgeloom_tunnel_reachable",
    "edgeloom_tunnel_streams",
];

/// Every daemon's metrics are explained, and their names say what they are measured in.
pub(crate) fn metrics(world: &mut World) -> Result<()> {
    for host in ["cloud", "edge-a", "edge-b"] {
        let url = "http://127.0.0.1:20008/metrics";
        let text = world.in_host(host, &["curl", "-sS", "--max-time", "5", url])?.output("curl")?;
        let told = |what: &str| -> BTreeMap<String, String> {
            let lines = text.lines().filter_map(|line| line.strip_prefix(what)?.trim_start().split_once(' '));
            lines.map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect()
        };
        let (helps, types) = (told("# HELP"), told("# TYPE"));
        ensure!(helps.keys().any(|name| name.starts_with("edgeloom_")), "{host}: no metrics of ours");
        for line in text.lines().filter(|line| line.starts_with("edgeloom_")) {
            let name = line.split([' ', '{']).next().unwrap_or_default();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let known = helps.contains_key(name) || base.is_some_and(|base| helps.contains_key(base));
            ensure!(known, "{host}: {name} has no # HELP");
        }
        for (name, kind) in types.iter().filter(|(name, _)| name.starts_with("edgeloom_")) {
            named_by_unit(name, kind).with_context(|| host.to_owned())?;
        }
    }
    Ok(())
}

/// Holds a name to the conventions of Prometheus.
fn named_by_unit(name: &str, kind: &str) -> Result<()> {
    let is_counter = kind == "counter";
    ensure!(
        is_counter == name.ends_with("_total"),
        "{name} is a {kind}: counters, and they alone, end in _total"
    );
    let counts = kind == "gauge" && COUNTS.contains(&name);
    ensure!(
        counts || UNITS.iter().any(|unit| name.ends_with(unit)),
        "{name}, a {kind}, ends in no unit, and is no gauge that is known to count things"
    );
    Ok(())
}

/// The quickstart can be run again at any time, and repairs what is down.
pub(crate) fn quickstart_again(world: &mut World) -> Result<()> {
    world.inject_for_good(&crate::mechanism::signal(
        "edge-b",
        "edgecore",
        nix::sys::signal::Signal::SIGKILL,
    ))?;
    world.quickstart("up")?.output("a second `quickstart.sh up`")?;
    world.expect_orders()?;
    let lines = world.quickstart("env")?.output("quickstart.sh env")?;
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("{lines}\nkubectl get nodes -o name && meshctl status")]);
    let said = command::run(&mut shell, "", CALL)?.output("a shell with the quickstart's environment")?;
    ensure!(said.contains("node/edge-a"), "kubectl in that shell: {said}");
    Ok(())
}

/// `quickstart.sh down` leaves nothing behind.
pub(crate) fn quickstart_down(world: &mut World) -> Result<()> {
    let before = Traces::of(world)?;
    world.quickstart("down")?.output("quickstart.sh down")?;
    world.forget();
    before.are_gone()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let links = command::run(Command::new("ip").args(["-o", "link"]), "", CALL)?.output("ip link")?;
    let netns = command::run(Command::new("ip").args(["netns"]), "", CALL)?.output("ip netns")?;
    for (what, text) in [("a mount", mounts), ("a link", links), ("a network namespace", netns)] {
        ensure!(!text.contains(world.name.as_str()), "{what} is left: {text}");
    }
    let directory = Path::new(crate::world::ROOT).join(&world.name);
    ensure!(!directory.exists(), "{} is left", directory.display());
    Ok(())
}

/// What a lab has in the kernel besides its namespaces.
struct Traces {
    /// Process ids, each with its time of start: an id alone may be another's later.
    processes: Vec<(i32, String)>,
    cgroups: Vec<PathBuf>,
    /// Ids of eBPF programs, which live for as long as a process, an attachment or a pin holds them.
    programs: BTreeSet<u32>,
}

impl Traces {
    /// Those of the world, each of which is one for certain.
    fn of(world: &World) -> Result<Self> {
        let hosts: Vec<Host> = world.lab()?.hosts().collect();
        let pids: Vec<i32> = hosts.iter().flat_map(Host::processes).map(|process| process.pid).collect();
        let processes = pids.iter().filter_map(|pid| Some((*pid, started(*pid)?))).collect();
        let programs = pids.iter().flat_map(|pid| edgeloom_lab::programs_of(*pid)).collect();
        let cgroups = hosts.iter().map(Host::cgroup).collect();
        let found = Self { processes, cgroups, programs };
        ensure!(found.processes.len() >= 5, "few processes in the lab: {:?}", found.processes);
        let mut held = found.programs.iter();
        let known = held.any(|program| edgeloom_lab::has_program(*program).unwrap_or(false));
        ensure!(known, "no process of the lab holds an eBPF program that the kernel knows");
        ensure!(found.cgroups.iter().all(|cgroup| cgroup.is_dir()), "no such cgroups: {:?}", found.cgroups);
        Ok(found)
    }

    fn are_gone(&self) -> Result<()> {
        let alive = |(pid, start): &&(i32, String)| started(*pid).as_ref() == Some(start);
        let alive: Vec<_> = self.processes.iter().filter(alive).collect();
        ensure!(alive.is_empty(), "processes are left: {alive:?}");
        for cgroup in &self.cgroups {
            ensure!(!cgroup.exists(), "a cgroup is left: {}", cgroup.display());
        }
        // The kernel lets a program go a while after its last holder.
        eventually(Duration::from_secs(10), || {
            for program in &self.programs {
                ensure!(
                    !edgeloom_lab::has_program(*program)?,
                    "eBPF program {program} is left: something pins it"
                );
            }
            Ok(())
        })
    }
}

/// When a process started, in clock ticks since the boot; `None` if it is not there, or a zombie.
fn started(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before stands in brackets, and may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}
