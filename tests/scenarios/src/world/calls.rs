//! Calls into the system: by kubectl and meshctl from the machine, and from within hosts and pods.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{CALL, World};
use crate::command::{self, Done};

/// The Service of the example, as a pod calls it.
pub(crate) const ORDERS: &str = "orders.shop.svc.cluster.local";

impl World {
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

    /// Starts a command line in the example's client pod at site A, for what goes on meanwhile.
    pub(crate) fn start_in_client(&self, words: &[&str]) -> Result<Child> {
        let (id, container) = (format!("scenario-{}", unique()), self.container("edge-a", "client")?);
        let socket = edgeloom_lab::containerd::SOCKET;
        let mut command = self.host("edge-a")?.command("ctr")?;
        command.args(["-a", socket, "-n", "k8s.io", "tasks", "exec", "--exec-id", &id, &container]);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command.spawn()?)
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
        self.try_orders()?.output("the call across sites")
    }

    fn try_orders(&self) -> Result<Done> {
        let url = format!("http://{ORDERS}/");
        self.in_client(&["curl", "-sS", "--max-time", "5", &url])
    }

    /// As [`Self::call_orders`], and the answer must come from site B.
    pub(crate) fn expect_orders(&self) -> Result<()> {
        let answer = self.call_orders()?;
        if answer.contains(r#""site":"site-b""#) {
            return Ok(());
        }
        bail!("the answer does not come from site B: {answer}")
    }

    /// The call across sites must fail now, and go on failing: a client that does not run is no proof.
    pub(crate) fn expect_no_orders(&self, because: &str) -> Result<()> {
        for _ in 0..2 {
            let done = self.try_orders().with_context(|| format!("nobody called while {because}"))?;
            expect_failed_call(done).with_context(|| format!("although {because}"))?;
        }
        Ok(())
    }
}

/// What curl ends with when a call fails on its way: no name, no connection, no answer in time, none at all, a
/// reset.
const FAILED_CALLS: [i32; 5] = [6, 7, 28, 52, 56];

/// Wants curl's own word that its call failed: what runs it in a pod ends with numbers of its own.
fn expect_failed_call(done: Done) -> Result<()> {
    let said = |code: &i32| done.err.contains(&format!("curl: ({code})"));
    if done.good {
        bail!("the call across sites succeeds: {}", done.out.trim());
    }
    if done.code.filter(|code| FAILED_CALLS.contains(code)).as_ref().is_some_and(said) {
        return Ok(());
    }
    let code = done.code;
    done.output(&format!("the call across sites was not made (exit code {code:?})")).map(drop)
}

fn json(arguments: &str, out: &str) -> Result<serde_json::Value> {
    serde_json::from_str(out).with_context(|| format!("meshctl {arguments} wrote no JSON: {out}"))
}

/// A number that was not given before in this run, nor in the last seconds of another.
fn unique() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_curl_says_that_a_call_failed() {
        let ended = |code: Option<i32>, out: &str, err: &str| {
            let done = Done { good: code == Some(0), code, out: out.to_owned(), err: err.to_owned() };
            expect_failed_call(done).map_err(|error| error.to_string())
        };
        for (code, err) in [
            (7, "curl: (7) Failed to connect to orders port 80: Connection refused"),
            (28, "curl: (28) Connection timed out after 5001 milliseconds"),
            (56, "curl: (56) Recv failure: Connection reset by peer"),
        ] {
            assert_eq!(ended(Some(code), "", err), Ok(()));
        }
        for (code, out, err) in [
            (Some(0), "two orders", ""),
            (Some(1), "", "ctr: no running task found: task 7 not found"),
            (Some(7), "", "ctr: container ended"),
            (Some(2), "", "curl: (2) Failed initialization"),
            (Some(127), "", "curl: not found"),
            (None, "", "curl: (28) timed out (killed after 15 s)"),
        ] {
            assert!(ended(code, out, err).is_err(), "{code:?} {err}");
        }
    }
}
