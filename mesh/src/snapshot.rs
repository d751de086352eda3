//! The model at one moment, seen from this node: what discovery publishes and everything else reads.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use edgeloom_model::{
    Backend, Choice, Entry, Family, Frontend, Model, NodeName, PodRef, Protocol, Service, ServiceKey,
    ServicePort, Site, View,
};
use edgeloom_tunnel::PeerId;

use crate::config::Export;
use crate::wire::Target;

/// Where this node stands. Fixed while the agent runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// Name of the node.
    pub node: NodeName,
    /// Its site.
    pub site: Site,
    /// Machines of the site that are no pods and that callers at other sites may reach through this node.
    pub exports: Vec<Export>,
}

/// The model with what the host adds to it. Immutable: a change makes another.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where this node stands.
    pub place: Arc<Place>,
    /// Services, endpoints and nodes.
    pub model: Arc<Model>,
    /// Nodes of the own site whose pods answer by their own addresses of a family.
    pub routed: BTreeSet<(NodeName, Family)>,
    /// The node's own addresses, loopback and link-local ones left out.
    pub addresses: Vec<IpAddr>,
}

/// Where a flow to an address goes.
#[derive(Clone, Debug)]
pub enum Route {
    /// To a Service.
    Service {
        /// Its name.
        service: ServiceKey,
        /// Which of its ports.
        port: u16,
        /// How long a client keeps its endpoint.
        affinity: Option<Duration>,
        /// The endpoints.
        choice: Choice,
    },
    /// To a pod of another node, called by its own address.
    Pod {
        /// The node.
        node: NodeName,
        /// The pod.
        pod: PodRef,
    },
}

impl Snapshot {
    /// A snapshot of a model of which nothing is known yet.
    pub fn empty(place: Arc<Place>) -> Self {
        Self { place, model: Arc::default(), routed: BTreeSet::new(), addresses: Vec::new() }
    }

    /// Name of a peer's node, or the peer id where it is not known.
    pub fn name_of(&self, peer: &PeerId) -> String {
        let id = peer.to_string();
        let member = self.model.members().find(|member| *member.peer == *id);
        member.map_or(id, |member| member.name.to_string())
    }

    /// The viewpoint for the choice of endpoints.
    pub fn view(&self) -> View<'_> {
        let label = self.model.node(self.place.node.as_str()).and_then(|node| node.zone.as_deref());
        View {
            node: &self.place.node,
            site: &self.place.site,
            zone: label.unwrap_or(self.place.site.as_str()),
            routed: &self.routed,
        }
    }

    /// The endpoints that serve callers of a Service port.
    pub fn choose(&self, service: &Service, port: &ServicePort, family: Family, entry: Entry) -> Choice {
        self.model.choose(service, port, family, entry, &self.view())
    }

    /// Where a flow from `client` to `destination` goes; nowhere if the address is no Service's and no
    /// known pod's.
    pub fn route(&self, client: IpAddr, destination: SocketAddr, protocol: Protocol) -> Option<Route> {
        let ip = destination.ip().to_canonical();
        let Some(Frontend { service, port, entry }) =
            self.model.frontend(ip, destination.port(), protocol, &self.addresses)
        else {
            return self.pod_route(ip);
        };
        let entry = match entry {
            Entry::ExternalFromInside if !self.is_inside(client) => Entry::ExternalFromOutside,
            entry => entry,
        };
        Some(Route::Service {
            service: service.key.clone(),
            port: port.port,
            affinity: service.affinity,
            choice: self.choose(&service, &port, Family::of(ip), entry),
        })
    }

    fn pod_route(&self, ip: IpAddr) -> Option<Route> {
        let member = self.model.member_at(ip).filter(|member| member.name != self.place.node)?;
        let on_member = |e: &&Arc<edgeloom_model::Endpoint>| e.node.as_ref() == Some(&member.name);
        let pod = self.model.endpoints_at(ip).find(on_member)?.pod.clone()?;
        Some(Route::Pod { node: member.name.clone(), pod })
    }

    /// Whether a client is a pod or process of this node.
    fn is_inside(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        client.is_loopback() || self.addresses.contains(&client) || self.is_own_pod_range(client)
    }

    fn is_own_pod_range(&self, ip: IpAddr) -> bool {
        let name = self.place.node.as_str();
        let member = self.model.member(name).into_iter().flat_map(|member| &member.pod_cidrs);
        let node = self.model.node(name).into_iter().flat_map(|node| &node.pod_cidrs);
        member.chain(node).any(|range| range.contains(&ip))
    }

    /// The addresses of a target that another node's agent asks for, as far as this node answers for it:
    /// its own pods, and what the site exports. Where the one that the caller chose is among them it is that
    /// alone: only the caller, who hears of a refusal, knows which is next.
    pub fn targets(&self, target: &Target) -> Vec<SocketAddr> {
        match target {
            Target::Service { service, port, protocol, endpoint } => {
                let Some(service) = self.model.service(service).filter(|service| !service.opted_out) else {
                    return Vec::new();
                };
                let is = |p: &&ServicePort| p.port == *port && p.protocol == *protocol;
                let Some(port) = service.ports.iter().find(is) else { return Vec::new() };
                let mut backends = self.model.served_here(service, port, &self.view());
                backends.retain(|backend| self.answers_for(port, backend));
                let is_wanted = |backend: &Backend| Some(backend.address.ip()) == *endpoint;
                if backends.iter().any(is_wanted) {
                    backends.retain(is_wanted);
                }
                let family = endpoint.map(Family::of);
                let foreign = |backend: &Backend| Some(Family::of(backend.address.ip())) != family;
                backends.sort_by_key(foreign);
                backends.into_iter().map(|backend| backend.address).collect()
            }
            Target::Pod { namespace, name, family, port, .. } => {
                let (namespace, name) = (namespace.as_str().into(), name.as_str().into());
                let Some(pod) = self.model.own_pod(&PodRef { namespace, name }) else { return Vec::new() };
                // Any port of an address that is the pod's alone; of the node's addresses none.
                let its =
                    pod.addresses.iter().filter(|ip| Family::of(**ip) == *family && self.is_own_pod(**ip));
                its.map(|ip| SocketAddr::new(*ip, *port)).collect()
            }
        }
    }

    /// A pod of this node; anything else must be exported. A slice is believed only as far as the node's own
    /// objects bear it out: who may write slices decides neither whose an address is, nor which port of the
    /// node itself is open.
    fn answers_for(&self, port: &ServicePort, backend: &Backend) -> bool {
        let own = backend.endpoint.node.as_ref() == Some(&self.place.node);
        own && self.is_pod(port, backend)
            || self.place.exports.iter().any(|export| export.allows(backend.address))
    }

    fn is_pod(&self, port: &ServicePort, backend: &Backend) -> bool {
        let address = backend.address;
        let Some(pod) = &backend.endpoint.pod else { return self.is_own_pod(address.ip()) };
        self.model.own_pod(pod).is_some_and(|pod| {
            pod.addresses.contains(&address.ip()) && (!pod.shares_node || pod.serves(port, address.port()))
        })
    }

    /// Whether an address is of the own pod range and not the host's end of it.
    fn is_own_pod(&self, ip: IpAddr) -> bool {
        self.is_own_pod_range(ip) && !self.addresses.contains(&ip)
    }
}

#[cfg(test)]
mod tests;
