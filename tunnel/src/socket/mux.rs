//! The socket itself: sending by route, receiving by class.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use libp2p::PeerId;
use nix::sys::socket::{setsockopt, sockopt};
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::classify::{Class, Mark};
use super::table::{PeerSlot, Route, Session, Table, is_virtual};
use super::waiting::{Early, Left};
use crate::metrics::Metrics;
use crate::wire::frame::{Control, DATA_HEADER, DataHeader, MAX_CONTROL};

/// Kernel buffer each way: about 40 ms at 1.5 Gbit/s, so that a burst survives until the driver runs.
const SOCKET_BUFFER: usize = 8 << 20;
/// Milliseconds between two complaints about unknown sessions.
const COMPLAINT: u64 = 50;
/// Longest datagram that one system call may carry.
const MAX_BATCH: usize = 65_507;

/// By which way a frame came, and its answer goes.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// From this address.
    Direct(SocketAddr),
    /// Through a session at a relay.
    Relayed(Arc<Session>),
}

impl Source {
    /// The address, where it is one.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Source::Direct(address) => Some(*address),
            Source::Relayed(_) => None,
        }
    }
}

/// A frame for the engine.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) source: Source,
    pub(crate) frame: Vec<u8>,
}

/// The shared socket.
#[derive(Debug)]
pub(crate) struct Mux {
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    pub(crate) table: Table,
    metrics: Metrics,
    inbound: mpsc::Sender<Inbound>,
    pub(super) left: Left,
    /// Packets of libp2p's endpoint.
    pub(super) libp2p: Left,
    early: Early,
    complained: AtomicU64,
    shut: AtomicBool,
}

impl Mux {
    /// Binds the socket.
    pub(crate) fn bind(
        listen: SocketAddr,
        metrics: Metrics,
        inbound: mpsc::Sender<Inbound>,
    ) -> io::Result<Arc<Self>> {
        let socket = match bind(listen) {
            Err(error) if listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && no_ipv6(&error) => {
                bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port())))?
            }
            bound => bound?,
        };
        enlarge_buffers(&socket);
        let state = UdpSocketState::new((&socket).into())?;
        let io = UdpSocket::from_std(socket.into())?;
        let local = io.local_addr()?;
        tracing::info!(
            address = %local, gso = state.max_gso_segments(), gro = state.gro_segments(), "overlay socket is open"
        );
        Ok(Arc::new(Self {
            io,
            state,
            local,
            table: Table::new(),
            metrics,
            inbound,
            left: Left::default(),
            libp2p: Left::default(),
            early: Early::default(),
            complained: AtomicU64::new(0),
            shut: AtomicBool::new(false),
        }))
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Nothing is sent from now on.
    pub(crate) fn shut(&self) {
        self.shut.store(true, Ordering::Relaxed);
    }

    pub(crate) fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    pub(crate) fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    pub(crate) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }

    /// The form in which the socket's family names `address`.
    fn on_wire(&self, address: SocketAddr) -> SocketAddr {
        match (self.local, address) {
            (SocketAddr::V6(_), SocketAddr::V4(v4)) => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            (SocketAddr::V4(_), address) => canonical(address),
            (_, address) => address,
        }
    }

    fn transmit(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let unreachable = self.local.is_ipv4() && transmit.destination.is_ipv6();
        if unreachable || self.shut.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.io.try_io(Interest::WRITABLE, || self.state.send((&self.io).into(), transmit))
    }

    /// Sends QUIC packets of the raw endpoint.
    pub(crate) fn send_quic(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !is_virtual(&transmit.destination) {
            return self.send_plain(transmit);
        }
        let Some(slot) = self.table.by_virtual(&transmit.destination) else { return Ok(()) };
        let route = slot.route_ref();
        let Some(route) = route.as_deref() else { return Ok(()) };
        let clock = self.table.clock();
        slot.traffic.note_sent(transmit.contents.len(), clock);
        match route {
            Route::Direct { to, kind } => {
                self.metrics.sent(kind.as_str(), transmit.contents.len());
                let destination = self.on_wire(*to);
                self.transmit(&Transmit { destination, src_ip: None, ..transmit.clone() })
            }
            Route::Relayed(session) => {
                self.metrics.sent("relayed", transmit.contents.len());
                self.send_relayed(session, transmit)
            }
        }
    }

    /// Sends packets to a real address.
    pub(super) fn send_plain(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let destination = self.on_wire(canonical(transmit.destination));
        self.transmit(&Transmit { destination, src_ip: None, ..transmit.clone() })
    }

    fn send_relayed(&self, session: &Session, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(relay) = session.relay.direct() else { return Ok(()) };
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let segments = transmit.contents.len().div_ceil(size);
        let mut wrapped = vec![0; transmit.contents.len() + segments * DATA_HEADER];
        let mut out = &mut wrapped[..];
        for packet in transmit.contents.chunks(size) {
            let (frame, rest) = out.split_at_mut(DATA_HEADER + packet.len());
            session.wrap(packet, frame);
            frame[DATA_HEADER..].copy_from_slice(packet);
            out = rest;
        }
        self.transmit(&Transmit {
            destination: self.on_wire(relay),
            ecn: transmit.ecn,
            contents: &wrapped,
            segment_size: transmit.segment_size.map(|size| size + DATA_HEADER),
            src_ip: None,
        })
    }

    /// Sends one of our frames straight to `to`; when the socket is full the frame is lost, as on the wire.
    pub(crate) fn send_frame(&self, to: SocketAddr, frame: &[u8]) {
        let destination = self.on_wire(to);
        let sent = self.transmit(&Transmit {
            destination,
            ecn: None,
            contents: frame,
            segment_size: None,
            src_ip: None,
        });
        if sent.is_err() {
            self.metrics.dropped("socket full");
        }
    }

    /// Sends one of our frames through a relay.
    pub(crate) fn send_frame_relayed(&self, session: &Session, frame: &[u8]) {
        let transmit = Transmit {
            destination: session.peer.virtual_address,
            ecn: None,
            contents: frame,
            segment_size: None,
            src_ip: None,
        };
        if self.send_relayed(session, &transmit).is_err() {
            self.metrics.dropped("socket full");
        }
    }

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
            if self.sort(&mut bufs[index], &mut meta[index], clock) {
                bufs.swap(kept, index);
                meta.swap(kept, index);
                kept += 1;
            }
        }
        Poll::Ready(Ok(kept))
    }

    /// Whether the whole buffer is for the raw endpoint, translated in place; else its packets go their ways.
    fn sort(&self, buffer: &mut [u8], meta: &mut RecvMeta, clock: u64) -> bool {
        meta.addr = canonical(meta.addr);
        let stride = meta.stride.max(1);
        let bytes = &mut buffer[..meta.len];
        let all = |class: Class| bytes.chunks(stride).all(|packet| Class::of(packet) == class);
        if all(Class::Quic(Mark::Raw)) {
            self.translate(meta, clock);
            return true;
        }
        if all(Class::Data) {
            return self.data(bytes, meta, clock);
        }
        for packet in bytes.chunks_mut(stride) {
            match Class::of(packet) {
                Class::Quic(Mark::Raw) => {
                    let mut meta = RecvMeta { len: packet.len(), stride: packet.len(), ..*meta };
                    self.translate(&mut meta, clock);
                    self.leave(meta.addr, meta.ecn, packet);
                }
                Class::Quic(Mark::Libp2p) => {
                    if !self.libp2p.push(as_v6(meta.addr), meta.ecn, packet) {
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

    /// Gives QUIC packets from a known path the virtual address of their peer.
    fn translate(&self, meta: &mut RecvMeta, clock: u64) {
        match self.table.by_address(&meta.addr) {
            Some(slot) => {
                self.count(&slot, meta.len, "direct", clock);
                meta.addr = slot.virtual_address;
            }
            None => meta.addr = as_v6(meta.addr),
        }
        meta.dst_ip = None;
    }

    fn count(&self, slot: &PeerSlot, bytes: usize, fallback: &'static str, clock: u64) {
        slot.traffic.note_received(bytes, clock);
        let kind = match slot.route_ref().as_deref() {
            Some(Route::Direct { kind, .. }) if fallback == "direct" => kind.as_str(),
            _ => fallback,
        };
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
                        self.count(&session.peer, payload.len(), "relayed", clock);
                        self.leave(session.peer.virtual_address, meta.ecn, &bytes[payload]);
                    }
                    Class::Control => self.hand_over(Source::Relayed(session), &bytes[payload]),
                    _ => self.metrics.dropped("no packet of ours"),
                }
            }
            start = stop;
        }
        let Some(session) = only else { return false };
        self.count(&session.peer, end, "relayed", clock);
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
        let mut run: Option<(SocketAddr, usize)> = None;
        let mut start = 0;
        while start < bytes.len() {
            let stop = (start + stride).min(bytes.len());
            let to = self.check_up(meta.addr, &mut bytes[start..stop], clock);
            if run.map(|(to, _)| to) != to {
                self.flush(bytes, run.take(), start, stride, meta.ecn);
                run = to.map(|to| (to, start));
            }
            start = stop;
        }
        self.flush(bytes, run, bytes.len(), stride, meta.ecn);
    }

    /// Verifies a frame of a session and signs it for the other end, in place. Returns where it goes.
    fn check_up(&self, from: SocketAddr, frame: &mut [u8], clock: u64) -> Option<SocketAddr> {
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
            Ok((header, to)) => {
                header.write(frame);
                self.metrics.forwarded(frame.len());
                Some(to)
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
        run: Option<(SocketAddr, usize)>,
        stop: usize,
        stride: usize,
        ecn: Option<EcnCodepoint>,
    ) {
        let Some((to, start)) = run else { return };
        let contents = &bytes[start..stop];
        let most = self.max_transmit_segments().min(MAX_BATCH / stride).max(1);
        for batch in contents.chunks(most * stride) {
            let segment_size = (batch.len() > stride).then_some(stride);
            let transmit =
                Transmit { destination: self.on_wire(to), ecn, contents: batch, segment_size, src_ip: None };
            if self.transmit(&transmit).is_err() {
                self.metrics.dropped("socket full");
            }
        }
    }

    fn hand_over(&self, source: Source, frame: &[u8]) {
        if frame.len() > MAX_CONTROL {
            return self.metrics.dropped("malformed");
        }
        if self.inbound.try_send(Inbound { source, frame: frame.to_vec() }).is_err() {
            self.metrics.dropped("engine busy");
        }
    }

    fn leave(&self, from: SocketAddr, ecn: Option<EcnCodepoint>, packet: &[u8]) {
        if !self.left.push(from, ecn, packet) {
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

    /// The peer that the raw endpoint knows by `address`.
    pub(crate) fn peer_of_virtual(&self, address: &SocketAddr) -> Option<PeerId> {
        self.table.by_virtual(address).map(|slot| slot.peer)
    }

    /// The peer behind `address`, if a path is bound to it.
    pub(crate) fn peer_at(&self, address: &SocketAddr) -> Option<PeerId> {
        self.table.by_address(address).map(|slot| slot.peer)
    }
}

/// IPv4 addresses as such, not mapped into IPv6; without flow label and scope of global addresses.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What the raw endpoint, which has IPv6 addresses only, knows a stranger by.
fn as_v6(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        v6 => v6,
    }
}

fn bind(listen: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&listen.into())?;
    Ok(socket)
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc_errno) if [nix::libc::EAFNOSUPPORT, nix::libc::EADDRNOTAVAIL].contains(&libc_errno))
}

/// As root past the system's limit, else up to it; smaller buffers cost throughput, nothing else.
fn enlarge_buffers(socket: &Socket) {
    if setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    }
    if setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    }
}
