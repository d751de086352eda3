//! A bounded room, of which each source has only a share: one host does not lock a door for the others.
//!
//! A source is an IPv4 address, or an IPv6 /64: that much a host has to itself, and can move within.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// The bits of an IPv6 address that name its network (RFC 4291, section 2.5.4).
const NETWORK: u128 = u128::MAX << 64;

/// What each source holds; clones share it.
#[derive(Clone, Debug)]
pub struct Shares {
    held: Arc<Mutex<HashMap<IpAddr, usize>>>,
    limit: usize,
}

/// One place of a source, given back when this is dropped.
#[derive(Debug)]
pub struct Share {
    shares: Shares,
    source: IpAddr,
}

impl Shares {
    /// Shares of at most `limit` places each.
    pub fn new(limit: usize) -> Self {
        Self { held: Arc::default(), limit }
    }

    /// One more place for the source of `address`, if its share has one left.
    pub fn take(&self, address: IpAddr) -> Option<Share> {
        let source = source(address);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at first: who gets nothing leaves nothing here.
        if held.get(&source).copied().unwrap_or_default() >= self.limit {
            return None;
        }
        *held.entry(source).or_default() += 1;
        Some(Share { shares: self.clone(), source })
    }

    /// Places of the source that holds the most.
    pub fn most(&self) -> usize {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.values().copied().max().unwrap_or_default()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.shares.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.source);
            }
        }
    }
}

fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & NETWORK).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_share_and_no_more() {
        let shares = Shares::new(2);
        let take = |address: &str| shares.take(address.parse().unwrap());
        for (one, same, other) in [
            ("203.0.113.7", "::ffff:203.0.113.7", "203.0.113.8"),
            ("2001:db8::1", "2001:db8::ffff:0:0:1", "2001:db8:0:1::1"),
        ] {
            let (first, second) = (take(one), take(same));
            assert!(first.is_some() && second.is_some());
            assert!(take(one).is_none() && take(same).is_none());
            assert!(take(other).is_some());
            assert_eq!(shares.most(), 2);
            drop(first);
            assert!(take(same).is_some());
        }
        assert!(shares.held.lock().unwrap().is_empty());
    }

    #[test]
    fn where_there_are_no_places_nobody_is_remembered() {
        let shares = Shares::new(0);
        for host in 0..=u8::MAX {
            assert!(shares.take([192, 0, 2, host].into()).is_none());
        }
        assert_eq!((shares.most(), shares.held.lock().unwrap().len()), (0, 0));
    }
}
