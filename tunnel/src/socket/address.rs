//! Forms of an address: as people write it, as a dual-stack socket and a QUIC endpoint name it.

use std::net::SocketAddr;

/// IPv4 addresses as such, not mapped into IPv6; without flow label and scope of global addresses.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What the raw endpoint, which has IPv6 addresses only, knows a stranger by.
pub(super) fn as_v6(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        v6 => v6,
    }
}
