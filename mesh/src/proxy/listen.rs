//! Accepting what the kernel steered here. An accepted connection's own address is the one that the
//! client called.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Proxy;

/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Proxy {
    /// Accepts clients' connections until `stop` is cancelled; each is served by a task of its own.
    pub async fn accept(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let own = listener.local_addr().ok();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted.and_then(|(client, from)| Ok((client.local_addr()?, client, from))) {
                // Called at the listener's own address: nothing was steered, so nothing is meant.
                Ok((to, ..)) if Some(to) == own => {}
                Ok((to, client, from)) => {
                    self.tasks.spawn(self.clone().outgoing(client, from, to));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a steered connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}
