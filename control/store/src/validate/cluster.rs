//! Namespaces, Nodes, ConfigMaps, Secrets, Leases, Events and signing requests.

use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::names::{config_key, qualified_name};
use super::{Errors, IMMUTABLE, items, refuse, text};
use crate::error::FieldError;

/// ConfigMaps and Secrets hold no more than this.
const MAX_SIZE: usize = 1024 * 1024;
const IMMUTABLE_SET: &str = "field is immutable when `immutable` is set";

/// Checks a Namespace: its finalizers are names.
pub(crate) fn namespace(new: &Value, _: Option<&Value>, errors: &mut Errors) {
    for finalizer in items(&new["spec"]["finalizers"]) {
        refuse(errors, "spec.finalizers", finalizer, qualified_name(finalizer.as_str().unwrap_or("")));
    }
}

/// Checks a Node: its ranges stay, its taints differ.
pub(crate) fn node(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = &new["spec"];
    for (index, cidr) in items(&spec["podCIDRs"]).enumerate() {
        if cidr.as_str().unwrap_or("").parse::<ipnet::IpNet>().is_err() {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(format!("spec.podCIDRs[{index}]"), cidr, detail));
        }
    }
    let mut seen = Vec::new();
    for (index, taint) in items(&spec["taints"]).enumerate() {
        // The real server names the metadata, too.
        let path = format!("metadata.taints[{index}]");
        refuse(errors, &format!("{path}.key"), &taint["key"], qualified_name(text(taint, "key")));
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        super::one_of(errors, &format!("{path}.effect"), &taint["effect"], &effects);
        let key = (text(taint, "key"), text(taint, "effect"));
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(path, taint));
        }
        seen.push(key);
    }
    let had = old.map_or(&Value::Null, |old| &old["spec"]["podCIDRs"]);
    if had.as_array().is_some_and(|list| !list.is_empty()) && *had != spec["podCIDRs"] {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden("spec.podCIDRs", detail));
    }
}

/// Checks a ConfigMap.
pub(crate) fn config_map(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let mut size = 0;
    for map in ["data", "binaryData"] {
        for (key, value) in new[map].as_object().into_iter().flatten() {
            refuse(errors, &format!("{map}[{key}]"), &json!(key), config_key(key));
            size += value.as_str().map_or(0, str::len);
        }
    }
    for (key, _) in new["binaryData"].as_object().into_iter().flatten() {
        if new["data"].get(key).is_some() {
            let detail = "duplicate of key present in binaryData";
            errors.push(FieldError::invalid(format!("data[{key}]"), &json!(key), detail));
        }
    }
    if size > MAX_SIZE {
        errors.push(FieldError::too_long("", MAX_SIZE));
    }
    frozen(new, old, &["data", "binaryData"], errors);
}

/// An object that was made immutable stays so, and its data with it.
fn frozen(new: &Value, old: Option<&Value>, fields: &[&str], errors: &mut Errors) {
    let Some(old) = old.filter(|old| old["immutable"] == true) else { return };
    if new["immutable"] != true {
        errors.push(FieldError::forbidden("immutable", IMMUTABLE_SET));
    }
    for field in fields {
        if new[*field] != old[*field] {
            errors.push(FieldError::forbidden(*field, IMMUTABLE_SET));
        }
    }
}

/// Checks a Secret.
pub(crate) fn secret(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in new["data"].as_object().into_iter().flatten() {
        refuse(errors, &format!("data[{key}]"), &json!(key), config_key(key));
        // Base64 of a kilobyte is a third longer.
        size += value.as_str().map_or(0, |text| text.len() / 4 * 3);
    }
    if size > MAX_SIZE {
        errors.push(FieldError::too_long("data", MAX_SIZE));
    }
    let needed: &[&str] = match text(new, "type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed.iter().filter(|key| new["data"].get(**key).is_none()) {
        errors.push(FieldError::required(format!("data[{key}]"), ""));
    }
    if old.is_some_and(|old| old["type"] != new["type"]) {
        errors.push(FieldError::invalid("type", &new["type"], IMMUTABLE));
    }
    frozen(new, old, &["data"], errors);
}

/// Checks a Lease.
pub(crate) fn lease(new: &Value, _: Option<&Value>, errors: &mut Errors) {
    let spec = &new["spec"];
    if spec["leaseDurationSeconds"].as_i64().is_some_and(|seconds| seconds <= 0) {
        let detail = "must be greater than 0";
        errors.push(FieldError::invalid("spec.leaseDurationSeconds", &spec["leaseDurationSeconds"], detail));
    }
    if spec["leaseTransitions"].as_i64().is_some_and(|number| number < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("spec.leaseTransitions", &spec["leaseTransitions"], detail));
    }
}

/// Checks an Event: it is in the namespace of what it is about; cluster-scoped objects' in `default`.
pub(crate) fn event(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let (own, about) = (text(&new["metadata"], "namespace"), text(&new["involvedObject"], "namespace"));
    if old.is_none() && !about.is_empty() && about != own {
        let detail = "does not match event.namespace";
        errors.push(FieldError::invalid(
            "involvedObject.namespace",
            &new["involvedObject"]["namespace"],
            detail,
        ));
    }
    if about.is_empty() && !matches!(own, "default" | "kube-system") {
        let detail = "does not match event.namespace";
        errors.push(FieldError::invalid("involvedObject.namespace", &json!(""), detail));
    }
}

const NO_REQUEST: &str = "PEM block type must be CERTIFICATE REQUEST";

/// Why `pem` is no request for a certificate (RFC 2986).
fn unreadable(pem: &[u8]) -> Option<&'static str> {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(pem) else { return Some(NO_REQUEST) };
    if pem.label != "CERTIFICATE REQUEST" {
        return Some(NO_REQUEST);
    }
    match X509CertificationRequest::from_der(&pem.contents) {
        Ok(([], _)) => None,
        Ok(_) => Some("asn1: syntax error: trailing data"),
        Err(_) => Some("asn1: syntax error: data truncated"),
    }
}

/// Checks a CertificateSigningRequest.
pub(crate) fn signing_request(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    use base64::Engine as _;
    if old.is_some() {
        return;
    }
    let spec = &new["spec"];
    let request = base64::engine::general_purpose::STANDARD.decode(text(spec, "request"));
    if let Some(detail) = request.map_or(Some(NO_REQUEST), |pem| unreadable(&pem)) {
        errors.push(FieldError::invalid("spec.request", &spec["request"], detail));
    }
    if items(&spec["usages"]).next().is_none() {
        errors.push(FieldError::required("spec.usages", ""));
    }
    let signer = text(spec, "signerName");
    if signer.is_empty() {
        errors.push(FieldError::required("spec.signerName", ""));
    } else if !signer.contains('/') {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid("spec.signerName", &spec["signerName"], detail));
    }
    if spec["expirationSeconds"].as_i64().is_some_and(|seconds| seconds < 600) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid("spec.expirationSeconds", &spec["expirationSeconds"], detail));
    }
}
