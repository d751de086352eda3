//! Roles and their bindings.

use serde_json::{Value, json};

use super::{Errors, items, text};
use crate::error::FieldError;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks a Role.
pub(crate) fn role(new: &Value, _: Option<&Value>, errors: &mut Errors) {
    rules(new, true, errors);
}

/// Checks a ClusterRole.
pub(crate) fn cluster_role(new: &Value, _: Option<&Value>, errors: &mut Errors) {
    rules(new, false, errors);
}

fn rules(role: &Value, namespaced: bool, errors: &mut Errors) {
    for (index, rule) in items(&role["rules"]).enumerate() {
        let path = format!("rules[{index}]");
        let empty = |field: &str| items(&rule[field]).next().is_none();
        if empty("verbs") {
            errors
                .push(FieldError::required(format!("{path}.verbs"), "verbs must contain at least one value"));
        }
        let urls = !empty("nonResourceURLs");
        if urls && namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            errors.push(FieldError::invalid(
                format!("{path}.nonResourceURLs"),
                &rule["nonResourceURLs"],
                detail,
            ));
            continue;
        }
        if urls {
            if !empty("apiGroups") || !empty("resources") || !empty("resourceNames") {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                let field = format!("{path}.nonResourceURLs");
                errors.push(FieldError::invalid(field, &rule["nonResourceURLs"], detail));
            }
            continue;
        }
        if empty("apiGroups") {
            let detail = "resource rules must supply at least one api group";
            errors.push(FieldError::required(format!("{path}.apiGroups"), detail));
        }
        if empty("resources") {
            let detail = "resource rules must supply at least one resource";
            errors.push(FieldError::required(format!("{path}.resources"), detail));
        }
    }
}

/// Checks a RoleBinding.
pub(crate) fn role_binding(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    binding(new, old, &["Role", "ClusterRole"], errors);
}

/// Checks a ClusterRoleBinding.
pub(crate) fn cluster_role_binding(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    binding(new, old, &["ClusterRole"], errors);
}

fn binding(new: &Value, old: Option<&Value>, kinds: &[&str], errors: &mut Errors) {
    let role = &new["roleRef"];
    if text(role, "apiGroup") != GROUP {
        errors.push(FieldError::not_supported("roleRef.apiGroup", &json!(text(role, "apiGroup")), &[GROUP]));
    }
    if !kinds.contains(&text(role, "kind")) {
        errors.push(FieldError::not_supported("roleRef.kind", &json!(text(role, "kind")), kinds));
    }
    if text(role, "name").is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    }
    for (index, subject) in items(&new["subjects"]).enumerate() {
        // In a namespace, an account without one is of that namespace.
        let needs_namespace = !kinds.contains(&"Role");
        self::subject(subject, &format!("subjects[{index}]"), needs_namespace, errors);
    }
    if old.is_some_and(|old| old["roleRef"] != *role) {
        errors.push(FieldError::invalid("roleRef", role, "cannot change roleRef"));
    }
}

fn subject(subject: &Value, path: &str, needs_namespace: bool, errors: &mut Errors) {
    if text(subject, "name").is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    let group = text(subject, "apiGroup");
    let wanted = match text(subject, "kind") {
        "ServiceAccount" => {
            if needs_namespace && text(subject, "namespace").is_empty() {
                errors.push(FieldError::required(format!("{path}.namespace"), ""));
            }
            ""
        }
        "User" | "Group" => GROUP,
        other => {
            let kinds = ["ServiceAccount", "User", "Group"];
            errors.push(FieldError::not_supported(format!("{path}.kind"), &json!(other), &kinds));
            return;
        }
    };
    if group != wanted {
        errors.push(FieldError::not_supported(format!("{path}.apiGroup"), &json!(group), &[wanted]));
    }
}
