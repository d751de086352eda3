//! A range of pod addresses for every Node. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Length of a node's range: 254 pods in IPv4, one subnet in IPv6.
fn mask(cluster: &IpNet) -> u8 {
    if cluster.addr().is_ipv4() { 24.max(cluster.prefix_len()) } else { 64.max(cluster.prefix_len()) }
}

/// The lowest piece of `cluster` that overlaps none of `taken`. The first piece (index 0) is skipped
/// while there are others, so that a node's range never begins with the cluster's own address.
pub(crate) fn free(cluster: &IpNet, taken: &BTreeSet<IpNet>) -> Option<IpNet> {
    let mask = mask(cluster);
    let bits = u32::from(mask - cluster.prefix_len()).min(24);
    let count = 1u32 << bits;
    let first = u32::from(count > 1);
    let pieces = (first..count).filter_map(|index| piece(cluster, mask, index));
    pieces.into_iter().find(|piece| !taken.iter().any(|other| overlaps(piece, other)))
}

fn piece(cluster: &IpNet, mask: u8, index: u32) -> Option<IpNet> {
    match cluster.network() {
        IpAddr::V4(base) => {
            let start = u32::from(base).checked_add(index.checked_shl(32 - u32::from(mask)).unwrap_or(0))?;
            Ipv4Net::new(Ipv4Addr::from(start), mask).ok().map(IpNet::V4)
        }
        IpAddr::V6(base) => {
            let offset = u128::from(index).checked_shl(128 - u32::from(mask)).unwrap_or(0);
            let start = u128::from(base).checked_add(offset)?;
            Ipv6Net::new(Ipv6Addr::from(start), mask).ok().map(IpNet::V6)
        }
    }
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_free_piece_of_each_family() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let mut taken = BTreeSet::new();
        assert_eq!(free(&net("10.244.0.0/16"), &taken), Some(net("10.244.1.0/24")));
        assert_eq!(free(&net("fd00:10:244::/48"), &taken), Some(net("fd00:10:244:1::/64")));
        taken.insert(net("10.244.1.0/24"));
        taken.insert(net("10.244.2.128/25"));
        assert_eq!(free(&net("10.244.0.0/16"), &taken), Some(net("10.244.3.0/24")));
    }

    #[test]
    fn all_pieces_are_used_before_none_is_left() {
        let cluster: IpNet = "10.0.0.0/22".parse().unwrap();
        let mut taken = BTreeSet::new();
        while let Some(piece) = free(&cluster, &taken) {
            assert!(taken.insert(piece));
        }
        assert_eq!(taken.len(), 3);
        assert!(free(&"10.9.0.0/24".parse().unwrap(), &BTreeSet::new()).is_some());
    }
}
