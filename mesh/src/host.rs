//! What the host adds to the model: the node's own addresses, looked up anew from time to time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the addresses are looked up: a NodePort at a new address waits no longer.
const EVERY: Duration = Duration::from_secs(10);

/// The node's own addresses. The first of each family is the one that it calls the world from; loopback
/// and link-local ones are left out, since every host has them.
pub(crate) fn addresses() -> Vec<IpAddr> {
    let found = getifaddrs().map(|all| all.filter_map(|interface| address(&interface)).collect::<Vec<_>>());
    let mut addresses = found.unwrap_or_else(|error| {
        tracing::warn!(%error, "the host's addresses could not be listed: NodePorts are not served");
        Vec::new()
    });
    let main = main_addresses();
    addresses.sort_by_key(|address| (!main.contains(address), *address));
    addresses.dedup();
    addresses
}

fn address(interface: &nix::ifaddrs::InterfaceAddress) -> Option<IpAddr> {
    let ip = ip(interface.address.as_ref()?)?;
    let everywhere = match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    };
    (!everywhere).then_some(ip)
}

fn ip(storage: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

/// The ranges of the host's own links, point-to-point ones and loopback left out.
pub(crate) fn links() -> Vec<IpNet> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let link = |interface: nix::ifaddrs::InterfaceAddress| {
        let mask = interface.netmask.as_ref().and_then(ip);
        let range = IpNet::with_netmask(address(&interface)?, mask?).ok()?;
        (range.prefix_len() < range.max_prefix_len()).then(|| range.trunc())
    };
    interfaces.filter_map(link).collect()
}

/// The addresses that the kernel would call the world from. Nothing is sent.
fn main_addresses() -> Vec<IpAddr> {
    let source = |from: SocketAddr, to: SocketAddr| {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        socket.local_addr()
    };
    // Addresses that stand for the world: of the documentation ranges (RFC 5737, RFC 3849).
    let v4 = source((Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::new(192, 0, 2, 1), 9).into());
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let v6 = source((Ipv6Addr::UNSPECIFIED, 0).into(), (v6, 9).into());
    [v4, v6].into_iter().flatten().map(|address| address.ip()).collect()
}

/// Keeps `known` up to date until `stop` is cancelled.
pub(crate) async fn watch(known: watch::Sender<Vec<IpAddr>>, stop: CancellationToken) {
    let mut every = tokio::time::interval(EVERY);
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        let now = addresses();
        known.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_that_every_host_has() {
        for address in addresses() {
            assert!(!address.is_loopback(), "{address}");
            assert!(!address.to_string().starts_with("fe80"), "{address}");
        }
    }
}
