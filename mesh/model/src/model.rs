//! The model: objects in, answers out.
//!
//! [`Model::put`] and [`Model::delete`] keep the objects and four indexes in step: Service by address and
//! port, slice by Service and by endpoint address, node by pod range. Everything held is behind an `Arc`,
//! so that a snapshot is a clone of maps, not of objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use crate::key::ServiceKey;
use crate::name::NodeName;
use crate::node::{EdgeNode, Node};
use crate::protocol::Protocol;
use crate::read::ObjectError;
use crate::service::{Entry, Service, ServicePort};
use crate::slice::{Endpoint, EndpointSlice, PodRef};
use crate::workload::{Pod, Workload};

/// The kinds that the model holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `edgeloom.io/v1alpha1` EdgeNode.
    EdgeNode,
    /// `v1` Node.
    Node,
    /// `v1` Pod: those of the own node, to name the source of a flow and to know what is its own.
    Pod,
}

impl ObjectKind {
    /// The kind by what objects say of themselves.
    pub fn find(api_version: &str, kind: &str) -> Option<Self> {
        Some(match (api_version, kind) {
            ("v1", "Service") => Self::Service,
            ("discovery.k8s.io/v1", "EndpointSlice") => Self::EndpointSlice,
            ("edgeloom.io/v1alpha1", "EdgeNode") => Self::EdgeNode,
            ("v1", "Node") => Self::Node,
            ("v1", "Pod") => Self::Pod,
            _ => return None,
        })
    }

    fn of(object: &Value) -> Result<Self, ObjectError> {
        let part = |key| object.get(key).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (part("apiVersion"), part("kind"));
        Self::find(version, kind).ok_or_else(|| ObjectError::Kind(format!("{version} {kind}")))
    }
}

/// A Service that answers at an address.
#[derive(Clone, Debug)]
pub struct Frontend {
    /// The Service.
    pub service: Arc<Service>,
    /// Which of its ports.
    pub port: ServicePort,
    /// By which kind of address it was reached.
    pub entry: Entry,
}

/// How many objects the model holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Services.
    pub services: usize,
    /// EndpointSlices.
    pub slices: usize,
    /// Endpoints in all slices.
    pub endpoints: usize,
    /// Members of the mesh.
    pub members: usize,
}

/// Namespace and name of an object.
type ObjectKey = (Arc<str>, Arc<str>);

/// All that is known of Services, endpoints, nodes and the own node's pods.
#[derive(Clone, Debug, Default)]
pub struct Model {
    services: BTreeMap<ServiceKey, Arc<Service>>,
    slices: BTreeMap<ObjectKey, Arc<EndpointSlice>>,
    members: BTreeMap<NodeName, Arc<EdgeNode>>,
    nodes: BTreeMap<NodeName, Arc<Node>>,
    pods: BTreeMap<ObjectKey, Arc<Pod>>,
    // Indexes. A set where several objects may claim the same thing: the smallest holds it, and a
    // cluster address (the smallest entry) is never lost to another Service's external one.
    by_address: HashMap<(IpAddr, u16, Protocol), BTreeSet<(Entry, ServiceKey)>>,
    by_node_port: HashMap<(u16, Protocol), BTreeSet<ServiceKey>>,
    slices_of: BTreeMap<ServiceKey, BTreeSet<Arc<str>>>,
    slices_at: HashMap<IpAddr, BTreeSet<ObjectKey>>,
    pod_at: HashMap<IpAddr, ObjectKey>,
    ranges: BTreeMap<IpAddr, (IpNet, NodeName)>,
}

impl Model {
    /// Takes in an object that is new or changed; says whether anything changed by it. On an error
    /// the model stays as it was: the last good version of the object is kept.
    pub fn put(&mut self, object: &Value) -> Result<bool, ObjectError> {
        match ObjectKind::of(object)? {
            ObjectKind::Service => Ok(self.put_service(Service::try_from(object)?)),
            ObjectKind::EndpointSlice if EndpointSlice::is_foreign(object) => {
                let part = |key| object.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_str);
                let (namespace, name) = (part("namespace"), part("name"));
                Ok(self.remove_slice(&key(namespace.unwrap_or_default(), name.unwrap_or_default())))
            }
            ObjectKind::EndpointSlice => Ok(self.put_slice(EndpointSlice::try_from(object)?)),
            ObjectKind::EdgeNode => Ok(self.put_member(EdgeNode::try_from(object)?)),
            ObjectKind::Node => {
                let node = Node::try_from(object)?;
                Ok(changed(self.nodes.insert(node.name.clone(), Arc::new(node.clone())), &node))
            }
            ObjectKind::Pod => Ok(self.put_pod(Pod::try_from(object)?)),
        }
    }

    /// Forgets an object; says whether it was there.
    pub fn delete(&mut self, kind: ObjectKind, namespace: &str, name: &str) -> bool {
        match kind {
            ObjectKind::Service => self.remove_service(&ServiceKey::new(namespace, name)),
            ObjectKind::EndpointSlice => self.remove_slice(&key(namespace, name)),
            ObjectKind::EdgeNode => self.remove_member(name),
            ObjectKind::Node => self.nodes.remove(name).is_some(),
            ObjectKind::Pod => self.remove_pod(&key(namespace, name)),
        }
    }

    /// All Services, ordered by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The Service of this name.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// The slices of a Service.
    pub fn slices<'a>(&'a self, service: &'a ServiceKey) -> impl Iterator<Item = &'a Arc<EndpointSlice>> {
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(|name| self.slices.get(&(service.namespace.clone(), name.clone())))
    }

    /// All members of the mesh, ordered by name.
    pub fn members(&self) -> impl Iterator<Item = &Arc<EdgeNode>> {
        self.members.values()
    }

    /// The member of this name, revoked or not.
    pub fn member(&self, name: &str) -> Option<&Arc<EdgeNode>> {
        self.members.get(name)
    }

    /// The member that is not revoked and whose pod range an address falls into.
    pub fn member_at(&self, address: IpAddr) -> Option<&Arc<EdgeNode>> {
        let (_, (range, name)) = self.ranges.range(..=address).next_back()?;
        range.contains(&address).then(|| self.members.get(name))?.filter(|member| !member.revoked)
    }

    /// All Kubernetes Nodes that are known, ordered by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// The Kubernetes Node of this name.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// The Service that answers at an address and port; `own` are the node's own addresses, where
    /// NodePorts count.
    pub fn frontend(&self, ip: IpAddr, port: u16, protocol: Protocol, own: &[IpAddr]) -> Option<Frontend> {
        let ip = ip.to_canonical();
        if let Some((entry, name)) = self.by_address.get(&(ip, port, protocol)).and_then(|set| set.first()) {
            return self.found(name, *entry, |p| p.port == port && p.protocol == protocol);
        }
        let name = self.by_node_port.get(&(port, protocol)).filter(|_| own.contains(&ip))?.first()?;
        let entry = Entry::ExternalFromInside;
        self.found(name, entry, |p| p.node_port == Some(port) && p.protocol == protocol)
    }

    fn found(&self, name: &ServiceKey, entry: Entry, is: impl Fn(&ServicePort) -> bool) -> Option<Frontend> {
        let service = self.services.get(name)?.clone();
        let port = service.ports.iter().find(|port| is(port))?.clone();
        Some(Frontend { service, port, entry })
    }

    /// The endpoints that have this address, whatever Service they belong to.
    pub fn endpoints_at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Endpoint>> {
        let address = address.to_canonical();
        let slices = self.slices_at.get(&address).into_iter().flatten().filter_map(|k| self.slices.get(k));
        slices.flat_map(|slice| &slice.endpoints).filter(move |endpoint| endpoint.address == address)
    }

    /// The pod of the own node that has this address, or the pod of any node that backs a Service with it.
    pub fn workload_at(&self, address: IpAddr) -> Option<Arc<Workload>> {
        let address = address.to_canonical();
        if let Some(pod) = self.pod_at.get(&address).and_then(|key| self.pods.get(key)) {
            return Some(pod.workload.clone());
        }
        let pod = self.endpoints_at(address).find_map(|endpoint| endpoint.pod.as_ref())?;
        let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
        Some(Arc::new(Workload { namespace, name, service_account: "".into() }))
    }

    /// The pod of the own node that a slice refers to.
    pub fn own_pod(&self, pod: &PodRef) -> Option<&Arc<Pod>> {
        self.pods.get(&(pod.namespace.clone(), pod.name.clone()))
    }

    /// How much the model holds.
    pub fn counts(&self) -> Counts {
        Counts {
            services: self.services.len(),
            slices: self.slices.len(),
            endpoints: self.slices.values().map(|slice| slice.endpoints.len()).sum(),
            members: self.members.len(),
        }
    }

    fn put_service(&mut self, service: Service) -> bool {
        if self.services.get(&service.key).is_some_and(|old| **old == service) {
            return false;
        }
        self.remove_service(&service.key);
        for (ip, number, entry, port) in service.frontends(&[]) {
            let claims = self.by_address.entry((ip, number, port.protocol)).or_default();
            claims.insert((entry, service.key.clone()));
        }
        for (number, protocol) in node_ports(&service) {
            self.by_node_port.entry((number, protocol)).or_default().insert(service.key.clone());
        }
        self.services.insert(service.key.clone(), Arc::new(service));
        true
    }

    fn remove_service(&mut self, key: &ServiceKey) -> bool {
        let Some(service) = self.services.remove(key) else { return false };
        for (ip, number, entry, port) in service.frontends(&[]) {
            unclaim(&mut self.by_address, &(ip, number, port.protocol), &(entry, key.clone()));
        }
        for claim in node_ports(&service) {
            unclaim(&mut self.by_node_port, &claim, key);
        }
        true
    }

    fn put_slice(&mut self, slice: EndpointSlice) -> bool {
        let key = (slice.service.namespace.clone(), slice.name.clone());
        if self.slices.get(&key).is_some_and(|old| **old == slice) {
            return false;
        }
        self.remove_slice(&key);
        for endpoint in &slice.endpoints {
            self.slices_at.entry(endpoint.address).or_default().insert(key.clone());
        }
        self.slices_of.entry(slice.service.clone()).or_default().insert(slice.name.clone());
        self.slices.insert(key, Arc::new(slice));
        true
    }

    fn remove_slice(&mut self, key: &ObjectKey) -> bool {
        let Some(slice) = self.slices.remove(key) else { return false };
        for endpoint in &slice.endpoints {
            unclaim(&mut self.slices_at, &endpoint.address, key);
        }
        if let Some(names) = self.slices_of.get_mut(&slice.service) {
            names.remove(&slice.name);
            if names.is_empty() {
                self.slices_of.remove(&slice.service);
            }
        }
        true
    }

    fn put_member(&mut self, member: EdgeNode) -> bool {
        if self.members.get(&member.name).is_some_and(|old| **old == member) {
            return false;
        }
        self.remove_member(member.name.as_str());
        for range in &member.pod_cidrs {
            self.ranges.insert(range.network(), (*range, member.name.clone()));
        }
        self.members.insert(member.name.clone(), Arc::new(member));
        true
    }

    fn remove_member(&mut self, name: &str) -> bool {
        let Some(member) = self.members.remove(name) else { return false };
        for range in &member.pod_cidrs {
            if self.ranges.get(&range.network()).is_some_and(|(_, owner)| *owner == member.name) {
                self.ranges.remove(&range.network());
            }
        }
        true
    }

    fn put_pod(&mut self, pod: Pod) -> bool {
        let key = (pod.workload.namespace.clone(), pod.workload.name.clone());
        if self.pods.get(&key).is_some_and(|old| **old == pod) {
            return false;
        }
        self.remove_pod(&key);
        self.pod_at.extend(pod.own_addresses().iter().map(|address| (*address, key.clone())));
        self.pods.insert(key, Arc::new(pod));
        true
    }

    fn remove_pod(&mut self, key: &ObjectKey) -> bool {
        let Some(pod) = self.pods.remove(key) else { return false };
        for address in pod.own_addresses() {
            if self.pod_at.get(address) == Some(key) {
                self.pod_at.remove(address);
            }
        }
        true
    }
}

fn key(namespace: &str, name: &str) -> ObjectKey {
    (namespace.into(), name.into())
}

fn changed<T: PartialEq>(old: Option<Arc<T>>, new: &T) -> bool {
    old.is_none_or(|old| *old != *new)
}

fn node_ports(service: &Service) -> Vec<(u16, Protocol)> {
    let ports = if service.is_proxied() { service.ports.as_slice() } else { &[] };
    ports.iter().filter_map(|port| Some((port.node_port?, port.protocol))).collect()
}

/// Takes one claim back, and the entry with the last of them.
fn unclaim<K: Eq + std::hash::Hash, C: Ord>(index: &mut HashMap<K, BTreeSet<C>>, key: &K, claim: &C) {
    if let Some(claims) = index.get_mut(key) {
        claims.remove(claim);
        if claims.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
