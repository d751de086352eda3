//! What the session does to the overlay, and how it reaches the control through it.

use std::io;

use edgeloom_tunnel::identity::{SignedCredential, Trust};
use edgeloom_tunnel::{Peer, RelayPeer};
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// A bidirectional stream to the control.
pub struct Pipe {
    /// From the control.
    pub read: Box<dyn AsyncRead + Send + Unpin>,
    /// To the control.
    pub write: Box<dyn AsyncWrite + Send + Unpin>,
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipe").finish_non_exhaustive()
    }
}

/// The overlay as the session sees it. [`Tunnel`](edgeloom_tunnel::Tunnel) is one; tests have one in memory.
pub trait Overlay: Send + Sync + 'static {
    /// Opens a `hub/1` stream to the control.
    fn open_hub(&self) -> BoxFuture<'_, io::Result<Pipe>>;
    /// Replaces the members of the mesh.
    fn set_peers(&self, peers: Vec<Peer>);
    /// Replaces the relays.
    fn set_relays(&self, relays: Vec<RelayPeer>);
    /// Replaces whom this node believes.
    fn set_trust(&self, trust: Trust);
    /// Replaces what this node shows of itself.
    fn set_credential(&self, credential: SignedCredential);
}
