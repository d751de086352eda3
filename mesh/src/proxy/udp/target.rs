//! The side of the endpoints: flows that other nodes' agents opened.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use edgeloom_model::Protocol;
use edgeloom_tunnel::{PeerId, Verified};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::caller::{connected, read};
use super::frames::{self, FrameReader};
use super::{Proxy, QUEUE, Used, close, send_now};
use crate::proxy::metrics::OpenGuard;
use crate::stream::{Inlet, Outlet};
use crate::wire::{Code, Datagram, Direction, Frame, FrameKind, Header};

/// A flow to an endpoint here.
pub(super) struct TargetFlow {
    socket: Arc<UdpSocket>,
    pub(super) used: Used,
    _open: OpenGuard,
    /// Ends the task that reads the endpoint's answers.
    _reader: DropGuard,
}

/// One stream of another node's agent.
struct Opener<'a> {
    proxy: &'a Arc<Proxy>,
    from: &'a Verified,
    stream: mpsc::Sender<Frame>,
    /// Ends with the stream: so do its flows.
    stop: CancellationToken,
    flows: Vec<u32>,
}

impl Proxy {
    /// Serves the stream on which another node's agent sets up its flows, until it ends.
    pub(in crate::proxy) async fn udp_stream(
        self: &Arc<Self>,
        from: &Verified,
        rest: Bytes,
        mut outlet: Outlet,
        inlet: Inlet,
    ) {
        let (stream, mut queue) = mpsc::channel(QUEUE);
        let stop = self.force.child_token();
        let mut opener = Opener { proxy: self, from, stream, stop: stop.clone(), flows: Vec::new() };
        let mut reader = FrameReader::new(inlet, BytesMut::from(&rest[..]));
        let read = async {
            while let Some(frame) = reader.next().await? {
                opener.take(frame);
            }
            Ok::<(), frames::FrameError>(())
        };
        let result = tokio::select! {
            result = read => result.map_err(|error| error.to_string()),
            result = frames::write(&mut outlet, &mut queue) => result.map_err(|error| error.to_string()),
            () = self.force.cancelled() => Ok(()),
        };
        match result {
            Ok(()) => drop(outlet.finish().await),
            Err(error) => {
                tracing::info!(node = %from.node, %error, "a session for UDP flows broke off");
                outlet.because(Code::Malformed);
                reader.because(Code::Malformed);
            }
        }
        stop.cancel();
        let mut targets = self.udp.targets();
        for flow in opener.flows {
            targets.remove(&(from.peer, flow));
        }
    }

    /// A datagram for an endpoint here.
    pub(super) fn to_target(&self, flow: (PeerId, u32), payload: &[u8]) {
        let flow = self.udp.targets().get(&flow).cloned();
        let Some(flow) = flow else { return self.metrics.dropped("no_flow") };
        flow.used.touch();
        if send_now(&flow.socket, payload, None).is_err() {
            self.metrics.dropped("endpoint");
        }
    }
}

impl Opener<'_> {
    fn take(&mut self, Frame { flow, kind }: Frame) {
        match kind {
            FrameKind::Open(header) => match self.open(flow, &header) {
                Ok(()) => {
                    self.flows.push(flow);
                    // With a full queue the opener goes on by stream: slower, not wrong.
                    let _ = self.stream.try_send(Frame { flow, kind: FrameKind::Opened });
                }
                Err(code) => {
                    let (node, target) = (&self.from.node, &header.target);
                    tracing::info!(%node, ?target, reason = code.as_str(), "UDP flow refused");
                    close(&self.stream, flow, code);
                }
            },
            FrameKind::Data(payload) => self.proxy.to_target((self.from.peer, flow), &payload),
            FrameKind::Close(_) => {
                self.proxy.udp.targets().remove(&(self.from.peer, flow));
                self.flows.retain(|known| *known != flow);
            }
            // Said by this side only.
            FrameKind::Opened => {}
        }
    }

    fn open(&self, number: u32, header: &Header) -> Result<(), Code> {
        if header.target.protocol() != Protocol::Udp {
            return Err(Code::Malformed);
        }
        let addresses = self.proxy.snapshot.load().targets(&header.target);
        let address = *addresses.first().ok_or(Code::NotHere)?;
        if self.proxy.udp.targets().len() >= self.proxy.udp.max_flows {
            return Err(Code::Busy);
        }
        let socket = Arc::new(connected(address).map_err(|_| Code::Unreachable)?);
        let stop = self.stop.child_token();
        let flow = Arc::new(TargetFlow {
            socket: socket.clone(),
            used: Used::now(),
            _open: self.proxy.metrics.udp_open("incoming"),
            _reader: stop.clone().drop_guard(),
        });
        let answers = Answers {
            proxy: self.proxy.clone(),
            flow: Arc::downgrade(&flow),
            peer: self.from.peer,
            number,
            stream: self.stream.clone(),
        };
        self.proxy.udp_tasks.spawn(async move {
            stop.run_until_cancelled(answers.carry(&socket)).await;
        });
        self.proxy.udp.targets().insert((self.from.peer, number), flow);
        Ok(())
    }
}

/// The way back of a flow.
struct Answers {
    proxy: Arc<Proxy>,
    flow: std::sync::Weak<TargetFlow>,
    peer: PeerId,
    number: u32,
    stream: mpsc::Sender<Frame>,
}

impl Answers {
    /// Sends an endpoint's answers until it refuses.
    async fn carry(&self, socket: &UdpSocket) {
        let mut buffer = BytesMut::new();
        let error = loop {
            match read(socket, &mut buffer).await {
                Ok(payload) => {
                    if let Some(flow) = self.flow.upgrade() {
                        flow.used.touch();
                    }
                    let (flow, direction) = (self.number, Direction::ToCaller);
                    self.proxy.send(self.peer, Datagram { flow, direction, payload: &payload }, &self.stream);
                }
                Err(error) => break error,
            }
        };
        tracing::debug!(%error, "a UDP endpoint refused");
        self.proxy.udp.targets().remove(&(self.peer, self.number));
        close(&self.stream, self.number, crate::proxy::early::code_of(&error));
    }
}
