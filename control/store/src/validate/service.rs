//! Services, Endpoints and EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::names::{dns_label, dns_subdomain, port_name, port_number};
use super::{Errors, IMMUTABLE, items, one_of, refuse, text};
use crate::error::FieldError;

/// Checks a Service.
pub(crate) fn service(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = &new["spec"];
    ports(spec, errors);
    super::meta::labels(&spec["selector"], "spec.selector", errors);
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    one_of(errors, "spec.type", &spec["type"], &types);
    one_of(errors, "spec.sessionAffinity", &spec["sessionAffinity"], &["ClientIP", "None"]);
    if spec["type"] == "ExternalName" {
        let name = text(spec, "externalName").trim_end_matches('.');
        match name {
            "" => errors.push(FieldError::required("spec.externalName", "")),
            name => refuse(errors, "spec.externalName", &json!(name), dns_subdomain(name)),
        }
    }
    let policies = ["Cluster", "Local"];
    for field in ["internalTrafficPolicy", "externalTrafficPolicy"] {
        if spec[field].is_string() {
            one_of(errors, &format!("spec.{field}"), &spec[field], &policies);
        }
    }
    for (index, address) in items(&spec["clusterIPs"]).enumerate() {
        let shown = address.as_str().unwrap_or("");
        if shown != "None" && shown.parse::<IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{index}]"), address, detail));
        }
    }
    if let Some(old) = old {
        unchanged_address(spec, &old["spec"], errors);
    }
}

fn unchanged_address(spec: &Value, old: &Value, errors: &mut Errors) {
    let had = text(old, "clusterIP");
    let still = old["type"] != "ExternalName" && spec["type"] != "ExternalName";
    if still && !had.is_empty() && spec["clusterIP"] != old["clusterIP"] {
        let detail = "may not change once set";
        errors.push(FieldError::invalid("spec.clusterIPs[0]", &json!([spec["clusterIP"]]), detail));
    }
}

fn ports(spec: &Value, errors: &mut Errors) {
    let headless = spec["clusterIP"] == "None";
    let external = spec["type"] == "ExternalName";
    let count = items(&spec["ports"]).count();
    if count == 0 && !headless && !external {
        errors.push(FieldError::required("spec.ports", ""));
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in items(&spec["ports"]).enumerate() {
        let path = format!("spec.ports[{index}]");
        self::port(port, &path, count > 1, errors);
        let name = text(port, "name");
        if !name.is_empty() && !names.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
        }
        let key = (port["port"].as_i64().unwrap_or(0), text(port, "protocol"));
        if !numbers.insert(key) {
            let duplicate = json!({"protocol": key.1, "port": key.0, "targetPort": 0});
            errors.push(FieldError::duplicate(path, &duplicate));
        }
    }
}

fn port(port: &Value, path: &str, needs_name: bool, errors: &mut Errors) {
    let name = text(port, "name");
    if name.is_empty() && needs_name {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    } else if !name.is_empty() {
        refuse(errors, &format!("{path}.name"), &json!(name), dns_label(name));
    }
    let number = port["port"].as_i64().unwrap_or(0);
    if let Some(fault) = port_number(number) {
        errors.push(FieldError::invalid(format!("{path}.port"), &json!(number), fault));
    }
    one_of(errors, &format!("{path}.protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
    let field = format!("{path}.targetPort");
    match &port["targetPort"] {
        Value::String(name) => refuse(errors, &field, &json!(name), port_name(name)),
        target => {
            if let Some(fault) = port_number(target.as_i64().unwrap_or(0)) {
                errors.push(FieldError::invalid(field, target, fault));
            }
        }
    }
}

/// Checks Endpoints.
pub(crate) fn endpoints(new: &Value, _: Option<&Value>, errors: &mut Errors) {
    for (index, subset) in items(&new["subsets"]).enumerate() {
        let path = format!("subsets[{index}]");
        let empty = |field: &str| items(&subset[field]).next().is_none();
        if empty("addresses") && empty("notReadyAddresses") {
            errors
                .push(FieldError::required(path.clone(), "must specify `addresses` or `notReadyAddresses`"));
        }
        for list in ["addresses", "notReadyAddresses"] {
            for (index, address) in items(&subset[list]).enumerate() {
                self::address(&address["ip"], &format!("{path}.{list}[{index}].ip"), errors);
            }
        }
        for (index, port) in items(&subset["ports"]).enumerate() {
            let number = port["port"].as_i64().unwrap_or(0);
            if let Some(fault) = port_number(number) {
                errors.push(FieldError::invalid(
                    format!("{path}.ports[{index}].port"),
                    &json!(number),
                    fault,
                ));
            }
        }
    }
}

fn address(address: &Value, path: &str, errors: &mut Errors) {
    let Ok(ip) = address.as_str().unwrap_or("").parse::<IpAddr>() else {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(FieldError::invalid(path, address, detail));
        return;
    };
    let why = if ip.is_unspecified() {
        "may not be unspecified (0.0.0.0)"
    } else if ip.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    } else if ip.is_multicast() {
        "may not be in the multicast range (224.0.0.0/4, ff00::/10)"
    } else {
        return;
    };
    errors.push(FieldError::invalid(path, address, why));
}

/// Checks an EndpointSlice.
pub(crate) fn endpoint_slice(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let kind = text(new, "addressType");
    if kind.is_empty() {
        errors.push(FieldError::required("addressType", ""));
    } else {
        one_of(errors, "addressType", &new["addressType"], &["FQDN", "IPv4", "IPv6"]);
    }
    if old.is_some_and(|old| old["addressType"] != new["addressType"]) {
        errors.push(FieldError::invalid("addressType", &new["addressType"], IMMUTABLE));
    }
    for (index, endpoint) in items(&new["endpoints"]).enumerate() {
        let path = format!("endpoints[{index}].addresses");
        if items(&endpoint["addresses"]).next().is_none() {
            errors.push(FieldError::required(path.as_str(), "must contain at least 1 address"));
        }
        for (number, address) in items(&endpoint["addresses"]).enumerate() {
            endpoint_address(kind, address, &format!("{path}[{number}]"), errors);
        }
    }
    let mut names = BTreeSet::new();
    for (index, port) in items(&new["ports"]).enumerate() {
        let name = text(port, "name");
        if !names.insert(name) {
            errors.push(FieldError::duplicate(format!("ports[{index}].name"), &json!(name)));
        }
        one_of(errors, &format!("ports[{index}].protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
    }
}

fn endpoint_address(kind: &str, address: &Value, path: &str, errors: &mut Errors) {
    let shown = address.as_str().unwrap_or("");
    let parsed = shown.parse::<IpAddr>();
    let detail = match (kind, parsed) {
        ("IPv4", Ok(ip)) if ip.is_ipv4() => return self::address(address, path, errors),
        ("IPv6", Ok(ip)) if ip.is_ipv6() => return self::address(address, path, errors),
        ("IPv4", Ok(_)) => "must be an IPv4 address",
        ("IPv6", Ok(_)) => "must be an IPv6 address",
        ("IPv4" | "IPv6", Err(_)) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        _ => return refuse(errors, path, address, dns_subdomain(shown)),
    };
    errors.push(FieldError::invalid(path, address, detail));
}
