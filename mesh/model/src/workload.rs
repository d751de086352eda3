//! Pods as the sources of flows.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::read::{self, FieldError, ObjectError};

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

/// A pod with the addresses that are its alone: none if it uses its node's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) workload: Arc<Workload>,
    pub(crate) addresses: Vec<IpAddr>,
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
    let shares_node = read::flag(spec, "hostNetwork").map_err(|e| e.under("spec"))?.unwrap_or(false);
    let addresses = if shares_node { Vec::new() } else { own_addresses(object)? };
    Ok(Pod { workload: Arc::new(workload), addresses })
}

/// `status.podIPs`, or none once the pod has ended and its address may be another's.
fn own_addresses(object: &Value) -> Result<Vec<IpAddr>, FieldError> {
    let status = read::section(object, "status")?;
    if let Some("Succeeded" | "Failed") = read::text(status, "phase").map_err(|e| e.under("status"))? {
        return Ok(Vec::new());
    }
    let addresses = read::list(status, "podIPs", |item| read::parsed(item, "ip"));
    Ok(addresses.map_err(|e| e.under("status"))?.into_iter().flatten().collect())
}
