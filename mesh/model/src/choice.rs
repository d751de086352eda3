//! Which endpoints serve a caller on a given node.
//!
//! Two steps. First the Service's own wishes, by kube-proxy's rules: traffic policies, topology hints,
//! `trafficDistribution`, readiness, and terminating endpoints where nothing else is left. Then, among
//! what those allow, the nearest: the own node, the own site, everywhere else. What can be reached by its
//! own address is near and left to the kernel; what cannot is far and reached through its node's agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::Model;
use crate::name::{NodeName, Site};
use crate::node::Role;
use crate::protocol::Family;
use crate::service::{Distribution, Entry, Service, ServicePort, TrafficPolicy};
use crate::slice::Endpoint;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The own node.
    pub node: &'a NodeName,
    /// Its site.
    pub site: &'a Site,
    /// Its zone, which hints refer to: the Node's label, which is the site where none was set.
    pub zone: &'a str,
    /// Nodes of the own site whose pods answer by their own addresses of a family.
    pub routed: &'a BTreeSet<(NodeName, Family)>,
}

impl View<'_> {
    fn is_routed(&self, node: &NodeName, family: Family) -> bool {
        self.routed.iter().any(|(routed, its)| routed == node && *its == family)
    }
}

/// An endpoint at the port that serves the Service port asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
}

/// A backend that is reached through a node's agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FarBackend {
    /// The node whose agent dials it.
    pub node: NodeName,
    /// Whether that node is of the own site: such are tried first.
    pub same_site: bool,
    /// The backend.
    pub backend: Backend,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Any of these, by its own address. Never empty.
    Near(Vec<Backend>),
    /// Any of these, through its node's agent; those of the own site come first. Never empty.
    Far(Vec<FarBackend>),
    /// Nothing can serve: refuse.
    None,
}

/// Where an endpoint is, seen from a node. Ordered by preference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    OwnNode,
    Reachable,
    SameSite(NodeName),
    Elsewhere(Vec<NodeName>),
    Nowhere,
}

impl Model {
    /// The endpoints that serve callers of a Service port, for addresses of one family.
    pub fn choose(
        &self,
        service: &Service,
        port: &ServicePort,
        family: Family,
        entry: Entry,
        view: &View<'_>,
    ) -> Choice {
        let mut backends = self.backends(service, port, family);
        backends.retain(|(backend, _)| self.place(&backend.endpoint, view) != Place::Nowhere);
        let local_only = match entry {
            Entry::Cluster => service.internal_policy == TrafficPolicy::Local,
            Entry::ExternalFromInside => false,
            Entry::ExternalFromOutside => service.external_policy == TrafficPolicy::Local,
        };
        if local_only {
            backends.retain(|(backend, _)| backend.endpoint.node.as_ref() == Some(view.node));
            return self.nearest(available(backends, <[Backend]>::to_vec), view);
        }
        self.nearest(available(backends, |ready| self.by_topology(service, ready, view)), view)
    }

    /// The endpoints of a Service port that the own node answers for when another node's agent asks:
    /// those on it, and those of the site that are on no node.
    pub fn served_here(&self, service: &Service, port: &ServicePort, view: &View<'_>) -> Vec<Backend> {
        let mut backends = self.backends(service, port, Family::V4);
        backends.extend(self.backends(service, port, Family::V6));
        backends.retain(|(backend, _)| match (&backend.endpoint.node, &backend.endpoint.zone) {
            (Some(node), _) => node == view.node,
            (None, Some(zone)) => **zone == *view.site.as_str(),
            (None, None) => false,
        });
        available(backends, <[Backend]>::to_vec)
    }

    /// Every endpoint of a Service port with whether it counts as ready, one for each address.
    fn backends(&self, service: &Service, port: &ServicePort, family: Family) -> Vec<(Backend, bool)> {
        let mut found: BTreeMap<SocketAddr, (Backend, bool)> = BTreeMap::new();
        for slice in self.slices(&service.key).filter(|slice| slice.family == family) {
            let matches = |p: &&crate::SlicePort| p.name == port.name && p.protocol == port.protocol;
            let Some(number) = slice.ports.iter().find(matches).map(|p| p.port) else { continue };
            for endpoint in &slice.endpoints {
                let address = SocketAddr::new(endpoint.address, number);
                let ready = endpoint.ready || service.publish_not_ready;
                let backend = Backend { address, endpoint: endpoint.clone() };
                // While an endpoint moves from one slice to another it may stand in both.
                if ready || found.get(&address).is_none_or(|(_, ready)| !ready) {
                    found.insert(address, (backend, ready));
                }
            }
        }
        found.into_values().collect()
    }

    /// What topology hints and `trafficDistribution` leave of the ready endpoints; never nothing of some.
    fn by_topology(&self, service: &Service, ready: &[Backend], view: &View<'_>) -> Vec<Backend> {
        let only = |keep: &dyn Fn(&Endpoint) -> bool| -> Option<Vec<Backend>> {
            let kept: Vec<_> = ready.iter().filter(|b| keep(&b.endpoint)).cloned().collect();
            (!kept.is_empty()).then_some(kept)
        };
        let all = |has: fn(&Endpoint) -> bool| ready.iter().all(|b| has(&b.endpoint));
        let node_hinted = all(|e| !e.node_hints.is_empty());
        let zone_hinted = all(|e| !e.zone_hints.is_empty());
        let by_node = || only(&|e| e.node_hints.contains(view.node));
        let by_zone = || only(&|e| e.zone_hints.iter().any(|zone| **zone == *view.zone));
        let chosen = if node_hinted || zone_hinted {
            node_hinted.then(by_node).flatten().or_else(|| zone_hinted.then(by_zone).flatten())
        } else {
            let same_node = || only(&|e| e.node.as_ref() == Some(view.node));
            let same_zone = || only(&|e| self.zone_of(e) == Some(view.zone));
            match service.distribution {
                Distribution::Any => None,
                Distribution::SameZone => same_zone(),
                Distribution::SameNode => same_node().or_else(same_zone),
            }
        };
        chosen.unwrap_or_else(|| ready.to_owned())
    }

    /// The zone of an endpoint: its own, else its node's label, else its node's site.
    fn zone_of<'a>(&'a self, endpoint: &'a Endpoint) -> Option<&'a str> {
        let node = endpoint.node.as_ref().map(NodeName::as_str);
        let label = || self.node(node?)?.zone.as_deref();
        let site = || Some(self.member(node?)?.site.as_str());
        endpoint.zone.as_deref().or_else(label).or_else(site)
    }

    fn nearest(&self, backends: Vec<Backend>, view: &View<'_>) -> Choice {
        let mut tiers: BTreeMap<Place, Vec<Backend>> = BTreeMap::new();
        for backend in backends {
            tiers.entry(self.place(&backend.endpoint, view)).or_default().push(backend);
        }
        for near in [Place::OwnNode, Place::Reachable] {
            if let Some(backends) = tiers.remove(&near) {
                return Choice::Near(backends);
            }
        }
        let mut far = Vec::new();
        for (place, backends) in tiers {
            let (nodes, same_site) = match place {
                Place::SameSite(node) => (vec![node], true),
                Place::Elsewhere(nodes) => (nodes, false),
                Place::OwnNode | Place::Reachable | Place::Nowhere => continue,
            };
            far.extend(
                backends
                    .iter()
                    .flat_map(|backend| {
                        let through = |node: &NodeName| (node.clone(), backend.clone());
                        nodes.iter().map(through)
                    })
                    .map(|(node, backend)| FarBackend { node, same_site, backend }),
            );
        }
        if far.is_empty() { Choice::None } else { Choice::Far(far) }
    }

    fn place(&self, endpoint: &Endpoint, view: &View<'_>) -> Place {
        match (&endpoint.node, endpoint.zone.as_deref()) {
            (Some(node), _) if node == view.node => Place::OwnNode,
            (Some(node), _) => match self.member(node.as_str()).filter(|member| !member.revoked) {
                Some(member) if member.site != *view.site => Place::Elsewhere(vec![node.clone()]),
                Some(_) if view.is_routed(node, Family::of(endpoint.address)) => Place::Reachable,
                Some(_) => Place::SameSite(node.clone()),
                None => Place::Nowhere,
            },
            // On no node: a machine of the site. The agents there dial it, if they are allowed to.
            (None, Some(zone)) if zone == view.site.as_str() || zone == view.zone => Place::Reachable,
            (None, Some(zone)) => {
                let there = self.members().filter(|m| m.site.as_str() == zone && !m.revoked);
                let nodes: Vec<_> =
                    there.filter(|m| m.roles.contains(&Role::Edge)).map(|m| m.name.clone()).collect();
                if nodes.is_empty() { Place::Nowhere } else { Place::Elsewhere(nodes) }
            }
            // Neither node nor zone: a plain address, the API server's for one, and every node dials it
            // from where it is, as under kube-proxy.
            (None, None) => Place::Reachable,
        }
    }
}

/// The ready backends that `narrow` leaves, or those that still serve while they terminate.
fn available(
    backends: Vec<(Backend, bool)>,
    narrow: impl FnOnce(&[Backend]) -> Vec<Backend>,
) -> Vec<Backend> {
    let (ready, rest): (Vec<_>, Vec<_>) = backends.into_iter().partition(|(_, ready)| *ready);
    if !ready.is_empty() {
        return narrow(&ready.into_iter().map(|(backend, _)| backend).collect::<Vec<_>>());
    }
    let leaving = |b: &Backend| b.endpoint.serving && b.endpoint.terminating;
    rest.into_iter().map(|(backend, _)| backend).filter(leaving).collect()
}

#[cfg(test)]
mod tests;
