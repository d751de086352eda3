//! The agent's sockets for far traffic, with the options that `sk_lookup` and the replies need.
//!
//! A TCP connection is accepted as it was called: `local_addr` is the Service's address and port, and the
//! answers come from there. A datagram tells the address called in a control message ([`receive`]); its
//! answers go out through a socket bound to that address ([`reply_socket`]).

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _};

use nix::sys::socket::sockopt::{Ipv4OrigDstAddr, Ipv6OrigDstAddr};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, setsockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::AgentSockets;

/// Connections that wait to be accepted, at most; the kernel's own limit may be lower.
const BACKLOG: i32 = 4096;

/// Non-blocking sockets on loopback addresses, on ports of the kernel's choice: nobody calls them there.
#[derive(Debug)]
pub struct FarSockets {
    pub tcp4: TcpListener,
    pub udp4: UdpSocket,
    /// Absent where the kernel has no IPv6.
    pub tcp6: Option<TcpListener>,
    /// Absent where the kernel has no IPv6.
    pub udp6: Option<UdpSocket>,
}

impl FarSockets {
    /// Binds them in the network namespace of this thread.
    pub fn bind() -> io::Result<Self> {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        Ok(Self {
            tcp4: listener(v4)?,
            udp4: datagrams(v4)?,
            tcp6: without_ipv6(listener(v6))?,
            udp6: without_ipv6(datagrams(v6))?,
        })
    }

    /// As [`crate::Steering::set_agent_sockets`] takes them.
    pub fn borrow(&self) -> AgentSockets<'_> {
        AgentSockets {
            tcp4: Some(self.tcp4.as_fd()),
            tcp6: self.tcp6.as_ref().map(AsFd::as_fd),
            udp4: Some(self.udp4.as_fd()),
            udp6: self.udp6.as_ref().map(AsFd::as_fd),
        }
    }
}

/// A datagram that was called to a far address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes of it in the buffer.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// The address and port that it was sent to.
    pub to: SocketAddr,
}

/// Takes one datagram from a far UDP socket; `WouldBlock` when there is none.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut control = nix::cmsg_space!(libc::sockaddr_in6);
    let fd = socket.as_fd().as_raw_fd();
    let message = nix::sys::socket::recvmsg::<SockaddrStorage>(
        fd,
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let to = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4OrigDstAddr(to) => Some(SocketAddr::V4(SockaddrIn::from(to).into())),
        ControlMessageOwned::Ipv6OrigDstAddr(to) => Some(SocketAddr::V6(SockaddrIn6::from(to).into())),
        _ => None,
    });
    let from = message.address.as_ref().and_then(address);
    match (from, to) {
        (Some(from), Some(to)) => Ok(Received { length: message.bytes, from, to }),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "datagram without its addresses")),
    }
}

/// A non-blocking socket to answer from, bound to the address that was called. One serves all callers
/// of that address: what they send next still arrives at the far socket.
pub fn reply_socket(called: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(called), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    match called {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(called))?;
    Ok(socket.into())
}

fn listener(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(at))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn datagrams(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    match at {
        SocketAddr::V4(_) => setsockopt(&socket, Ipv4OrigDstAddr, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, Ipv6OrigDstAddr, &true)?,
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(at))?;
    Ok(socket.into())
}

fn without_ipv6<T>(bound: io::Result<T>) -> io::Result<Option<T>> {
    match bound {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            Ok(None)
        }
        bound => bound.map(Some),
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|a| SocketAddr::V4((*a).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|a| SocketAddr::V6((*a).into())))
}
