//! Receiving: what each packet is, and where it goes.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use tokio::io::Interest;

use super::address::{as_v6, canonical};
use super::classify::{self, Class, Mark};
use super::mux::{Inbound, Mux, Source};
use super::table::{PeerSlot, Route, Session};
use crate::carrier::Carrier;
use crate::carrier::address::is_carrier;
use crate::forwarder::Onward;
use crate::wire::frame::{Control, DATA_HEADER, DataHeader, MAX_CONTROL};

/// Longest datagram that one system call may carry.
const MAX_BATCH: usize = 65_507;
/// Milliseconds between two complaints about unknown sessions.
const COMPLAINT: u64 = 50;

/// By which way packets of a peer came.
enum Way<'a> {
    Direct(SocketAddr),
    Relayed(&'a Arc<Session>),
}

impl Mux {
    /// Receives one batch. Returns how many of `bufs` hold packets for the raw endpoint; what is not for it is
    /// handed on or left in [`Mux::left`].
    pub(super) fn poll_batch(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = loop {
            ready!(self.io.poll_recv_ready(cx))?;
            match self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), bufs, meta)) {
                Ok(received) => break received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // ICMP errors of packets sent earlier; they say nothing about this socket.
                Err(error) => tracing::debug!(%error, "receiving"),
            }
        };
        let clock = self.table.clock();
        let mut kept = 0;
        for index in 0..received {
            if is_carrier(&meta[index].addr) {
                // No host has this address.
                continue;
            }
            if self.sort(&mut bufs[index], &mut meta[index], clock) {
                bufs.swap(kept, index);
                meta.swap(kept, index);
                kept += 1;
            }
        }
        Poll::Ready(Ok(kept))
    }

    /// Takes frames of `stride` bytes that a carrier brought, the last perhaps shorter. False if the endpoint has more
    /// of them waiting than it should.
    pub(crate) fn carried(&self, carrier: &Carrier, batch: &mut [u8], stride: usize) -> bool {
        let raw = |packet| Class::of(packet) == Class::Quic(Mark::Raw);
        if carrier.peer.is_none() && !batch.chunks(stride.max(1)).all(raw) {
            // Who may only join has no use for frames.
            self.metrics.dropped("no packet of ours");
            return true;
        }
        let mut meta = RecvMeta { addr: carrier.address, len: batch.len(), stride, ecn: None, dst_ip: None };
        if self.sort(batch, &mut meta, self.table.clock()) {
            self.leave_batch(meta.addr, meta.ecn, &batch[..meta.len], meta.stride);
        }
        self.left.wake();
        !self.left.is_crowded()
    }

    /// Whether the whole buffer is for the raw endpoint, translated in place; else its packets go their ways.
    fn sort(&self, buffer: &mut [u8], meta: &mut RecvMeta, clock: u64) -> bool {
        meta.addr = canonical(meta.addr);
        let stride = meta.stride.max(1);
        let bytes = &mut buffer[..meta.len];
        let all = |class: Class| bytes.chunks(stride).all(|packet| Class::of(packet) == class);
        if all(Class::Quic(Mark::Raw)) {
            return self.translate(bytes, meta, clock);
        }
        if all(Class::Data) {
            return self.data(bytes, meta, clock);
        }
        for packet in bytes.chunks_mut(stride) {
            match Class::of(packet) {
                Class::Quic(Mark::Raw) => {
                    let mut meta = RecvMeta { len: packet.len(), stride: packet.len(), ..*meta };
                    if self.translate(packet, &mut meta, clock) {
                        self.leave(meta.addr, meta.ecn, packet);
                    }
                }
                Class::Quic(Mark::Libp2p)
                    if !classify::opens(packet)
                        && !self.table.guests.expects(&meta.addr)
                        && self.table.by_address(&meta.addr).is_none() =>
                {
                    self.metrics.dropped("no connection of ours");
                }
                Class::Quic(Mark::Libp2p) => {
                    if !self.libp2p.push(as_v6(meta.addr), meta.ecn, packet, packet.len()) {
                        self.metrics.dropped("endpoint busy");
                    }
                    self.libp2p.wake();
                }
                Class::Data => {
                    let mut meta = RecvMeta { len: packet.len(), stride: packet.len(), ..*meta };
                    if self.data(packet, &mut meta, clock) {
                        self.leave(meta.addr, meta.ecn, &packet[..meta.len]);
                    }
                }
                Class::Control => self.hand_over(Source::Direct(meta.addr), packet),
                Class::Noise => self.metrics.dropped("no packet of ours"),
            }
        }
        false
    }

    /// Gives QUIC packets from a known path the virtual address of their peer. False if they are of nobody: who is not
    /// known begins with a handshake, and to what looks like the middle of a connection quinn would have an answer.
    fn translate(&self, bytes: &[u8], meta: &mut RecvMeta, clock: u64) -> bool {
        match self.table.by_address(&meta.addr) {
            Some(slot) => {
                self.count(&slot, meta.len, &Way::Direct(meta.addr), clock);
                meta.addr = slot.virtual_address;
            }
            None => {
                let expected = is_carrier(&meta.addr) || self.table.guests.expects(&meta.addr);
                if !expected && !bytes.chunks(meta.stride.max(1)).all(classify::opens) {
                    self.metrics.dropped("no connection of ours");
                    return false;
                }
                meta.addr = as_v6(meta.addr);
            }
        }
        meta.dst_ip = None;
        true
    }

    fn count(&self, slot: &PeerSlot, bytes: usize, way: &Way<'_>, clock: u64) {
        let route = slot.route_ref();
        let (by_route, kind) = match (way, route.as_deref()) {
            (Way::Direct(from), Some(Route::Direct { to, kind })) => (from == to, kind.as_str()),
            (Way::Direct(_), _) => (false, "direct"),
            (Way::Relayed(session), Some(Route::Relayed(used))) => (Arc::ptr_eq(session, used), "relayed"),
            (Way::Relayed(_), _) => (false, "relayed"),
        };
        slot.traffic.note_received(bytes, by_route, clock);
        self.metrics.received(kind, bytes);
    }

    /// Forwarder data: on a relay it is sent on; at an end the headers come off. True if what remains in the
    /// buffer is all for the raw endpoint.
    fn data(&self, bytes: &mut [u8], meta: &mut RecvMeta, clock: u64) -> bool {
        match DataHeader::parse(bytes) {
            Ok((header, _)) if !header.down => {
                self.forward(bytes, meta, clock);
                false
            }
            Ok(_) => self.unwrap(bytes, meta, clock),
            Err(_) => {
                self.metrics.dropped("malformed");
                false
            }
        }
    }

    /// Takes the headers off frames from a relay. If all carry QUIC packets of one peer they are closed up in
    /// place; else each goes its way.
    fn unwrap(&self, bytes: &mut [u8], meta: &mut RecvMeta, clock: u64) -> bool {
        let Some(relay) = self.table.by_address(&meta.addr) else {
            self.metrics.dropped("data of no relay of ours");
            return false;
        };
        let stride = meta.stride.max(1);
        let mut only: Option<Arc<Session>> = None;
        let mut end = 0;
        let mut start = 0;
        while start < bytes.len() {
            let stop = (start + stride).min(bytes.len());
            if let Some((session, header_class)) =
                self.check_down(&relay, meta.addr, &bytes[start..stop], clock)
            {
                let payload = start + DATA_HEADER..stop;
                let same = only.as_ref().is_none_or(|only| Arc::ptr_eq(only, &session));
                match header_class {
                    // Closing up needs all packets but the last to be of one length.
                    Class::Quic(Mark::Raw) if same && (end == 0 || end % (stride - DATA_HEADER) == 0) => {
                        let length = payload.len();
                        bytes.copy_within(payload, end);
                        end += length;
                        only = Some(session);
                    }
                    Class::Quic(Mark::Raw) => {
                        self.count(&session.peer, payload.len(), &Way::Relayed(&session), clock);
                        self.leave(session.peer.virtual_address, meta.ecn, &bytes[payload]);
                    }
                    Class::Control => self.hand_over(Source::Relayed(session), &bytes[payload]),
                    _ => self.metrics.dropped("no packet of ours"),
                }
            }
            start = stop;
        }
        let Some(session) = only else { return false };
        if relay.direct() == Some(meta.addr) {
            relay.traffic.touch_received(clock);
        }
        self.count(&session.peer, end, &Way::Relayed(&session), clock);
        *meta = RecvMeta {
            addr: session.peer.virtual_address,
            len: end,
            stride: stride - DATA_HEADER,
            dst_ip: None,
            ..*meta
        };
        true
    }

    fn check_down(
        &self,
        relay: &PeerSlot,
        from: SocketAddr,
        frame: &[u8],
        clock: u64,
    ) -> Option<(Arc<Session>, Class)> {
        let Ok((header, payload)) = DataHeader::parse(frame) else {
            self.metrics.dropped("malformed");
            return None;
        };
        let Some(session) = self.table.session(relay, header.session) else {
            self.early.push(relay.virtual_address, header.session, frame);
            self.complain(from, header.session, clock);
            return None;
        };
        if !session.accepts(&header, payload) {
            self.metrics.dropped("not authentic");
            return None;
        }
        Some((session, Class::of(payload)))
    }

    /// As a relay, sends frames on to the other end of their sessions.
    fn forward(&self, bytes: &mut [u8], meta: &RecvMeta, clock: u64) {
        let stride = meta.stride.max(1);
        let mut run: Option<(Onward, usize)> = None;
        let mut start = 0;
        while start < bytes.len() {
            let stop = (start + stride).min(bytes.len());
            let way = self.check_up(meta.addr, &mut bytes[start..stop], clock);
            if run.map(|(way, _)| way) != way {
                self.flush(bytes, run.take(), start, stride, meta.ecn);
                run = way.map(|way| (way, start));
            }
            start = stop;
        }
        self.flush(bytes, run, bytes.len(), stride, meta.ecn);
    }

    /// Verifies a frame of a session and signs it for the other end, in place. Returns where it goes.
    fn check_up(&self, from: SocketAddr, frame: &mut [u8], clock: u64) -> Option<Onward> {
        let Ok((header, payload)) = DataHeader::parse(frame) else {
            self.metrics.dropped("malformed");
            return None;
        };
        let Some(forward) = self.table.forwards.get(&header.session) else {
            self.metrics.dropped("unknown session");
            self.complain(from, header.session, clock);
            return None;
        };
        match forward.turn(&header, payload, clock) {
            Ok((header, way)) => {
                header.write(frame);
                self.metrics.forwarded(frame.len());
                Some(way)
            }
            Err(reason) => {
                self.metrics.dropped(reason);
                None
            }
        }
    }

    fn flush(
        &self,
        bytes: &[u8],
        run: Option<(Onward, usize)>,
        stop: usize,
        stride: usize,
        ecn: Option<EcnCodepoint>,
    ) {
        let Some((way, start)) = run else { return };
        let contents = &bytes[start..stop];
        let most = self.max_transmit_segments().min(MAX_BATCH / stride).max(1);
        for batch in contents.chunks(most * stride) {
            let segment_size = (batch.len() > stride).then_some(stride);
            let destination = self.on_wire(way.to);
            self.send_on(
                way.from,
                &Transmit { destination, ecn, contents: batch, segment_size, src_ip: None },
            );
        }
    }

    fn hand_over(&self, source: Source, frame: &[u8]) {
        if frame.len() > MAX_CONTROL {
            return self.metrics.dropped("malformed");
        }
        if let Source::Direct(address) = &source
            && !self.throttle.takes(&self.accountable(address), self.table.clock())
        {
            return self.metrics.dropped("too many frames");
        }
        if self.inbound.try_send(Inbound { source, frame: frame.to_vec() }).is_err() {
            self.metrics.dropped("engine busy");
        }
    }

    /// A peer's path, or the host that an unknown one is on.
    fn accountable(&self, address: &SocketAddr) -> SocketAddr {
        match self.table.by_address(address) {
            Some(_) => *address,
            None if is_carrier(address) => *address,
            None => SocketAddr::new(address.ip(), 0),
        }
    }

    fn leave(&self, from: SocketAddr, ecn: Option<EcnCodepoint>, packet: &[u8]) {
        self.leave_batch(from, ecn, packet, packet.len());
    }

    fn leave_batch(&self, from: SocketAddr, ecn: Option<EcnCodepoint>, packets: &[u8], stride: usize) {
        if !self.left.push(from, ecn, packets, stride) {
            self.metrics.dropped("endpoint busy");
        }
    }

    /// Takes up a session, and what came ahead of it.
    pub(crate) fn add_session(&self, session: &Arc<Session>) {
        self.table.add_session(session);
        for frame in self.early.take(session.relay.virtual_address, session.id) {
            let Ok((header, payload)) = DataHeader::parse(&frame) else { continue };
            if !session.accepts(&header, payload) {
                self.metrics.dropped("not authentic");
                continue;
            }
            match Class::of(payload) {
                Class::Quic(Mark::Raw) => self.leave(session.peer.virtual_address, None, payload),
                Class::Control => self.hand_over(Source::Relayed(session.clone()), payload),
                _ => self.metrics.dropped("no packet of ours"),
            }
        }
        self.left.wake();
    }

    /// Tells the sender of a data frame that its session is not known here, now and then.
    fn complain(&self, to: SocketAddr, session: u32, clock: u64) {
        let last = self.complained.load(Ordering::Relaxed);
        if clock.saturating_sub(last) >= COMPLAINT {
            self.complained.store(clock, Ordering::Relaxed);
            self.send_frame(to, &Control::UnknownSession { session }.encode());
        }
    }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
