//! Two nodes of one cluster on the loopback interface.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus::Registry;

use crate::alpn::Alpn;
use crate::identity::{Authority, Claims, Identity, Role, SignedCredential, Trust};
use crate::{Config, Incoming, LanStream, Limits, Peer, Stream, Tunnel};

/// Life of the first credentials, in seconds; so much of it is over.
pub(crate) const LIFE: u64 = 600;
pub(crate) const OVER: u64 = 60;
/// How long a stream may take between two nodes of one host.
const PATIENCE: Duration = Duration::from_secs(10);

/// A cluster's CA with two nodes that know each other's address.
pub(crate) struct Bench {
    authority: Authority,
    pub(crate) a: Node,
    pub(crate) b: Node,
}

pub(crate) struct Node {
    name: &'static str,
    identity: Arc<Identity>,
    pub(crate) tunnel: Tunnel,
    incoming: Incoming,
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn credential(
    authority: &Authority,
    name: &str,
    identity: &Identity,
    not_before: u64,
    life: u64,
) -> SignedCredential {
    let claims = Claims {
        cluster: "test".to_owned(),
        node: name.to_owned(),
        node_uid: format!("uid-{name}"),
        peer: identity.peer_id().to_bytes().into(),
        site: "site".to_owned(),
        roles: [Role::Edge].into_iter().collect(),
        not_before,
        expires: not_before + life,
        serial: not_before,
    };
    authority.sign(&claims).unwrap()
}

async fn node(authority: &Authority, name: &'static str, limits: &Limits) -> Node {
    let listen = "127.0.0.1:0".parse().unwrap();
    start(authority, name, Config { listen, limits: limits.clone(), ..Config::default() }).await
}

async fn start(authority: &Authority, name: &'static str, config: Config) -> Node {
    let identity = Arc::new(Identity::generate().unwrap());
    let shown = credential(authority, name, &identity, seconds(SystemTime::now()) - OVER, LIFE);
    let trust = Trust::new("test", [authority.certificate()]).unwrap();
    let config = Config { libp2p: false, ..config };
    let (tunnel, incoming) =
        Tunnel::start(config, identity.clone(), shown, trust, &Registry::new()).await.unwrap();
    Node { name, identity, tunnel, incoming }
}

impl Bench {
    pub(crate) async fn new(limits: Limits) -> Self {
        Self::unlike(limits.clone(), limits).await
    }

    /// Whose nodes are not bounded alike.
    pub(crate) async fn unlike(a: Limits, b: Limits) -> Self {
        let authority = Authority::generate("test", SystemTime::now()).unwrap();
        let (a, b) = (node(&authority, "a", &a).await, node(&authority, "b", &b).await);
        a.tunnel.set_peers(vec![b.as_peer()]);
        b.tunnel.set_peers(vec![a.as_peer()]);
        Self { authority, a, b }
    }

    /// Where flows from `b` to `a` may go over TCP: `a` announced itself on the LAN.
    pub(crate) async fn on_lan() -> Self {
        let authority = Authority::generate("test", SystemTime::now()).unwrap();
        let config = || Config { listen: edgeloom_ports::free(), lan_tcp: true, ..Config::default() };
        let (a, b) = (start(&authority, "a", config()).await, start(&authority, "b", config()).await);
        b.tunnel.set_peers(vec![Peer { addresses: Vec::new(), ..a.as_peer() }]);
        let announced = vec![(a.tunnel.peer_id(), a.tunnel.local_address())];
        b.tunnel.parts().2.lock().neighbours(Instant::now(), announced);
        a.tunnel.set_peers(vec![b.as_peer()]);
        let mut bench = Self { authority, a, b };
        bench.stream().await;
        let (a, b) = (bench.a.tunnel.peer_id(), bench.b.tunnel.clone());
        let found = async {
            while b.lan(a).is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("a path on the LAN");
        bench
    }

    /// Both ends of a flow from `b` to `a` over TCP.
    pub(crate) async fn lan_flow(&mut self) -> (LanStream, LanStream) {
        let dialled = self.b.tunnel.dial_lan(self.a.tunnel.peer_id()).await.unwrap();
        let arrived = tokio::time::timeout(PATIENCE, self.a.incoming.accept()).await;
        let Ok(Some(crate::Accepted::Lan { stream, .. })) = arrived else { panic!("a flow over TCP") };
        (dialled, stream)
    }

    /// Both nodes get a credential of a day.
    pub(crate) fn renew_credentials(&self) {
        for node in [&self.a, &self.b] {
            let now = seconds(SystemTime::now());
            let shown = credential(&self.authority, node.name, &node.identity, now, 86_400);
            node.tunnel.set_credential(shown).unwrap();
        }
    }

    /// What the timer does, `later` than now, at both nodes.
    pub(crate) async fn renew(&self, later: Duration) -> usize {
        let mut renewed = 0;
        for node in [&self.a, &self.b] {
            let (connections, dialler, engine) = node.tunnel.parts();
            for key in connections.ending(SystemTime::now() + later, Instant::now() + later) {
                connections.renew(dialler, engine, key).await;
                renewed += 1;
            }
        }
        renewed
    }

    pub(crate) fn recheck(&self, later: Duration) {
        for node in [&self.a, &self.b] {
            let (connections, ..) = node.tunnel.parts();
            let trust = connections.guard.trust().unwrap();
            connections.recheck(&trust, SystemTime::now() + later);
        }
    }

    /// A stream from `a` to `b`, with both of its ends.
    pub(crate) async fn stream(&mut self) -> (Stream, Stream) {
        let mut near = self.a.tunnel.open(self.b.tunnel.peer_id(), Alpn::Mesh).await.unwrap();
        near.send.write_all(b"hello").await.unwrap();
        let arrived = tokio::time::timeout(PATIENCE, self.b.incoming.accept()).await;
        let Ok(Some(crate::Accepted::Stream { stream: mut far, .. })) = arrived else {
            panic!("a stream that does not arrive")
        };
        far.recv.read_exact(&mut [0; 5]).await.unwrap();
        (near, far)
    }
}

impl Node {
    fn as_peer(&self) -> Peer {
        Peer {
            peer: self.tunnel.peer_id(),
            node: edgeloom_model::NodeName::new(self.name).unwrap(),
            site: edgeloom_model::Site::new("site").unwrap(),
            addresses: vec![self.tunnel.local_address()],
        }
    }

    /// How often it refused a connection because its peer had as many as it may.
    pub(crate) fn refused(&self) -> u64 {
        self.tunnel.parts().0.metrics.links.refused.with_label_values(&["connections"]).get()
    }

    pub(crate) fn connections(&self) -> usize {
        self.tunnel.parts().0.lock().values().map(Vec::len).sum()
    }
}

pub(crate) async fn passes((near, far): &mut (Stream, Stream)) -> bool {
    let there = async {
        far.send.write_all(b"x").await.ok()?;
        near.recv.read_exact(&mut [0]).await.ok()
    };
    there.await.is_some()
}
