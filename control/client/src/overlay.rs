//! What the session does to the overlay, and how it reaches the control through it.

use std::io;

use edgeloom_tunnel::identity::{SignedCredential, Trust};
use edgeloom_tunnel::{Alpn, Bounds, Peer, PeerId, RelayPeer, Tunnel};
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

/// The overlay as the session sees it. [`TunnelOverlay`] is the real one; tests have one in memory.
pub trait Overlay: Send + Sync + 'static {
    /// Opens a `hub/1` stream to the control.
    fn open_hub(&self) -> BoxFuture<'_, io::Result<Pipe>>;
    /// Replaces the members of the mesh.
    fn set_peers(&self, peers: Vec<Peer>);
    /// Replaces the relays.
    fn set_relays(&self, relays: Vec<RelayPeer>);
    /// Replaces whom this node believes.
    fn set_trust(&self, trust: Trust);
    /// Replaces what the node's site allows.
    fn set_bounds(&self, bounds: Bounds);
    /// Replaces what this node shows of itself.
    fn set_credential(&self, credential: SignedCredential);
}

/// The control at the other end of a [`Tunnel`].
#[derive(Clone, Debug)]
pub struct TunnelOverlay {
    tunnel: Tunnel,
    control: PeerId,
}

impl TunnelOverlay {
    /// The way to `control` through `tunnel`.
    pub fn new(tunnel: Tunnel, control: PeerId) -> Self {
        Self { tunnel, control }
    }
}

impl Overlay for TunnelOverlay {
    fn open_hub(&self) -> BoxFuture<'_, io::Result<Pipe>> {
        Box::pin(async {
            let stream = self.tunnel.open(self.control, Alpn::Hub).await.map_err(io::Error::other)?;
            Ok(Pipe { read: Box::new(stream.recv), write: Box::new(stream.send) })
        })
    }

    fn set_peers(&self, peers: Vec<Peer>) {
        self.tunnel.set_peers(peers);
    }

    fn set_relays(&self, relays: Vec<RelayPeer>) {
        self.tunnel.set_relays(relays);
    }

    fn set_trust(&self, trust: Trust) {
        self.tunnel.set_trust(trust);
    }

    fn set_bounds(&self, bounds: Bounds) {
        self.tunnel.set_bounds(bounds);
    }

    fn set_credential(&self, credential: SignedCredential) {
        if let Err(error) = self.tunnel.set_credential(credential) {
            tracing::error!(%error, "showing the renewed credential");
        }
    }
}
