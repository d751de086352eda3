//! The running control: its parts started in the order in which they need each other, and ended in the
//! reverse.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use edgeloom_api::join::Contact;
use edgeloom_api::v1alpha1::EdgeNode;
use edgeloom_mesh::ops::{self, Readiness};
use edgeloom_tunnel::{Accepted, Alpn, Incoming, Tunnel};
use kube::Client;
use kube::api::Api;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Authenticator, Authorizer};
use crate::admin::{AdminApi, Parts};
use crate::config::Config;
use crate::embedded::Embedded;
use crate::forward::Forwarder;
use crate::hub::Hub;
use crate::join::{Holder, Issuer, JoinConfig, JoinService, ServiceRanges, Tokens, authority};
use crate::kubelet::{Kubelets, bind};
use crate::serving::{Serving, Source};
use crate::{cluster, https, member, nodes, removal};

/// Starts everything, and ends it once `stop` is cancelled.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    let registry = Registry::new();
    let readiness = Readiness::new();
    let starting = readiness.guard("the Kubernetes API and the overlay");
    let ops_server = ops::serve(config.ops.listen, registry.clone(), readiness, stop.child_token()).await?;
    let addresses = cluster::addresses(&config.addresses);
    anyhow::ensure!(
        !addresses.is_empty(),
        "this host has no address that edge nodes could reach: give `addresses`"
    );
    let cluster = Cluster::start(&config, &addresses, &registry).await?;
    let control = Control::start(&config, cluster.client.clone(), &addresses, &registry, &stop).await?;
    drop(starting);
    tracing::info!(addresses = ?addresses, "edgeloom-control is ready");
    stop.cancelled().await;
    tracing::info!(seconds = config.drain_seconds, "draining");
    control.shutdown(config.drain()).await;
    cluster.shutdown(config.drain()).await;
    ops_server.join().await;
    Ok(())
}

/// What runs once there is a cluster.
struct Control {
    tunnel: Tunnel,
    hub: Hub,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Control {
    async fn start(
        config: &Config,
        client: Client,
        addresses: &[std::net::IpAddr],
        registry: &Registry,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let stop = stop.child_token();
        let tasks = TaskTracker::new();
        let identifier = cluster::identifier(&client).await?;
        let ca = Arc::new(authority::load_or_create(&client, &identifier).await?);
        let identity = member::identity(&client).await?;
        let holder = member::holder(&identity, &ca.cluster, &config.site);
        let contacts = member::contacts(addresses, config.overlay.listen.port());
        member::publish(&client, &holder, &contacts).await?;
        let tokens = Tokens::new(client.clone(), ca.authority.certificate());
        let join = join_service(config, &client, ca, holder, contacts, tokens.clone(), registry)?;
        let overlay = edgeloom_tunnel::Config {
            listen: config.overlay.listen,
            relay: config.overlay.relay,
            limits: config.overlay.limits.clone(),
            carriers: edgeloom_tunnel::Carriers {
                listen: config.overlay.carriers,
                websocket_listen: config.overlay.websocket,
                ..edgeloom_tunnel::Carriers::default()
            },
            serve_join: true,
            state_dir: Some(config.state_dir.join("overlay")),
            ..edgeloom_tunnel::Config::default()
        };
        let (tunnel, incoming) =
            Tunnel::start(overlay, identity, join.own_credential(), join.trust(), registry).await?;
        let hub = Hub::start(client.clone(), join.clone(), Some(tunnel.clone()), registry)?;
        tasks.spawn(dispatch(incoming, hub.clone(), join, tasks.clone()));
        tasks.spawn(nodes::run(client.clone(), stop.clone()));
        tasks.spawn(removal::run(client.clone(), stop.clone()));
        let control = Self { tunnel, hub, tasks, stop };
        control.listen(config, client, addresses, tokens).await?;
        Ok(control)
    }

    /// Opens the HTTPS ports.
    async fn listen(
        &self,
        config: &Config,
        client: Client,
        addresses: &[std::net::IpAddr],
        tokens: Tokens,
    ) -> anyhow::Result<()> {
        let names = addresses.iter().map(ToString::to_string).chain(config.names.iter().cloned()).collect();
        let files = config.kubelet.certificate.clone();
        let source = Source { client: client.clone(), names, files };
        let (serving, renew) = source.load().await?;
        self.tasks.spawn(source.keep(serving.clone(), renew, self.stop.clone()));
        let forwarder = Forwarder::new(self.tunnel.clone(), self.tasks.clone());
        let authenticator = Authenticator::new(client.clone());
        let authorizer = Authorizer::new(client.clone());
        let parts = Parts {
            authenticator: authenticator.clone(),
            authorizer: authorizer.clone(),
            edge_nodes: Api::<EdgeNode>::all(client.clone()),
            hub: self.hub.clone(),
            forwarder: forwarder.clone(),
            tokens,
            client: client.clone(),
            tunnel: self.tunnel.clone(),
            site: config.site.clone(),
            started: time::OffsetDateTime::now_utc(),
        };
        self.serve_admin(config.admin.listen, &serving, AdminApi::new(parts)).await?;
        let kubelets = Kubelets {
            client,
            listen: config.kubelet.listen,
            addresses: first_of_each_family(addresses),
            tls: serving.kubelet,
            authenticator,
            authorizer,
            forwarder,
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        };
        self.tasks.spawn(kubelets.run());
        Ok(())
    }

    async fn serve_admin(&self, listen: SocketAddr, serving: &Serving, api: AdminApi) -> anyhow::Result<()> {
        let listener = bind(listen.ip(), listen.port()).await.map_err(|error| {
            anyhow::anyhow!("admin.listen {listen}: {error}; is another control running?")
        })?;
        let (tls, tasks, stop) = (serving.admin.clone(), self.tasks.clone(), self.stop.clone());
        self.tasks.spawn(https::serve(listener, tls, api, tasks, stop));
        Ok(())
    }

    async fn shutdown(self, drain: Duration) {
        self.stop.cancel();
        self.tasks.close();
        let drained = tokio::time::timeout(drain, async {
            self.hub.shutdown().await;
            self.tunnel.shutdown(drain).await;
            self.tasks.wait().await;
        });
        if drained.await.is_err() {
            tracing::warn!("some streams were cut: they did not end in time");
        }
    }
}

fn join_service(
    config: &Config,
    client: &Client,
    ca: Arc<authority::ClusterCa>,
    own: Holder,
    contacts: Vec<SocketAddr>,
    tokens: Tokens,
    registry: &Registry,
) -> anyhow::Result<JoinService> {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let issuer = Issuer::new(ca, hours(config.join.credential_hours), hours(config.join.grace_hours));
    let contact = Contact {
        peer: own.peer.to_bytes().into(),
        node: own.node.clone(),
        site: own.site.clone(),
        addresses: contacts,
    };
    let relays = if config.overlay.relay { vec![contact.clone()] } else { Vec::new() };
    let services = match config.kubeconfig {
        Some(_) => ServiceRanges::Cluster(config.join.service_cidrs.clone()),
        None => ServiceRanges::Own(config.embedded.service_cidrs.clone()),
    };
    let join = JoinConfig { issuer, own, control: contact, relays, services };
    Ok(JoinService::new(client.clone(), join, tokens, registry)?)
}

/// Gives every stream that comes in to whom it is for.
async fn dispatch(mut incoming: Incoming, hub: Hub, join: JoinService, tasks: TaskTracker) {
    while let Some(accepted) = incoming.accept().await {
        match accepted {
            Accepted::Stream { from, alpn: Alpn::Hub, stream } => hub.accept(from, stream.recv, stream.send),
            Accepted::Join { from, remote, stream } => {
                tracing::debug!(%remote, peer = %from.peer, "a host asks to join");
                let join = join.clone();
                tasks.spawn(async move { join.serve(from, remote, stream).await });
            }
            Accepted::Stream { from, alpn, mut stream } => {
                tracing::debug!(node = %from.node, ?alpn, "nothing here answers that");
                // The stream may be closed already.
                let _ = stream.send.reset(0u32.into());
                let _ = stream.recv.stop(0u32.into());
            }
            // The control carries no flows of anybody's.
            Accepted::Datagram { .. } | Accepted::Lan { .. } => {}
        }
    }
}

fn first_of_each_family(addresses: &[std::net::IpAddr]) -> Vec<std::net::IpAddr> {
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    let v6 = addresses.iter().find(|address| address.is_ipv6());
    v4.into_iter().chain(v6).copied().collect()
}

/// The cluster, and what runs of it here.
struct Cluster {
    client: Client,
    embedded: Option<Embedded>,
}

impl Cluster {
    async fn start(
        config: &Config,
        addresses: &[std::net::IpAddr],
        registry: &Registry,
    ) -> anyhow::Result<Self> {
        if let Some(path) = &config.kubeconfig {
            return Ok(Self { client: cluster::connect(path).await?, embedded: None });
        }
        let (embedded, client) = Embedded::start(config, addresses, registry).await?;
        Ok(Self { client, embedded: Some(embedded) })
    }

    async fn shutdown(self, drain: Duration) {
        if let Some(embedded) = self.embedded {
            embedded.shutdown(drain).await;
        }
    }
}
