//! Pods and pod templates.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::names::{config_key, dns_label, environment_name, port_name, port_number, qualified_name};
use super::{Errors, items, one_of, pod_update, refuse, text};
use crate::error::FieldError;
use crate::quantity::Quantity;

/// Checks a Pod.
pub(crate) fn pod(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    match old {
        None => spec(&new["spec"], "spec", errors),
        Some(old) => pod_update::check(new, old, errors),
    }
}

/// Checks the `spec` of a Pod or template.
pub(super) fn spec(spec: &Value, path: &str, errors: &mut Errors) {
    let volumes = volumes(&spec["volumes"], &format!("{path}.volumes"), errors);
    let mut names = BTreeSet::new();
    if items(&spec["containers"]).next().is_none() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (index, one) in items(&spec[list]).enumerate() {
            let path = format!("{path}.{list}[{index}]");
            container(one, &path, &volumes, errors);
            let name = text(one, "name");
            if !name.is_empty() && !names.insert(name.to_owned()) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
            }
        }
    }
    one_of(
        errors,
        &format!("{path}.restartPolicy"),
        &spec["restartPolicy"],
        &["Always", "OnFailure", "Never"],
    );
    one_of(
        errors,
        &format!("{path}.dnsPolicy"),
        &spec["dnsPolicy"],
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        let field = format!("{path}.terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(field, &spec["terminationGracePeriodSeconds"], NOT_NEGATIVE));
    }
    super::meta::labels(&spec["nodeSelector"], &format!("{path}.nodeSelector"), errors);
    for field in ["nodeName", "serviceAccountName", "hostname"] {
        let name = text(spec, field);
        if !name.is_empty() {
            let faults =
                if field == "hostname" { dns_label(name) } else { super::names::dns_subdomain(name) };
            refuse(errors, &format!("{path}.{field}"), &json!(name), faults);
        }
    }
    for (index, toleration) in items(&spec["tolerations"]).enumerate() {
        self::toleration(toleration, &format!("{path}.tolerations[{index}]"), errors);
    }
}

pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

fn toleration(toleration: &Value, path: &str, errors: &mut Errors) {
    let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
    if !key.is_empty() {
        refuse(errors, &format!("{path}.key"), &json!(key), qualified_name(key));
    } else if operator != "Exists" {
        let detail =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(format!("{path}.operator"), &json!(operator), detail));
    }
    if !matches!(operator, "" | "Equal" | "Exists") {
        let field = format!("{path}.operator");
        errors.push(FieldError::not_supported(field, &json!(operator), &["Equal", "Exists"]));
    }
    if operator == "Exists" && !text(toleration, "value").is_empty() {
        let detail = "value must be empty when `operator` is 'Exists'";
        errors.push(FieldError::invalid(format!("{path}.operator"), toleration, detail));
    }
    let effect = text(toleration, "effect");
    if toleration["tolerationSeconds"].is_number() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(format!("{path}.effect"), &json!(effect), detail));
    }
    if !matches!(effect, "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        let supported = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        errors.push(FieldError::not_supported(format!("{path}.effect"), &json!(effect), &supported));
    }
}

/// Checks volumes and returns their names.
fn volumes(volumes: &Value, path: &str, errors: &mut Errors) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, volume) in items(volumes).enumerate() {
        let path = format!("{path}[{index}]");
        let name = text(volume, "name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else {
            refuse(errors, &format!("{path}.name"), &json!(name), dns_label(name));
        }
        if names.contains(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
        }
        let before = errors.len();
        sources(volume, &path, errors);
        // A volume that is wrong itself is not there for the others.
        if errors.len() == before {
            names.insert(name.to_owned());
        }
    }
    names
}

fn sources(volume: &Value, path: &str, errors: &mut Errors) {
    let given: Vec<&str> = volume
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .filter(|key| *key != "name")
        .collect();
    if given.is_empty() {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
    for extra in given.iter().skip(1) {
        let field = format!("{path}.{extra}");
        errors.push(FieldError::forbidden(field, "may not specify more than 1 volume type"));
    }
    if given.len() > 1 {
        return;
    }
    for (source, field) in [("configMap", "name"), ("secret", "secretName"), ("hostPath", "path")] {
        if volume[source].is_object() && text(&volume[source], field).is_empty() {
            errors.push(FieldError::required(format!("{path}.{source}.{field}"), ""));
        }
    }
}

fn container(container: &Value, path: &str, volumes: &BTreeSet<String>, errors: &mut Errors) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    } else {
        refuse(errors, &format!("{path}.name"), &json!(name), dns_label(name));
    }
    let image = text(container, "image");
    if image.is_empty() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(format!("{path}.image"), &json!(image), detail));
    }
    ports(&container["ports"], &format!("{path}.ports"), errors);
    environment(container, path, errors);
    mounts(&container["volumeMounts"], &format!("{path}.volumeMounts"), volumes, errors);
    let policies = ["Always", "IfNotPresent", "Never"];
    one_of(errors, &format!("{path}.imagePullPolicy"), &container["imagePullPolicy"], &policies);
    resources(&container["resources"], &format!("{path}.resources"), errors);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[probe].is_object() {
            self::probe(&container[probe], &format!("{path}.{probe}"), errors);
        }
    }
}

fn ports(ports: &Value, path: &str, errors: &mut Errors) {
    let (mut names, mut hosts) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in items(ports).enumerate() {
        let path = format!("{path}[{index}]");
        let name = text(port, "name");
        if !name.is_empty() {
            let faults = port_name(name);
            if faults.is_empty() && !names.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
            }
            refuse(errors, &format!("{path}.name"), &json!(name), faults);
        }
        match port["containerPort"].as_i64().unwrap_or(0) {
            0 => errors.push(FieldError::required(format!("{path}.containerPort"), "")),
            number => number_in_range(number, &format!("{path}.containerPort"), errors),
        }
        if let Some(host) = port["hostPort"].as_i64().filter(|port| *port != 0) {
            number_in_range(host, &format!("{path}.hostPort"), errors);
            let key = format!("{}/{}/{host}", text(port, "protocol"), text(port, "hostIP"));
            if !hosts.insert(key.clone()) {
                errors.push(FieldError::duplicate(format!("{path}.hostPort"), &json!(key)));
            }
        }
        one_of(errors, &format!("{path}.protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
    }
}

fn number_in_range(number: i64, path: &str, errors: &mut Errors) {
    if let Some(fault) = port_number(number) {
        errors.push(FieldError::invalid(path, &json!(number), fault));
    }
}

fn environment(container: &Value, path: &str, errors: &mut Errors) {
    for (index, variable) in items(&container["env"]).enumerate() {
        let path = format!("{path}.env[{index}]");
        let name = text(variable, "name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else {
            refuse(errors, &format!("{path}.name"), &json!(name), environment_name(name));
        }
        let from = &variable["valueFrom"];
        if from.is_object() {
            value_from(variable, from, &format!("{path}.valueFrom"), errors);
        }
    }
}

fn value_from(variable: &Value, from: &Value, path: &str, errors: &mut Errors) {
    let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let given = sources.iter().filter(|source| from[**source].is_object()).count();
    if given == 0 {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        errors.push(FieldError::invalid(path, &json!(""), detail));
    } else if !text(variable, "value").is_empty() {
        errors.push(FieldError::invalid(path, &json!(""), "may not be specified when `value` is not empty"));
    } else if given > 1 {
        let detail = "may not have more than one field specified at a time";
        errors.push(FieldError::invalid(path, &json!(""), detail));
    }
    for source in ["configMapKeyRef", "secretKeyRef"] {
        if from[source].is_object() {
            let key = text(&from[source], "key");
            match key {
                "" => errors.push(FieldError::required(format!("{path}.{source}.key"), "")),
                key => refuse(errors, &format!("{path}.{source}.key"), &json!(key), config_key(key)),
            }
        }
    }
}

fn mounts(mounts: &Value, path: &str, volumes: &BTreeSet<String>, errors: &mut Errors) {
    let mut paths = BTreeSet::new();
    for (index, mount) in items(mounts).enumerate() {
        let path = format!("{path}[{index}]");
        let (name, at) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if !volumes.contains(name) {
            errors.push(FieldError::not_found(format!("{path}.name"), &json!(name)));
        }
        if at.is_empty() {
            errors.push(FieldError::required(format!("{path}.mountPath"), ""));
        } else if !paths.insert(at) {
            errors.push(FieldError::invalid(format!("{path}.mountPath"), &json!(at), "must be unique"));
        }
    }
}

fn resources(resources: &Value, path: &str, errors: &mut Errors) {
    let read = |value: &Value| value.as_str().and_then(|text| Quantity::parse(text).ok());
    for list in ["limits", "requests"] {
        for (name, value) in resources[list].as_object().into_iter().flatten() {
            if read(value).is_some_and(Quantity::is_negative) {
                errors.push(FieldError::invalid(format!("{path}.{list}[{name}]"), value, NOT_NEGATIVE));
            }
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][name];
        if let (Some(asked), Some(most)) = (read(request), read(limit))
            && asked > most
        {
            let shown = limit.as_str().unwrap_or("");
            let detail = format!("must be less than or equal to {name} limit of {shown}");
            errors.push(FieldError::invalid(format!("{path}.requests"), request, &detail));
        }
    }
}

fn probe(probe: &Value, path: &str, errors: &mut Errors) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"];
    let given: Vec<&&str> = handlers.iter().filter(|handler| probe[**handler].is_object()).collect();
    if given.is_empty() {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    for extra in given.iter().skip(1) {
        let field = format!("{path}.{extra}");
        errors.push(FieldError::forbidden(field, "may not specify more than 1 handler type"));
    }
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        if probe[field].as_i64().is_some_and(|number| number < 0) {
            errors.push(FieldError::invalid(format!("{path}.{field}"), &probe[field], NOT_NEGATIVE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(pod: Value) -> Vec<String> {
        let mut pod = pod;
        crate::defaults::pod(&mut pod);
        let mut errors = Vec::new();
        super::pod(&pod, None, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(faults(json!({})), ["spec.containers: Required value"]);
        assert_eq!(
            faults(json!({"spec": {"containers": [{"name": "a", "image": "b"}]}})),
            Vec::<String>::new()
        );
        let pod = json!({"spec": {"restartPolicy": "Sometimes", "containers": [
            {"name": "a", "ports": [{"containerPort": 70000}], "volumeMounts": [{"name": "x", "mountPath": "/x"}]},
            {"name": "a", "image": "b", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]}});
        assert_eq!(
            faults(pod),
            [
                "spec.containers[0].image: Required value",
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.containers[0].volumeMounts[0].name: Not found: \"x\"",
                "spec.containers[1].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                "spec.containers[1].name: Duplicate value: \"a\"",
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ]
        );
    }
}
