//! The kernel's maps behind [`Maps`], and the two that only the loader writes: ranges and sockets.

use std::collections::BTreeMap;
use std::fmt;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData, PerCpuHashMap, PerCpuValues, SockMap};
use ipnet::IpNet;

use crate::abi;
use crate::error::Error;
use crate::maps::{MapError, Maps};
use crate::{AgentSockets, abi::Address};

/// `map_flags` of an update that must not replace.
const BPF_NOEXIST: u64 = 1;

/// How much the maps hold. Kernel memory is taken as entries are used, about 100 bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Frontends: Service ports times addresses.
    pub frontends: u32,
    /// Near backends of all frontends; twice what is used, since a change holds old and new.
    pub backends: u32,
    /// Clients that are kept with their backend, and connected UDP sockets that are known with theirs;
    /// beyond it the longest unused is forgotten. These are allocated at once, about 1.5 MB in all.
    pub clients: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { frontends: 65_536, backends: 131_072, clients: 8_192 }
    }
}

/// Handles of the loaded maps.
pub(crate) struct KernelMaps {
    services: HashMap<MapData, abi::Frontend, abi::Service>,
    backends: HashMap<MapData, abi::BackendKey, abi::Backend>,
    members: HashMap<MapData, abi::Member, u32>,
    counters: PerCpuHashMap<MapData, u32, abi::Counters>,
    ranges: LpmTrie<MapData, Address, u32>,
    agent: SockMap<MapData>,
    capacity: Capacity,
    cpus: usize,
}

impl fmt::Debug for KernelMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelMaps").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl KernelMaps {
    /// Takes the maps out of a loaded object; they stay as long as this lives, or as they are pinned.
    pub(crate) fn take(ebpf: &mut Ebpf, capacity: Capacity) -> Result<Self, Error> {
        let mut maps = Self {
            services: take(ebpf, "services")?,
            backends: take(ebpf, "backends")?,
            members: take(ebpf, "members")?,
            counters: take(ebpf, "counters")?,
            ranges: take(ebpf, "ranges")?,
            agent: take(ebpf, "agent")?,
            capacity,
            cpus: aya::util::nr_cpus()
                .map_err(|(path, error)| reason("counters", format!("{path}: {error}")))?,
        };
        maps.put_counters(abi::COUNTERS_OTHER)?;
        Ok(maps)
    }

    /// Makes the map of ranges hold these and no others. New ones are there before old ones go.
    pub(crate) fn set_ranges(&mut self, wanted: &BTreeMap<IpNet, u32>) -> Result<(), MapError> {
        let wanted: BTreeMap<_, _> = wanted.iter().map(|(net, kind)| (range_of(net), *kind)).collect();
        let mut held = Vec::new();
        for key in self.ranges.keys() {
            let key = key.map_err(|error| reason("ranges", error))?;
            held.push(abi::Range { prefix_len: key.prefix_len(), addr: key.data() });
        }
        for (range, kind) in &wanted {
            let key = Key::new(range.prefix_len, range.addr);
            self.ranges.insert(&key, kind, 0).map_err(|error| reason("ranges", error))?;
        }
        for range in held.iter().filter(|range| !wanted.contains_key(range)) {
            let key = Key::new(range.prefix_len, range.addr);
            gone_is_fine(self.ranges.remove(&key)).map_err(|error| reason("ranges", error))?;
        }
        Ok(())
    }

    /// Hands the agent's sockets to `sk_lookup`.
    pub(crate) fn set_agent(&mut self, sockets: AgentSockets<'_>) -> Result<(), Error> {
        let slots = [
            (abi::AGENT_TCP4, "IPv4 TCP", sockets.tcp4),
            (abi::AGENT_TCP6, "IPv6 TCP", sockets.tcp6),
            (abi::AGENT_UDP4, "IPv4 UDP", sockets.udp4),
            (abi::AGENT_UDP6, "IPv6 UDP", sockets.udp6),
        ];
        const { assert!(abi::AGENT_SOCKETS == 4) };
        for (index, name, socket) in slots {
            let Some(socket) = socket else {
                // A slot that is empty already answers EINVAL.
                self.agent.clear_index(&index).ok();
                continue;
            };
            let set = self.agent.set(index, &socket, 0);
            set.map_err(|error| Error::Socket { socket: name, reason: chain(&error) })?;
        }
        Ok(())
    }
}

impl Maps for KernelMaps {
    fn services(&self) -> Result<Vec<(abi::Frontend, abi::Service)>, MapError> {
        self.services.iter().collect::<Result<_, _>>().map_err(|error| reason("services", error))
    }

    fn put_service(&mut self, key: abi::Frontend, value: abi::Service) -> Result<(), MapError> {
        self.services.insert(key, value, 0).map_err(|e| not_put("services", self.capacity.frontends, e))
    }

    fn delete_service(&mut self, key: &abi::Frontend) -> Result<(), MapError> {
        gone_is_fine(self.services.remove(key)).map_err(|error| reason("services", error))
    }

    fn backends(&self) -> Result<Vec<(abi::BackendKey, abi::Backend)>, MapError> {
        self.backends.iter().collect::<Result<_, _>>().map_err(|error| reason("backends", error))
    }

    fn put_backend(&mut self, key: abi::BackendKey, value: abi::Backend) -> Result<(), MapError> {
        self.backends.insert(key, value, 0).map_err(|e| not_put("backends", self.capacity.backends, e))
    }

    fn delete_backend(&mut self, key: &abi::BackendKey) -> Result<(), MapError> {
        gone_is_fine(self.backends.remove(key)).map_err(|error| reason("backends", error))
    }

    fn members(&self) -> Result<Vec<abi::Member>, MapError> {
        self.members.keys().collect::<Result<_, _>>().map_err(|error| reason("members", error))
    }

    fn put_member(&mut self, key: abi::Member) -> Result<(), MapError> {
        self.members.insert(key, 1, 0).map_err(|e| not_put("members", self.capacity.backends, e))
    }

    fn delete_member(&mut self, key: &abi::Member) -> Result<(), MapError> {
        gone_is_fine(self.members.remove(key)).map_err(|error| reason("members", error))
    }

    fn put_counters(&mut self, service: u32) -> Result<(), MapError> {
        let zero = PerCpuValues::try_from(vec![abi::Counters::default(); self.cpus])
            .map_err(|error| reason("counters", error))?;
        match self.counters.insert(service, zero, BPF_NOEXIST) {
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
            done => done.map_err(|error| not_put("counters", self.capacity.frontends, error)),
        }
    }

    fn delete_counters(&mut self, service: u32) -> Result<(), MapError> {
        gone_is_fine(self.counters.remove(&service)).map_err(|error| reason("counters", error))
    }

    fn counters(&self, service: u32) -> Result<Option<abi::Counters>, MapError> {
        let rows = match self.counters.get(&service, 0) {
            Ok(rows) => rows,
            Err(aya::maps::MapError::KeyNotFound) => return Ok(None),
            Err(error) => return Err(reason("counters", error)),
        };
        Ok(Some(rows.iter().fold(abi::Counters::default(), |sum, row| abi::Counters {
            connects: sum.connects + row.connects,
            datagrams: sum.datagrams + row.datagrams,
            refused: sum.refused + row.refused,
            steered: sum.steered + row.steered,
            dropped: sum.dropped + row.dropped,
            missed: sum.missed + row.missed,
        })))
    }
}

fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, Error>
where
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).ok_or(Error::Missing(name))?;
    M::try_from(map).map_err(|error| reason(name, error).into())
}

/// The key of a range: an IPv4 prefix counts from where the mapped address begins.
fn range_of(net: &IpNet) -> abi::Range {
    let shift = if net.network().is_ipv4() { 96 } else { 0 };
    abi::Range { prefix_len: u32::from(net.prefix_len()) + shift, addr: net.network().into() }
}

fn gone_is_fine(done: Result<(), aya::maps::MapError>) -> Result<(), aya::maps::MapError> {
    match done {
        Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
        done => done,
    }
}

fn not_put(map: &'static str, capacity: u32, error: aya::maps::MapError) -> MapError {
    match errno(&error) {
        Some(libc::E2BIG) => MapError::Full { map, capacity },
        _ => reason(map, error),
    }
}

fn errno(error: &aya::maps::MapError) -> Option<i32> {
    match error {
        aya::maps::MapError::SyscallError(call) => call.io_error.raw_os_error(),
        _ => None,
    }
}

fn reason(map: &'static str, error: impl Into<Box<dyn std::error::Error>>) -> MapError {
    MapError::Kernel { map, reason: chain(error.into().as_ref()) }
}

/// An error with what caused it; aya's own text leaves the cause out.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_ipv4_count_from_the_mapped_address() {
        let range = range_of(&"10.96.0.0/12".parse().unwrap());
        assert_eq!(range.prefix_len, 108);
        assert_eq!(std::net::IpAddr::from(range.addr), "10.96.0.0".parse::<std::net::IpAddr>().unwrap());
        // A host bit set by mistake must not make another key.
        assert_eq!(range_of(&"10.96.7.7/12".parse().unwrap()), range);
        assert_eq!(range_of(&"fd00:10:96::/108".parse().unwrap()).prefix_len, 108);
    }
}
