//! Deployments and ReplicaSets.

use serde_json::{Value, json};

use super::{object, pod, set};

/// Defaults of a Deployment.
pub(crate) fn deployment(deployment: &mut Value) {
    let spec = object(deployment, "spec");
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
    let strategy = object(&mut deployment["spec"], "strategy");
    set(strategy, "type", "RollingUpdate");
    if strategy.get("type") == Some(&json!("RollingUpdate")) {
        let rolling = object(&mut deployment["spec"]["strategy"], "rollingUpdate");
        set(rolling, "maxUnavailable", "25%");
        set(rolling, "maxSurge", "25%");
    }
    template(deployment);
}

/// Defaults of a ReplicaSet.
pub(crate) fn replica_set(set_: &mut Value) {
    set(object(set_, "spec"), "replicas", 1);
    template(set_);
}

/// A new one has an empty status.
pub(crate) fn prepare_deployment(new: &mut Value, old: Option<&Value>) {
    if old.is_none() {
        new["status"] = json!({});
    }
}

/// A new one has no replicas.
pub(crate) fn prepare_replica_set(new: &mut Value, old: Option<&Value>) {
    if old.is_none() {
        new["status"] = json!({"replicas": 0});
    }
}

fn template(workload: &mut Value) {
    let template = object(&mut workload["spec"], "template");
    if !template.get("metadata").is_some_and(Value::is_object) {
        template.insert("metadata".into(), json!({}));
    }
    pod::spec(&mut workload["spec"]["template"]);
}
