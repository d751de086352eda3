//! The control as the kubelet of every edge node.
//!
//! An API server knows of a node's kubelet only an address and a port, so each node gets a port of the
//! control: [`Kubelets`] watches the EdgeNodes, opens and closes ports, and writes them into the Nodes'
//! status, and again whenever a Node does not say so. What fails is tried again. A request that comes in is authenticated and authorised as a kubelet does it, then passed on
//! over the overlay; the node's own answer comes back untouched, upgrades included.

mod certificate;
mod ports;
mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use edgeloom_api::v1alpha1::{EdgeNode, Role};
use edgeloom_tunnel::PeerId;
use futures::TryStreamExt;
use http::{Request, Response};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use certificate::{CertificateError, obtain};

use crate::access::{Authenticator, Authorizer};
use crate::forward::Forwarder;
use crate::https::{self, Body, Handler, text};

/// Pause before a port that did not open, or a Node that could not be written to, is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// The pause doubles with each failure of a port, up to this: a port range that is exhausted stays so for long.
const RETRY_MAX: Duration = Duration::from_secs(5 * 60);

/// The kubelet ports, and what they need.
pub struct Kubelets {
    /// The cluster.
    pub client: kube::Client,
    /// Where the ports are opened.
    pub listen: IpAddr,
    /// The addresses written into the Nodes, the first of each family.
    pub addresses: Vec<IpAddr>,
    /// The certificate to serve with, replaced when it is renewed.
    pub tls: Arc<ArcSwap<rustls::ServerConfig>>,
    /// Who calls.
    pub authenticator: Authenticator,
    /// Whether they may.
    pub authorizer: Authorizer,
    /// The way to the nodes.
    pub forwarder: Forwarder,
    /// Owner of every connection's task.
    pub tasks: TaskTracker,
    /// Ends it all.
    pub stop: CancellationToken,
}

/// One node's open port.
struct Open {
    port: u16,
    peer: PeerId,
    stop: CancellationToken,
}

impl Kubelets {
    /// Keeps one port open for each edge node until stopped.
    pub async fn run(self) {
        let nodes: Api<EdgeNode> = Api::all(self.client.clone());
        let changes = watcher(nodes, watcher::Config::default()).default_backoff();
        let mut changes = std::pin::pin!(changes);
        let nodes: Api<Node> = Api::all(self.client.clone());
        let written = watcher(nodes, watcher::Config::default()).default_backoff().applied_objects();
        let mut written = std::pin::pin!(written);
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut state = State::default();
        loop {
            tokio::select! {
                change = changes.try_next() => match change {
                    Ok(Some(event)) => self.apply(&mut state, event).await,
                    Ok(None) => return,
                    Err(error) => tracing::warn!(%error, "watching the EdgeNodes; trying again"),
                },
                node = written.try_next() => match node {
                    Ok(Some(node)) => self.correct(&mut state, &node).await,
                    Ok(None) => return,
                    Err(error) => tracing::warn!(%error, "watching the Nodes; trying again"),
                },
                _ = retry.tick(), if !state.unwritten.is_empty() || !state.unopened.is_empty() => {
                    for name in std::mem::take(&mut state.unwritten) {
                        self.publish(&mut state, &name).await;
                    }
                    for (name, peer) in state.unopened.due(Instant::now()) {
                        self.try_open(&mut state, name, peer).await;
                    }
                }
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// A Node that was made anew, or that somebody wrote to, is told its port again.
    async fn correct(&self, state: &mut State, node: &Node) {
        let name = node.name_any();
        if let Some(open) = state.open.get(&name)
            && !says(node, &self.addresses, open.port)
        {
            self.publish(state, &name).await;
        }
    }

    async fn apply(&self, state: &mut State, event: watcher::Event<EdgeNode>) {
        match event {
            watcher::Event::Init => state.listed.clear(),
            watcher::Event::InitApply(node) => {
                state.listed.push(node.name_any());
                self.ensure(state, &node).await;
            }
            watcher::Event::Apply(node) => self.ensure(state, &node).await,
            watcher::Event::InitDone => {
                let listed = std::mem::take(&mut state.listed);
                let known = state.open.keys().chain(state.unopened.names());
                let gone: Vec<String> = known.filter(|name| !listed.contains(name)).cloned().collect();
                gone.iter().for_each(|name| state.close(name));
            }
            watcher::Event::Delete(node) => state.close(&node.name_any()),
        }
    }

    async fn ensure(&self, state: &mut State, node: &EdgeNode) {
        let name = node.name_any();
        // The name is claimed; whether its host becomes a member is not known yet.
        if node.spec.node_uid.is_empty() {
            return;
        }
        let Ok(peer) = node.spec.peer_id.parse::<PeerId>() else {
            return tracing::warn!(node = name, "its EdgeNode has no valid spec.peerId; no kubelet port");
        };
        if node.spec.revoked || !node.spec.roles.contains(&Role::Edge) {
            return state.close(&name);
        }
        if state.open.get(&name).is_some_and(|open| open.peer == peer) {
            return;
        }
        state.close(&name);
        self.try_open(state, name, peer).await;
    }

    async fn try_open(&self, state: &mut State, name: String, peer: PeerId) {
        match self.open(state, &name, peer).await {
            Ok(open) => {
                state.unopened.remove(&name);
                state.open.insert(name.clone(), open);
                self.publish(state, &name).await;
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(node = name, error, "no kubelet port: logs and exec fail; trying again");
                state.ports.release(&name);
                state.unopened.failed(name, peer, Instant::now());
            }
        }
    }

    async fn open(&self, state: &mut State, name: &str, peer: PeerId) -> anyhow::Result<Open> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        // Another port than the recorded one would be taken from a Node that is merely not read now.
        let node = nodes.get_opt(name).await.context("reading the port that its Node has")?;
        let mut recorded = node.and_then(|node| kubelet_port(&node));
        loop {
            let port = state.ports.assign(name, recorded.take())?;
            match bind(self.listen, port).await {
                Ok(listener) => {
                    let stop = self.stop.child_token();
                    let handler = NodePort { node: name.into(), peer, shared: self.shared() };
                    let serving =
                        https::serve(listener, self.tls.clone(), handler, self.tasks.clone(), stop.clone());
                    self.tasks.spawn(serving);
                    return Ok(Open { port, peer, stop });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                    tracing::warn!(port, "taken by another program; using the next");
                    state.ports.occupied(name);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes into the Node where its kubelet is to be found.
    async fn publish(&self, state: &mut State, name: &str) {
        let Some(port) = state.open.get(name).map(|open| open.port) else { return };
        let nodes: Api<Node> = Api::all(self.client.clone());
        let mut addresses: Vec<serde_json::Value> = self
            .addresses
            .iter()
            .map(|address| serde_json::json!({ "type": "InternalIP", "address": address }))
            .collect();
        addresses.push(serde_json::json!({ "type": "Hostname", "address": name }));
        let status = serde_json::json!({ "status": {
            "addresses": addresses,
            "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
        }});
        let parameters = PatchParams { field_manager: Some(crate::MANAGER.to_owned()), ..Default::default() };
        match nodes.patch_status(name, &parameters, &Patch::Merge(status)).await {
            Ok(_) => tracing::info!(node = name, port, "kubelet port open"),
            // Its coming is watched for.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                tracing::error!(node = name, port, %error, "writing the port into the Node's status; trying again");
                state.unwritten.insert(name.to_owned());
            }
        }
    }

    fn shared(&self) -> Arc<Shared> {
        Arc::new(Shared {
            authenticator: self.authenticator.clone(),
            authorizer: self.authorizer.clone(),
            forwarder: self.forwarder.clone(),
        })
    }
}

#[derive(Default)]
struct State {
    ports: ports::Ports,
    open: BTreeMap<String, Open>,
    /// Names seen since a list began; what is open and not among them at its end is gone.
    listed: Vec<String>,
    /// Names of Nodes that are to be written to again.
    unwritten: BTreeSet<String>,
    unopened: Unopened,
}

/// Nodes whose port did not open. Reads no clock.
#[derive(Default)]
struct Unopened(BTreeMap<String, Failed>);

struct Failed {
    peer: PeerId,
    pause: Duration,
    again: Instant,
}

impl Unopened {
    /// Notes a failure; each one after the other waits longer.
    fn failed(&mut self, name: String, peer: PeerId, now: Instant) {
        let pause = self.0.get(&name).map_or(RETRY, |failed| RETRY_MAX.min(failed.pause * 2));
        self.0.insert(name, Failed { peer, pause, again: now + pause });
    }

    /// Whose turn it is.
    fn due(&self, now: Instant) -> Vec<(String, PeerId)> {
        let due = self.0.iter().filter(|(_, failed)| failed.again <= now);
        due.map(|(name, failed)| (name.clone(), failed.peer)).collect()
    }

    fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl State {
    fn close(&mut self, name: &str) {
        self.unopened.remove(name);
        if let Some(open) = self.open.remove(name) {
            open.stop.cancel();
            self.ports.release(name);
            tracing::info!(node = name, port = open.port, "kubelet port closed");
        }
    }
}

struct Shared {
    authenticator: Authenticator,
    authorizer: Authorizer,
    forwarder: Forwarder,
}

/// Answers on one node's port.
#[derive(Clone)]
struct NodePort {
    node: Arc<str>,
    peer: PeerId,
    shared: Arc<Shared>,
}

impl Handler for NodePort {
    async fn handle(
        &self,
        request: Request<Incoming>,
        certificate: Option<CertificateDer<'static>>,
    ) -> Response<Body> {
        let wanted = rights::needed(&self.node, request.method(), request.uri().path());
        let allowed = async {
            let user = self.shared.authenticator.user(certificate.as_ref(), request.headers()).await?;
            self.shared.authorizer.check(&user, wanted).await
        };
        if let Err(denied) = allowed.await {
            return text(denied.status(), denied.to_string());
        }
        match self.shared.forwarder.send(&self.node, self.peer, request).await {
            Ok(response) => response,
            Err(error) => text(error.status(), error.to_string()),
        }
    }
}

/// Whether the Node says that its kubelet is here.
fn says(node: &Node, addresses: &[IpAddr], port: u16) -> bool {
    let found = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let internal: Vec<&str> = found
        .iter()
        .filter(|address| address.type_ == "InternalIP")
        .map(|address| address.address.as_str())
        .collect();
    kubelet_port(node) == Some(port)
        && internal.len() == addresses.len()
        && addresses.iter().all(|address| internal.contains(&address.to_string().as_str()))
}

fn kubelet_port(node: &Node) -> Option<u16> {
    let endpoint = node.status.as_ref()?.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()?;
    u16::try_from(endpoint.port).ok().filter(|port| *port != 0)
}

/// Binds `address`, and IPv4 alone where the host has no IPv6.
pub async fn bind(address: IpAddr, port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((address, port))).await {
        Err(error)
            if address.is_unspecified()
                && address.is_ipv6()
                && error.kind() != std::io::ErrorKind::AddrInUse =>
        {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeloom_tunnel::identity::Identity;
    use serde_json::json;

    #[test]
    fn a_port_that_did_not_open_is_tried_again_ever_later() {
        let peer = Identity::from_secret([7; 32]).peer_id();
        let (mut unopened, start) = (Unopened::default(), Instant::now());
        let mut at = start;
        for pause in [5, 10, 20, 40, 80, 160, 300, 300] {
            unopened.failed("a".to_owned(), peer, at);
            let pause = Duration::from_secs(pause);
            assert_eq!(unopened.due(at + pause - Duration::from_millis(1)), []);
            assert_eq!(unopened.due(at + pause), [("a".to_owned(), peer)]);
            at += pause;
        }
        unopened.remove("a");
        unopened.failed("b".to_owned(), peer, at);
        assert_eq!(unopened.due(at + RETRY), [("b".to_owned(), peer)]);
        unopened.remove("b");
        assert_eq!(unopened.due(at + RETRY), []);
    }

    #[test]
    fn a_node_that_says_otherwise_is_told_again() {
        let node = |addresses: serde_json::Value, port: u16| -> Node {
            let endpoint = json!({ "kubeletEndpoint": { "Port": port } });
            let status = json!({ "addresses": addresses, "daemonEndpoints": endpoint });
            serde_json::from_value(json!({ "metadata": { "name": "a" }, "status": status })).unwrap()
        };
        let here = ["203.0.113.10".parse().unwrap()];
        let own = json!([{ "type": "InternalIP", "address": "203.0.113.10" }, { "type": "Hostname", "address": "a" }]);
        assert!(says(&node(own.clone(), 19000), &here, 19000));
        assert!(!says(&node(own, 10250), &here, 19000));
        let other = json!([{ "type": "InternalIP", "address": "192.168.10.2" }]);
        assert!(!says(&node(other, 19000), &here, 19000));
        let anew: Node = serde_json::from_value(json!({ "metadata": { "name": "a" } })).unwrap();
        assert!(!says(&anew, &here, 19000));
    }
}
