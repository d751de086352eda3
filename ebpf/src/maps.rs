//! The maps that describe Services, as a trait: the kernel's behind it, or an in-memory double.

use std::collections::BTreeMap;

use crate::abi;

/// Why a map did not take an entry.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("map `{map}` is full ({capacity} entries): raise the datapath's capacity in the configuration")]
    Full { map: &'static str, capacity: u32 },
    #[error("map `{map}`: {reason}")]
    Kernel { map: &'static str, reason: String },
}

/// Reading and writing of the maps that describe Services. Deleting what is not there succeeds.
pub(crate) trait Maps {
    fn services(&self) -> Result<Vec<(abi::Frontend, abi::Service)>, MapError>;
    fn put_service(&mut self, key: abi::Frontend, value: abi::Service) -> Result<(), MapError>;
    fn delete_service(&mut self, key: &abi::Frontend) -> Result<(), MapError>;

    fn backends(&self) -> Result<Vec<(abi::BackendKey, abi::Backend)>, MapError>;
    fn put_backend(&mut self, key: abi::BackendKey, value: abi::Backend) -> Result<(), MapError>;
    fn delete_backend(&mut self, key: &abi::BackendKey) -> Result<(), MapError>;

    fn members(&self) -> Result<Vec<abi::Member>, MapError>;
    fn put_member(&mut self, key: abi::Member) -> Result<(), MapError>;
    fn delete_member(&mut self, key: &abi::Member) -> Result<(), MapError>;

    /// Makes a row of zeroes for a Service, unless it has one.
    fn put_counters(&mut self, service: u32) -> Result<(), MapError>;
    fn delete_counters(&mut self, service: u32) -> Result<(), MapError>;
    /// The row of a Service, summed over CPUs.
    fn counters(&self, service: u32) -> Result<Option<abi::Counters>, MapError>;
}

/// The maps in ordinary memory. `capacity`, where set, bounds the backends, to try out full maps.
#[derive(Debug, Default)]
pub(crate) struct MemoryMaps {
    pub(crate) services: BTreeMap<abi::Frontend, abi::Service>,
    pub(crate) backends: BTreeMap<abi::BackendKey, abi::Backend>,
    pub(crate) members: BTreeMap<abi::Member, ()>,
    pub(crate) counters: BTreeMap<u32, abi::Counters>,
    pub(crate) capacity: Option<u32>,
}

impl Maps for MemoryMaps {
    fn services(&self) -> Result<Vec<(abi::Frontend, abi::Service)>, MapError> {
        Ok(self.services.iter().map(|(key, value)| (*key, *value)).collect())
    }

    fn put_service(&mut self, key: abi::Frontend, value: abi::Service) -> Result<(), MapError> {
        self.services.insert(key, value);
        Ok(())
    }

    fn delete_service(&mut self, key: &abi::Frontend) -> Result<(), MapError> {
        self.services.remove(key);
        Ok(())
    }

    fn backends(&self) -> Result<Vec<(abi::BackendKey, abi::Backend)>, MapError> {
        Ok(self.backends.iter().map(|(key, value)| (*key, *value)).collect())
    }

    fn put_backend(&mut self, key: abi::BackendKey, value: abi::Backend) -> Result<(), MapError> {
        if let Some(capacity) = self.capacity
            && self.backends.len() >= capacity as usize
        {
            return Err(MapError::Full { map: "backends", capacity });
        }
        self.backends.insert(key, value);
        Ok(())
    }

    fn delete_backend(&mut self, key: &abi::BackendKey) -> Result<(), MapError> {
        self.backends.remove(key);
        Ok(())
    }

    fn members(&self) -> Result<Vec<abi::Member>, MapError> {
        Ok(self.members.keys().copied().collect())
    }

    fn put_member(&mut self, key: abi::Member) -> Result<(), MapError> {
        self.members.insert(key, ());
        Ok(())
    }

    fn delete_member(&mut self, key: &abi::Member) -> Result<(), MapError> {
        self.members.remove(key);
        Ok(())
    }

    fn put_counters(&mut self, service: u32) -> Result<(), MapError> {
        self.counters.entry(service).or_default();
        Ok(())
    }

    fn delete_counters(&mut self, service: u32) -> Result<(), MapError> {
        self.counters.remove(&service);
        Ok(())
    }

    fn counters(&self, service: u32) -> Result<Option<abi::Counters>, MapError> {
        Ok(self.counters.get(&service).copied())
    }
}
