//! The cluster's names: the model rendered by the Kubernetes DNS specification 1.1.0
//! (<https://github.com/kubernetes/dns/blob/master/docs/specification.md>).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use edgeloom_model::{Endpoint, EndpointSlice, Family, Model, Protocol, Service, ServiceKey, ServiceType};
use hickory_proto::ProtoError;
use hickory_proto::rr::rdata::{CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// What the specification's version record says.
const VERSION: &str = "1.1.0";
/// Seconds that an answer may be kept: short, since endpoints move.
const TTL: u32 = 5;
/// The zone is not transferred to secondaries, so nobody compares serial numbers.
const SERIAL: u32 = 1;
/// Sum of the weights of a Service's SRV records.
const SRV_WEIGHTS: usize = 100;
/// Records of one answer, at most: what fits a TCP message with room for their targets' addresses.
const MAX_RECORDS: usize = 1000;

/// The cluster's zone, as of one snapshot of the model.
#[derive(Debug)]
pub struct Zone {
    model: Arc<Model>,
    domain: Name,
    reverse: OnceLock<HashMap<IpAddr, BTreeSet<Name>>>,
}

/// Why a zone cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ZoneError {
    #[error("cluster domain {domain:?} is not a domain name: {source}")]
    Domain { domain: String, source: ProtoError },
}

/// What the zone knows of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Not the cluster's: somebody else knows.
    Foreign,
    /// There is no such name.
    NoName,
    /// The name is there, with records of other types.
    NoData,
    /// The records, and the addresses of what they point at.
    Found { records: Vec<Record>, additional: Vec<Record> },
    /// The name stands for another, anywhere.
    Alias { record: Box<Record>, target: Name },
}

/// One endpoint with the number of the port asked for, if one was.
type At<'a> = (&'a Endpoint, u16);

impl Zone {
    /// The zone of a model under a domain, as `cluster.local`.
    pub fn build(model: impl Into<Arc<Model>>, domain: &str) -> Result<Self, ZoneError> {
        let parsed = Name::from_ascii(domain).and_then(|name| name.append_domain(&Name::root()));
        let domain =
            parsed.map_err(|source| ZoneError::Domain { domain: domain.to_owned(), source })?.to_lowercase();
        Ok(Self { model: model.into(), domain, reverse: OnceLock::new() })
    }

    /// The domain that this zone answers for.
    pub fn domain(&self) -> &Name {
        &self.domain
    }

    /// What is known of a name. Records bear it as it was asked for.
    pub fn lookup(&self, name: &Name, kind: RecordType) -> Lookup {
        if !self.domain.zone_of(name) {
            return self.lookup_reverse(name, kind);
        }
        let Some(labels) = labels(name, usize::from(self.domain.num_labels())) else { return Lookup::NoName };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels[..] {
            [] if kind == RecordType::SOA => found(vec![self.soa()]),
            [] | ["svc"] => Lookup::NoData,
            ["dns-version"] => {
                let text = RData::TXT(TXT::new(vec![VERSION.to_owned()]));
                of_type(kind, vec![Record::from_rdata(name.clone(), TTL, text)])
            }
            [namespace, "svc"] if self.has_namespace(namespace) => Lookup::NoData,
            [service, namespace, "svc"] => self.with(service, namespace, |s| self.service(s, name, kind)),
            [first, service, namespace, "svc"] => self.with(service, namespace, |s| match protocol(first) {
                Some(protocol) => self.protocol(s, protocol),
                None => self.endpoint(s, first, name, kind),
            }),
            [port, protocol_label, service, namespace, "svc"] => self.with(service, namespace, |s| {
                let port = port.strip_prefix('_').zip(protocol(protocol_label));
                port.map_or(Lookup::NoName, |(port, protocol)| self.port(s, port, protocol, name, kind))
            }),
            _ => Lookup::NoName,
        }
    }

    /// The record that a negative answer carries, so that it can be kept (RFC 2308).
    pub fn soa(&self) -> Record {
        let below = |label: &str| self.domain.prepend_label(label).unwrap_or_else(|_| self.domain.clone());
        let (refresh, retry, expire) = (7200, 1800, 86400);
        let soa = SOA::new(below("ns"), below("hostmaster"), SERIAL, refresh, retry, expire, TTL);
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa))
    }

    fn with(&self, name: &str, namespace: &str, then: impl FnOnce(&Service) -> Lookup) -> Lookup {
        self.model.service(&ServiceKey::new(namespace, name)).map_or(Lookup::NoName, |service| then(service))
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        self.model.services().any(|service| *service.key.namespace == *namespace)
    }

    /// `<service>.<ns>.svc`: the cluster addresses, or those of the endpoints.
    fn service(&self, service: &Service, name: &Name, kind: RecordType) -> Lookup {
        let addresses: BTreeSet<IpAddr> = match &service.kind {
            ServiceType::ExternalName(target) => return alias(name, target),
            ServiceType::Headless => self.ready(service, None).iter().map(|(e, _)| e.address).collect(),
            _ => service.cluster_ips.iter().copied().collect(),
        };
        if addresses.is_empty() && service.kind == ServiceType::Headless {
            return Lookup::NoName;
        }
        addresses_of_type(kind, name, addresses)
    }

    /// `<hostname>.<service>.<ns>.svc`: one endpoint of a headless Service.
    fn endpoint(&self, service: &Service, host: &str, name: &Name, kind: RecordType) -> Lookup {
        if service.kind != ServiceType::Headless {
            return Lookup::NoName;
        }
        let ready = self.ready(service, None);
        let addresses: BTreeSet<_> =
            ready.iter().filter(|(e, _)| host_label(e) == host).map(|(e, _)| e.address).collect();
        if addresses.is_empty() { Lookup::NoName } else { addresses_of_type(kind, name, addresses) }
    }

    /// `_<protocol>.<service>.<ns>.svc`: nothing itself, but there are names below it.
    fn protocol(&self, service: &Service, protocol: Protocol) -> Lookup {
        let is_there = |port: &edgeloom_model::ServicePort| {
            port.protocol == protocol
                && !port.name.is_empty()
                && (service.kind != ServiceType::Headless
                    || !self.ready(service, Some((&port.name, protocol))).is_empty())
        };
        if service.ports.iter().any(is_there) { Lookup::NoData } else { Lookup::NoName }
    }

    /// `_<port>._<protocol>.<service>.<ns>.svc`: where a named port is.
    fn port(
        &self,
        service: &Service,
        port: &str,
        protocol: Protocol,
        name: &Name,
        kind: RecordType,
    ) -> Lookup {
        let same = |p: &&edgeloom_model::ServicePort| *p.name == *port && p.protocol == protocol;
        let Some(port) = service.ports.iter().find(same) else { return Lookup::NoName };
        let mut places: Vec<(Name, u16, BTreeSet<IpAddr>)> = Vec::new();
        match &service.kind {
            ServiceType::ExternalName(_) => return Lookup::NoName,
            ServiceType::Headless => {
                for (endpoint, number) in self.ready(service, Some((&port.name, protocol))) {
                    let Some(target) = self.endpoint_name(service, endpoint) else { continue };
                    match places.iter_mut().find(|(name, at, _)| *name == target && *at == number) {
                        Some((_, _, addresses)) => drop(addresses.insert(endpoint.address)),
                        None => places.push((target, number, [endpoint.address].into())),
                    }
                }
            }
            _ => {
                let addresses = service.cluster_ips.iter().copied().collect();
                places.extend(self.service_name(&service.key).map(|target| (target, port.port, addresses)));
            }
        }
        places.truncate(MAX_RECORDS);
        if places.is_empty() {
            return Lookup::NoName;
        }
        if kind != RecordType::SRV && kind != RecordType::ANY {
            return Lookup::NoData;
        }
        let weight = (SRV_WEIGHTS / places.len()).max(1) as u16;
        let mut records = Vec::new();
        let mut additional = Vec::new();
        for (target, number, addresses) in places {
            let srv = RData::SRV(SRV::new(0, weight, number, target.clone()));
            records.push(Record::from_rdata(name.clone(), TTL, srv));
            additional.extend(addresses.into_iter().map(|address| address_record(&target, address)));
        }
        Lookup::Found { records, additional }
    }

    /// Endpoints that answer, each address once, with the number of a port (0 where none is asked for).
    fn ready<'a>(&'a self, service: &'a Service, port: Option<(&str, Protocol)>) -> Vec<At<'a>> {
        let number = |slice: &EndpointSlice| match port {
            None => Some(0),
            Some((name, protocol)) => {
                let same = |p: &&edgeloom_model::SlicePort| *p.name == *name && p.protocol == protocol;
                slice.ports.iter().find(same).map(|p| p.port)
            }
        };
        let mut seen = BTreeSet::new();
        let mut ready = Vec::new();
        for slice in self.model.slices(&service.key) {
            let Some(number) = number(slice) else { continue };
            for endpoint in &slice.endpoints {
                if (endpoint.ready || service.publish_not_ready) && seen.insert((endpoint.address, number)) {
                    ready.push((&**endpoint, number));
                }
            }
        }
        ready
    }

    fn lookup_reverse(&self, name: &Name, kind: RecordType) -> Lookup {
        let Ok(net) = name.parse_arpa_name() else { return Lookup::Foreign };
        if net.prefix_len() != net.max_prefix_len() {
            return Lookup::Foreign;
        }
        let address = net.addr();
        let Some(targets) = self.reverse.get_or_init(|| self.reverse_names()).get(&address) else {
            // A pod of the cluster without a name is not for others to name.
            let is_pod = self.model.member_at(address).is_some();
            return if is_pod { Lookup::NoName } else { Lookup::Foreign };
        };
        let record = |target: &Name| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target.clone())));
        of_type(kind, targets.iter().map(record).collect())
    }

    fn reverse_names(&self) -> HashMap<IpAddr, BTreeSet<Name>> {
        let mut names: HashMap<IpAddr, BTreeSet<Name>> = HashMap::new();
        for service in self.model.services() {
            for address in &service.cluster_ips {
                names.entry(*address).or_default().extend(self.service_name(&service.key));
            }
            if service.kind == ServiceType::Headless {
                for (endpoint, _) in self.ready(service, None) {
                    names.entry(endpoint.address).or_default().extend(self.endpoint_name(service, endpoint));
                }
            }
        }
        names
    }

    fn service_name(&self, key: &ServiceKey) -> Option<Name> {
        let name = Name::from_labels([key.name.as_bytes(), key.namespace.as_bytes(), b"svc"]).ok()?;
        name.append_domain(&self.domain).ok()
    }

    fn endpoint_name(&self, service: &Service, endpoint: &Endpoint) -> Option<Name> {
        self.service_name(&service.key)?.prepend_label(host_label(endpoint).as_bytes()).ok()
    }
}

/// The labels of a name in lower case, without the last ones; `None` where one is no ASCII, which no
/// name of ours is.
fn labels(name: &Name, without: usize) -> Option<Vec<String>> {
    let count = usize::from(name.num_labels()).checked_sub(without)?;
    name.iter()
        .take(count)
        .map(|label| std::str::from_utf8(label).ok().filter(|l| l.is_ascii()).map(str::to_ascii_lowercase))
        .collect()
}

fn protocol(label: &str) -> Option<Protocol> {
    match label {
        "_tcp" => Some(Protocol::Tcp),
        "_udp" => Some(Protocol::Udp),
        _ => None,
    }
}

/// The label of an endpoint below its Service: its hostname, else its address with dashes.
fn host_label(endpoint: &Endpoint) -> String {
    match &endpoint.hostname {
        Some(hostname) => hostname.to_ascii_lowercase(),
        None => endpoint.address.to_string().replace(['.', ':'], "-"),
    }
}

fn alias(name: &Name, target: &str) -> Lookup {
    let Ok(target) = Name::from_ascii(target).and_then(|target| target.append_domain(&Name::root())) else {
        return Lookup::NoName;
    };
    let data = RData::CNAME(CNAME(target.clone()));
    Lookup::Alias { record: Box::new(Record::from_rdata(name.clone(), TTL, data)), target }
}

fn address_record(name: &Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    };
    Record::from_rdata(name.clone(), TTL, data)
}

fn addresses_of_type(kind: RecordType, name: &Name, addresses: BTreeSet<IpAddr>) -> Lookup {
    let wanted = |address: &IpAddr| match kind {
        RecordType::A => Family::of(*address) == Family::V4,
        RecordType::AAAA => Family::of(*address) == Family::V6,
        kind => kind == RecordType::ANY,
    };
    let chosen = addresses.into_iter().filter(wanted).take(MAX_RECORDS);
    found(chosen.map(|address| address_record(name, address)).collect())
}

fn of_type(kind: RecordType, records: Vec<Record>) -> Lookup {
    let wanted = |record: &Record| kind == RecordType::ANY || record.record_type() == kind;
    found(records.into_iter().filter(wanted).take(MAX_RECORDS).collect())
}

fn found(records: Vec<Record>) -> Lookup {
    if records.is_empty() { Lookup::NoData } else { Lookup::Found { records, additional: Vec::new() } }
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
