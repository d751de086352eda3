//! The kinds of the group `apps`.

use super::groups::kind;
use super::{Column, KindDef, cells as cell};
use crate::{defaults, validate};

pub(super) fn kinds() -> Vec<KindDef> {
    let wide = || {
        [
            Column::new("Containers", cell::template_containers).wide(),
            Column::new("Images", cell::template_images).wide(),
            Column::new("Selector", cell::workload_selector).wide(),
        ]
    };
    let mut deployment = vec![
        Column::name(),
        Column::new("Ready", cell::deployment_ready),
        Column::new("Up-to-date", |object, _| cell::count(object, "updatedReplicas")),
        Column::new("Available", |object, _| cell::count(object, "availableReplicas")),
        Column::age(),
    ];
    deployment.extend(wide());
    let mut replica_set = vec![
        Column::name(),
        Column::new("Desired", |object, _| object["spec"]["replicas"].clone()).typed("integer"),
        Column::new("Current", |object, _| cell::count(object, "replicas")).typed("integer"),
        Column::new("Ready", |object, _| cell::count(object, "readyReplicas")).typed("integer"),
        Column::age(),
    ];
    replica_set.extend(wide());
    vec![
        kind("apps", "v1", "Deployment", "deployments", "io.k8s.api.apps.v1.Deployment")
            .short(&["deploy"])
            .category("all")
            .scaled()
            .status()
            .generation()
            .columns(deployment)
            .rules(defaults::deployment, defaults::prepare_deployment, validate::deployment),
        kind("apps", "v1", "ReplicaSet", "replicasets", "io.k8s.api.apps.v1.ReplicaSet")
            .short(&["rs"])
            .category("all")
            .scaled()
            .status()
            .generation()
            .select_by(&["status.replicas"])
            .columns(replica_set)
            .rules(defaults::replica_set, defaults::prepare_replica_set, validate::replica_set),
    ]
}
