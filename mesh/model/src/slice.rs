//! EndpointSlices (discovery.k8s.io/v1).

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use crate::key::ServiceKey;
use crate::name::NodeName;
use crate::protocol::{Family, Protocol};
use crate::read::{self, FieldError, ObjectError};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// One EndpointSlice that belongs to a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Name of the slice, in the namespace of its Service.
    pub name: Arc<str>,
    /// The Service that it belongs to.
    pub service: ServiceKey,
    /// Family of its addresses.
    pub family: Family,
    /// Its ports, matched to the Service's by name. SCTP ports are left out.
    pub ports: Vec<SlicePort>,
    /// Its endpoints. One with several addresses (which are fungible, says the API) stands here by its first.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Name of the Service port that it serves; empty for the only one.
    pub name: Arc<str>,
    /// Port number at the endpoint.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// One endpoint of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens. Private ranges repeat from site to site: without `node` or `zone` it says nothing.
    pub address: IpAddr,
    /// Node that it runs on.
    pub node: Option<NodeName>,
    /// Zone that it is in.
    pub zone: Option<Arc<str>>,
    /// Ready to take new traffic. Unknown counts as ready.
    pub ready: bool,
    /// Ready, whether or not it is terminating. Unknown counts as `ready`.
    pub serving: bool,
    /// Being shut down.
    pub terminating: bool,
    /// Zones whose callers should use it, if the slice's controller has an opinion.
    pub zone_hints: Vec<Arc<str>>,
    /// Nodes whose callers should use it, if the slice's controller has an opinion.
    pub node_hints: Vec<NodeName>,
    /// Its own DNS label below the Service's name.
    pub hostname: Option<Arc<str>>,
    /// The pod behind it, if it is one.
    pub pod: Option<PodRef>,
}

/// Namespace and name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodRef {
    /// Namespace of the pod.
    pub namespace: Arc<str>,
    /// Name of the pod.
    pub name: Arc<str>,
}

impl TryFrom<&Value> for EndpointSlice {
    type Error = ObjectError;

    /// Fails as well for a slice without the Service label or with FQDN addresses, see
    /// [`EndpointSlice::is_foreign`].
    fn try_from(object: &Value) -> Result<Self, ObjectError> {
        read::in_object("EndpointSlice", object, slice)
    }
}

impl EndpointSlice {
    /// Whether the slice is valid but none of a Service's addresses: it belongs to no Service, or holds
    /// domain names (which kube-proxy does not serve either).
    pub fn is_foreign(object: &Value) -> bool {
        read::tag(object, "labels", SERVICE_LABEL).is_none_or(str::is_empty)
            || object.get("addressType").and_then(Value::as_str) == Some("FQDN")
    }
}

fn slice(object: &Value) -> Result<EndpointSlice, FieldError> {
    let (namespace, name) = read::namespaced_name(object)?;
    let service = read::tag(object, "labels", SERVICE_LABEL)
        .ok_or_else(|| FieldError::new(&format!("metadata.labels[{SERVICE_LABEL}]"), "is required"))?;
    let family = match read::required_text(object, "addressType")? {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        other => {
            return Err(FieldError::new("addressType", format_args!("{other:?}: expected IPv4 or IPv6")));
        }
    };
    Ok(EndpointSlice {
        name: name.into(),
        service: ServiceKey::new(namespace, service),
        family,
        ports: read::list(object, "ports", slice_port)?.into_iter().flatten().collect(),
        endpoints: read::list(object, "endpoints", |item| endpoint(item, family).map(Arc::new))?,
    })
}

/// A port, or nothing for one of another protocol or without a number ("all ports": only API gateways
/// use that).
fn slice_port(item: &Value) -> Result<Option<SlicePort>, FieldError> {
    let Some(protocol) = read::text(item, "protocol")?.unwrap_or("TCP").parse().ok() else { return Ok(None) };
    let name = read::text(item, "name")?.unwrap_or_default().into();
    Ok(read::port(item, "port")?.map(|port| SlicePort { name, port, protocol }))
}

fn endpoint(item: &Value, family: Family) -> Result<Endpoint, FieldError> {
    let conditions = read::section(item, "conditions")?;
    let condition = |key| read::flag(conditions, key).map_err(|e| e.under("conditions"));
    let ready = condition("ready")?.unwrap_or(true);
    let hints = read::section(item, "hints")?;
    let hint_names = |key| read::list(hints, key, |hint| read::required_text(hint, "name"));
    let nodes = hint_names("forNodes").map_err(|e| e.under("hints"))?;
    Ok(Endpoint {
        address: address(item, family)?,
        node: read::parsed(item, "nodeName")?,
        zone: read::text(item, "zone")?.filter(|zone| !zone.is_empty()).map(Arc::from),
        ready,
        serving: condition("serving")?.unwrap_or(ready),
        terminating: condition("terminating")?.unwrap_or(false),
        zone_hints: hint_names("forZones")
            .map_err(|e| e.under("hints"))?
            .into_iter()
            .map(Arc::from)
            .collect(),
        node_hints: nodes.into_iter().filter_map(|name| NodeName::new(name).ok()).collect(),
        hostname: read::text(item, "hostname")?.map(Arc::from),
        pod: pod_ref(item)?,
    })
}

fn address(item: &Value, family: Family) -> Result<IpAddr, FieldError> {
    let addresses: Vec<IpAddr> = read::parsed_list(item, "addresses")?;
    match addresses.first() {
        None => Err(FieldError::new("addresses", "expected at least one")),
        Some(first) if Family::of(*first) != family => {
            Err(FieldError::new("addresses[0]", format_args!("{first} is no {family} address")))
        }
        Some(first) => Ok(*first),
    }
}

fn pod_ref(item: &Value) -> Result<Option<PodRef>, FieldError> {
    let target = read::section(item, "targetRef")?;
    if target.get("kind").and_then(Value::as_str) != Some("Pod") {
        return Ok(None);
    }
    let part = |key| read::required_text(target, key).map_err(|e| e.under("targetRef"));
    Ok(Some(PodRef { namespace: part("namespace")?.into(), name: part("name")?.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(endpoint: Value) -> Value {
        json!({
            "metadata": {"namespace": "shop", "name": "orders-x", "labels": {SERVICE_LABEL: "orders"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"port": 9, "protocol": "SCTP"}],
            "endpoints": [endpoint],
        })
    }

    #[test]
    fn what_is_unknown_counts_as_ready() {
        for (conditions, want) in [
            (json!(null), (true, true, false)),
            (json!({}), (true, true, false)),
            (json!({"ready": false}), (false, false, false)),
            (json!({"ready": false, "serving": true, "terminating": true}), (false, true, true)),
            (json!({"ready": true, "serving": null}), (true, true, false)),
        ] {
            let slice = EndpointSlice::try_from(&object(
                json!({"addresses": ["10.244.1.2"], "conditions": conditions}),
            ))
            .unwrap();
            let got = &slice.endpoints[0];
            assert_eq!((got.ready, got.serving, got.terminating), want);
            assert_eq!(slice.ports.len(), 1, "SCTP is left out");
        }
    }

    #[test]
    fn where_and_what_an_endpoint_is() {
        let slice = EndpointSlice::try_from(&object(json!({
            "addresses": ["10.244.1.2"], "nodeName": "a", "zone": "berlin", "hostname": "orders-0",
            "hints": {"forZones": [{"name": "berlin"}], "forNodes": [{"name": "a"}]},
            "targetRef": {"kind": "Pod", "namespace": "shop", "name": "orders-0"},
        })))
        .unwrap();
        let got = &slice.endpoints[0];
        assert_eq!(got.node, Some(NodeName::new("a").unwrap()));
        assert_eq!((got.zone.as_deref(), got.hostname.as_deref()), (Some("berlin"), Some("orders-0")));
        assert_eq!((got.zone_hints.len(), got.node_hints.len()), (1, 1));
        assert_eq!(&*got.pod.as_ref().unwrap().name, "orders-0");
    }

    #[test]
    fn a_wrong_slice_is_named_with_its_field() {
        for (endpoint, path) in [
            (json!({}), "endpoints[0].addresses"),
            (json!({"addresses": ["x"]}), "endpoints[0].addresses[0]"),
            (json!({"addresses": ["fd00::1"]}), "endpoints[0].addresses[0]"),
            (json!({"addresses": ["10.0.0.1"], "nodeName": "A B"}), "endpoints[0].nodeName"),
            (json!({"addresses": ["10.0.0.1"], "conditions": {"ready": 1}}), "endpoints[0].conditions.ready"),
            (
                json!({"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod"}}),
                "endpoints[0].targetRef.namespace",
            ),
        ] {
            let error = EndpointSlice::try_from(&object(endpoint)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("EndpointSlice shop/orders-x: {path}: ")), "{error}");
        }
    }
}
