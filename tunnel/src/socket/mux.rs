//! The socket itself, and sending by route.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use libp2p::PeerId;
use nix::sys::socket::{setsockopt, sockopt};
use quinn::udp::{Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::address::canonical;
use super::classify::Class;
use super::pace::Budget;
use super::relay::WayOut;
use super::table::{Route, Session, Table, is_virtual};
use super::throttle::Throttle;
use super::waiting::{Early, Left};
use crate::carrier::address::is_carrier;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::path::RouteKey;
use crate::wire::frame::DATA_HEADER;

/// Kernel buffer each way: about 40 ms at 1.5 Gbit/s, so that a burst survives until the driver runs.
const SOCKET_BUFFER: usize = 8 << 20;
/// What a packet is about, in bytes, where a rate bounds how many go at once.
const PACKET: usize = 1_452;

/// By which way a frame came, and its answer goes.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// From this address.
    Direct(SocketAddr),
    /// Through a session at a relay.
    Relayed(Arc<Session>),
}

impl Source {
    /// What the engine knows it as.
    pub(crate) fn route(&self) -> RouteKey {
        match self {
            Source::Direct(address) => RouteKey::Direct(*address),
            Source::Relayed(session) => RouteKey::Relayed(session.relay.peer),
        }
    }

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
    pub(super) io: UdpSocket,
    pub(super) state: UdpSocketState,
    local: SocketAddr,
    pub(crate) table: Table,
    pub(super) metrics: Metrics,
    pub(super) inbound: mpsc::Sender<Inbound>,
    pub(super) left: Left,
    /// Packets of libp2p's endpoint.
    pub(super) libp2p: Left,
    pub(super) early: Early,
    pub(super) complained: AtomicU64,
    pub(super) way_out: WayOut,
    pub(super) throttle: Throttle,
    /// What this node may send.
    pub(crate) budget: Budget,
    shut: AtomicBool,
}

impl Mux {
    /// Binds the socket.
    pub(crate) fn bind(
        config: &Config,
        metrics: Metrics,
        inbound: mpsc::Sender<Inbound>,
    ) -> io::Result<Arc<Self>> {
        let listen = config.listen;
        let socket = match bind(listen) {
            Err(error) if listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && no_ipv6(&error) => {
                bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port())))?
            }
            bound => bound?,
        };
        enlarge_buffers(&socket);
        let state = UdpSocketState::new((&socket).into())?;
        let io = UdpSocket::from_std(socket.into())?;
        let (local, rate) = (io.local_addr()?, config.lowest_rate());
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
            way_out: WayOut::new(&config.limits),
            throttle: Throttle::new(config.limits.frames_per_second),
            budget: Budget::new(Instant::now(), rate),
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
        let most = self.state.max_gso_segments();
        // No batch that a slow rate would take long to make up for.
        self.budget.paced().map_or(most, |pace| (pace.batch() / PACKET).clamp(1, most))
    }

    /// Frames by which the busiest address is ahead of its rate.
    pub(crate) fn most_frames(&self) -> u64 {
        self.throttle.most(self.table.clock())
    }

    pub(crate) fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    pub(crate) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        while let Some(at) = self.budget.paced().and_then(|mut pace| pace.ready_at(Instant::now())) {
            tokio::time::sleep_until(at.into()).await;
        }
        self.io.writable().await
    }

    /// The form in which the socket's family names `address`.
    pub(super) fn on_wire(&self, address: SocketAddr) -> SocketAddr {
        match (self.local, address) {
            (SocketAddr::V6(_), SocketAddr::V4(v4)) => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            (SocketAddr::V4(_), address) => canonical(address),
            (_, address) => address,
        }
    }

    /// Sends bulk, where the rate allows; else it is as if the socket were full.
    pub(super) fn transmit(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let bytes = transmit.contents.len();
        if self.budget.paced().is_some_and(|mut pace| !pace.take(Instant::now(), bytes)) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let sent = self.transmit_now(transmit);
        if sent.is_err() {
            self.budget.give_back(bytes);
        }
        sent
    }

    /// Sends what is small and keeps the rest going, whatever the rate: it is taken from the bulk.
    fn transmit_first(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if let Some(mut pace) = self.budget.paced() {
            pace.go_ahead(Instant::now(), transmit.contents.len());
        }
        self.transmit_now(transmit)
    }

    fn transmit_now(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if is_carrier(&transmit.destination) {
            self.carry(transmit);
            return Ok(());
        }
        let unreachable = self.local.is_ipv4() && transmit.destination.is_ipv6();
        if unreachable || self.shut.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.io.try_io(Interest::WRITABLE, || self.state.send((&self.io).into(), transmit))
    }

    /// Queues packets or frames for the carrier that their destination stands for; a full one drops.
    fn carry(&self, transmit: &Transmit<'_>) {
        let Some(carrier) = self.table.carrier(&transmit.destination) else {
            return self.metrics.dropped("carrier gone");
        };
        if self.shut.load(Ordering::Relaxed) {
            return;
        }
        let stride = transmit.segment_size.unwrap_or(transmit.contents.len());
        let urgent = Class::of(transmit.contents) == Class::Control;
        let dropped = carrier.queue.push(Instant::now(), transmit.contents, stride, urgent);
        if dropped > 0 {
            self.metrics.carrier_full(dropped);
        }
    }

    /// Sends QUIC packets of the raw endpoint.
    pub(crate) fn send_quic(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !is_virtual(&transmit.destination) {
            return self.send_plain(transmit);
        }
        let Some(slot) = self.table.by_virtual(&transmit.destination) else { return Ok(()) };
        let route = slot.route_ref();
        let Some(route) = route.as_deref() else { return Ok(()) };
        let kind = match route {
            Route::Direct { to, kind } => {
                let destination = self.on_wire(*to);
                let transmit = Transmit { destination, src_ip: None, ..transmit.clone() };
                // A relay is the control mostly, whose hub must not wait for what Services send.
                if slot.goes_first() {
                    self.transmit_first(&transmit)?
                } else {
                    self.transmit(&transmit)?
                }
                kind.as_str()
            }
            Route::Relayed(session) => {
                self.send_relayed(session, transmit, Self::transmit)?;
                session.relay.traffic.touch_sent(self.table.clock());
                "relayed"
            }
        };
        slot.traffic.note_sent(transmit.contents.len(), self.table.clock());
        self.metrics.sent(kind, transmit.contents.len());
        Ok(())
    }

    /// Sends packets to a real address.
    pub(super) fn send_plain(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let destination = self.on_wire(canonical(transmit.destination));
        self.transmit(&Transmit { destination, src_ip: None, ..transmit.clone() })
    }

    fn send_relayed(
        &self,
        session: &Session,
        transmit: &Transmit<'_>,
        send: impl Fn(&Self, &Transmit<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
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
        let transmit = Transmit {
            destination: self.on_wire(relay),
            ecn: transmit.ecn,
            contents: &wrapped,
            segment_size: transmit.segment_size.map(|size| size + DATA_HEADER),
            src_ip: None,
        };
        send(self, &transmit)
    }

    /// Sends one of our frames straight to `to`; when the socket is full the frame is lost, as on the wire.
    pub(crate) fn send_frame(&self, to: SocketAddr, frame: &[u8]) {
        let destination = self.on_wire(to);
        let sent = self.transmit_first(&Transmit {
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
        if self.send_relayed(session, &transmit, Self::transmit_first).is_err() {
            self.metrics.dropped("socket full");
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
