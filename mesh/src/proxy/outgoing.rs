//! A client of this node's: choose an endpoint, reach it, carry the bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeloom_model::Protocol;
use edgeloom_tunnel::PeerId;
use tokio::io::{AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::early::{Early, Failed, code_of};
use super::ends::{Socket, guarded};
use super::metrics::Ended;
use super::splice::splice;
use super::{Attempt, Plan, Proxy, Via};
use crate::wire::{Code, Preface};

/// How long the other agent may take over a round trip and a connect of its own, beyond that connect's
/// own bound: a relayed path at the far end of the world.
const PATH_GRACE: Duration = Duration::from_secs(3);

/// Buffer of either direction when a flow stays on this node.
const DIRECT_BUFFER: usize = 64 << 10;

impl Proxy {
    /// Serves a steered connection until it has ended. Refused connections are reset before any byte.
    pub(super) async fn outgoing(self: Arc<Self>, client: TcpStream, from: SocketAddr, to: SocketAddr) {
        let socket = Socket::new(client);
        let Ok(_permit) = self.outgoing.clone().try_acquire_owned() else {
            self.metrics.connections("outgoing", Ended::Busy);
            tracing::warn!(%from, %to, "refused: as many connections as maxConnections allows are open");
            return;
        };
        let _open = self.metrics.open("outgoing");
        let plan = self.plan(from, to, Protocol::Tcp);
        if plan.attempts.is_empty() {
            self.metrics.connections("outgoing", Ended::NoEndpoint);
            tracing::debug!(%from, %to, "refused: no endpoint, or nothing is served at this address");
            return;
        }
        let ended = self.try_all(socket, &plan, from, to).await;
        self.metrics.connections("outgoing", ended);
    }

    async fn try_all(&self, mut socket: Socket, plan: &Plan, from: SocketAddr, to: SocketAddr) -> Ended {
        let mut early = Early::default();
        let mut last = Ended::NoEndpoint;
        // Once more to the only endpoint, if it was the way there that was lost.
        let again = plan.attempts.first().filter(|_| plan.attempts.len() == 1);
        for (index, attempt) in plan.attempts.iter().chain(again).enumerate() {
            let begun = Instant::now();
            self.balancer().opened(&attempt.id, begun);
            let _open = Opened { proxy: self, attempt };
            let tried = match attempt.via {
                Via::Direct => self.direct(socket, &mut early, attempt).await,
                Via::Node(peer) => self.through(socket, &mut early, plan, attempt, peer, from).await,
            };
            match tried {
                Tried::Carried { connected, ended } => {
                    tracing::debug!(%from, %to, endpoint = %attempt.id.address, ?ended, "flow ended");
                    if let Some(client) = &plan.client {
                        self.balancer().keep(client.clone(), attempt.id.clone(), Instant::now());
                    }
                    self.metrics.connect_seconds.observe((connected - begun).as_secs_f64());
                    return ended;
                }
                Tried::Failed(back, failed) => {
                    socket = back;
                    last = self.failed(attempt, &failed, from, to);
                    let second = index + 1 == plan.attempts.len() && again.is_some();
                    let is_lost = matches!(failed, Failed::Lost(_));
                    if !failed.may_try_again(early.len()) || second && !is_lost {
                        break;
                    }
                }
            }
        }
        last
    }

    /// Takes note of a failed attempt: whose fault it was, and what to call it.
    fn failed(&self, attempt: &Attempt, failed: &Failed, from: SocketAddr, to: SocketAddr) -> Ended {
        let node = attempt.id.node.as_ref().map_or("this node", |node| node.as_str());
        let endpoint = attempt.id.address;
        if matches!(failed, Failed::Client(_)) {
            tracing::debug!(%from, %to, %failed, "gone before the endpoint answered");
            return Ended::Client;
        }
        tracing::info!(%from, %to, node, %endpoint, %failed, "endpoint not reached");
        self.balancer().failed(&attempt.id, Instant::now());
        match failed {
            Failed::Refused(code) => Ended::Refused(*code),
            _ => Ended::Refused(Code::Unreachable),
        }
    }

    /// Through the agent of another node.
    async fn through(
        &self,
        socket: Socket,
        early: &mut Early,
        plan: &Plan,
        attempt: &Attempt,
        peer: PeerId,
        from: SocketAddr,
    ) -> Tried {
        let begun = Instant::now();
        let Some(header) = self.header(plan, attempt, from, Protocol::Tcp) else {
            return Tried::Failed(socket, Failed::Refused(Code::NotHere));
        };
        let preface = Preface::Tcp(header).encode();
        let stream = match self.carrier.open(peer).await {
            Ok(stream) => stream,
            Err(error) => return Tried::Failed(socket, Failed::NoWay(error.to_string())),
        };
        let (mut outlet, mut inlet) = guarded(stream);
        let limit = self.connect_timeout + PATH_GRACE;
        let reached = tokio::select! {
            reached = early.reach(socket.tcp(), &preface, &mut outlet, &mut inlet, limit) => reached,
            () = self.force.cancelled() => return Tried::Failed(socket, Failed::Refused(Code::Leaving)),
        };
        let hand = match reached {
            Ok(hand) => hand,
            Err(failed) => return Tried::Failed(socket, failed),
        };
        let connected = Instant::now();
        self.balancer().connected(&attempt.id, connected - begun);
        let carried = self.metrics.carried();
        carried.sent.inc_by(early.len() as u64);
        early.forget();
        let result = tokio::select! {
            result = splice(socket, outlet, inlet, hand, &carried) => result,
            () = self.force.cancelled() => return Tried::carried(connected, Ended::Refused(Code::Leaving)),
        };
        if let Err(broken) = &result {
            tracing::debug!(%from, %broken, "flow broken off");
        }
        Tried::carried(connected, if result.is_ok() { Ended::Complete } else { Ended::Reset })
    }

    /// To an endpoint of this node or site, for packets that never passed a socket of this host: the
    /// kernel could not point those at it.
    async fn direct(&self, mut socket: Socket, early: &mut Early, attempt: &Attempt) -> Tried {
        let begun = Instant::now();
        let target = match timeout(self.connect_timeout, TcpStream::connect(attempt.id.address)).await {
            Err(_) => return Tried::Failed(socket, Failed::TimedOut(self.connect_timeout)),
            Ok(Err(error)) => return Tried::Failed(socket, Failed::Refused(code_of(&error))),
            Ok(Ok(target)) => target,
        };
        let connected = Instant::now();
        self.balancer().connected(&attempt.id, connected - begun);
        let mut target = Socket::new(target);
        let (bytes, ended) = std::mem::take(early).into_bytes();
        let both = async {
            target.tcp_mut().write_all(&bytes).await?;
            if ended {
                target.finish()?;
            }
            let (client, target) = (socket.tcp_mut(), target.tcp_mut());
            copy_bidirectional_with_sizes(client, target, DIRECT_BUFFER, DIRECT_BUFFER).await
        };
        let result = tokio::select! {
            result = both => result,
            () = self.force.cancelled() => return Tried::carried(connected, Ended::Refused(Code::Leaving)),
        };
        if result.is_err() {
            return Tried::carried(connected, Ended::Reset);
        }
        socket.complete();
        target.complete();
        Tried::carried(connected, Ended::Complete)
    }
}

enum Tried {
    Carried { connected: Instant, ended: Ended },
    Failed(Socket, Failed),
}

impl Tried {
    fn carried(connected: Instant, ended: Ended) -> Self {
        Self::Carried { connected, ended }
    }
}

/// Counts a flow as one of its endpoint's while it lives.
struct Opened<'a> {
    proxy: &'a Proxy,
    attempt: &'a Attempt,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.proxy.balancer().closed(&self.attempt.id);
    }
}
