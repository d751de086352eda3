//! Pods and pod templates.

use serde_json::{Value, json};

use super::{items, object, set};

/// Defaults of a Pod.
pub(crate) fn pod(pod: &mut Value) {
    spec(pod);
    addresses(pod);
    let spec = object(pod, "spec");
    set(spec, "enableServiceLinks", true);
    // Requests follow limits in a Pod, not in a template.
    for list in ["initContainers", "containers"] {
        for container in items(&mut pod["spec"], list) {
            requests_from_limits(container);
        }
    }
}

/// The one address and the list say the same: where they differ, the one is of an older client, and it is right.
fn addresses(pod: &mut Value) {
    let Some(status) = pod.get_mut("status").and_then(Value::as_object_mut) else { return };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("").to_owned();
    let one = text(status.get("podIP"));
    let first = text(status.get("podIPs").and_then(|list| list.pointer("/0/ip")));
    if one.is_empty() && !first.is_empty() {
        status.insert("podIP".into(), first.into());
    } else if one != first {
        status.insert("podIPs".into(), json!([{ "ip": one }]));
    }
}

/// Defaults of the `spec` within a Pod or a template.
pub(super) fn spec(parent: &mut Value) {
    let spec = object(parent, "spec");
    set(spec, "restartPolicy", "Always");
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "securityContext", json!({}));
    set(spec, "schedulerName", "default-scheduler");
    // The older name of the same field.
    let account = spec.get("serviceAccountName").or(spec.get("serviceAccount")).cloned();
    if let Some(Value::String(account)) = account.filter(|name| name != "") {
        set(spec, "serviceAccountName", account.clone());
        spec.insert("serviceAccount".into(), account.into());
    }
    let host_network = spec.get("hostNetwork") == Some(&json!(true));
    let spec = &mut parent["spec"];
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for one in items(spec, list) {
            container(one, host_network);
        }
    }
    for volume in items(spec, "volumes") {
        self::volume(volume);
    }
}

fn container(container: &mut Value, host_network: bool) {
    let pull = pull_policy(container["image"].as_str().unwrap_or(""));
    if let Some(fields) = container.as_object_mut() {
        set(fields, "imagePullPolicy", pull);
        set(fields, "terminationMessagePath", "/dev/termination-log");
        set(fields, "terminationMessagePolicy", "File");
        set(fields, "resources", json!({}));
    }
    for port in items(container, "ports") {
        if let Some(fields) = port.as_object_mut() {
            set(fields, "protocol", "TCP");
            if host_network && let Some(number) = fields.get("containerPort").cloned() {
                set(fields, "hostPort", number);
            }
        }
    }
    for variable in items(container, "env") {
        if let Some(fields) = variable.pointer_mut("/valueFrom/fieldRef").and_then(Value::as_object_mut) {
            set(fields, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name).filter(|probe| probe.is_object()) {
            self::probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = container.pointer_mut(&format!("/lifecycle/{hook}")) {
            http_get(handler);
        }
    }
}

/// `Always` for `latest` or no tag, else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or("");
    match (last.split_once(':'), digest) {
        (Some((_, "latest")), _) | (None, None) => "Always",
        _ => "IfNotPresent",
    }
}

fn probe(probe: &mut Value) {
    if let Some(fields) = probe.as_object_mut() {
        for (field, default) in
            [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
        {
            set(fields, field, default);
        }
    }
    http_get(probe);
    if let Some(grpc) = probe.get_mut("grpc").and_then(Value::as_object_mut)
        && !grpc.contains_key("service")
    {
        grpc.insert("service".into(), json!(""));
    }
}

fn http_get(handler: &mut Value) {
    if let Some(http) = handler.get_mut("httpGet").and_then(Value::as_object_mut) {
        set(http, "path", "/");
        set(http, "scheme", "HTTP");
    }
}

/// Mode of files of volumes: 0644.
const FILE_MODE: i64 = 0o644;

fn volume(volume: &mut Value) {
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(fields) = volume.get_mut(source).and_then(Value::as_object_mut) {
            set(fields, "defaultMode", FILE_MODE);
        }
    }
    if let Some(host) = volume.get_mut("hostPath").and_then(Value::as_object_mut)
        && !host.contains_key("type")
    {
        host.insert("type".into(), json!(""));
    }
    if let Some(down) = volume.get_mut("downwardAPI") {
        field_refs(down);
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in items(projected, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken").and_then(Value::as_object_mut) {
                set(token, "expirationSeconds", 3600);
            }
            if let Some(down) = source.get_mut("downwardAPI") {
                field_refs(down);
            }
        }
    }
    // A volume that says nothing is an empty directory.
    if let Some(fields) = volume.as_object_mut()
        && fields.keys().all(|key| key == "name")
        && !fields.is_empty()
    {
        fields.insert("emptyDir".into(), json!({}));
    }
}

fn field_refs(source: &mut Value) {
    for item in items(source, "items") {
        if let Some(reference) = item.get_mut("fieldRef").and_then(Value::as_object_mut) {
            set(reference, "apiVersion", "v1");
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let limits = container.pointer("/resources/limits").and_then(Value::as_object).cloned();
    let Some(limits) = limits else { return };
    let requests = object(&mut container["resources"], "requests");
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

/// What the server owns of a new Pod, and keeps of a stored one.
pub(crate) fn prepare_pod(new: &mut Value, old: Option<&Value>) {
    if old.is_none() {
        let class = quality(&new["spec"]);
        new["status"] = json!({"phase": "Pending", "qosClass": class});
    } else {
        // What was added on create is added again, lest a client that does not know of it takes it away.
        crate::admission::tolerations::admit(new);
    }
}

/// `status.qosClass`: how sure a pod can be of what it asks for.
fn quality(spec: &Value) -> &'static str {
    let all = || {
        ["initContainers", "containers"]
            .into_iter()
            .flat_map(|list| spec[list].as_array().into_iter().flatten())
    };
    let given = |container: &Value, list: &str, name: &str| {
        container["resources"][list][name].as_str().filter(|text| *text != "0").map(str::to_owned)
    };
    let names = ["cpu", "memory"];
    let any = all().any(|container| {
        names
            .iter()
            .any(|name| given(container, "limits", name).or(given(container, "requests", name)).is_some())
    });
    let guaranteed = all().all(|container| {
        names.iter().all(|name| {
            let limit = given(container, "limits", name);
            limit.is_some() && limit == given(container, "requests", name)
        })
    });
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (_, true) => "Guaranteed",
        _ => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        for (image, expected) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("host:5000/nginx", "Always"),
            ("host:5000/nginx:1.2", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), expected, "{image}");
        }
    }

    #[test]
    fn a_pod() {
        let mut object = json!({"metadata": {"name": "a"}, "spec": {
            "containers": [{"name": "a", "image": "b:1", "ports": [{"containerPort": 80}],
                "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}, {"name": "M"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                "readinessProbe": {"httpGet": {"port": 80}}}],
            "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "x"}}]}});
        pod(&mut object);
        assert_eq!(
            object["spec"]["containers"][0],
            json!({"name": "a", "image": "b:1", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName", "apiVersion": "v1"}}},
                    {"name": "M"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}},
                "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "imagePullPolicy": "IfNotPresent", "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File"})
        );
        assert_eq!(object["spec"]["volumes"][0], json!({"name": "v", "emptyDir": {}}));
        assert_eq!(object["spec"]["volumes"][1]["configMap"]["defaultMode"], 420);
        assert_eq!(object["spec"]["enableServiceLinks"], true);
        prepare_pod(&mut object, None);
        assert_eq!(object["status"], json!({"phase": "Pending", "qosClass": "Guaranteed"}));
        let once = object.clone();
        pod(&mut object);
        assert_eq!(object, once, "defaults are stable");
    }
}
