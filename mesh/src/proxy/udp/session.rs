//! The stream to another node's agent on which the flows of clients here are set up.

use std::sync::Arc;

use bytes::BytesMut;
use edgeloom_tunnel::{OpenError, PeerId};
use tokio::sync::mpsc;

use super::frames::{self, FrameError, FrameReader};
use super::{Proxy, QUEUE};
use crate::stream::{Broken, guarded};
use crate::wire::{Code, Frame, FrameKind, Preface};

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the stream: {0}")]
    Write(#[from] Broken),
    #[error(transparent)]
    Read(#[from] FrameError),
}

impl Proxy {
    /// The queue of the session with a peer; it is begun if there is none.
    pub(super) fn session(self: &Arc<Self>, peer: PeerId) -> mpsc::Sender<Frame> {
        let mut callers = self.udp.callers();
        if let Some(queue) = callers.sessions.get(&peer).filter(|queue| !queue.is_closed()) {
            return queue.clone();
        }
        let (queue, frames) = mpsc::channel(QUEUE);
        callers.sessions.insert(peer, queue.clone());
        let proxy = self.clone();
        self.udp_tasks.spawn(async move { proxy.run_session(peer, frames).await });
        queue
    }

    async fn run_session(self: Arc<Self>, peer: PeerId, mut frames: mpsc::Receiver<Frame>) {
        let result = tokio::select! {
            result = self.carry(peer, &mut frames) => result,
            () = self.force.cancelled() => Ok(()),
        };
        // Closed first: whoever begins a flow from here on begins a session too.
        frames.close();
        let failed = matches!(result, Err(Over::Open(_)));
        if let Err(error) = result {
            let node = self.snapshot.load().name_of(&peer);
            tracing::info!(node, %error, "the session for UDP flows is over");
        }
        self.lost(peer, failed);
    }

    async fn carry(&self, peer: PeerId, queue: &mut mpsc::Receiver<Frame>) -> Result<(), Over> {
        let (mut outlet, mut inlet) = guarded(self.carrier.open(peer).await?);
        outlet.because(Code::Leaving);
        inlet.because(Code::Leaving);
        outlet.write_all(&Preface::Udp.encode()).await?;
        let mut reader = FrameReader::new(inlet, BytesMut::new());
        let read = async {
            while let Some(Frame { flow, kind }) = reader.next().await? {
                match kind {
                    FrameKind::Opened => self.opened((peer, flow)),
                    FrameKind::Data(payload) => self.to_caller((peer, flow), &payload),
                    FrameKind::Close(code) => self.closed((peer, flow), code),
                    // Flows are opened from this side only.
                    FrameKind::Open(_) => {}
                }
            }
            Ok(())
        };
        tokio::select! {
            result = read => result,
            result = frames::write(&mut outlet, queue) => Ok(result?),
        }
    }
}
