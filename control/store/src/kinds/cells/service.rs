//! Services, Endpoints and EndpointSlices.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{NONE, items, text_or_none};

pub(in crate::kinds) fn service_type(service: &Value, _: OffsetDateTime) -> Value {
    service["spec"]["type"].clone()
}

pub(in crate::kinds) fn service_ip(service: &Value, _: OffsetDateTime) -> Value {
    match service["spec"]["clusterIPs"][0].as_str() {
        Some(ip) => json!(ip),
        None => text_or_none(&service["spec"]["clusterIP"]),
    }
}

pub(in crate::kinds) fn service_external(service: &Value, _: OffsetDateTime) -> Value {
    let spec = &service["spec"];
    let external: Vec<&str> = items(&spec["externalIPs"]).filter_map(Value::as_str).collect();
    let given = |empty: &str| if external.is_empty() { empty.to_owned() } else { external.join(",") };
    match spec["type"].as_str() {
        Some("LoadBalancer") => {
            let ingress = items(&service["status"]["loadBalancer"]["ingress"]);
            let mut all: Vec<&str> =
                ingress.filter_map(|one| one["ip"].as_str().or(one["hostname"].as_str())).collect();
            all.extend(&external);
            json!(if all.is_empty() { "<pending>".to_owned() } else { all.join(",") })
        }
        Some("ExternalName") => spec["externalName"].clone(),
        _ => json!(given(NONE)),
    }
}

pub(in crate::kinds) fn service_ports(service: &Value, _: OffsetDateTime) -> Value {
    let shown = |port: &Value| {
        let (number, protocol) = (&port["port"], port["protocol"].as_str().unwrap_or("TCP"));
        match port["nodePort"].as_u64().filter(|port| *port > 0) {
            Some(node) => format!("{number}:{node}/{protocol}"),
            None => format!("{number}/{protocol}"),
        }
    };
    let ports: Vec<String> = items(&service["spec"]["ports"]).map(shown).collect();
    json!(if ports.is_empty() { NONE.to_owned() } else { ports.join(",") })
}

pub(in crate::kinds) fn service_selector(service: &Value, _: OffsetDateTime) -> Value {
    json!(labels(&service["spec"]["selector"]))
}

/// Labels as `a=b,c=d`, sorted, as kubectl prints a map.
pub(super) fn labels(map: &Value) -> String {
    let mut pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    pairs.sort();
    if pairs.is_empty() { NONE.to_owned() } else { pairs.join(",") }
}

/// Addresses shown before the rest is only counted.
const SHOWN: usize = 3;

fn capped(all: &[String]) -> String {
    match all.len() {
        0 => NONE.to_owned(),
        total if total > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), total - SHOWN),
        _ => all.join(","),
    }
}

pub(in crate::kinds) fn endpoints(object: &Value, _: OffsetDateTime) -> Value {
    let mut all = Vec::new();
    for subset in items(&object["subsets"]) {
        let ips = || items(&subset["addresses"]).filter_map(|one| one["ip"].as_str());
        if items(&subset["ports"]).next().is_none() {
            all.extend(ips().map(str::to_owned));
        }
        for port in items(&subset["ports"]) {
            let number = port["port"].as_u64().unwrap_or(0);
            all.extend(ips().map(|ip| host_port(ip, number)));
        }
    }
    json!(capped(&all))
}

fn host_port(ip: &str, port: u64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(in crate::kinds) fn slice_ports(slice: &Value, _: OffsetDateTime) -> Value {
    let Some(ports) = slice["ports"].as_array() else { return json!("<unset>") };
    let shown = |port: &Value| match (port["port"].as_u64(), port["name"].as_str()) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) if !name.is_empty() => name.to_owned(),
        _ => "*".to_owned(),
    };
    let all: Vec<String> = ports.iter().map(shown).collect();
    json!(if all.is_empty() { "<unset>".to_owned() } else { capped(&all) })
}

pub(in crate::kinds) fn slice_endpoints(slice: &Value, _: OffsetDateTime) -> Value {
    if slice["endpoints"].as_array().is_none_or(Vec::is_empty) {
        return json!("<unset>");
    }
    let all: Vec<String> = items(&slice["endpoints"])
        .flat_map(|endpoint| items(&endpoint["addresses"]))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    json!(capped(&all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let service = json!({"spec": {"type": "NodePort", "selector": {"b": "2", "a": "1"}, "ports": [
            {"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        assert_eq!(service_ports(&service, now), "80:30080/TCP,53/UDP");
        assert_eq!(service_selector(&service, now), "a=1,b=2");
        assert_eq!(service_external(&service, now), NONE);
        assert_eq!(service_external(&json!({"spec": {"type": "LoadBalancer"}}), now), "<pending>");
        let addresses: Vec<Value> = (1..=5).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
        let object = json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
        assert_eq!(endpoints(&object, now), "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...");
    }
}
