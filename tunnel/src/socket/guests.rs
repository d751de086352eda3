//! Addresses that belong to no peer's path and from which packets of a connection are expected all the same: strangers
//! that shake hands or join, and whoever libp2p talks to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::address::canonical;
use super::shards::Shards;

/// The addresses; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guests(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// What is read for each packet.
    known: Shards<SocketAddr, ()>,
    /// Connections of each.
    count: Mutex<HashMap<SocketAddr, usize>>,
}

/// One connection of a guest; packets of it are expected until this is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    guests: Guests,
    address: SocketAddr,
}

impl Guests {
    /// Packets of a connection are expected from `address`.
    pub(crate) fn admit(&self, address: SocketAddr) -> Guest {
        let address = canonical(address);
        let mut count = self.0.count.lock().unwrap_or_else(PoisonError::into_inner);
        let held = count.entry(address).or_default();
        *held += 1;
        if *held == 1 {
            self.0.known.insert(address, ());
        }
        Guest { guests: self.clone(), address }
    }

    /// Whether packets of some connection are expected from there.
    pub(super) fn expects(&self, address: &SocketAddr) -> bool {
        self.0.known.get(address).is_some()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let inner = &self.guests.0;
        let mut count = inner.count.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = count.get_mut(&self.address) {
            *held -= 1;
            if *held == 0 {
                count.remove(&self.address);
                inner.known.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_expected_as_long_as_it_has_a_connection() {
        let guests = Guests::default();
        let address: SocketAddr = "192.0.2.7:4000".parse().unwrap();
        let first = guests.admit(address);
        let second = guests.admit("[::ffff:192.0.2.7]:4000".parse().unwrap());
        drop(first);
        assert!(guests.expects(&address));
        drop(second);
        assert!(!guests.expects(&address));
        assert!(guests.0.count.lock().unwrap().is_empty());
    }
}
