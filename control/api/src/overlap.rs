//! Ranges that must not be used twice on one host. Pure.

use ipnet::IpNet;

/// The first of the cluster's ranges that overlaps one of the host's routes, with that route. A default
/// route overlaps everything and means nothing.
pub fn first(cluster: &[IpNet], routes: &[IpNet]) -> Option<(IpNet, IpNet)> {
    let real = routes.iter().filter(|route| route.prefix_len() > 0);
    real.flat_map(|route| cluster.iter().map(move |range| (*range, *route)))
        .find(|(range, route)| range.contains(&route.network()) || route.contains(&range.network()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_factory_and_of_the_cluster() {
        let nets = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let cluster = nets(&["10.244.3.0/24", "fd00:10:244:3::/64"]);
        for (routes, expected) in [
            (nets(&["192.168.10.0/24", "0.0.0.0/0", "::/0"]), None),
            (nets(&["10.0.0.0/8"]), Some(("10.244.3.0/24", "10.0.0.0/8"))),
            (nets(&["10.244.3.128/25"]), Some(("10.244.3.0/24", "10.244.3.128/25"))),
            (nets(&["fd00::/8"]), Some(("fd00:10:244:3::/64", "fd00::/8"))),
        ] {
            let found = first(&cluster, &routes).map(|(range, route)| (range.to_string(), route.to_string()));
            let expected = expected.map(|(range, route)| (range.to_owned(), route.to_owned()));
            assert_eq!(found, expected);
        }
    }
}
