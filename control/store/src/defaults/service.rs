//! Services.

use serde_json::{Value, json};

use super::{items, object, set};

/// Defaults of a Service; its addresses are allocated when it is stored.
pub(crate) fn service(service: &mut Value) {
    let spec = object(service, "spec");
    set(spec, "sessionAffinity", "None");
    set(spec, "type", "ClusterIP");
    let text = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
    let (kind, affinity) = (text("type"), text("sessionAffinity"));
    match affinity.as_str() {
        "ClientIP" => {
            set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10_800}}));
        }
        _ => {
            spec.shift_remove("sessionAffinityConfig");
        }
    }
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    if external {
        set(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
    }
    if kind != "ExternalName" {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    for port in items(&mut service["spec"], "ports") {
        let Some(fields) = port.as_object_mut() else { continue };
        set(fields, "protocol", "TCP");
        let number = fields.get("port").cloned().unwrap_or(json!(0));
        let target = fields.get("targetPort");
        if matches!(target, None | Some(Value::Null))
            || target == Some(&json!(0))
            || target == Some(&json!(""))
        {
            fields.insert("targetPort".into(), number);
        }
    }
}

/// A new Service has an empty status; a replaced one keeps what it was given unless it says otherwise.
pub(crate) fn prepare_service(new: &mut Value, old: Option<&Value>) {
    let Some(old) = old else {
        new["status"] = json!({"loadBalancer": {}});
        return;
    };
    drop_unneeded(new, old);
    let has_ip = |service: &Value| service["spec"]["type"] != "ExternalName";
    if has_ip(new) && has_ip(old) {
        keep(new, old, &["clusterIP", "clusterIPs"]);
        keep(new, old, &["ipFamilies"]);
        keep(new, old, &["ipFamilyPolicy"]);
        follow_first_address(new, old);
    }
    keep_node_ports(new, old);
}

/// What belonged to the old type and was merely carried along.
fn drop_unneeded(new: &mut Value, old: &Value) {
    let (kind, before) = (new["spec"]["type"].clone(), old["spec"]["type"].clone());
    if kind == before {
        return;
    }
    let Some(spec) = new["spec"].as_object_mut() else { return };
    if kind == "ClusterIP" || kind == "ExternalName" {
        for field in ["externalTrafficPolicy", "allocateLoadBalancerNodePorts", "healthCheckNodePort"] {
            if spec.get(field) == old["spec"].get(field) {
                spec.shift_remove(field);
            }
        }
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            let same = old["spec"]["ports"].as_array().into_iter().flatten().any(|was| was == port);
            if same && let Some(fields) = port.as_object_mut() {
                fields.shift_remove("nodePort");
            }
        }
    }
    if kind == "ExternalName" && spec.get("internalTrafficPolicy") == old["spec"].get("internalTrafficPolicy")
    {
        spec.shift_remove("internalTrafficPolicy");
    }
    if before == "ExternalName"
        && kind != "ExternalName"
        && spec.get("externalName") == old["spec"].get("externalName")
    {
        spec.shift_remove("externalName");
    }
}

/// Copies fields of the old spec, if the new one has none of them.
fn keep(new: &mut Value, old: &Value, fields: &[&str]) {
    let empty = |value: Option<&Value>| match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    };
    if fields.iter().all(|field| empty(new["spec"].get(*field))) {
        for field in fields {
            if let Some(value) = old["spec"].get(*field) {
                new["spec"][*field] = value.clone();
            }
        }
    }
}

/// `clusterIP` is the first of `clusterIPs`: whichever changed leads.
fn follow_first_address(new: &mut Value, old: &Value) {
    let spec = &mut new["spec"];
    let single = spec["ipFamilyPolicy"] == "SingleStack" && old["spec"]["ipFamilyPolicy"] != "SingleStack";
    if single {
        for field in ["clusterIPs", "ipFamilies"] {
            if let Some(list) = spec.get_mut(field).and_then(Value::as_array_mut) {
                list.truncate(1);
            }
        }
    }
    if spec["clusterIP"].is_string() && spec["clusterIP"] != spec["clusterIPs"][0] {
        spec["clusterIPs"] = json!([spec["clusterIP"]]);
    }
}

/// Ports that had a NodePort keep it.
fn keep_node_ports(new: &mut Value, old: &Value) {
    let wants =
        |service: &Value| matches!(service["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer"));
    if !wants(new) || !wants(old) {
        return;
    }
    let before: Vec<Value> = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
    for port in items(&mut new["spec"], "ports") {
        let same = |was: &&Value| was["port"] == port["port"] && was["protocol"] == port["protocol"];
        let had = before.iter().find(same).map(|was| was["nodePort"].clone());
        if port["nodePort"].as_u64().unwrap_or(0) == 0
            && let Some(Value::Number(number)) = had
        {
            port["nodePort"] = Value::Number(number);
        }
        if let Some(fields) = port.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_policies() {
        let mut object =
            json!({"spec": {"type": "NodePort", "ports": [{"port": 80}, {"port": 53, "targetPort": "dns"}]}});
        service(&mut object);
        assert_eq!(
            object["spec"],
            json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80},
                {"port": 53, "targetPort": "dns", "protocol": "TCP"}], "sessionAffinity": "None",
                "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster"})
        );
    }

    #[test]
    fn what_was_allocated_stays() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        prepare_service(&mut new, Some(&old));
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.5");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        let mut changed = old.clone();
        changed["spec"]["type"] = json!("ClusterIP");
        prepare_service(&mut changed, Some(&old));
        assert!(changed["spec"]["ports"][0].get("nodePort").is_none());
    }
}
