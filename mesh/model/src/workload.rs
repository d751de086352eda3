//! The own node's pods: sources of flows, and what its agent answers for.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::protocol::Protocol;
use crate::read::{self, FieldError, ObjectError};
use crate::service::{ServicePort, TargetPort};

/// The pod that a flow comes from, as far as its node can tell from the source address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Workload {
    /// Namespace of the pod.
    pub namespace: Arc<str>,
    /// Name of the pod.
    pub name: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
}

/// A pod of the own node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Who it is.
    pub workload: Arc<Workload>,
    /// Its addresses; none once it has ended, since they may be another's then.
    pub addresses: Vec<IpAddr>,
    /// Whether it uses its node's network, so that its addresses are the node's.
    pub shares_node: bool,
    /// The TCP and UDP ports that its containers name.
    ports: Vec<(Arc<str>, Protocol, u16)>,
}

impl Pod {
    /// The addresses that are this pod's alone.
    pub(crate) fn own_addresses(&self) -> &[IpAddr] {
        if self.shares_node { &[] } else { &self.addresses }
    }

    /// Whether calls to a Service's port go to this port of the pod, by the Service and the pod themselves,
    /// whatever a slice says.
    pub fn serves(&self, port: &ServicePort, at: u16) -> bool {
        match &port.target {
            TargetPort::Number(number) => *number == at,
            TargetPort::Name(name) => {
                self.ports.iter().any(|(n, p, number)| (n, *p, *number) == (name, port.protocol, at))
            }
        }
    }
}

impl TryFrom<&Value> for Pod {
    type Error = ObjectError;

    fn try_from(object: &Value) -> Result<Self, ObjectError> {
        read::in_object("Pod", object, pod)
    }
}

fn pod(object: &Value) -> Result<Pod, FieldError> {
    let (namespace, name) = read::namespaced_name(object)?;
    let spec = read::section(object, "spec")?;
    let account = read::text(spec, "serviceAccountName").map_err(|e| e.under("spec"))?.unwrap_or("default");
    let workload =
        Workload { namespace: namespace.into(), name: name.into(), service_account: account.into() };
    Ok(Pod {
        workload: Arc::new(workload),
        addresses: addresses(object)?,
        shares_node: read::flag(spec, "hostNetwork").map_err(|e| e.under("spec"))?.unwrap_or(false),
        ports: ports(spec).map_err(|e| e.under("spec"))?,
    })
}

/// The named ports of all containers; sidecars are init containers.
fn ports(spec: &Value) -> Result<Vec<(Arc<str>, Protocol, u16)>, FieldError> {
    let mut ports = Vec::new();
    for containers in ["initContainers", "containers"] {
        let of_each =
            read::list(spec, containers, |container| read::list(container, "ports", container_port))?;
        ports.extend(of_each.into_iter().flatten().flatten());
    }
    Ok(ports)
}

/// A port, or nothing for one without a name or of a protocol that nothing here carries.
fn container_port(item: &Value) -> Result<Option<(Arc<str>, Protocol, u16)>, FieldError> {
    let Some(protocol) = read::text(item, "protocol")?.unwrap_or("TCP").parse().ok() else { return Ok(None) };
    let named = read::text(item, "name")?.zip(read::port(item, "containerPort")?);
    Ok(named.map(|(name, number)| (name.into(), protocol, number)))
}

/// `status.podIPs`, or none once the pod has ended and its address may be another's.
fn addresses(object: &Value) -> Result<Vec<IpAddr>, FieldError> {
    let status = read::section(object, "status")?;
    if let Some("Succeeded" | "Failed") = read::text(status, "phase").map_err(|e| e.under("status"))? {
        return Ok(Vec::new());
    }
    let addresses = read::list(status, "podIPs", |item| read::parsed(item, "ip"));
    Ok(addresses.map_err(|e| e.under("status"))?.into_iter().flatten().collect())
}
