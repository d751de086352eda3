//! Services (v1).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::key::ServiceKey;
use crate::protocol::{Family, Protocol};
use crate::read::{self, FieldError, ObjectError};

/// Labels by which a Service is left to another proxy: Kubernetes' own, and the one of EdgeMesh's users.
const OPT_OUT_LABELS: [&str; 2] =
    ["service.kubernetes.io/service-proxy-name", "service.edgemesh.kubeedge.io/service-proxy-name"];

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is absent.
const AFFINITY_DEFAULT: Duration = Duration::from_secs(10_800);

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace and name.
    pub key: ServiceKey,
    /// What it is.
    pub kind: ServiceType,
    /// Its cluster addresses, of either family or both; none for headless and ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    /// Its TCP and UDP ports.
    pub ports: Vec<ServicePort>,
    /// `externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of its load balancer, without those that want the packets themselves (`ipMode: Proxy`).
    pub ingress_ips: Vec<IpAddr>,
    /// How long a client keeps its endpoint (`sessionAffinity: ClientIP`).
    pub affinity: Option<Duration>,
    /// Which endpoints serve callers at the cluster address.
    pub internal_policy: TrafficPolicy,
    /// Which endpoints serve callers from outside the cluster.
    pub external_policy: TrafficPolicy,
    /// Which endpoints are preferred.
    pub distribution: Distribution,
    /// Endpoints count as ready whatever their pods say.
    pub publish_not_ready: bool,
    /// Left to another proxy by label. DNS answers for it all the same.
    pub opted_out: bool,
}

/// Type of a Service. Headless is told apart here, since it has no address to serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// `ClusterIP`.
    ClusterIp,
    /// `NodePort`.
    NodePort,
    /// `LoadBalancer`.
    LoadBalancer,
    /// `ClusterIP` with `clusterIP: None`.
    Headless,
    /// `ExternalName` with the name that it stands for.
    ExternalName(String),
}

impl ServiceType {
    /// As in a Service's `type`, but `Headless` for one without an address.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::Headless => "Headless",
            Self::ExternalName(_) => "ExternalName",
        }
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, which the endpoints' ports refer to; may be empty for the only port.
    pub name: Arc<str>,
    /// Port number at the Service's addresses.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port number at every node's own addresses.
    pub node_port: Option<u16>,
    /// The port of its pods that it stands for.
    pub target: TargetPort,
}

/// `targetPort` of a Service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// This number; the Service's own where none is given.
    Number(u16),
    /// Whatever number a pod's container has under this name.
    Name(Arc<str>),
}

/// `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All endpoints.
    #[default]
    Cluster,
    /// Only endpoints of the caller's (or entered) node.
    Local,
}

/// `trafficDistribution`. A value that is not known counts as none: the API lets new ones appear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// No preference of the Service's own.
    #[default]
    Any,
    /// `PreferSameZone`, or `PreferClose`, its older name.
    SameZone,
    /// `PreferSameNode`.
    SameNode,
}

/// By which kind of address, and from where, a caller reaches a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entry {
    /// The cluster address: `internalTrafficPolicy` holds.
    Cluster,
    /// A NodePort, external or ingress address, called by a pod or process of this node: all endpoints,
    /// whatever the policies say (as kube-proxy has it).
    ExternalFromInside,
    /// The same addresses, called from outside: `externalTrafficPolicy` holds.
    ExternalFromOutside,
}

impl Service {
    /// Whether it has addresses that a proxy serves.
    pub fn is_proxied(&self) -> bool {
        !self.opted_out && !matches!(self.kind, ServiceType::Headless | ServiceType::ExternalName(_))
    }

    /// Every address and port that callers on a node with these own addresses reach the Service by,
    /// with how it counts there.
    pub fn frontends<'a>(
        &'a self,
        node_addresses: &'a [IpAddr],
    ) -> impl Iterator<Item = (IpAddr, u16, Entry, &'a ServicePort)> {
        let ports = if self.is_proxied() { self.ports.as_slice() } else { &[] };
        ports.iter().flat_map(move |port| {
            let cluster = self.cluster_ips.iter().map(move |ip| (*ip, port.port, Entry::Cluster, port));
            let outer = self.external_ips.iter().chain(&self.ingress_ips);
            let outer = outer.map(move |ip| (*ip, port.port, Entry::ExternalFromInside, port));
            let node = node_addresses.iter().filter(|ip| self.has_family(Family::of(**ip)));
            let node = port.node_port.into_iter().flat_map(move |number| {
                node.clone().map(move |ip| (*ip, number, Entry::ExternalFromInside, port))
            });
            cluster.chain(outer).chain(node)
        })
    }

    fn has_family(&self, family: Family) -> bool {
        self.cluster_ips.iter().any(|ip| Family::of(*ip) == family)
    }
}

impl TryFrom<&Value> for Service {
    type Error = ObjectError;

    fn try_from(object: &Value) -> Result<Self, ObjectError> {
        read::in_object("Service", object, |object| {
            let (namespace, name) = read::namespaced_name(object)?;
            let mut service = read::section(object, "spec")
                .and_then(|spec| from_spec(ServiceKey::new(namespace, name), spec))
                .map_err(|e| if e.path == "spec" { e } else { e.under("spec") })?;
            service.ingress_ips = ingress_ips(object)?;
            service.opted_out =
                OPT_OUT_LABELS.iter().any(|label| read::tag(object, "labels", label).is_some());
            Ok(service)
        })
    }
}

fn from_spec(key: ServiceKey, spec: &Value) -> Result<Service, FieldError> {
    let kind = service_type(spec)?;
    let cluster_ips = match kind {
        ServiceType::Headless | ServiceType::ExternalName(_) => Vec::new(),
        _ => cluster_ips(spec)?,
    };
    Ok(Service {
        key,
        kind,
        cluster_ips,
        ports: read::list(spec, "ports", service_port)?.into_iter().flatten().collect(),
        external_ips: read::parsed_list(spec, "externalIPs")?,
        ingress_ips: Vec::new(),
        affinity: affinity(spec)?,
        internal_policy: policy(spec, "internalTrafficPolicy")?,
        external_policy: policy(spec, "externalTrafficPolicy")?,
        distribution: match read::text(spec, "trafficDistribution")? {
            Some("PreferClose" | "PreferSameZone") => Distribution::SameZone,
            Some("PreferSameNode") => Distribution::SameNode,
            _ => Distribution::Any,
        },
        publish_not_ready: read::flag(spec, "publishNotReadyAddresses")?.unwrap_or(false),
        opted_out: false,
    })
}

fn service_type(spec: &Value) -> Result<ServiceType, FieldError> {
    Ok(match read::text(spec, "type")?.unwrap_or("ClusterIP") {
        "ExternalName" => ServiceType::ExternalName(read::required_text(spec, "externalName")?.to_owned()),
        "NodePort" => ServiceType::NodePort,
        "LoadBalancer" => ServiceType::LoadBalancer,
        "ClusterIP" if read::text(spec, "clusterIP")? == Some("None") => ServiceType::Headless,
        "ClusterIP" => ServiceType::ClusterIp,
        other => {
            let problem = format!("{other:?}: expected ClusterIP, NodePort, LoadBalancer or ExternalName");
            return Err(FieldError::new("type", problem));
        }
    })
}

/// `clusterIPs`, or the single `clusterIP` of older objects; none while none is allocated.
fn cluster_ips(spec: &Value) -> Result<Vec<IpAddr>, FieldError> {
    let all: Vec<IpAddr> = read::parsed_list(spec, "clusterIPs")?;
    if all.is_empty() { Ok(read::parsed(spec, "clusterIP")?.into_iter().collect()) } else { Ok(all) }
}

/// A port, or nothing for one of a protocol that nothing here carries.
fn service_port(item: &Value) -> Result<Option<ServicePort>, FieldError> {
    let protocol = match read::text(item, "protocol")?.unwrap_or("TCP") {
        "SCTP" => return Ok(None),
        text => text.parse().map_err(|e| FieldError::new("protocol", format_args!("{text:?}: {e}")))?,
    };
    let port = read::port(item, "port")?.ok_or_else(|| FieldError::new("port", "is required"))?;
    let target = match item.get("targetPort") {
        Some(Value::String(name)) => TargetPort::Name(name.as_str().into()),
        _ => TargetPort::Number(read::port(item, "targetPort")?.unwrap_or(port)),
    };
    Ok(Some(ServicePort {
        name: read::text(item, "name")?.unwrap_or_default().into(),
        port,
        protocol,
        target,
        node_port: match read::unsigned(item, "nodePort")? {
            None | Some(0) => None,
            Some(_) => read::port(item, "nodePort")?,
        },
    }))
}

fn affinity(spec: &Value) -> Result<Option<Duration>, FieldError> {
    match read::text(spec, "sessionAffinity")?.unwrap_or("None") {
        "ClientIP" => {
            let seconds = read::section(spec, "sessionAffinityConfig")
                .and_then(|config| read::section(config, "clientIP"))
                .and_then(|client| read::unsigned(client, "timeoutSeconds"))
                .map_err(|e| e.under("sessionAffinityConfig.clientIP"))?;
            Ok(Some(seconds.map_or(AFFINITY_DEFAULT, Duration::from_secs)))
        }
        _ => Ok(None),
    }
}

fn policy(spec: &Value, key: &str) -> Result<TrafficPolicy, FieldError> {
    match read::text(spec, key)?.unwrap_or("Cluster") {
        "Cluster" | "" => Ok(TrafficPolicy::Cluster),
        "Local" => Ok(TrafficPolicy::Local),
        other => Err(FieldError::new(key, format_args!("{other:?}: expected Cluster or Local"))),
    }
}

fn ingress_ips(object: &Value) -> Result<Vec<IpAddr>, FieldError> {
    let status = read::section(object, "status")?;
    let balancer = read::section(status, "loadBalancer").map_err(|e| e.under("status"))?;
    let ips = read::list(balancer, "ingress", |item| match read::text(item, "ipMode")? {
        Some("Proxy") => Ok(None),
        _ => read::parsed(item, "ip"),
    });
    Ok(ips.map_err(|e| e.under("status.loadBalancer"))?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(spec: Value) -> Result<Service, ObjectError> {
        Service::try_from(&json!({"metadata": {"namespace": "shop", "name": "orders"}, "spec": spec}))
    }

    #[test]
    fn types() {
        for (spec, want) in [
            (json!({}), ServiceType::ClusterIp),
            (
                json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}),
                ServiceType::Headless,
            ),
            (json!({"type": "NodePort"}), ServiceType::NodePort),
            (json!({"type": "LoadBalancer"}), ServiceType::LoadBalancer),
            (
                json!({"type": "ExternalName", "externalName": "a.example"}),
                ServiceType::ExternalName("a.example".to_owned()),
            ),
        ] {
            assert_eq!(service(spec).unwrap().kind, want);
        }
    }

    #[test]
    fn every_address_that_it_is_reached_by() {
        let mut object = json!({
            "metadata": {"namespace": "shop", "name": "orders"},
            "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.9", "fd00:10:96::9"],
                     "externalIPs": ["198.51.100.7"],
                     "ports": [{"port": 80, "nodePort": 30080, "name": "http"}, {"port": 7, "protocol": "SCTP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.8"}, {"hostname": "x"},
                                                    {"ip": "198.51.100.9", "ipMode": "Proxy"}]}},
        });
        let own = ["192.168.10.5".parse().unwrap()];
        let got: Vec<_> = {
            let service = Service::try_from(&object).unwrap();
            service.frontends(&own).map(|(ip, port, entry, _)| (ip.to_string(), port, entry)).collect()
        };
        let want = [
            ("10.96.0.9", 80, Entry::Cluster),
            ("fd00:10:96::9", 80, Entry::Cluster),
            ("198.51.100.7", 80, Entry::ExternalFromInside),
            ("198.51.100.8", 80, Entry::ExternalFromInside),
            ("192.168.10.5", 30080, Entry::ExternalFromInside),
        ];
        assert_eq!(got, want.map(|(ip, port, entry)| (ip.to_owned(), port, entry)));
        object["metadata"]["labels"] = json!({OPT_OUT_LABELS[1]: "x"});
        assert_eq!(Service::try_from(&object).unwrap().frontends(&own).count(), 0);
    }

    #[test]
    fn affinity_and_policies() {
        let got = service(json!({
            "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose",
        }))
        .unwrap();
        assert_eq!(got.affinity, Some(AFFINITY_DEFAULT));
        assert_eq!(
            (got.internal_policy, got.external_policy),
            (TrafficPolicy::Local, TrafficPolicy::Cluster)
        );
        assert_eq!(got.distribution, Distribution::SameZone);
        let got = service(json!({
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}},
            "trafficDistribution": "SomethingOfTheFuture",
        }))
        .unwrap();
        assert_eq!((got.affinity, got.distribution), (Some(Duration::from_secs(5)), Distribution::Any));
    }

    #[test]
    fn a_wrong_service_is_named_with_its_field() {
        for (spec, path) in [
            (json!({"type": "Cluster"}), "spec.type"),
            (json!({"type": "ExternalName"}), "spec.externalName"),
            (json!({"clusterIPs": ["10.96.0.300"]}), "spec.clusterIPs[0]"),
            (json!({"ports": [{"port": 80}, {"port": 70000}]}), "spec.ports[1].port"),
            (json!({"ports": [{}]}), "spec.ports[0].port"),
            (json!({"ports": [{"port": 80, "protocol": "tcp"}]}), "spec.ports[0].protocol"),
            (json!({"internalTrafficPolicy": "Nearby"}), "spec.internalTrafficPolicy"),
            (json!([]), "spec"),
        ] {
            let error = service(spec).unwrap_err().to_string();
            assert!(error.starts_with(&format!("Service shop/orders: {path}: ")), "{error}");
        }
    }
}
