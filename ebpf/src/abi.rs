//! Keys and values of the maps, generated from `programs/abi.h`, and their meaning in Rust types.
//!
//! An address is sixteen bytes whatever its family (IPv4 as `::ffff:a.b.c.d`), a port is in network
//! order, padding is a named member: a key is compared byte by byte in the kernel.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use edgeloom_model::Protocol;

macro_rules! unsafe_pod {
    ($name:ident) => {
        #[expect(
            unsafe_code,
            reason = "repr(C), integers only, and no implicit padding: see the sizes below"
        )]
        // SAFETY: every bit pattern is a value of integers, and the assertion of sizes in this
        // module holds the members to fill the struct without a gap.
        unsafe impl aya::Pod for $name {}
    };
}

include!(concat!(env!("OUT_DIR"), "/abi.rs"));

// No implicit padding: the size is the sum of the members.
const _: () = {
    assert!(size_of::<Address>() == 16);
    assert!(size_of::<Frontend>() == 16 + 2 + 1 + 1);
    assert!(size_of::<Service>() == 4 * 4 + 1 + 3);
    assert!(size_of::<BackendKey>() == 3 * 4);
    assert!(size_of::<Backend>() == 16 + 2 + 2);
    assert!(size_of::<Member>() == 2 * 4 + 20);
    assert!(size_of::<Client>() == 8 + 4 + 4);
    assert!(size_of::<Sticky>() == 8 + 20 + 4);
    assert!(size_of::<Range>() == 4 + 16);
    assert!(size_of::<Counters>() == 6 * 8);
    assert!(size_of::<Translation>() == 16 + 20 + 2 * 4 + 2 + 2);
    assert!(size_of::<Translations>() == TRANSLATIONS as usize * 48 + 4);
};

impl From<IpAddr> for Address {
    fn from(addr: IpAddr) -> Self {
        let octets = match addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let (words, _) = octets.as_chunks::<4>();
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().zip(words) {
            *to = u32::from_ne_bytes(*from);
        }
        Self { word }
    }
}

impl From<Address> for IpAddr {
    fn from(addr: Address) -> Self {
        let mut octets = [0; 16];
        for (to, from) in octets.as_chunks_mut::<4>().0.iter_mut().zip(addr.word) {
            *to = from.to_ne_bytes();
        }
        Ipv6Addr::from(octets).to_canonical()
    }
}

impl From<SocketAddr> for Backend {
    fn from(addr: SocketAddr) -> Self {
        Self { addr: addr.ip().into(), port: addr.port().to_be(), pad: [0; 2] }
    }
}

impl From<Backend> for SocketAddr {
    fn from(backend: Backend) -> Self {
        Self::new(backend.addr.into(), u16::from_be(backend.port))
    }
}

impl From<crate::Frontend> for Frontend {
    fn from(from: crate::Frontend) -> Self {
        let protocol = match from.protocol {
            Protocol::Tcp => libc::IPPROTO_TCP,
            Protocol::Udp => libc::IPPROTO_UDP,
        };
        Self { addr: from.addr.into(), port: from.port.to_be(), protocol: protocol as u8, pad: 0 }
    }
}

impl TryFrom<Frontend> for crate::Frontend {
    /// The protocol number that is neither TCP's nor UDP's.
    type Error = u8;

    fn try_from(from: Frontend) -> Result<Self, u8> {
        let protocol = match i32::from(from.protocol) {
            libc::IPPROTO_TCP => Protocol::Tcp,
            libc::IPPROTO_UDP => Protocol::Udp,
            _ => return Err(from.protocol),
        };
        Ok(Self { addr: from.addr.into(), port: u16::from_be(from.port), protocol })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_network_order_and_ipv4_is_mapped() {
        let v4 = Address::from(IpAddr::from([10, 96, 0, 10]));
        assert_eq!(
            v4.word.map(u32::to_ne_bytes).concat(),
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 96, 0, 10]
        );
        for addr in ["10.96.0.10", "fd00:10:96::a", "::1", "0.0.0.0"] {
            let addr: IpAddr = addr.parse().unwrap();
            assert_eq!(IpAddr::from(Address::from(addr)), addr);
        }
    }

    #[test]
    fn frontends_come_back_as_they_went_in() {
        let frontend =
            crate::Frontend { addr: "fd00::1".parse().unwrap(), port: 8080, protocol: Protocol::Udp };
        let key = Frontend::from(frontend);
        assert_eq!(key.port.to_ne_bytes(), 8080u16.to_be_bytes());
        assert_eq!(crate::Frontend::try_from(key), Ok(frontend));
        assert_eq!(crate::Frontend::try_from(Frontend { protocol: 132, ..key }), Err(132));
    }
}
