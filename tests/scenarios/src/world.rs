//! The system under test: the quickstart's, in a lab of its own, brought up when the first scenario asks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use edgeloom_lab::{Fault, Host, Lab, NatKind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{self, Done, eventually};
use crate::mechanism::{Mechanism, signal};

/// Name of the lab; the quickstart's own has another.
const LAB: &str = "scenarios";
/// Directory of labs.
const ROOT: &str = "/var/lib/edgeloom-lab";
/// What a node keeps of its cluster, its CA among it.
const MEMBERSHIP: &str = "/var/lib/edgeloom/edgecore/membership.json";
/// What bring-up may take when everything is built.
const BRING_UP: Duration = Duration::from_secs(300);
/// What one call of kubectl or curl may take.
pub(crate) const CALL: Duration = Duration::from_secs(15);
/// The Service of the example, as a pod calls it.
pub(crate) const ORDERS: &str = "orders.shop.svc.cluster.local";

/// Something to do when the scenario is over.
type Undo = Box<dyn FnOnce(&mut World) -> Result<()>>;

/// The system, and what a scenario has done to it.
pub(crate) struct World {
    repository: PathBuf,
    /// How long the cloud is gone where it is gone for long.
    pub(crate) offline_seconds: u64,
    lab: Option<Lab>,
    /// Why it cannot be brought up; it is not tried twice.
    broken: Option<String>,
    undo: Vec<Undo>,
    sabotage: Option<Mechanism>,
}

/// Faults by a word.
pub(crate) mod fault {
    use edgeloom_lab::Fault;

    pub(crate) fn cut(name: &str) -> Fault {
        Fault::Cut { name: name.into(), silent: false }
    }

    pub(crate) fn restore(name: &str) -> Fault {
        Fault::Restore { name: name.into() }
    }
}

impl World {
    /// Nothing is up yet.
    pub(crate) fn new(repository: &Path, offline_seconds: u64) -> Self {
        let repository = repository.canonicalize().unwrap_or_else(|_| repository.to_owned());
        Self { repository, offline_seconds, lab: None, broken: None, undo: Vec::new(), sabotage: None }
    }

    /// The mechanism that is broken in every scenario from now on.
    pub(crate) fn sabotage(&mut self, mechanism: Option<Mechanism>) {
        self.sabotage = mechanism;
    }

    /// Brings the system up, if it is not, and breaks what is to be broken.
    pub(crate) fn ready(&mut self) -> Result<()> {
        if let Some(reason) = &self.broken {
            bail!("the system did not come up: {reason}");
        }
        if self.lab.is_none() {
            self.bring_up().inspect_err(|error| self.broken = Some(format!("{error:#}")))?;
        }
        self.sabotage.map_or(Ok(()), |mechanism| mechanism.break_it(self))
    }

    /// Runs the quickstart: brings everything up, or makes it whole.
    pub(crate) fn bring_up(&mut self) -> Result<()> {
        let out = self.quickstart("up")?.output("deploy/quickstart.sh up")?;
        println!("{}", out.lines().map(|line| format!("  | {line}\n")).collect::<String>());
        self.lab = Some(Lab::open(Path::new(ROOT), LAB)?);
        Ok(())
    }

    /// Calls the quickstart with these words.
    pub(crate) fn quickstart(&self, words: &str) -> Result<Done> {
        let mut script = Command::new(self.repository.join("deploy/quickstart.sh"));
        command::run(script.args(words.split_whitespace()).env("LAB_NAME", LAB), "", BRING_UP)
    }

    /// Starts the control alone, as the quickstart does.
    pub(crate) fn start_control(&self) -> Result<()> {
        self.quickstart("__step start_control")?.output("starting the control").map(drop)
    }

    /// Starts what runs on an edge host alone, as the quickstart does.
    pub(crate) fn start_edge(&self, host: &str) -> Result<()> {
        self.quickstart(&format!("__step start_edge {host}"))?.output("starting the edge").map(drop)
    }

    /// The lab has been taken down by other means.
    pub(crate) fn forget(&mut self) {
        self.lab = None;
        self.undo.clear();
    }

    /// Removes the lab, if there is one.
    pub(crate) fn down(&mut self) -> Result<()> {
        match self.lab.take() {
            Some(_) => Ok(Lab::down(Path::new(ROOT), LAB)?),
            None => Ok(()),
        }
    }

    /// The lab.
    pub(crate) fn lab(&self) -> Result<&Lab> {
        self.lab.as_ref().context("the lab is not up")
    }

    fn lab_mut(&mut self) -> Result<&mut Lab> {
        self.lab.as_mut().context("the lab is not up")
    }

    /// A host of the lab.
    pub(crate) fn host(&self, name: &str) -> Result<Host> {
        Ok(self.lab()?.host(name)?)
    }

    /// A program of this workspace.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.repository.join("target/debug").join(name)
    }

    /// A file of the repository.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.repository.join(path)
    }

    fn kubeconfig(&self) -> PathBuf {
        Path::new(ROOT).join(LAB).join("admin.conf")
    }

    /// kubectl, told where to go.
    pub(crate) fn kubectl_command(&self) -> Command {
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(self.kubeconfig());
        kubectl
    }

    /// Runs kubectl from the machine's own namespace.
    pub(crate) fn try_kubectl(&self, arguments: &str, input: &str) -> Result<Done> {
        let mut kubectl = self.kubectl_command();
        command::run(kubectl.args(arguments.split_whitespace()), input, Duration::from_secs(90))
    }

    /// Runs kubectl and wants it to succeed.
    pub(crate) fn kubectl(&self, arguments: &str) -> Result<String> {
        self.try_kubectl(arguments, "")?.output(&format!("kubectl {arguments}"))
    }

    /// Applies a manifest, which is deleted when the scenario is over.
    pub(crate) fn apply(&mut self, manifest: &str) -> Result<()> {
        self.try_kubectl("apply -f -", manifest)?.output("kubectl apply")?;
        let manifest = manifest.to_owned();
        self.undo.push(Box::new(move |world| {
            let done = world.try_kubectl("delete --ignore-not-found --wait=true -f -", &manifest)?;
            done.output("kubectl delete").map(drop)
        }));
        Ok(())
    }

    /// Runs meshctl from the machine's own namespace.
    pub(crate) fn meshctl_text(&self, arguments: &str) -> Result<String> {
        let mut meshctl = Command::new(self.program("meshctl"));
        meshctl.env("KUBECONFIG", self.kubeconfig()).args(arguments.split_whitespace());
        command::run(&mut meshctl, "", CALL)?.output(&format!("meshctl {arguments}"))
    }

    /// As [`Self::meshctl_text`], and reads its JSON.
    pub(crate) fn meshctl(&self, arguments: &str) -> Result<serde_json::Value> {
        json(arguments, &self.meshctl_text(&format!("{arguments} -o json"))?)
    }

    /// Runs meshctl in an edge host, by the socket of its agent, and reads its JSON: it needs no cloud.
    pub(crate) fn meshctl_at(&self, host: &str, arguments: &str) -> Result<serde_json::Value> {
        let program = self.program("meshctl").display().to_string();
        let head = [program.as_str(), "--socket", "/run/edgeloom/edgecore.sock"];
        let words: Vec<_> = arguments.split_whitespace().collect();
        let done = self.in_host(host, &[&head[..], &words, &["-o", "json"]].concat())?;
        json(arguments, &done.output(&format!("meshctl {arguments} on {host}"))?)
    }

    /// Runs a command line in a host.
    pub(crate) fn in_host(&self, host: &str, words: &[&str]) -> Result<Done> {
        self.in_host_for(CALL, host, words)
    }

    fn in_host_for(&self, limit: Duration, host: &str, words: &[&str]) -> Result<Done> {
        let mut command = self.host(host)?.command(words.first().copied().unwrap_or("true"))?;
        command::run(command.args(words.iter().skip(1)), "", limit)
    }

    /// Runs a command line in a container by way of the node's own runtime: it needs neither the cloud
    /// nor the agent.
    pub(crate) fn in_container(&self, host: &str, container: &str, words: &[&str]) -> Result<Done> {
        self.in_container_for(CALL, host, container, words)
    }

    /// As [`Self::in_container`], for what takes longer.
    pub(crate) fn in_container_for(
        &self,
        limit: Duration,
        host: &str,
        container: &str,
        words: &[&str],
    ) -> Result<Done> {
        let id = format!("scenario-{}", unique());
        let socket = edgeloom_lab::containerd::SOCKET;
        let head = ["ctr", "-a", socket, "-n", "k8s.io", "tasks", "exec", "--exec-id", &id, container];
        self.in_host_for(limit, host, &[&head[..], words].concat())
    }

    /// Id of the first running container of that name on a host.
    pub(crate) fn container(&self, host: &str, name: &str) -> Result<String> {
        let filter = format!("labels.\"io.kubernetes.container.name\"=={name}");
        let socket = edgeloom_lab::containerd::SOCKET;
        let list = self
            .in_host(host, &["ctr", "-a", socket, "-n", "k8s.io", "containers", "ls", "-q", &filter])?
            .output("ctr containers ls")?;
        let tasks = self
            .in_host(host, &["ctr", "-a", socket, "-n", "k8s.io", "tasks", "ls"])?
            .output("ctr tasks ls")?;
        let runs = |id: &&str| tasks.lines().any(|line| line.starts_with(*id) && line.contains("RUNNING"));
        list.lines()
            .find(runs)
            .map(str::to_owned)
            .with_context(|| format!("no container {name} runs on {host}"))
    }

    /// Runs a command line in the example's client pod at site A.
    pub(crate) fn in_client(&self, words: &[&str]) -> Result<Done> {
        self.in_container("edge-a", &self.container("edge-a", "client")?, words)
    }

    /// What the Service of the other site answers a fresh HTTP request of the client pod.
    pub(crate) fn call_orders(&self) -> Result<String> {
        let url = format!("http://{ORDERS}/");
        self.in_client(&["curl", "-sS", "--max-time", "5", &url])?.output("the call across sites")
    }

    /// As [`Self::call_orders`], and the answer must come from site B.
    pub(crate) fn expect_orders(&self) -> Result<()> {
        let answer = self.call_orders()?;
        if answer.contains(r#""site":"site-b""#) {
            return Ok(());
        }
        bail!("the answer does not come from site B: {answer}")
    }

    /// The call across sites must fail now, and go on failing.
    pub(crate) fn expect_no_orders(&self, because: &str) -> Result<()> {
        for _ in 0..2 {
            if let Ok(answer) = self.call_orders() {
                bail!("the call across sites succeeds although {because}: {answer}");
            }
        }
        Ok(())
    }

    /// Makes a fault happen, and `mend` when the scenario is over.
    pub(crate) fn inject(&mut self, fault: Fault, mend: Fault) -> Result<()> {
        self.lab_mut()?.inject(&fault)?;
        self.undo.push(Box::new(move |world| Ok(world.lab_mut()?.inject(&mend)?)));
        Ok(())
    }

    /// Makes a fault happen.
    pub(crate) fn inject_for_good(&mut self, fault: &Fault) -> Result<()> {
        Ok(self.lab_mut()?.inject(fault)?)
    }

    /// Stops a program of a host until the scenario is over.
    pub(crate) fn freeze(&mut self, host: &str, program: &str) -> Result<()> {
        self.inject(signal(host, program, Signal::SIGSTOP), signal(host, program, Signal::SIGCONT))
    }

    /// Stops a program in the pods of a host until the scenario is over.
    pub(crate) fn freeze_pods(&mut self, host: &str, program: &str) -> Result<()> {
        let found = self.host(host)?.processes().into_iter().filter(|p| p.in_pod && p.name == program);
        let pids: Vec<_> = found.map(|process| Pid::from_raw(process.pid)).collect();
        if pids.is_empty() {
            bail!("no pod on {host} runs {program}");
        }
        pids.iter().try_for_each(|pid| kill(*pid, Signal::SIGSTOP))?;
        self.undo.push(Box::new(move |_| {
            // One that has ended meanwhile needs no signal.
            for pid in pids {
                let _ = kill(pid, Signal::SIGCONT);
            }
            Ok(())
        }));
        Ok(())
    }

    /// Gives both NATs a kind until the scenario is over.
    pub(crate) fn set_nats(&mut self, kind: NatKind) -> Result<()> {
        for name in ["nat-a", "nat-b"] {
            let mend = Fault::Nat { name: name.into(), kind: NatKind::default() };
            self.inject(Fault::Nat { name: name.into(), kind }, mend)?;
        }
        Ok(())
    }

    /// Detaches the sk_lookup program of a host; its agent is restarted when the scenario is over.
    pub(crate) fn detach_sk_lookup(&mut self, host: &str) -> Result<()> {
        let detached = self.lab()?.detach_sk_lookup(host)?;
        if detached == 0 {
            bail!("no sk_lookup program is attached on {host}");
        }
        let host = host.to_owned();
        self.undo.push(Box::new(move |world| {
            world.inject_for_good(&signal(&host, "edgecore", Signal::SIGKILL))?;
            world.bring_up()
        }));
        Ok(())
    }

    /// Drops what is sent to the DNS server of a host until the scenario is over.
    pub(crate) fn drop_dns(&mut self, host: &str) -> Result<()> {
        let rule = "add table inet sabotage; \
                    add chain inet sabotage input { type filter hook input priority -300; }; \
                    add rule inet sabotage input meta l4proto { tcp, udp } th dport 53 drop";
        self.in_host(host, &["nft", rule])?.output("nft")?;
        let host = host.to_owned();
        self.undo.push(Box::new(move |world| {
            world.in_host(&host, &["nft", "delete table inet sabotage"])?.output("nft").map(drop)
        }));
        Ok(())
    }

    /// Lets a host trust another CA than its cluster's until the scenario is over.
    pub(crate) fn exchange_authority(&mut self, host: &str) -> Result<()> {
        let path = self.host(host)?.path(MEMBERSHIP)?;
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut membership: serde_json::Value = serde_json::from_str(&text)?;
        membership["authorities"] = serde_json::json!([hex::encode(another_authority()?)]);
        self.replace_membership(host, &membership.to_string())?;
        let host = host.to_owned();
        self.undo.push(Box::new(move |world| world.replace_membership(&host, &text)));
        Ok(())
    }

    fn replace_membership(&mut self, host: &str, text: &str) -> Result<()> {
        self.inject_for_good(&signal(host, "edgecore", Signal::SIGKILL))?;
        std::fs::write(self.host(host)?.path(MEMBERSHIP)?, text)?;
        self.start_edge(host)
    }

    /// Mends what the scenario broke, last first, and waits until the call across sites works again.
    pub(crate) fn undo(&mut self) -> Result<()> {
        if self.undo.is_empty() {
            return Ok(());
        }
        let mut failure = None;
        while let Some(undo) = self.undo.pop() {
            if let Err(error) = undo(self) {
                failure.get_or_insert(error.context("the lab could not be mended"));
            }
        }
        let settled = eventually(Duration::from_secs(60), || self.expect_orders());
        failure.map_or(settled.context("after the scenario"), Err)
    }

    /// Something to do when the scenario is over.
    pub(crate) fn afterwards(&mut self, undo: impl FnOnce(&mut Self) -> Result<()> + 'static) {
        self.undo.push(Box::new(undo));
    }
}

fn json(arguments: &str, out: &str) -> Result<serde_json::Value> {
    serde_json::from_str(out).with_context(|| format!("meshctl {arguments} wrote no JSON: {out}"))
}

/// A CA certificate (DER) of the form that Edgeloom's own has, and nothing to do with it.
fn another_authority() -> Result<Vec<u8>> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Edgeloom");
    params.distinguished_name.push(rcgen::DnType::CommonName, "edgeloom elsewhere");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::DigitalSignature];
    Ok(params.self_signed(&key)?.der().to_vec())
}

/// A number that was not given before in this run, nor in the last seconds of another.
fn unique() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_nanos())
}
