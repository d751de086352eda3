//! Which port stands for which node. Pure: told what is in use, it says what is next.

use std::collections::{BTreeMap, BTreeSet};

use edgeloom_api::names::KUBELET_PORTS;

/// The ports given out. A node keeps its port for as long as it exists; the Node's own
/// `status.daemonEndpoints` is the record, so that nothing is lost with the control.
#[derive(Debug, Default)]
pub(super) struct Ports {
    by_node: BTreeMap<String, u16>,
    taken: BTreeSet<u16>,
    /// No port below this one is free.
    lowest: u16,
}

/// All ports are given out.
#[derive(Debug, thiserror::Error)]
#[error(
    "no kubelet port is left for node {node}: {count} nodes have one; delete nodes that are gone, \
     or run a further control"
)]
pub(super) struct Exhausted {
    /// The node that got none.
    pub(super) node: String,
    /// Ports in use.
    pub(super) count: usize,
}

impl Ports {
    /// The port of `node`: the one it has, the one its Node object says (`recorded`) if that is in the
    /// range and free, else the lowest free one.
    pub(super) fn assign(&mut self, node: &str, recorded: Option<u16>) -> Result<u16, Exhausted> {
        if let Some(port) = self.by_node.get(node) {
            return Ok(*port);
        }
        let port = recorded
            .filter(|port| in_range(*port) && !self.taken.contains(port))
            .or_else(|| self.lowest_free())
            .ok_or_else(|| Exhausted { node: node.to_owned(), count: self.taken.len() })?;
        self.by_node.insert(node.to_owned(), port);
        self.taken.insert(port);
        Ok(port)
    }

    fn lowest_free(&mut self) -> Option<u16> {
        let mut ports = KUBELET_PORTS.into_iter().flatten();
        let free = ports.find(|port| *port >= self.lowest && !self.taken.contains(port));
        self.lowest = free.unwrap_or(u16::MAX);
        free
    }

    /// Gives the node's port back.
    pub(super) fn release(&mut self, node: &str) {
        if let Some(port) = self.by_node.remove(node) {
            self.taken.remove(&port);
            self.lowest = self.lowest.min(port);
        }
    }

    /// Sets a port aside that another program of this host holds.
    pub(super) fn occupied(&mut self, node: &str) {
        // It stays in `taken`, so that no other node gets it either.
        self.by_node.remove(node);
    }
}

fn in_range(port: u16) -> bool {
    KUBELET_PORTS.iter().any(|range| range.contains(&port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_port() {
        let mut ports = Ports::default();
        let first = ports.assign("a", None).unwrap();
        assert_eq!(ports.assign("a", Some(20_500)).unwrap(), first);
        assert_ne!(ports.assign("b", None).unwrap(), first);
    }

    #[test]
    fn the_recorded_port_is_kept_over_a_restart_unless_it_cannot_be() {
        let mut ports = Ports::default();
        assert_eq!(ports.assign("a", Some(20_500)).unwrap(), 20_500);
        assert_eq!(ports.assign("taken by a", Some(20_500)).unwrap(), 19_000);
        assert_eq!(ports.assign("a real kubelet's", Some(10_250)).unwrap(), 19_001);
    }

    #[test]
    fn a_released_port_is_given_out_again_but_an_occupied_one_is_not() {
        let mut ports = Ports::default();
        assert_eq!(ports.assign("a", None).unwrap(), 19_000);
        ports.release("a");
        assert_eq!(ports.assign("b", None).unwrap(), 19_000);
        ports.occupied("b");
        assert_eq!(ports.assign("b", None).unwrap(), 19_001);
    }

    #[test]
    fn ports_that_are_the_daemons_own_are_never_given_out() {
        let mut ports = Ports::default();
        let mut count = 0;
        while let Ok(port) = ports.assign(&format!("node-{count}"), None) {
            assert!(!(20_000..20_100).contains(&port) && port < 30_000);
            count += 1;
        }
        assert_eq!(count, 1_000 + 9_900);
    }
}
