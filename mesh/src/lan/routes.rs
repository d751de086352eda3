//! Our routes in the main table, told from others by their protocol number.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, RouteMessageBuilder};
use tokio::task::JoinHandle;

/// Marks our routes; none of rt_protos(5), and not the datapath's.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(95);

/// A route could not be read, set or removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RouteError {
    #[error("cannot read the routes: {0}")]
    Read(rtnetlink::Error),
    #[error("cannot change the route to {range}: {source}")]
    Change { range: IpNet, source: rtnetlink::Error },
}

/// A routing socket.
pub(super) struct Routes {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Routes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Routes {
    pub(super) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// Makes our routes these, each to a gateway on a link. A range that somebody else routes already (a
    /// CNI plugin) is left to them.
    pub(super) async fn set(&mut self, wanted: &BTreeMap<IpNet, IpAddr>) -> Result<(), RouteError> {
        let (ours, others) = self.held().await?;
        for (range, route) in &ours {
            if wanted.get(range).copied() != gateway(route) {
                let deleted = self.handle.route().del(route.clone()).execute().await;
                deleted.map_err(|source| RouteError::Change { range: *range, source })?;
            }
        }
        for (range, via) in wanted {
            if others.contains_key(range) || ours.get(range).and_then(gateway) == Some(*via) {
                continue;
            }
            let added = self.handle.route().add(message(*range, *via)).replace().execute().await;
            added.map_err(|source| RouteError::Change { range: *range, source })?;
            tracing::info!(%range, %via, "pods of a node of the own site are near");
        }
        Ok(())
    }

    /// Our routes, and those of others in the main table, by range.
    async fn held(
        &self,
    ) -> Result<(BTreeMap<IpNet, RouteMessage>, BTreeMap<IpNet, RouteMessage>), RouteError> {
        let (mut ours, mut others) = (BTreeMap::new(), BTreeMap::new());
        let filters =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for filter in filters {
            let mut routes = self.handle.route().get(filter).execute();
            while let Some(route) = routes.try_next().await.map_err(RouteError::Read)? {
                let Some(range) = range(&route) else { continue };
                if route.header.protocol == PROTOCOL {
                    ours.insert(range, route);
                } else if route.header.table == libc::RT_TABLE_MAIN {
                    others.insert(range, route);
                }
            }
        }
        Ok((ours, others))
    }
}

fn message(range: IpNet, via: IpAddr) -> RouteMessage {
    let mut message = match (range, via) {
        (IpNet::V4(range), IpAddr::V4(via)) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.network(), range.prefix_len())
            .gateway(via)
            .build(),
        (IpNet::V6(range), IpAddr::V6(via)) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(range.network(), range.prefix_len())
            .gateway(via)
            .build(),
        // Neighbours are made with a gateway of each range's family.
        _ => RouteMessage::default(),
    };
    message.header.protocol = PROTOCOL;
    message
}

fn range(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    fn ip(arguments: &str) -> String {
        let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
        assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    /// Runs a test on a thread with a network namespace of its own, which ends with it.
    fn in_namespace(test: impl AsyncFnOnce() + Send) {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("left out: it needs root for a network namespace");
            return;
        }
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                ip("link set lo up");
                ip("link add lan type veth peer name far");
                ip("link set lan up");
                ip("link set far up");
                ip("address add 192.168.10.5/24 dev lan");
                ip("address add fd00::5/64 dev lan nodad");
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(test());
            });
            thread.join().unwrap();
        });
    }

    fn wanted(routes: &[(&str, &str)]) -> BTreeMap<IpNet, IpAddr> {
        routes.iter().map(|(range, via)| (range.parse().unwrap(), via.parse().unwrap())).collect()
    }

    #[test]
    fn routes_are_set_moved_and_removed_and_those_of_others_left() {
        in_namespace(async || {
            ip("route add 10.244.9.0/24 via 192.168.10.99");
            let mut routes = Routes::open().unwrap();
            let first = [
                ("10.244.2.0/24", "192.168.10.6"),
                ("fd00:10:244:2::/64", "fd00::6"),
                ("10.244.9.0/24", "192.168.10.9"),
            ];
            routes.set(&wanted(&first)).await.unwrap();
            assert!(ip("route").contains("10.244.2.0/24 via 192.168.10.6"));
            assert!(ip("-6 route").contains("fd00:10:244:2::/64 via fd00::6"));
            assert!(ip("route").contains("10.244.9.0/24 via 192.168.10.99"), "another's");
            routes.set(&wanted(&[("10.244.2.0/24", "192.168.10.7")])).await.unwrap();
            assert!(ip("route").contains("10.244.2.0/24 via 192.168.10.7"));
            assert!(!ip("-6 route").contains("fd00:10:244:2::/64"));
            // What an agent before left is known by its protocol.
            let mut again = Routes::open().unwrap();
            again.set(&wanted(&[])).await.unwrap();
            assert!(!ip("route").contains("10.244.2.0/24"));
            assert!(ip("route").contains("10.244.9.0/24"));
        });
    }
}
