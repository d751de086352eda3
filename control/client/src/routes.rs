//! The host's own routes, so that the cluster's ranges can be held against them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Interfaces whose routes are the cluster's own doing, perhaps of an earlier life of this node.
const OWN: [&str; 5] = ["lo", "cni", "edgeloom", "veth", "flannel"];

/// Ranges that the host routes somewhere, without the default routes and what never leaves the link.
pub fn of_host() -> Vec<IpNet> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut routes = parse_v4(&read("/proc/net/route"));
    routes.extend(parse_v6(&read("/proc/net/ipv6_route")));
    routes.sort();
    routes.dedup();
    routes
}

/// `/proc/net/route`: name, destination, gateway, flags, …, mask as the eighth; addresses in host order, hex.
fn parse_v4(text: &str) -> Vec<IpNet> {
    text.lines().skip(1).filter_map(v4_line).collect()
}

fn v4_line(line: &str) -> Option<IpNet> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = |index: usize| -> Option<Ipv4Addr> {
        let raw = u32::from_str_radix(fields.get(index)?, 16).ok()?;
        Some(Ipv4Addr::from(raw.to_ne_bytes()))
    };
    let net = Ipv4Net::with_netmask(address(1)?, address(7)?).ok()?;
    let counts = !is_own(fields.first()?) && net.prefix_len() > 0 && !net.addr().is_link_local();
    counts.then(|| IpNet::V4(net.trunc()))
}

/// `/proc/net/ipv6_route`: destination, prefix length (hex), …, name as the tenth.
fn parse_v6(text: &str) -> Vec<IpNet> {
    text.lines().filter_map(v6_line).collect()
}

fn v6_line(line: &str) -> Option<IpNet> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = Ipv6Addr::from(u128::from_str_radix(fields.first()?, 16).ok()?);
    let net = Ipv6Net::new(address, u8::from_str_radix(fields.get(1)?, 16).ok()?).ok()?;
    let scoped =
        address.is_unicast_link_local() || address.is_multicast() || IpAddr::from(address).is_loopback();
    let counts = !is_own(fields.get(9)?) && net.prefix_len() > 0 && !scoped;
    counts.then(|| IpNet::V6(net.trunc()))
}

fn is_own(interface: &str) -> bool {
    OWN.iter().any(|own| interface.starts_with(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_from_the_kernels_tables() {
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t00000000\t010AA8C0\t0003\t0\t0\t0\t00000000\n\
            eth0\t000AA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
            cni0\t0001F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        assert_eq!(parse_v4(v4), ["192.168.10.0/24".parse::<IpNet>().unwrap()]);
        let v6 = "20010db8011300000000000000000000 40 00000000000000000000000000000000 00 0 0 0 0 0 eth0\n\
            fe800000000000000000000000000000 40 00000000000000000000000000000000 00 0 0 0 0 0 eth0\n\
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 0 0 0 0 0 eth0\n";
        assert_eq!(parse_v6(v6), ["2001:db8:113::/64".parse::<IpNet>().unwrap()]);
        assert!(parse_v4("garbage\n x y\n").is_empty() && parse_v6("zz\n").is_empty());
    }
}
