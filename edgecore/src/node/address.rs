//! The node's own addresses at its site.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;

/// Interfaces that lead to containers or other overlays, never to the site.
const FOREIGN: [&str; 12] = [
    "lo",
    "edgeloom",
    "cni",
    "docker",
    "veth",
    "br-",
    "flannel",
    "cali",
    "cilium",
    "kube-",
    "virbr",
    "tailscale",
];

/// The node's addresses, one a family: the configured one, else the interface's, else the one from which the
/// default route is used, else the first that is not foreign.
pub fn detect(address: Option<IpAddr>, interface: Option<&str>) -> Vec<IpAddr> {
    let all = interfaces();
    let mut found = Vec::new();
    let mut add = |ip: IpAddr| {
        if !found.iter().any(|known: &IpAddr| known.is_ipv4() == ip.is_ipv4()) {
            found.push(ip);
        }
    };
    address.into_iter().for_each(&mut add);
    if let Some(name) = interface {
        all.iter().filter(|(known, _)| known == name).for_each(|(_, ip)| add(*ip));
    } else {
        [
            routed(Ipv4Addr::new(192, 0, 2, 1).into()),
            routed(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
        ]
        .into_iter()
        .flatten()
        .for_each(&mut add);
        let local = all.iter().filter(|(name, _)| !FOREIGN.iter().any(|prefix| name.starts_with(prefix)));
        local.for_each(|(_, ip)| add(*ip));
    }
    found
}

fn interfaces() -> Vec<(String, IpAddr)> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    all.filter_map(|entry| {
        let storage = entry.address?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let v6 = storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
        Some((entry.interface_name, v4.or(v6)?))
    })
    .filter(|(_, ip)| is_usable(ip))
    .collect()
}

/// The address that the kernel would send from. Connecting a UDP socket sends nothing.
fn routed(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(to, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(is_usable)
}

fn is_usable(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_address_comes_first() {
        let ip: IpAddr = "198.51.100.7".parse().unwrap();
        let found = detect(Some(ip), None);
        assert_eq!(found[0], ip);
        assert!(found.iter().skip(1).all(IpAddr::is_ipv6));
    }

    #[test]
    fn what_does_not_leave_the_link_is_not_used() {
        for (text, usable) in [
            ("127.0.0.1", false),
            ("169.254.96.16", false),
            ("192.168.1.1", true),
            ("::1", false),
            ("fe80::1", false),
            ("fd00::1", true),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_usable(&text.parse().unwrap()), usable, "{text}");
        }
    }
}
