//! What the datapath can do on this host, and what it has done.

use std::path::PathBuf;

use crate::desired::Frontend;

/// A picture of the datapath for people and metrics.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Where the near hooks are attached; `None` where near calls are not served.
    pub cgroup: Option<PathBuf>,
    /// Where maps and links are pinned; `None`: they end with the agent.
    pub pin: Option<PathBuf>,
    /// What the datapath consists of, and which of it works here.
    pub features: Vec<Feature>,
    /// Calls of each frontend.
    pub services: Vec<(Frontend, Counters)>,
    /// Packets to other sites' pods, and those to the Service ranges that are no Service's.
    pub other: Counters,
}

/// A part of the datapath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    pub name: &'static str,
    pub state: State,
}

/// Whether a part works here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    On,
    /// What is missing, and what that means.
    Off(String),
}

impl Status {
    /// Whether every part works.
    pub fn is_complete(&self) -> bool {
        self.features.iter().all(|feature| feature.state == State::On)
    }
}

/// Calls since the Service was first seen, or since the datapath was loaded anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connects pointed at a near backend.
    pub connects: u64,
    /// Datagrams of unconnected sockets pointed at a near backend.
    pub datagrams: u64,
    /// Calls refused for want of an endpoint.
    pub refused: u64,
    /// New connections and datagrams handed to the agent.
    pub steered: u64,
    /// Packets dropped: no such port, or no agent.
    pub dropped: u64,
    /// Look-ups that met a change of backends and were repeated.
    pub repeated: u64,
}

impl From<crate::abi::Counters> for Counters {
    fn from(c: crate::abi::Counters) -> Self {
        Self {
            connects: c.connects,
            datagrams: c.datagrams,
            refused: c.refused,
            steered: c.steered,
            dropped: c.dropped,
            repeated: c.missed,
        }
    }
}
