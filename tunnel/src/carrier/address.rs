//! What stands for a carrier where addresses are: unique local (RFC 4193), never on a wire, never used twice.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicU64, Ordering};

const PREFIX: [u8; 4] = [0xfd, 0xed, 0x6e, 0x11];

/// A new stand-in.
pub(crate) fn next() -> SocketAddr {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut octets = [0; 16];
    octets[..4].copy_from_slice(&PREFIX);
    octets[8..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    SocketAddrV6::new(Ipv6Addr::from(octets), crate::config::PORT, 0, 0).into()
}

/// Whether `address` stands for a carrier.
pub(crate) fn is_carrier(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.ip().octets()[..4] == PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_differ_and_are_told_from_addresses() {
        let (first, second) = (next(), next());
        assert_ne!(first, second);
        assert!(is_carrier(&first) && is_carrier(&second));
        for real in ["192.0.2.1:20006", "[fd00:10:244::1]:20006", "[fded:6e10::1]:20006"] {
            assert!(!is_carrier(&real.parse().unwrap()), "{real}");
        }
    }
}
