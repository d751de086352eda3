//! What the kernel should do, as the mesh agent derives it from the model.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use edgeloom_model::Protocol;
use ipnet::IpNet;

/// Where clients call: a ClusterIP, an external IP or one of the node's own addresses (NodePort),
/// with the port and protocol of one Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    pub addr: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{}/{protocol}", SocketAddr::new(self.addr, self.port))
    }
}

/// What becomes of a call to a [`Frontend`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The socket is pointed at one of the backends, chosen at random; a client (network namespace)
    /// keeps its backend while it calls again within `affinity`. Backends must be of the frontend's
    /// address family. An empty list is [`Target::Refuse`].
    ///
    /// Packets that never passed a socket of this host's cgroup (a neighbour's, a virtual machine's)
    /// cannot be pointed anywhere and reach the agent's sockets, as with [`Target::Far`].
    Near { backends: Vec<SocketAddr>, affinity: Option<Duration> },
    /// Packets reach the agent's sockets with their destination intact.
    Far,
    /// Nothing can answer: connects fail at once with `EHOSTUNREACH`.
    Refuse,
}

/// All that the datapath should hold; what is absent is removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    pub services: BTreeMap<Frontend, Target>,
    /// Ranges of Service addresses, routed to this host. A port in them that is no [`Frontend`]'s
    /// refuses.
    pub service_ranges: BTreeSet<IpNet>,
    /// Pod ranges of other sites, routed to this host. Every address and port in them is the agent's.
    pub pod_ranges: BTreeSet<IpNet>,
}
