//! One HTTP request to one edge node, over a `kubelet/1` stream of the overlay.
//!
//! The request goes out as it came, less what concerns only the first hop. An answer that switches
//! protocols (SPDY, WebSocket) joins the two connections, and the bytes pass untouched from then on.

use std::time::Duration;

use edgeloom_tunnel::{Alpn, OpenError, PeerId, Tunnel};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Incoming};
use hyper_util::rt::TokioIo;
use tokio_util::task::TaskTracker;

use crate::https::Body;

/// How long a node may take before the first line of its answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Why a request did not get an answer from the node.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No stream to the node.
    #[error(
        "node {node} is not reachable over the overlay: {source}; check that edgecore runs there and has a way out; \
         `kubectl describe node {node}` shows when it was heard last"
    )]
    Open {
        /// The node's name.
        node: String,
        /// What the tunnel said.
        source: OpenError,
    },
    /// The stream broke before an answer.
    #[error("node {node} broke off: {source}; its log (edgecore) says why")]
    Broken {
        /// The node's name.
        node: String,
        /// What HTTP made of it.
        source: hyper::Error,
    },
    /// The node took the request and said nothing.
    #[error(
        "node {node} did not answer within {} s; check that edgecore runs there and has a way out; \
         `kubectl describe node {node}` shows when it was heard last",
        .waited.as_secs()
    )]
    Silent {
        /// The node's name.
        node: String,
        /// How long was waited.
        waited: Duration,
    },
}

impl ForwardError {
    /// The status a gateway gives for it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Silent { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Open { .. } | Self::Broken { .. } => StatusCode::BAD_GATEWAY,
        }
    }
}

/// The way to the edge nodes; what it starts are tasks of `tasks`.
#[derive(Clone)]
pub struct Forwarder {
    tunnel: Tunnel,
    tasks: TaskTracker,
}

impl Forwarder {
    /// Forwards over `tunnel`.
    pub fn new(tunnel: Tunnel, tasks: TaskTracker) -> Self {
        Self { tunnel, tasks }
    }

    /// Passes `request` on to `node`, whose peer is `peer`, and its answer back.
    pub async fn send<B>(
        &self,
        node: &str,
        peer: PeerId,
        mut request: Request<B>,
    ) -> Result<Response<Body>, ForwardError>
    where
        B: HttpBody + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let broken = |source| ForwardError::Broken { node: node.to_owned(), source };
        let stream = self
            .tunnel
            .open(peer, Alpn::Kubelet)
            .await
            .map_err(|source| ForwardError::Open { node: node.to_owned(), source })?;
        let stream = TokioIo::new(tokio::io::join(stream.recv, stream.send));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(broken)?;
        self.tasks.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "stream to a node ended");
            }
        });
        let upgrade = request.headers().contains_key(http::header::UPGRADE);
        let client = upgrade.then(|| hyper::upgrade::on(&mut request));
        let request = for_the_next_hop(request, node, upgrade);
        let answer = tokio::time::timeout(ANSWER, sender.send_request(request)).await;
        let mut response = answer
            .map_err(|_| ForwardError::Silent { node: node.to_owned(), waited: ANSWER })?
            .map_err(broken)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(client) = client
        {
            self.join(client, hyper::upgrade::on(&mut response));
        }
        Ok(response.map(|body: Incoming| body.map_err(Into::into).boxed_unsync()))
    }

    /// Joins two connections that both switched protocols, until both directions have ended.
    fn join(&self, client: hyper::upgrade::OnUpgrade, node: hyper::upgrade::OnUpgrade) {
        self.tasks.spawn(async move {
            match tokio::try_join!(client, node) {
                Ok((client, node)) => {
                    let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
                    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut node).await {
                        tracing::debug!(%error, "an upgraded stream ended");
                    }
                }
                Err(error) => tracing::debug!(%error, "a protocol switch failed"),
            }
        });
    }
}

/// Strips what concerns only the first hop; credentials stop here, the node trusts the control.
fn for_the_next_hop<B>(mut request: Request<B>, node: &str, upgrade: bool) -> Request<B> {
    *request.version_mut() = http::Version::HTTP_11;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    *request.uri_mut() = path.parse().unwrap_or_else(|_| http::Uri::from_static("/"));
    let headers = request.headers_mut();
    headers.remove(http::header::AUTHORIZATION);
    if !upgrade {
        headers.remove(http::header::CONNECTION);
    }
    let host = http::HeaderValue::from_str(node).unwrap_or(http::HeaderValue::from_static("node"));
    headers.insert(http::header::HOST, host);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stop_at_the_control_and_upgrades_go_through() {
        let request = Request::post("https://10.0.0.1:19000/exec/shop/web/app?command=sh")
            .header("authorization", "Bearer secret")
            .header("connection", "Upgrade")
            .header("upgrade", "SPDY/3.1")
            .body(())
            .unwrap();
        let sent = for_the_next_hop(request, "edge-a", true);
        assert_eq!(sent.uri(), "/exec/shop/web/app?command=sh");
        assert_eq!(sent.headers()["host"], "edge-a");
        assert_eq!(sent.headers()["upgrade"], "SPDY/3.1");
        assert_eq!(sent.headers()["connection"], "Upgrade");
        assert!(!sent.headers().contains_key("authorization"));
    }
}
