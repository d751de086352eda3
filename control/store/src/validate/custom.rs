//! CustomResourceDefinitions.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Errors, IMMUTABLE, items, text};
use crate::error::FieldError;
use crate::jsonpath::JsonPath;

/// Checks a definition: its name, its versions, and that its schemas are structural.
pub(crate) fn crd(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = &new["spec"];
    names(new, errors);
    versions(spec, errors);
    if let Some(old) = old {
        for path in ["/spec/group", "/spec/scope", "/spec/names/kind", "/spec/names/plural"] {
            if new.pointer(path) != old.pointer(path) {
                let value = new.pointer(path).unwrap_or(&Value::Null);
                let field = path.trim_start_matches('/').replace('/', ".");
                errors.push(FieldError::invalid(field, value, IMMUTABLE));
            }
        }
    }
}

fn names(crd: &Value, errors: &mut Errors) {
    let (spec, names) = (&crd["spec"], &crd["spec"]["names"]);
    let (group, plural) = (text(spec, "group"), text(names, "plural"));
    let expected = format!("{plural}.{group}");
    if text(&crd["metadata"], "name") != expected {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", &crd["metadata"]["name"], detail));
    }
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if !group.contains('.') {
        let detail = "should be a domain with at least one dot";
        errors.push(FieldError::invalid("spec.group", &spec["group"], detail));
    }
    if text(spec, "scope").is_empty() {
        errors.push(FieldError::required("spec.scope", ""));
    } else {
        super::one_of(errors, "spec.scope", &spec["scope"], &["Cluster", "Namespaced"]);
    }
    for field in ["plural", "kind"] {
        if text(names, field).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{field}"), ""));
        }
    }
    if spec["conversion"]["strategy"] != "None" {
        let strategy = &spec["conversion"]["strategy"];
        errors.push(FieldError::not_supported("spec.conversion.strategy", strategy, &["None"]));
    }
}

fn versions(spec: &Value, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, version) in items(&spec["versions"]).enumerate() {
        let path = format!("spec.versions[{index}]");
        let name = text(version, "name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
        }
        let schema = &version["schema"]["openAPIV3Schema"];
        let at = format!("{path}.schema.openAPIV3Schema");
        if schema.is_object() {
            match text(schema, "type") {
                "" => {
                    errors.push(FieldError::required(format!("{at}.type"), "must not be empty at the root"))
                }
                "object" => structural(schema, &at, errors),
                _ => {
                    let detail = "must be object at the root";
                    errors.push(FieldError::invalid(format!("{at}.type"), &schema["type"], detail));
                }
            }
        } else {
            errors.push(FieldError::required(at, "schemas are required"));
        }
        columns(version, &path, errors);
    }
    let storing = items(&spec["versions"]).filter(|version| version["storage"] == true).count();
    if storing != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", &spec["versions"], detail));
    }
}

fn columns(version: &Value, path: &str, errors: &mut Errors) {
    for (index, column) in items(&version["additionalPrinterColumns"]).enumerate() {
        let field = format!("{path}.additionalPrinterColumns[{index}].jsonPath");
        if let Err(error) = JsonPath::parse(text(column, "jsonPath")) {
            errors.push(FieldError::invalid(field, &column["jsonPath"], &error.to_string()));
        }
    }
}

/// Every part of a structural schema says its type.
fn structural(schema: &Value, path: &str, errors: &mut Errors) {
    let free = schema["x-kubernetes-int-or-string"] == true
        || schema["x-kubernetes-preserve-unknown-fields"] == true;
    if text(schema, "type").is_empty() && !free {
        errors.push(FieldError::required(
            format!("{path}.type"),
            "must not be empty for specified object fields",
        ));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(error) = regex::Regex::new(pattern)
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(format!("{path}.pattern"), &schema["pattern"], &detail));
    }
    if schema["type"] == "array" {
        match &schema["items"] {
            items if items.is_object() => structural(items, &format!("{path}.items"), errors),
            _ => errors.push(FieldError::required(format!("{path}.items"), "must be specified")),
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        structural(property, &format!("{path}.properties[{name}]"), errors);
    }
    if schema["additionalProperties"].is_object() {
        structural(&schema["additionalProperties"], &format!("{path}.additionalProperties"), errors);
    }
}
