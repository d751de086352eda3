//! The datapath in ordinary memory, for tests of what feeds it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use async_trait::async_trait;
use edgeloom_model::Protocol;
use ipnet::IpNet;

use crate::desired::{Desired, Frontend, Target};
use crate::error::Error;
use crate::maps::{Maps, MemoryMaps};
use crate::status::Status;
use crate::table::{Applied, Table};
use crate::{AgentSockets, Steering};

/// Keeps what it is told, by the same delta writer as the kernel's.
#[derive(Debug, Default)]
pub struct Memory {
    table: Table,
    maps: MemoryMaps,
    service_ranges: BTreeSet<IpNet>,
    pod_ranges: BTreeSet<IpNet>,
    has_agent: bool,
    ended: BTreeSet<(SocketAddr, Protocol)>,
}

impl Memory {
    /// What becomes of a call to a frontend.
    pub fn target(&self, frontend: &Frontend) -> Option<&Target> {
        self.table.target(frontend)
    }

    /// All frontends.
    pub fn services(&self) -> impl Iterator<Item = (&Frontend, &Target)> {
        self.table.services()
    }

    /// Ranges of Service addresses routed to this host.
    pub fn service_ranges(&self) -> &BTreeSet<IpNet> {
        &self.service_ranges
    }

    /// Pod ranges of other sites routed to this host.
    pub fn pod_ranges(&self) -> &BTreeSet<IpNet> {
        &self.pod_ranges
    }

    /// Backends whose connections were to be ended.
    pub fn ended(&self) -> &BTreeSet<(SocketAddr, Protocol)> {
        &self.ended
    }

    /// Whether the agent has given its sockets.
    pub fn has_agent(&self) -> bool {
        self.has_agent
    }
}

#[async_trait]
impl Steering for Memory {
    async fn apply(&mut self, desired: &Desired) -> Result<Applied, Error> {
        let (applied, retired) = self.table.apply(desired, &mut self.maps);
        retired.delete(&mut self.maps)?;
        self.service_ranges.clone_from(&desired.service_ranges);
        self.pod_ranges.clone_from(&desired.pod_ranges);
        Ok(applied)
    }

    fn set_agent_sockets(&mut self, sockets: AgentSockets<'_>) -> Result<(), Error> {
        let AgentSockets { tcp4, tcp6, udp4, udp6 } = sockets;
        self.has_agent = [tcp4, tcp6, udp4, udp6].iter().any(Option::is_some);
        Ok(())
    }

    async fn end_connections(&mut self, gone: &BTreeSet<(SocketAddr, Protocol)>) -> Result<usize, Error> {
        self.ended.extend(gone);
        Ok(0)
    }

    fn status(&mut self) -> Status {
        let row = |(frontend, id): (&Frontend, u32)| {
            Some((*frontend, self.maps.counters(id).ok().flatten()?.into()))
        };
        Status { services: self.table.rows().filter_map(row).collect(), ..Status::default() }
    }
}
