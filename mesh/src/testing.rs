//! Two nodes for tests: `a1` at site `a` calls, `b1` at site `b` answers, and one real QUIC connection is
//! all that is between them.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Once};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use edgeloom_model::{Model, NodeName, Site};
use edgeloom_tunnel::identity::Identity;
use edgeloom_tunnel::{DatagramError, OpenError, PeerId, Stream, Verified};
use futures::FutureExt;
use futures::future::BoxFuture;
use prometheus::Registry;
use quinn::crypto::rustls::QuicClientConfig;
use serde_json::{Value, json};

use crate::carrier::Carrier;
use crate::config::Settings;
use crate::proxy::{Metrics, Proxy};
use crate::snapshot::{Place, Snapshot};

/// A node's end of the one connection.
pub(crate) struct Wire {
    pub(crate) connection: quinn::Connection,
    pub(crate) peer: PeerId,
    _endpoint: quinn::Endpoint,
}

impl Carrier for Wire {
    fn open(&self, peer: PeerId) -> BoxFuture<'_, Result<Stream, OpenError>> {
        async move {
            if peer != self.peer {
                return Err(OpenError::UnknownPeer(peer.into()));
            }
            let opened = self.connection.open_bi().await;
            let (send, recv) = opened.map_err(|error| OpenError::Lost(peer.into(), error.to_string()))?;
            Ok(Stream { send, recv })
        }
        .boxed()
    }

    fn send_datagram(&self, _peer: PeerId, bytes: Bytes) -> Result<(), DatagramError> {
        self.connection.send_datagram(bytes).map_err(|_| DatagramError::NotConnected)
    }

    fn max_datagram_size(&self, _peer: PeerId) -> Option<usize> {
        self.connection.max_datagram_size()
    }

    fn rtt(&self, peer: PeerId) -> Option<Duration> {
        (peer == self.peer).then(|| self.connection.rtt())
    }
}

/// One node.
pub(crate) struct Node {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) wire: Arc<Wire>,
    /// Who the other node is, as the tunnel would say.
    pub(crate) other: Arc<Verified>,
    pub(crate) registry: Registry,
    name: String,
    snapshot: Arc<ArcSwap<Snapshot>>,
}

impl Node {
    /// Changes what the node knows.
    pub(crate) fn put(&self, object: &Value) {
        let mut next = (**self.snapshot.load()).clone();
        Arc::make_mut(&mut next.model).put(object).unwrap();
        self.snapshot.store(Arc::new(next));
    }

    /// Makes pods the endpoints of a Service, which listen at one port, each on a node.
    pub(crate) fn serve(&self, service: &str, port: u16, protocol: &str, endpoints: &[(IpAddr, &str)]) {
        for endpoint in endpoints.iter().filter(|(_, node)| *node == self.name) {
            self.put(&pod(service, endpoint));
        }
        self.put(&slice(service, port, protocol, endpoints));
    }

    /// The value of a metric with one label.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.into_iter().flat_map(|family| family.get_metric());
        let is = |metric: &&prometheus::proto::Metric| {
            labels.iter().all(|label| metric.get_label().iter().any(|pair| pair.value() == *label))
        };
        metrics
            .filter(is)
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }
}

/// `a1` and `b1`, connected. Each serves what arrives.
pub(crate) async fn pair() -> (Node, Node) {
    pair_with(quinn::TransportConfig::default(), &Settings::default()).await
}

/// The same with a transport configuration for both, such as smaller windows.
pub(crate) async fn pair_with(transport: quinn::TransportConfig, settings: &Settings) -> (Node, Node) {
    let (identity_a, identity_b) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let (peer_a, peer_b) = (identity_a.peer_id(), identity_b.peer_id());
    let ((end_a, a), (end_b, b)) = connections(Arc::new(transport)).await;
    let members = [member("a1", "a", peer_a, "10.244.1.0/24"), member("b1", "b", peer_b, "10.244.2.0/24")];
    let node = |name, site, wire: Wire, other| node(name, site, wire, other, &members, settings);
    let a =
        node("a1", "a", Wire { connection: a, peer: peer_b, _endpoint: end_a }, verified("b1", "b", peer_b));
    let b =
        node("b1", "b", Wire { connection: b, peer: peer_a, _endpoint: end_b }, verified("a1", "a", peer_a));
    for node in [&a, &b] {
        receive(node);
    }
    (a, b)
}

/// Hands the node what arrives, as the tunnel would.
fn receive(node: &Node) {
    let (proxy, connection, from) = (node.proxy.clone(), node.wire.connection.clone(), node.other.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Ok((send, recv)) = connection.accept_bi() => proxy.take(from.clone(), Stream { send, recv }),
                Ok(bytes) = connection.read_datagram() => proxy.take_datagram(&from, &bytes),
                else => return,
            }
        }
    });
}

fn node(name: &str, site: &str, wire: Wire, other: Verified, members: &[Value], settings: &Settings) -> Node {
    let place =
        Place { node: NodeName::new(name).unwrap(), site: Site::new(site).unwrap(), exports: Vec::new() };
    let mut model = Model::default();
    for member in members {
        model.put(member).unwrap();
    }
    let snapshot = Snapshot { model: Arc::new(model), ..Snapshot::empty(Arc::new(place)) };
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
    let (wire, registry) = (Arc::new(wire), Registry::new());
    let metrics = Metrics::register(&registry).unwrap();
    let proxy = Proxy::new(snapshot.clone(), wire.clone(), settings, metrics);
    Node { proxy, wire, other: Arc::new(other), registry, name: name.to_owned(), snapshot }
}

fn verified(node: &str, site: &str, peer: PeerId) -> Verified {
    Verified {
        peer,
        node: NodeName::new(node).unwrap(),
        node_uid: String::new(),
        site: Site::new(site).unwrap(),
        roles: std::iter::empty().collect(),
        expires: SystemTime::now() + Duration::from_secs(3600),
        serial: 1,
    }
}

fn member(name: &str, site: &str, peer: PeerId, range: &str) -> Value {
    json!({"apiVersion": "edgeloom.io/v1alpha1", "kind": "EdgeNode", "metadata": {"name": name},
           "spec": {"peerId": peer.to_string(), "site": site, "roles": ["edge"], "podCidrs": [range]}})
}

/// A Service `shop/NAME` at an address of its own, with one port.
pub(crate) fn service(name: &str, address: SocketAddr, protocol: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
           "spec": {"clusterIPs": [address.ip()], "ports": [{"port": address.port(), "protocol": protocol}]}})
}

/// The pod that [`slice`] refers to, as its node knows it.
fn pod(service: &str, (address, node): &(IpAddr, &str)) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
           "metadata": {"namespace": "shop", "name": format!("{service}-{node}-{address}")},
           "spec": {"nodeName": node}, "status": {"podIPs": [{"ip": address}]}})
}

/// The slice of a Service whose endpoints listen at one port, each on a node.
fn slice(service: &str, port: u16, protocol: &str, endpoints: &[(IpAddr, &str)]) -> Value {
    let endpoint = |(address, node): &(IpAddr, &str)| {
        json!({"addresses": [address], "nodeName": node,
               "targetRef": {"kind": "Pod", "namespace": "shop", "name": format!("{service}-{node}-{address}")}})
    };
    let family = if endpoints[0].0.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
           "metadata": {"namespace": "shop", "name": service, "labels": {"kubernetes.io/service-name": service}},
           "ports": [{"port": port, "protocol": protocol}],
           "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>()})
}

type End = (quinn::Endpoint, quinn::Connection);

async fn connections(transport: Arc<quinn::TransportConfig>) -> (End, End) {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
    let certified = rcgen::generate_simple_self_signed(["test".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let certificate = certified.cert.der().clone();
    let mut server = quinn::ServerConfig::with_single_cert(vec![certificate.clone()], key).unwrap();
    server.transport_config(transport.clone());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    client.transport_config(transport);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (b, a) = (quinn::Endpoint::server(server, any).unwrap(), quinn::Endpoint::client(any).unwrap());
    let connecting = a.connect_with(client, b.local_addr().unwrap(), "test").unwrap();
    let (to_b, from_a) = tokio::join!(connecting, async { b.accept().await.unwrap().await });
    ((a, to_b.unwrap()), (b, from_a.unwrap()))
}
