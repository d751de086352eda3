//! A client of this node's: choose an endpoint, reach it, carry the bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeloom_model::Protocol;
use edgeloom_tunnel::PeerId;
use tokio::io::{AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::early::{ByLan, Early, Failed, code_of};
use super::ends::Socket;
use super::metrics::{By, Ended};
use super::splice::{InHand, splice};
use super::{Attempt, MAX_ATTEMPTS, Plan, Proxy, Via};
use crate::stream::{Inlet, Outlet, guarded, guarded_lan};
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
        let flow = Flow { from, to, begun: Instant::now() };
        let ended = self.try_all(socket, flow).await;
        if ended == Ended::NoEndpoint {
            tracing::debug!(%from, %to, "refused: no endpoint, or nothing is served at this address");
        }
        self.metrics.connections("outgoing", ended);
    }

    /// Tries one endpoint after the other. Which is next is decided anew: others learn meanwhile what answers,
    /// and the flows of a client with session affinity stay together.
    async fn try_all(&self, mut socket: Socket, flow: Flow) -> Ended {
        let mut early = Early::default();
        let mut last = Ended::NoEndpoint;
        let mut tried = Vec::new();
        // Once more to the only endpoint, if it was the way there that was lost.
        let mut again = None;
        while tried.len() < MAX_ATTEMPTS {
            let plan = match again.take() {
                Some(plan) => plan,
                None => self.plan(flow.from, flow.to, Protocol::Tcp, &tried),
            };
            let Some(attempt) = plan.attempts.first() else { break };
            let failed = match self.attempt(socket, &mut early, &plan, attempt, flow).await {
                Tried::Carried(ended) => return ended,
                Tried::Failed(back, failed) => {
                    socket = back;
                    failed
                }
            };
            last = self.failed(attempt, &failed, flow);
            if !failed.may_try_again(early.len()) {
                break;
            }
            tried.push(attempt.id.clone());
            let is_only = tried.len() == 1 && plan.attempts.len() == 1;
            again = (is_only && matches!(failed, Failed::Lost(_))).then_some(plan);
        }
        last
    }

    async fn attempt(
        &self,
        socket: Socket,
        early: &mut Early,
        plan: &Plan,
        attempt: &Attempt,
        flow: Flow,
    ) -> Tried {
        self.balancer().opened(&attempt.id, Instant::now());
        let _open = Opened { proxy: self, attempt };
        let tried = match attempt.via {
            Via::Direct => self.direct(socket, early, attempt, flow).await,
            Via::Node(peer) => self.through(socket, early, plan, attempt, peer, flow).await,
        };
        if let Tried::Carried(ended) = &tried {
            let Flow { from, to, .. } = flow;
            tracing::debug!(%from, %to, endpoint = %attempt.id.address, ?ended, "flow ended");
            if let Some((client, life)) = &plan.client {
                self.balancer().touch(client, &attempt.id, *life, Instant::now());
            }
        }
        tried
    }

    /// Takes note of an endpoint that was reached.
    fn reached(&self, attempt: &Attempt, flow: Flow) {
        self.balancer().connected(&attempt.id);
        self.metrics.connect_seconds.observe(flow.begun.elapsed().as_secs_f64());
    }

    /// Takes note of a failed attempt: whose fault it was, and what to call it.
    fn failed(&self, attempt: &Attempt, failed: &Failed, Flow { from, to, .. }: Flow) -> Ended {
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
        flow: Flow,
    ) -> Tried {
        let Some(header) = self.header(plan, attempt, flow.from, Protocol::Tcp) else {
            return Tried::Failed(socket, Failed::Refused(Code::NotHere));
        };
        let preface = Preface::Tcp(header).encode();
        match self.by_lan(peer, &preface).await {
            None => {}
            Some(Err(failed)) => return Tried::Failed(socket, failed),
            Some(Ok((outlet, inlet))) => {
                let hand = match early.in_hand(socket.tcp()) {
                    Ok(hand) => hand,
                    Err(failed) => return Tried::Failed(socket, failed),
                };
                let way = Way { by: By::Tcp, outlet, inlet, hand };
                return self.carry_flow(socket, early, way, attempt, flow).await;
            }
        }
        let stream = match self.carrier.open(peer).await {
            Ok(stream) => stream,
            Err(error) => return Tried::Failed(socket, Failed::NoWay(error.to_string())),
        };
        let (mut outlet, mut inlet) = guarded(stream);
        let limit = self.answer_limit();
        let reached = tokio::select! {
            reached = early.reach(socket.tcp(), &preface, &mut outlet, &mut inlet, limit) => reached,
            () = self.force.cancelled() => return Tried::Failed(socket, Failed::Refused(Code::Leaving)),
        };
        let hand = match reached {
            Ok(hand) => hand,
            Err(failed) => return Tried::Failed(socket, failed),
        };
        self.carry_flow(socket, early, Way { by: By::Quic, outlet, inlet, hand }, attempt, flow).await
    }

    /// How long the other agent may be silent.
    fn answer_limit(&self) -> Duration {
        self.connect_timeout + PATH_GRACE
    }

    /// By a TCP connection to a node on the LAN, if that is the better way and one is at hand: both halves of it where
    /// the target was reached, or why it was not. None: by QUIC, as if nothing had been.
    async fn by_lan(&self, peer: PeerId, preface: &[u8]) -> Option<Result<(Outlet, Inlet), Failed>> {
        let (mut outlet, mut inlet) = guarded_lan(self.lan_tcp.take(peer)?);
        let reached = Early::reach_by_lan(preface, &mut outlet, &mut inlet, self.answer_limit());
        match self.force.run_until_cancelled(reached).await? {
            Ok(()) => {
                self.lan_tcp.proved(peer);
                Some(Ok((outlet, inlet)))
            }
            Err(ByLan::Failed(failed)) => Some(Err(failed)),
            Err(ByLan::Dead(why)) => {
                let node = self.snapshot.load().name_of(&peer);
                tracing::info!(node, why, "a TCP connection on the LAN is dead: the flow goes by QUIC");
                self.metrics.lan_dead.inc();
                self.lan_tcp.dead(peer);
                None
            }
        }
    }

    /// Carries the bytes of a flow that has reached its endpoint.
    async fn carry_flow(
        &self,
        socket: Socket,
        early: &mut Early,
        way: Way,
        attempt: &Attempt,
        flow: Flow,
    ) -> Tried {
        let Way { by, outlet, inlet, hand } = way;
        self.reached(attempt, flow);
        self.metrics.flow("outgoing", by);
        let carried = self.metrics.carried();
        carried.sent.inc_by(early.len() as u64);
        early.forget();
        let result = tokio::select! {
            result = splice(socket, outlet, inlet, hand, &carried) => result,
            () = self.force.cancelled() => return Tried::Carried(Ended::Refused(Code::Leaving)),
        };
        if let Err(broken) = &result {
            tracing::debug!(from = %flow.from, %broken, "flow broken off");
        }
        Tried::Carried(if result.is_ok() { Ended::Complete } else { Ended::Reset })
    }

    /// To an endpoint of this node or site, for packets that never passed a socket of this host: the
    /// kernel could not point those at it.
    async fn direct(&self, mut socket: Socket, early: &mut Early, attempt: &Attempt, flow: Flow) -> Tried {
        let target = match timeout(self.connect_timeout, TcpStream::connect(attempt.id.address)).await {
            Err(_) => return Tried::Failed(socket, Failed::TimedOut(self.connect_timeout)),
            Ok(Err(error)) => return Tried::Failed(socket, Failed::Refused(code_of(&error))),
            Ok(Ok(target)) => target,
        };
        self.reached(attempt, flow);
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
            () = self.force.cancelled() => return Tried::Carried(Ended::Refused(Code::Leaving)),
        };
        if result.is_err() {
            return Tried::Carried(Ended::Reset);
        }
        socket.complete();
        target.complete();
        Tried::Carried(Ended::Complete)
    }
}

/// By what a flow reached its endpoint.
struct Way {
    by: By,
    outlet: Outlet,
    inlet: Inlet,
    hand: InHand,
}

/// A steered connection.
#[derive(Clone, Copy)]
struct Flow {
    from: SocketAddr,
    to: SocketAddr,
    /// When it was taken.
    begun: Instant,
}

enum Tried {
    Carried(Ended),
    Failed(Socket, Failed),
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
