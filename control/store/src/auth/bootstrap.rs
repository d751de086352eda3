//! The roles and bindings that every cluster has from its start, as data.
//!
//! A rule is written `VERBS GROUPS RESOURCES` or `VERBS - PATHS`, lists separated by commas; `core` is
//! the group without a name, `read`, `write` and `all` stand for several verbs. A role that was changed
//! keeps its changes: only what is missing is made.

use serde_json::{Value, json};

const READ: &str = "get,list,watch";
const WRITE: &str = "create,delete,deletecollection,patch,update";
const ALL: &str = "create,delete,deletecollection,get,list,patch,update,watch";

const VIEW: &[&str] = &[
    "read core configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,\
     replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status",
    "read core bindings,events,limitranges,namespaces/status,pods/log,pods/status,replicationcontrollers/status,\
     resourcequotas,resourcequotas/status",
    "read core namespaces",
    "read discovery.k8s.io endpointslices",
    "read apps controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,\
     replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status",
    "read batch cronjobs,cronjobs/status,jobs,jobs/status",
    "read policy poddisruptionbudgets,poddisruptionbudgets/status",
    "read networking.k8s.io ingresses,ingresses/status,networkpolicies",
];
const EDIT: &[&str] = &[
    "read core pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy",
    "impersonate core serviceaccounts",
    "write core pods,pods/attach,pods/exec,pods/portforward,pods/proxy",
    "create core pods/eviction",
    "write core configmaps,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,\
     serviceaccounts,services,services/proxy",
    "create core serviceaccounts/token",
    "write apps daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,\
     statefulsets,statefulsets/scale",
    "write batch cronjobs,jobs",
    "write policy poddisruptionbudgets",
    "write networking.k8s.io ingresses,networkpolicies",
    "all coordination.k8s.io leases",
];
const ADMIN: &[&str] = &[
    "create authorization.k8s.io localsubjectaccessreviews",
    "all rbac.authorization.k8s.io rolebindings,roles",
];
const NODE: &[&str] = &[
    "create authentication.k8s.io tokenreviews",
    "create authorization.k8s.io localsubjectaccessreviews,subjectaccessreviews",
    "read core services",
    "create,get,list,watch core nodes",
    "patch,update core nodes,nodes/status,pods/status",
    "create,patch,update core events",
    "read core pods",
    "create,delete core pods",
    "create core pods/eviction,serviceaccounts/token",
    "read core configmaps,secrets",
    "get core endpoints,serviceaccounts",
    "create,get,list,watch certificates.k8s.io certificatesigningrequests",
    "create,delete,get,patch,update coordination.k8s.io leases",
];

/// Name and rules of each ClusterRole that is not put together from others.
const ROLES: &[(&str, &[&str])] = &[
    ("cluster-admin", &["* * *", "* - *"]),
    ("system:aggregate-to-admin", ADMIN),
    ("system:aggregate-to-edit", EDIT),
    ("system:aggregate-to-view", VIEW),
    (
        "system:auth-delegator",
        &["create authentication.k8s.io tokenreviews", "create authorization.k8s.io subjectaccessreviews"],
    ),
    (
        "system:basic-user",
        &[
            "create authorization.k8s.io selfsubjectaccessreviews,selfsubjectrulesreviews",
            "create authentication.k8s.io selfsubjectreviews",
        ],
    ),
    (
        "system:discovery",
        &["get - /api,/api/*,/apis,/apis/*,/healthz,/livez,/openapi,/openapi/*,/readyz,/version,/version/"],
    ),
    ("system:kube-dns", &["list,watch core endpoints,services"]),
    (
        "system:kubelet-api-admin",
        &[
            "read core nodes",
            "proxy core nodes",
            "* core nodes/log,nodes/metrics,nodes/proxy,nodes/stats",
            "* core nodes/configz,nodes/healthz,nodes/pods",
        ],
    ),
    (
        "system:monitoring",
        &[
            "get - /healthz,/healthz/*,/livez,/livez/*,/metrics,/metrics/slis,/readyz,/readyz/*",
            "get core nodes/metrics",
        ],
    ),
    ("system:node", NODE),
    (
        "system:node-proxier",
        &[
            "list,watch core endpoints,services",
            "read core nodes",
            "create,patch,update core,events.k8s.io events",
            "list,watch discovery.k8s.io endpointslices",
        ],
    ),
    ("system:public-info-viewer", &["get - /healthz,/livez,/readyz,/version,/version/"]),
    (
        "system:service-account-issuer-discovery",
        &["get - /.well-known/openid-configuration,/.well-known/openid-configuration/,/openid/v1/jwks,\
             /openid/v1/jwks/"],
    ),
];

/// Roles put together from others: name, and the parts by the last word of `system:aggregate-to-…`.
const AGGREGATES: &[(&str, &[&str])] =
    &[("admin", &["edit", "view", "admin"]), ("edit", &["edit", "view"]), ("view", &["view"])];

/// ClusterRoleBindings: name and role, and the groups or accounts that get it.
const BINDINGS: &[(&str, &[&str])] = &[
    ("cluster-admin", &["system:masters"]),
    ("system:basic-user", &["system:authenticated"]),
    ("system:discovery", &["system:authenticated"]),
    ("system:monitoring", &["system:monitoring"]),
    ("system:node", &[]),
    ("system:public-info-viewer", &["system:authenticated", "system:unauthenticated"]),
    ("system:service-account-issuer-discovery", &["system:serviceaccounts"]),
];

fn list(text: &str) -> Vec<&str> {
    text.split(',').map(|one| if one == "core" { "" } else { one }).collect()
}

fn rule(text: &str) -> Value {
    let mut words = text.split_whitespace();
    let (verbs, groups, things) = (words.next(), words.next(), words.next());
    let verbs = match verbs.unwrap_or("") {
        "read" => READ,
        "write" => WRITE,
        "all" => ALL,
        other => other,
    };
    let things = list(things.unwrap_or(""));
    match groups.unwrap_or("") {
        "-" => json!({"nonResourceURLs": things, "verbs": list(verbs)}),
        groups => json!({"apiGroups": list(groups), "resources": things, "verbs": list(verbs)}),
    }
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    })
}

fn role(name: &str, rules: &[&str]) -> Value {
    let rules: Vec<Value> = rules.iter().map(|text| rule(text)).collect();
    let mut metadata = metadata(name);
    if let Some(to) = name.strip_prefix("system:aggregate-to-") {
        metadata["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{to}")] = json!("true");
    }
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules})
}

/// Every ClusterRole.
pub fn cluster_roles() -> Vec<Value> {
    let mut roles: Vec<Value> = ROLES.iter().map(|(name, rules)| role(name, rules)).collect();
    for (name, parts) in AGGREGATES {
        let rules: Vec<&str> = parts.iter().flat_map(|part| part_rules(part)).copied().collect();
        let mut aggregate = role(name, &rules);
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{name}");
        aggregate["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
        // What may edit may view: the parts carry the labels of the roles that take them in.
        roles.push(aggregate);
    }
    roles
}

fn part_rules(part: &str) -> &'static [&'static str] {
    let name = format!("system:aggregate-to-{part}");
    ROLES.iter().find(|(one, _)| *one == name).map_or(&[], |(_, rules)| rules)
}

/// Every ClusterRoleBinding.
pub fn cluster_role_bindings() -> Vec<Value> {
    let group = |name: &&str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name});
    BINDINGS
        .iter()
        .map(|(name, groups)| {
            let mut binding = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata(name),
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            });
            if !groups.is_empty() {
                binding["subjects"] = groups.iter().map(group).collect();
            }
            binding
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::rbac::Rules;
    use crate::auth::{Attributes, User};

    #[test]
    fn what_everybody_may() {
        let objects: Vec<Value> = cluster_roles().into_iter().chain(cluster_role_bindings()).collect();
        let rules = Rules::new(&objects);
        let path =
            |path: &str| Attributes { verb: "get".into(), path: Some(path.into()), ..Attributes::default() };
        let (anna, nobody) = (User::authenticated("anna", Vec::new()), User::anonymous());
        assert!(rules.authorize(&nobody, &path("/healthz")).allowed);
        assert!(!rules.authorize(&nobody, &path("/api")).allowed);
        assert!(rules.authorize(&anna, &path("/apis/apps/v1")).allowed);
        assert!(!rules.authorize(&anna, &path("/metrics")).allowed);
        assert!(rules.role("", "view").is_some_and(|view| view.len() == VIEW.len()));
        assert!(
            rules.role("", "admin").is_some_and(|admin| admin.len() == VIEW.len() + EDIT.len() + ADMIN.len())
        );
    }
}
