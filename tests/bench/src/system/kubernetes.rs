//! The Service and its pods, by kubectl.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use edgeloom_lab::Lab;
use serde_json::Value;

use crate::load::PORT;

/// Calls of kubectl at a time where much is made: one makes 50 objects a second.
const AT_ONCE: usize = 8;
/// Variable by which a pod's processes are known.
pub(super) const ROLE: &str = "BENCH_ROLE";

/// The embedded API of a lab.
pub(super) struct Kubernetes {
    kubeconfig: PathBuf,
}

impl Kubernetes {
    pub(super) fn of(lab: &Lab) -> Self {
        Self { kubeconfig: lab.directory().join("admin.conf") }
    }

    fn kubectl(&self, words: &str, input: &str) -> Result<String> {
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(&self.kubeconfig).args(words.split(' '));
        let mut child = kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("kubectl")?;
        child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "kubectl {words} did not succeed");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Makes the Service and the pods, and says where the Service and its pod answer.
    pub(super) fn apply(&self) -> Result<(SocketAddr, SocketAddr)> {
        let manifest = [service(), pod("server", "site-b"), pod("client", "site-a")].join("---\n");
        self.kubectl("apply -f -", &manifest)?;
        self.kubectl("-n bench wait --for=condition=Ready --timeout=90s pod/server pod/client", "")?;
        let address = |what: &str| -> Result<SocketAddr> {
            let text = self.kubectl(&format!("-n bench get {what}"), "")?;
            let ip: IpAddr = text.trim().parse().with_context(|| format!("no address: {what}: {text:?}"))?;
            Ok(SocketAddr::new(ip, PORT))
        };
        Ok((
            address("service server -o jsonpath={.spec.clusterIP}")?,
            address("pod server -o jsonpath={.status.podIP}")?,
        ))
    }
}

impl Kubernetes {
    /// Makes so many Services before the server's pod.
    pub(super) fn add_services(&self, count: usize) -> Result<()> {
        let numbers: Vec<usize> = (0..count).collect();
        thread::scope(|scope| {
            let make = |numbers: &[usize]| {
                let manifest: Vec<String> = numbers.iter().map(|number| another_service(*number)).collect();
                self.kubectl("create -f -", &manifest.join("---\n")).map(drop)
            };
            let share = numbers.chunks(count.div_ceil(AT_ONCE).max(1));
            let making: Vec<_> = share.map(|numbers| scope.spawn(move || make(numbers))).collect();
            making
                .into_iter()
                .try_for_each(|making| making.join().map_err(|_| anyhow!("a thread panicked"))?)
        })
    }
}

fn another_service(number: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: other-{number}, namespace: bench}}\n\
         spec: {{selector: {{app: server}}, ports: [{{port: {PORT}, targetPort: {PORT}}}]}}\n"
    )
}

fn service() -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: bench}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: server, namespace: bench}}\n\
         spec: {{selector: {{app: server}}, ports: [{{port: {PORT}, targetPort: {PORT}}}]}}\n"
    )
}

/// A pod of the example's image, in whose network namespace client and server are started.
fn pod(role: &str, site: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\n\
         metadata: {{name: {role}, namespace: bench, labels: {{app: {role}}}}}\n\
         spec:\n  nodeSelector: {{topology.kubernetes.io/zone: {site}}}\n  containers:\n  \
         - name: {role}\n    image: edgeloom.io/examples/responder:0.1\n    \
         imagePullPolicy: IfNotPresent\n    args: [serve]\n    \
         env: [{{name: {ROLE}, value: {role}}}]\n"
    )
}

/// Whether `meshctl peers -o json` says that a node is reached without a relay.
pub(super) fn is_direct(peers: &str, node: &str) -> bool {
    peer(peers, node).is_some_and(|peer| peer["path"]["kind"] == "direct")
}

/// Whether they say that a node is reached on the LAN, and that flows go there over TCP, or do not.
pub(super) fn is_on_lan(peers: &str, node: &str, over_tcp: bool) -> bool {
    peer(peers, node)
        .is_some_and(|peer| peer["path"]["by"] == "lan" && (peer["carrier"] == "tcp") == over_tcp)
}

fn peer(peers: &str, node: &str) -> Option<Value> {
    let peers = serde_json::from_str::<Value>(peers).ok()?;
    let list = peers.as_array().or_else(|| peers.get("peers")?.as_array())?;
    list.iter().find(|peer| peer["node"] == node).cloned()
}
