//! AnyIP: `local` routes of whole ranges on the loopback interface, so that their packets end here.
//!
//! TCP and UDP meet the verdict of the steering program. ICMP does not: the host itself answers a ping of any
//! address in the ranges.
//!
//! Ours bear a protocol number of their own, by which they are found again after a restart. They name a
//! node address as the preferred source: without it the host's own processes would call a Service from
//! the Service's address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use tokio::task::JoinHandle;

use crate::error::Error;

/// Marks our routes; not one of rt_protos(5).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(94);

/// The loopback interface has this index in every network namespace.
const LOOPBACK: u32 = 1;

/// The routes of this network namespace.
#[derive(Debug)]
pub(crate) struct Routes {
    handle: Handle,
    connection: JoinHandle<()>,
    /// Preferred sources, the first of each family.
    sources: Vec<IpAddr>,
}

impl Routes {
    /// Opens a netlink socket. Must be called within a tokio runtime.
    pub(crate) fn open(sources: &[IpAddr]) -> Result<Self, Error> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| Error::Netlink(error.to_string()))?;
        Ok(Self { handle, connection: tokio::spawn(connection), sources: sources.to_vec() })
    }

    /// Adds what is missing.
    pub(crate) async fn add(&self, wanted: &BTreeSet<IpNet>) -> Result<(), Error> {
        let held = self.held().await?;
        for range in wanted {
            let source = self.sources.iter().find(|source| source.is_ipv4() == range.addr().is_ipv4());
            let message = message(range, source.copied());
            if held.get(range).is_some_and(|held| source_of(held) == source_of(&message)) {
                continue;
            }
            let added = match self.handle.route().add(message).replace().execute().await {
                // The source is no address of this host (yet): better reached without than not at all.
                Err(error) if source.is_some() && is_invalid(&error) => {
                    tracing::warn!(%range, ?source, "the node address is not on this host; routing without a source");
                    self.handle.route().add(self::message(range, None)).replace().execute().await
                }
                done => done,
            };
            added.map_err(|error| Error::Route { range: *range, reason: error.to_string() })?;
        }
        Ok(())
    }

    /// Removes ours that are not wanted.
    pub(crate) async fn retain(&self, wanted: &BTreeSet<IpNet>) -> Result<(), Error> {
        for (range, message) in self.held().await? {
            if !wanted.contains(&range) {
                let done = self.handle.route().del(message).execute().await;
                done.map_err(|error| Error::Route { range, reason: error.to_string() })?;
            }
        }
        Ok(())
    }

    /// Our routes.
    async fn held(&self) -> Result<BTreeMap<IpNet, RouteMessage>, Error> {
        let mut held = BTreeMap::new();
        let filters =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for filter in filters {
            let mut routes = self.handle.route().get(filter).execute();
            loop {
                match routes.try_next().await {
                    Ok(Some(route)) if is_ours(&route) => {
                        held.extend(range_of(&route).map(|range| (range, route)));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    // A kernel without IPv6 has no such routes.
                    Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EOPNOTSUPP => {
                        break;
                    }
                    Err(error) => return Err(Error::Netlink(error.to_string())),
                }
            }
        }
        Ok(held)
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn message(range: &IpNet, source: Option<IpAddr>) -> RouteMessage {
    let range = range.trunc();
    let mut message = match (range.addr(), source) {
        (IpAddr::V4(addr), source) => {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(addr, range.prefix_len());
            match source {
                Some(IpAddr::V4(source)) => builder.pref_source(source).build(),
                _ => builder.build(),
            }
        }
        (IpAddr::V6(addr), source) => {
            let builder = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(addr, range.prefix_len());
            match source {
                Some(IpAddr::V6(source)) => builder.pref_source(source).build(),
                _ => builder.build(),
            }
        }
    };
    message.attributes.push(RouteAttribute::Oif(LOOPBACK));
    message.header.table = libc::RT_TABLE_LOCAL;
    message.header.kind = RouteType::Local;
    message.header.protocol = PROTOCOL;
    message.header.scope = RouteScope::Host;
    message
}

fn is_ours(route: &RouteMessage) -> bool {
    route.header.protocol == PROTOCOL && route.header.kind == RouteType::Local
}

fn range_of(route: &RouteMessage) -> Option<IpNet> {
    let addr = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(addr)) => Some(IpAddr::from(*addr)),
        RouteAttribute::Destination(RouteAddress::Inet6(addr)) => Some(IpAddr::from(*addr)),
        _ => None,
    })?;
    IpNet::new(addr, route.header.destination_prefix_length).ok()
}

fn source_of(route: &RouteMessage) -> Option<&RouteAddress> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(source) => Some(source),
        _ => None,
    })
}

fn is_invalid(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(error) if error.raw_code() == -libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_as_it_was_written() {
        for (range, source) in [("10.96.0.0/12", "192.0.2.1"), ("fd00:10:96::/108", "2001:db8::1")] {
            let range: IpNet = range.parse().unwrap();
            let route = message(&range, Some(source.parse().unwrap()));
            assert!(is_ours(&route));
            assert_eq!(range_of(&route), Some(range));
            let source: IpAddr = source.parse().unwrap();
            assert_eq!(source_of(&route), Some(&RouteAddress::from(source)));
        }
    }

    #[test]
    fn a_source_of_the_other_family_is_left_out() {
        let route = message(&"10.96.0.0/12".parse().unwrap(), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(source_of(&route), None);
    }
}
