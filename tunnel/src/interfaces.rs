//! Own addresses that a peer could be told of.

use std::net::{IpAddr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// Interfaces of containers and other overlays, whose addresses lead nowhere from outside.
const FOREIGN: [&str; 24] = [
    "docker*",
    "br-*",
    "cni*",
    "edgeloom*",
    "veth*",
    "cali*",
    "tunl*",
    "cilium*",
    "lxc*",
    "flannel*",
    "kube*",
    "nodelocaldns*",
    "weave*",
    "vxlan*",
    "genev*",
    "wg*",
    "tailscale*",
    "zt*",
    "nebula*",
    "wt*",
    "virbr*",
    "podman*",
    "lxd*",
    "dummy*",
];

/// Most addresses of this node that are told.
const MAX_LOCAL: usize = 12;

/// Addresses of the interfaces that are up, with `port`, in a stable order.
pub(crate) fn candidates(exclude: &[String], port: u16) -> Vec<SocketAddr> {
    let interfaces = match getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "own addresses cannot be listed, so no peer on the LAN is told of them");
            return Vec::new();
        }
    };
    let mut found: Vec<SocketAddr> = interfaces
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING))
        .filter(|interface| !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter(|interface| !is_foreign(&interface.interface_name, exclude))
        .filter_map(|interface| {
            let address = interface.address?;
            let ip: IpAddr = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => v4.ip().into(),
                (_, Some(v6)) => v6.ip().into(),
                _ => return None,
            };
            leads_here(&ip).then_some(SocketAddr::new(ip, port))
        })
        .collect();
    found.sort();
    found.dedup();
    found.truncate(MAX_LOCAL);
    found
}

fn is_foreign(name: &str, exclude: &[String]) -> bool {
    let matches = |pattern: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    };
    FOREIGN.iter().copied().chain(exclude.iter().map(String::as_str)).any(matches)
}

fn leads_here(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_and_other_overlays_are_left_out() {
        for name in ["docker0", "cni0", "cali12ab", "cilium_host", "flannel.1", "tailscale0", "br-1f2e"] {
            assert!(is_foreign(name, &[]), "{name}");
        }
        for name in ["eth0", "enp3s0", "wlan0", "bond0", "br0", "wan"] {
            assert!(!is_foreign(name, &[]), "{name}");
        }
        assert!(is_foreign("wwan0", &["wwan*".to_owned()]));
        assert!(is_foreign("eth1", &["eth1".to_owned()]));
        assert!(!is_foreign("eth10", &["eth1".to_owned()]));
    }

    #[test]
    fn link_local_addresses_are_left_out() {
        for ip in ["169.254.96.16", "fe80::1", "127.0.0.1", "::1"] {
            assert!(!leads_here(&ip.parse().unwrap()), "{ip}");
        }
        assert!(leads_here(&"192.168.10.2".parse().unwrap()));
    }
}
