//! The protocols that share the raw endpoint, told apart by ALPN (RFC 7301).

use std::fmt;

/// A protocol between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alpn {
    /// Joining the cluster: the only one that admits a peer without a credential.
    Join,
    /// The session of an edge with the control.
    Hub,
    /// HTTP of kubectl's logs, exec, attach, port-forward, from the control to a node.
    Kubelet,
    /// Bytes of Services, between agents.
    Mesh,
}

impl Alpn {
    /// Every protocol.
    pub const ALL: [Alpn; 4] = [Alpn::Join, Alpn::Hub, Alpn::Kubelet, Alpn::Mesh];

    /// Name on the wire and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Alpn::Join => "join/1",
            Alpn::Hub => "hub/1",
            Alpn::Kubelet => "kubelet/1",
            Alpn::Mesh => "mesh/1",
        }
    }

    /// The protocol of this name, if it is one of ours.
    pub fn from_wire(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.as_str().as_bytes() == name)
    }
}

impl fmt::Display for Alpn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
