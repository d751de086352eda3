//! Two nodes for tests: `a1` at site `a` calls, `b1` at site `b` answers, and one real QUIC connection is
//! all that is between them.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use edgeloom_model::{Model, NodeName, Site};
use edgeloom_tunnel::identity::{Authority, Claims, Guard, Identity, Role, Trust};
use edgeloom_tunnel::{DatagramError, LanError, LanPeer, LanStream, OpenError, PeerId, Stream, Verified};
use futures::FutureExt;
use futures::future::BoxFuture;
use prometheus::Registry;
use quinn::crypto::rustls::QuicClientConfig;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::carrier::Carrier;
use crate::config::Settings;
use crate::proxy::{Metrics, Proxy};
use crate::snapshot::{Place, Snapshot};

/// A node's end of the one connection.
pub(crate) struct Wire {
    pub(crate) connection: quinn::Connection,
    pub(crate) peer: PeerId,
    /// Where the other node takes TCP, as if on a LAN.
    pub(crate) lan: Mutex<Option<LanPeer>>,
    guard: Guard,
    _endpoint: quinn::Endpoint,
}

impl Carrier for Wire {
    fn open(&self, peer: PeerId) -> BoxFuture<'_, Result<Stream, OpenError>> {
        async move {
            if peer != self.peer {
                return Err(OpenError::UnknownPeer(peer.into()));
            }
            let opened = self.connection.open_bi().await;
            let opened = opened.map_err(|error| OpenError::Lost(peer.into(), error.to_string()))?;
            Ok(opened.into())
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

    fn uses_lan_tcp(&self) -> bool {
        self.lan.lock().unwrap().is_some()
    }

    fn lan(&self, peer: PeerId) -> Option<LanPeer> {
        (*self.lan.lock().unwrap()).filter(|_| peer == self.peer)
    }

    fn dial_lan(&self, peer: PeerId) -> BoxFuture<'_, Result<LanStream, LanError>> {
        let lan = self.lan(peer);
        async move {
            let LanPeer { address, .. } = lan.ok_or_else(|| LanError::NotOnLan(peer.into()))?;
            edgeloom_tunnel::lan::dial(&self.guard, peer, address).await
        }
        .boxed()
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
    let authority = Authority::generate("test", SystemTime::now()).unwrap();
    let (guard_a, guard_b) = (guard(&authority, "a1", "a"), guard(&authority, "b1", "b"));
    let (peer_a, peer_b) = (guard_a.identity().peer_id(), guard_b.identity().peer_id());
    let ((end_a, a), (end_b, b)) = connections(Arc::new(transport)).await;
    let members = [member("a1", "a", peer_a, "10.244.1.0/24"), member("b1", "b", peer_b, "10.244.2.0/24")];
    let node = |name, site, wire: Wire, other| node(name, site, wire, other, &members, settings);
    let wire = |connection, peer, guard, endpoint| Wire {
        connection,
        peer,
        lan: Mutex::default(),
        guard,
        _endpoint: endpoint,
    };
    let a = node("a1", "a", wire(a, peer_b, guard_a, end_a), verified("b1", "b", peer_b));
    let b = node("b1", "b", wire(b, peer_a, guard_b, end_b), verified("a1", "a", peer_a));
    for node in [&a, &b] {
        receive(node);
    }
    (a, b)
}

/// `a1` and `b1`, connected, with `b1` on the LAN of `a1`; one TCP connection between them is ready.
pub(crate) async fn pair_on_lan() -> (Node, Node) {
    let (a, b) = pair().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (proxy, guard) = (b.proxy.clone(), b.wire.guard.clone());
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            if let Ok((from, stream)) = edgeloom_tunnel::lan::accept(&guard, tcp).await {
                proxy.take_lan(Arc::new(from), stream);
            }
        }
    });
    *a.wire.lan.lock().unwrap() = Some(LanPeer { address, bytes: 0 });
    a.proxy.lan_tcp.make_ready(a.wire.peer).await;
    (a, b)
}

/// What a member of the test's cluster shows.
fn guard(authority: &Authority, node: &str, site: &str) -> Guard {
    let identity = Arc::new(Identity::generate().unwrap());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = Claims {
        cluster: "test".into(),
        node: node.into(),
        node_uid: "uid".into(),
        peer: identity.peer_id().to_bytes().into(),
        site: site.into(),
        roles: [Role::Edge].into_iter().collect(),
        not_before: now - 60,
        expires: now + 3600,
        serial: 1,
    };
    let trust = Trust::new("test", [authority.certificate()]).unwrap();
    Guard::new(identity, Some(authority.sign(&claims).unwrap()), Some(trust)).unwrap()
}

/// Hands the node what arrives, as the tunnel would.
fn receive(node: &Node) {
    let (proxy, connection, from) = (node.proxy.clone(), node.wire.connection.clone(), node.other.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Ok(halves) = connection.accept_bi() => proxy.take(from.clone(), halves.into()),
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
