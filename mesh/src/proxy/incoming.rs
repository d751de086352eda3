//! A stream from another node's agent: check that its target is ours, reach it, carry the bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use edgeloom_model::Protocol;
use edgeloom_tunnel::{Stream, Verified};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Proxy;
use super::early::code_of;
use super::ends::{Inlet, Outlet, Socket, guarded};
use super::metrics::Ended;
use super::splice::{InHand, splice};
use crate::measure::{LIMIT as MEASURE_LIMIT, answer};
use crate::wire::{CONNECTED, Code, Header, Preface};

/// How long a stream may take to say what it is for.
const PREFACE_LIMIT: Duration = Duration::from_secs(10);

/// Most bytes taken at once while the preface is read.
const PREFACE_READ: usize = 16 << 10;

impl Proxy {
    /// Serves a stream that another node's agent opened, until it has ended.
    pub(super) async fn incoming(self: Arc<Self>, from: Arc<Verified>, stream: Stream) {
        let (mut outlet, mut inlet) = guarded(stream);
        let read = timeout(PREFACE_LIMIT, preface(&mut inlet)).await.unwrap_or(Err(Code::Malformed));
        match read {
            Ok((Preface::Tcp(header), rest)) => {
                let ended = self.serve(&from, header, rest, outlet, inlet).await;
                self.metrics.connections("incoming", ended);
            }
            Ok((Preface::Udp, rest)) => {
                let proxy = self.clone();
                self.udp_tasks.spawn(async move { proxy.udp_stream(&from, rest, outlet, inlet).await });
            }
            Ok((Preface::Measure(measure), rest)) => {
                let Ok(_permit) = self.measures.clone().try_acquire_owned() else {
                    outlet.because(Code::Busy);
                    return inlet.because(Code::Busy);
                };
                tracing::debug!(node = %from.node, ?measure, "measuring");
                let answer = timeout(MEASURE_LIMIT, answer(measure, rest, &mut outlet.send, &mut inlet.recv));
                // Whoever measures sees a stream that broke.
                if let Some(Ok(Ok(()))) = self.force.run_until_cancelled(answer).await {
                    outlet.finish();
                }
            }
            Err(code) => {
                outlet.because(code);
                inlet.because(code);
                tracing::warn!(node = %from.node, reason = code.as_str(), "a stream with no valid preface");
                self.metrics.connections("incoming", Ended::Refused(code));
            }
        }
    }

    async fn serve(
        &self,
        from: &Verified,
        header: Header,
        rest: Bytes,
        mut outlet: Outlet,
        mut inlet: Inlet,
    ) -> Ended {
        let Header { flow, target, source } = header;
        let reached = match self.incoming.clone().try_acquire_owned() {
            Ok(permit) => self.reach(&target).await.map(|tcp| (tcp, permit)),
            Err(_) => Err(Code::Busy),
        };
        let (tcp, _permit) = match reached {
            Ok(reached) => reached,
            Err(code) => {
                outlet.because(code);
                inlet.because(code);
                tracing::info!(node = %from.node, flow, ?target, ?source, reason = code.as_str(), "flow refused");
                return Ended::Refused(code);
            }
        };
        let _open = self.metrics.open("incoming");
        if outlet.send.write_all(&[CONNECTED]).await.is_err() {
            return Ended::Reset;
        }
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
    let mut bytes = BytesMut::new();
    loop {
        let chunk = inlet.recv.read_chunk(PREFACE_READ, true).await.map_err(|_| Code::Reset)?;
        bytes.extend_from_slice(&chunk.ok_or(Code::Malformed)?.bytes);
        match Preface::decode(&bytes) {
            Ok(None) => {}
            Ok(Some((preface, taken))) => return Ok((preface, bytes.split_off(taken).freeze())),
            Err(error) => {
                tracing::warn!(%error, "preface refused");
                return Err(Code::Malformed);
            }
        }
    }
}
