//! Nodes of one cluster in one process, on the loopback interface.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use edgeloom_model::{NodeName, Site};
use edgeloom_tunnel::identity::{Authority, Claims, Identity, Role, Trust};
use edgeloom_tunnel::{
    Accepted, Alpn, Carriers, Config, Path, Peer, PeerId, PeerStatus, RelayPeer, Stream, Tunnel,
};
use prometheus::Registry;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

/// A cluster's CA.
pub(crate) struct Cluster {
    authority: Authority,
    name: &'static str,
}

impl Cluster {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { authority: Authority::generate(name, SystemTime::now()).unwrap(), name }
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::new(self.name, [self.authority.certificate()]).unwrap()
    }

    pub(crate) async fn node(&self, name: &str, config: Config) -> Node {
        self.node_with(name, Arc::new(Identity::generate().unwrap()), config).await
    }

    /// A node that answers each stream with what it read, and says hello to nobody by itself.
    pub(crate) async fn node_with(&self, name: &str, identity: Arc<Identity>, config: Config) -> Node {
        self.node_until(name, identity, config, SystemTime::now() + Duration::from_secs(3600)).await
    }

    /// As [`Self::node_with`], with a credential that ends then.
    pub(crate) async fn node_until(
        &self,
        name: &str,
        identity: Arc<Identity>,
        config: Config,
        end: SystemTime,
    ) -> Node {
        let expires = end.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = Claims {
            cluster: self.name.to_owned(),
            node: name.to_owned(),
            node_uid: format!("uid-{name}"),
            peer: identity.peer_id().to_bytes().into(),
            site: format!("site-{name}"),
            roles: [if config.relay { Role::Relay } else { Role::Edge }].into_iter().collect(),
            not_before: expires - 7200,
            expires,
            serial: 1,
        };
        let credential = self.authority.sign(&claims).unwrap();
        let registry = Registry::new();
        let (tunnel, mut incoming) =
            Tunnel::start(config, identity.clone(), credential, self.trust(), &registry).await.unwrap();
        let (arrived, datagrams) = mpsc::channel(16);
        let echo = tokio::spawn(async move {
            while let Some(accepted) = incoming.accept().await {
                match accepted {
                    Accepted::Stream { mut stream, .. } => drop(tokio::spawn(async move {
                        let _ = tokio::io::copy(&mut stream.recv, &mut stream.send).await;
                        let _ = stream.send.finish();
                    })),
                    Accepted::Datagram { bytes, .. } => arrived.send(bytes).await.unwrap(),
                    Accepted::Join { .. } => panic!("nobody joins here"),
                    Accepted::Lan { .. } => panic!("no path here is a LAN's"),
                }
            }
        });
        Node { name: name.to_owned(), identity, tunnel, registry, datagrams: Mutex::new(datagrams), echo }
    }
}

/// A running node.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) identity: Arc<Identity>,
    pub(crate) tunnel: Tunnel,
    pub(crate) registry: Registry,
    datagrams: Mutex<mpsc::Receiver<Bytes>>,
    echo: JoinHandle<()>,
}

impl Node {
    pub(crate) fn id(&self) -> PeerId {
        self.tunnel.peer_id()
    }

    pub(crate) fn as_peer(&self) -> Peer {
        Peer {
            peer: self.id(),
            node: NodeName::new(self.name.clone()).unwrap(),
            site: Site::new(format!("site-{}", self.name)).unwrap(),
            addresses: Vec::new(),
        }
    }

    pub(crate) fn status_of(&self, peer: &Node) -> PeerStatus {
        self.tunnel.peers().into_iter().find(|status| status.peer == peer.id()).expect("a known peer")
    }

    /// Sum of a counter or gauge over its labels.
    pub(crate) fn counter(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect("a registered metric");
        family
            .get_metric()
            .iter()
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }

    /// The next datagram that came in.
    pub(crate) async fn datagram(&self) -> Bytes {
        self.datagrams.lock().await.recv().await.expect("the node runs")
    }

    /// Sends `bytes` to `peer` and gets them back.
    pub(crate) async fn echo(&self, peer: &Node, bytes: usize) -> Result<(), String> {
        let mut stream = self.tunnel.open(peer.id(), Alpn::Mesh).await.map_err(|error| error.to_string())?;
        exchange(&mut stream, bytes).await
    }

    /// Stops without a word to anybody, as a SIGKILL does.
    pub(crate) fn kill(self) -> Arc<Identity> {
        self.echo.abort();
        self.tunnel.abort();
        self.identity
    }

    pub(crate) async fn until_path(&self, peer: &Node, wanted: impl Fn(&Path) -> bool) -> Path {
        let wait = async {
            loop {
                let path = self.status_of(peer).path;
                if wanted(&path) {
                    return path;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .unwrap_or_else(|_| panic!("the path stays {}", self.status_of(peer).path))
    }
}

/// Sends and receives on `stream` at the same time.
pub(crate) async fn exchange(stream: &mut Stream, bytes: usize) -> Result<(), String> {
    let sent: Vec<u8> = (0..bytes).map(|index| (index % 251) as u8).collect();
    let send = async {
        stream.send.write_all(&sent).await.map_err(|error| format!("{error}: {error:?}"))?;
        stream.send.finish().map_err(|error| error.to_string())
    };
    let receive =
        async { stream.recv.read_to_end(bytes + 1).await.map_err(|error| format!("{error}: {error:?}")) };
    let (_, received) = tokio::try_join!(send, receive)?;
    if received == sent { Ok(()) } else { Err(format!("{} of {bytes} bytes came back", received.len())) }
}

/// A node on the loopback interface, with `relay` to register with.
pub(crate) fn config(relay: Option<&Relay>) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        libp2p: false,
        relays: relay.map(|relay| relay.peer.clone()).into_iter().collect(),
        ..Config::default()
    }
}

/// Where the relay of a test is; known before it runs, so that it can be started again.
pub(crate) struct Relay {
    pub(crate) peer: RelayPeer,
    pub(crate) identity: Arc<Identity>,
    pub(crate) address: SocketAddr,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) libp2p: bool,
    pub(crate) carriers: Carriers,
}

impl Relay {
    pub(crate) fn new() -> Self {
        let identity = Arc::new(Identity::generate().unwrap());
        let address = edgeloom_ports::free();
        Self {
            peer: RelayPeer { peer: identity.peer_id(), addresses: vec![address] },
            identity,
            address,
            state_dir: None,
            libp2p: false,
            carriers: Carriers::default(),
        }
    }

    pub(crate) async fn start(&self, cluster: &Cluster) -> Node {
        let state_dir = self.state_dir.clone();
        let config = Config {
            listen: self.address,
            relay: true,
            libp2p: self.libp2p,
            state_dir,
            carriers: self.carriers.clone(),
            ..Config::default()
        };
        cluster.node_with("relay", self.identity.clone(), config).await
    }
}
