//! Loopback addresses for tests that must know a port before they listen at it, or listen at one port with
//! UDP and TCP.
//!
//! A port that the kernel gave a moment ago is no such address: between its release and its next use another
//! test may be given it, and what is free for UDP may be taken for TCP. These lie outside the range from which
//! the kernel gives ports, and no two callers of one process get the same.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// The first port, and how many there are: below `net.ipv4.ip_local_port_range` (32768 and up) and below the
/// node ports of Kubernetes (30000 and up).
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// An address of `127.0.0.1` at which nobody listens, by UDP or by TCP, and which no other call of this process
/// returns before ten thousand more were made.
///
/// # Panics
///
/// Where none of the ten thousand ports is free.
#[must_use]
pub fn free() -> SocketAddr {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    (0..COUNT)
        .map(|_| at(std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed)))
        .find(|address| TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok())
        .expect("a free port from 20000 to 29999 on 127.0.0.1")
}

/// Two processes at a time begin far from each other.
fn at(process: u32, call: u32) -> SocketAddr {
    let count = u32::from(COUNT);
    let offset = (process.wrapping_mul(617) % count + call % count) % count;
    let offset = u16::try_from(offset).expect("less than COUNT");
    (Ipv4Addr::LOCALHOST, FIRST + offset).into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_calls_get_the_same_port_and_none_is_the_kernels_to_give() {
        let ports: HashSet<u16> = (0..u32::from(COUNT)).map(|call| at(4_294_967_295, call).port()).collect();
        assert_eq!(ports.len(), usize::from(COUNT));
        assert!(ports.iter().all(|port| (20_000..30_000).contains(port)));
    }

    #[test]
    fn a_port_in_use_is_passed_over() {
        let taken = free();
        let _udp = UdpSocket::bind(taken).expect("it is free");
        let calls: HashSet<SocketAddr> = (0..100).map(|_| free()).collect();
        assert!(!calls.contains(&taken));
    }
}
