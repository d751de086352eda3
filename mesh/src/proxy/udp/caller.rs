//! The side of the clients: what the kernel steered here, and the answers that go back.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use edgeloom_ebpf::sockets::{self, Received};
use edgeloom_model::Protocol;
use edgeloom_tunnel::PeerId;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Proxy, Used, close, send_now};
use crate::balance::EndpointId;
use crate::proxy::metrics::OpenGuard;
use crate::proxy::{Attempt, Plan, Via};
use crate::wire::{Code, Datagram, Direction, Frame, FrameKind, MAX_PAYLOAD};

/// Pause after a receive that failed for want of memory.
const PAUSE: Duration = Duration::from_millis(50);

/// A flow of a client here.
pub(super) struct CallerFlow {
    client: SocketAddr,
    called: SocketAddr,
    endpoint: EndpointId,
    /// Bound to the address called, so that answers come from there.
    reply: Arc<UdpSocket>,
    way: Way,
    pub(super) used: Used,
    _open: OpenGuard,
}

enum Way {
    /// To an endpoint that is reached from here; the guard ends the task that reads its answers.
    Direct { socket: Arc<UdpSocket>, _reader: DropGuard },
    /// Through the agent of a node.
    Far { peer: PeerId, number: u32, stream: mpsc::Sender<Frame>, opened: AtomicBool },
}

impl Proxy {
    /// Takes steered datagrams until `stop` is cancelled.
    pub async fn receive_udp(self: Arc<Self>, socket: UdpSocket, stop: CancellationToken) {
        let own = socket.local_addr().ok();
        let mut buffer = vec![0; MAX_PAYLOAD];
        while stop.run_until_cancelled(socket.readable()).await.is_some() {
            match socket.try_io(Interest::READABLE, || sockets::receive(&socket, &mut buffer)) {
                // Called at the socket's own address: nothing was steered, so nothing is meant.
                Ok(Received { to, .. }) if Some(to) == own => {}
                Ok(Received { length, from, to }) => self.from_client(from, to, &buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!(%error, "a steered datagram could not be taken");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// A datagram of a client: of a flow that is known, or the first of a new one.
    pub(in crate::proxy) fn from_client(self: &Arc<Self>, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let known = self.udp.callers().by_address.get(&(from, to)).cloned();
        match known.map_or_else(|| self.begin(from, to), Ok) {
            Ok(flow) => self.forward(&flow, payload),
            Err(reason) => self.metrics.dropped(reason),
        }
    }

    fn forward(&self, flow: &CallerFlow, payload: &[u8]) {
        flow.used.touch();
        match &flow.way {
            Way::Direct { socket, .. } => {
                // A full buffer, or an endpoint that refused before: UDP loses it.
                if send_now(socket, payload, None).is_err() {
                    self.metrics.dropped("endpoint");
                }
            }
            Way::Far { peer, number, stream, opened } if opened.load(Ordering::Acquire) => {
                let datagram = Datagram { flow: *number, direction: Direction::ToTarget, payload };
                self.send(*peer, datagram, stream);
            }
            // Not known to be set up: on the stream nothing overtakes the set-up.
            Way::Far { number, stream, .. } => self.queue(stream, *number, payload),
        }
    }

    /// Sets up a flow, or says why not.
    fn begin(self: &Arc<Self>, from: SocketAddr, to: SocketAddr) -> Result<Arc<CallerFlow>, &'static str> {
        if self.udp.callers().by_address.len() >= self.udp.max_flows {
            return Err("too_many_flows");
        }
        let plan = self.plan(from, to, Protocol::Udp, &[]);
        let attempt = plan.attempts.first().ok_or("no_endpoint")?;
        let reply = self.reply_socket(to).map_err(|error| {
            tracing::warn!(%to, %error, "no socket to answer from");
            "no_socket"
        })?;
        let way = match attempt.via {
            Via::Direct => self.direct_way(attempt.id.address, reply.clone(), (from, to)),
            Via::Node(peer) => self.far_way(peer, &plan, attempt, from),
        }?;
        let flow = Arc::new(CallerFlow {
            client: from,
            called: to,
            endpoint: attempt.id.clone(),
            reply,
            way,
            used: Used::now(),
            _open: self.metrics.udp_open("outgoing"),
        });
        self.balancer().opened(&attempt.id, Instant::now());
        let mut callers = self.udp.callers();
        if let Way::Far { peer, number, .. } = &flow.way {
            callers.by_number.insert((*peer, *number), flow.clone());
        }
        callers.by_address.insert((from, to), flow.clone());
        Ok(flow)
    }

    fn far_way(
        self: &Arc<Self>,
        peer: PeerId,
        plan: &Plan,
        attempt: &Attempt,
        from: SocketAddr,
    ) -> Result<Way, &'static str> {
        let header = self.header(plan, attempt, from, Protocol::Udp).ok_or("no_endpoint")?;
        let number = self.udp.next_flow.fetch_add(1, Ordering::Relaxed);
        let stream = self.session(peer);
        stream.try_send(Frame { flow: number, kind: FrameKind::Open(header) }).map_err(|_| "queue_full")?;
        Ok(Way::Far { peer, number, stream, opened: AtomicBool::new(false) })
    }

    fn direct_way(
        self: &Arc<Self>,
        endpoint: SocketAddr,
        reply: Arc<UdpSocket>,
        addresses: (SocketAddr, SocketAddr),
    ) -> Result<Way, &'static str> {
        let socket = Arc::new(connected(endpoint).map_err(|_| "no_socket")?);
        let stop = self.force.child_token();
        let (proxy, reader, stopped) = (self.clone(), socket.clone(), stop.clone());
        self.udp_tasks.spawn(async move {
            let copy = async {
                let mut buffer = BytesMut::new();
                while let Ok(payload) = read(&reader, &mut buffer).await {
                    // UDP loses what the client's buffer does not take.
                    let _ = send_now(&reply, &payload, Some(addresses.0));
                }
            };
            if stopped.run_until_cancelled(copy).await.is_some() {
                let refused = proxy.udp.callers().by_address.get(&addresses).cloned();
                if let Some(flow) = refused {
                    proxy.balancer().failed(&flow.endpoint, Instant::now());
                    proxy.end_caller(&flow, false);
                }
            }
        });
        Ok(Way::Direct { socket, _reader: stop.drop_guard() })
    }

    /// The socket that answers from an address: one for all flows to it.
    fn reply_socket(&self, called: SocketAddr) -> io::Result<Arc<UdpSocket>> {
        let mut callers = self.udp.callers();
        if let Some(socket) = callers.replies.get(&called).and_then(std::sync::Weak::upgrade) {
            return Ok(socket);
        }
        let socket = Arc::new(UdpSocket::from_std(sockets::reply_socket(called)?)?);
        callers.replies.insert(called, Arc::downgrade(&socket));
        Ok(socket)
    }

    /// An answer for a client.
    pub(super) fn to_caller(&self, flow: (PeerId, u32), payload: &[u8]) {
        let flow = self.udp.callers().by_number.get(&flow).cloned();
        let Some(flow) = flow else { return self.metrics.dropped("no_flow") };
        flow.used.touch();
        if send_now(&flow.reply, payload, Some(flow.client)).is_err() {
            self.metrics.dropped("client");
        }
    }

    /// The other agent knows the flow: datagrams may follow.
    pub(super) fn opened(&self, flow: (PeerId, u32)) {
        let callers = self.udp.callers();
        if let Some(Way::Far { opened, .. }) = callers.by_number.get(&flow).map(|flow| &flow.way) {
            opened.store(true, Ordering::Release);
        }
    }

    /// The other agent has ended a flow; the client's next datagram begins another.
    pub(super) fn closed(&self, flow: (PeerId, u32), code: Code) {
        let flow = self.udp.callers().by_number.get(&flow).cloned();
        let Some(flow) = flow else { return };
        if matches!(code, Code::Refused | Code::Unreachable | Code::NotHere | Code::Busy) {
            tracing::info!(to = %flow.called, endpoint = %flow.endpoint.address, reason = code.as_str(), "UDP endpoint not reached");
            self.balancer().failed(&flow.endpoint, Instant::now());
        }
        self.end_caller(&flow, false);
    }

    /// A session is over, and with it its flows.
    pub(super) fn lost(&self, peer: PeerId, failed: bool) {
        let of_peer = |flow: &&Arc<CallerFlow>| matches!(&flow.way, Way::Far { peer: p, .. } if *p == peer);
        let flows: Vec<_> = self.udp.callers().by_number.values().filter(of_peer).cloned().collect();
        for flow in flows {
            if failed {
                self.balancer().failed(&flow.endpoint, Instant::now());
            }
            self.end_caller(&flow, false);
        }
    }

    pub(super) fn end_caller(&self, flow: &CallerFlow, tell: bool) {
        let mut callers = self.udp.callers();
        let removed = callers.by_address.remove(&(flow.client, flow.called));
        if let Way::Far { peer, number, stream, .. } = &flow.way {
            callers.by_number.remove(&(*peer, *number));
            if tell {
                close(stream, *number, Code::Reset);
            }
        }
        drop(callers);
        if removed.is_some() {
            self.balancer().closed(&flow.endpoint);
        }
    }

    /// Whether a flow's endpoint may still serve its client.
    pub(super) fn is_served(&self, flow: &CallerFlow) -> bool {
        self.may_serve(flow.client, flow.called, Protocol::Udp, &flow.endpoint)
    }
}

/// A socket connected to an endpoint.
pub(super) fn connected(endpoint: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match endpoint {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(endpoint)?;
    UdpSocket::from_std(socket)
}

/// The next datagram of a connected socket, or its refusal. Nothing is held while there is none.
pub(super) async fn read(socket: &UdpSocket, buffer: &mut BytesMut) -> io::Result<bytes::Bytes> {
    loop {
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_error() {
            // An ICMP error makes the socket no more readable than it was.
            let refusal = || socket.take_error()?.ok_or_else(|| io::ErrorKind::WouldBlock.into());
            if let Ok(error) = socket.try_io(Interest::ERROR, refusal) {
                return Err(error);
            }
        }
        buffer.reserve(MAX_PAYLOAD);
        match socket.try_recv_buf(buffer) {
            Ok(_) => return Ok(buffer.split().freeze()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => *buffer = BytesMut::new(),
            Err(error) => return Err(error),
        }
    }
}
