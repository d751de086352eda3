//! A stream from another node's agent, or a TCP connection of one on the LAN: check that its target is ours, reach it,
//! carry the bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use edgeloom_model::Protocol;
use edgeloom_tunnel::{LanStream, Stream, Verified};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Proxy;
use super::early::code_of;
use super::ends::Socket;
use super::metrics::{By, Ended};
use super::splice::{InHand, splice};
use crate::lan_tcp::WAITING_LIMIT;
use crate::measure::{LIMIT as MEASURE_LIMIT, answer};
use crate::stream::{Inlet, Outlet, guarded, guarded_lan, refuse};
use crate::wire::{CONNECTED, Code, Header, Preface};

/// How long a stream may take to say what it is for.
const PREFACE_LIMIT: Duration = Duration::from_secs(10);

/// Most bytes taken at once while the preface is read.
const PREFACE_READ: usize = 16 << 10;

impl Proxy {
    /// Serves a stream that another node's agent opened, until it has ended.
    pub(super) async fn incoming(self: Arc<Self>, from: Arc<Verified>, stream: Stream) {
        let (outlet, mut inlet) = guarded(stream);
        let read = timeout(PREFACE_LIMIT, preface(&mut inlet)).await.unwrap_or(Err(Code::Malformed));
        match read {
            Ok((Preface::Udp, rest)) => {
                let proxy = self.clone();
                self.udp_tasks.spawn(async move { proxy.udp_stream(&from, rest, outlet, inlet).await });
            }
            other => self.begun(&from, By::Quic, other, outlet, inlet).await,
        }
    }

    /// Serves a TCP connection that the agent of a node on the LAN made, until it has ended. It may wait for its flow
    /// a while; few of those that were made at one time wait at another.
    pub(super) async fn incoming_lan(self: Arc<Self>, from: Arc<Verified>, stream: LanStream) {
        let (outlet, mut inlet) = guarded_lan(stream);
        let Ok(waiting) = self.waiting.clone().try_acquire_owned() else { return };
        let first = tokio::select! {
            first = timeout(WAITING_LIMIT, inlet.read_chunk(PREFACE_READ)) => first,
            () = self.force.cancelled() => return,
        };
        drop(waiting);
        // Whoever has no use for it closes it without a word; who comes while the agent drains is to go elsewhere.
        let Ok(Ok(Some(first))) = first else { return };
        if self.tasks.is_closed() {
            return;
        }
        let proxy = self.clone();
        self.tasks.spawn(async move { proxy.lan_flow(&from, first, outlet, inlet).await });
    }

    async fn lan_flow(&self, from: &Verified, first: Bytes, outlet: Outlet, mut inlet: Inlet) {
        let read = timeout(PREFACE_LIMIT, preface_from(first.into(), &mut inlet)).await;
        let read = match read.unwrap_or(Err(Code::Malformed)) {
            // Flows over UDP are the QUIC connection's.
            Ok((Preface::Udp, _)) => Err(Code::Malformed),
            other => other,
        };
        self.begun(from, By::Tcp, read, outlet, inlet).await;
    }

    async fn begun(
        &self,
        from: &Verified,
        by: By,
        read: Result<(Preface, Bytes), Code>,
        mut outlet: Outlet,
        mut inlet: Inlet,
    ) {
        match read {
            Ok((Preface::Tcp(header), rest)) => {
                let ended = self.serve(from, by, header, rest, outlet, inlet).await;
                self.metrics.connections("incoming", ended);
            }
            Ok((Preface::Measure(measure), rest)) => {
                let Ok(_permit) = self.measures.clone().try_acquire_owned() else {
                    return refuse(outlet, inlet, Code::Busy).await;
                };
                tracing::debug!(node = %from.node, ?measure, by = by.as_str(), "measuring");
                let answer = timeout(MEASURE_LIMIT, answer(measure, rest, &mut outlet, &mut inlet));
                // Whoever measures sees a stream that broke.
                if let Some(Ok(Ok(()))) = self.force.run_until_cancelled(answer).await {
                    let _ = outlet.finish().await;
                }
            }
            // Taken where it is read.
            Ok((Preface::Udp, _)) => {}
            Err(code) => {
                tracing::warn!(node = %from.node, reason = code.as_str(), "a stream with no valid preface");
                self.metrics.connections("incoming", Ended::Refused(code));
                refuse(outlet, inlet, code).await;
            }
        }
    }

    async fn serve(
        &self,
        from: &Verified,
        by: By,
        header: Header,
        rest: Bytes,
        mut outlet: Outlet,
        inlet: Inlet,
    ) -> Ended {
        let Header { flow, target, source } = header;
        let reached = match self.incoming.clone().try_acquire_owned() {
            Ok(permit) => self.reach(&target).await.map(|tcp| (tcp, permit)),
            Err(_) => Err(Code::Busy),
        };
        let (tcp, _permit) = match reached {
            Ok(reached) => reached,
            Err(code) => {
                tracing::info!(node = %from.node, flow, ?target, ?source, reason = code.as_str(), "flow refused");
                refuse(outlet, inlet, code).await;
                return Ended::Refused(code);
            }
        };
        let _open = self.metrics.open("incoming");
        if outlet.write_all(&[CONNECTED]).await.is_err() {
            return Ended::Reset;
        }
        self.metrics.flow("incoming", by);
        let hand = InHand { for_socket: rest, ..InHand::default() };
        let carried = self.metrics.carried();
        let result = tokio::select! {
            result = splice(Socket::new(tcp), outlet, inlet, hand, &carried) => result,
            () = self.force.cancelled() => return Ended::Refused(Code::Leaving),
        };
        match result {
            Ok(()) => Ended::Complete,
            Err(broken) => {
                tracing::debug!(node = %from.node, flow, %broken, "flow broken off");
                Ended::Reset
            }
        }
    }

    /// Connects to the first of the target's addresses that answers.
    async fn reach(&self, target: &crate::wire::Target) -> Result<TcpStream, Code> {
        if target.protocol() != Protocol::Tcp {
            return Err(Code::Malformed);
        }
        let addresses = self.snapshot.load().targets(target);
        let mut code = Code::NotHere;
        for address in addresses {
            match timeout(self.connect_timeout, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "target not reached");
                    code = code_of(&error);
                }
                Err(_) => code = Code::Unreachable,
            }
        }
        Err(code)
    }
}

/// Reads the preface; what came behind it belongs to the target.
async fn preface(inlet: &mut Inlet) -> Result<(Preface, Bytes), Code> {
    preface_from(BytesMut::new(), inlet).await
}

/// As [`preface`], where these bytes of it have come.
async fn preface_from(mut bytes: BytesMut, inlet: &mut Inlet) -> Result<(Preface, Bytes), Code> {
    loop {
        match Preface::decode(&bytes) {
            Ok(None) => {}
            Ok(Some((preface, taken))) => return Ok((preface, bytes.split_off(taken).freeze())),
            Err(error) => {
                tracing::warn!(%error, "preface refused");
                return Err(Code::Malformed);
            }
        }
        let chunk = inlet.read_chunk(PREFACE_READ).await.map_err(|_| Code::Reset)?;
        bytes.extend_from_slice(&chunk.ok_or(Code::Malformed)?);
    }
}
