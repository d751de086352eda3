//! Nobody gives away rights that they do not hold: the check on writes of roles and bindings.
//!
//! Source: `k8s.io/kubernetes/pkg/registry/rbac` (`ConfirmNoEscalation`) and
//! `k8s.io/component-helpers/auth/rbac/validation` (`Covers`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::rbac::{Rule, Rules};
use super::{Attributes, User};
use crate::error::{Error, Result};
use crate::kinds::KindDef;

/// Refuses a Role, ClusterRole or binding that grants what its author has not.
pub fn check(rules: &Rules, user: &User, kind: &KindDef, object: &Value) -> Result<()> {
    if kind.group != "rbac.authorization.k8s.io" {
        return Ok(());
    }
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("");
    let name = object["metadata"]["name"].as_str().unwrap_or("");
    let may = |verb: &str, resource: &str, name: &str| {
        let asked = Attributes {
            verb: verb.to_owned(),
            namespace: namespace.to_owned(),
            group: kind.group.clone(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        rules.authorize(user, &asked).allowed
    };
    let granted = match kind.kind.as_str() {
        "Role" | "ClusterRole" if !may("escalate", &kind.plural, name) => Rule::of_role(object),
        "RoleBinding" | "ClusterRoleBinding" => {
            let role = object["roleRef"]["name"].as_str().unwrap_or("");
            let cluster = object["roleRef"]["kind"] == "ClusterRole";
            let resource = if cluster { "clusterroles" } else { "roles" };
            if may("bind", resource, role) {
                return Ok(());
            }
            let at = if cluster { "" } else { namespace };
            let Some(granted) = rules.role(at, role) else {
                let why = format!(
                    "{}.rbac.authorization.k8s.io {role:?} not found",
                    &resource[..resource.len() - 1]
                );
                return Err(Error::forbidden(kind, name, &why));
            };
            granted.to_vec()
        }
        _ => return Ok(()),
    };
    let missing = uncovered(&rules.all_of(user, namespace), &granted);
    if missing.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = missing.iter().map(show).collect();
    let why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        shown.join("\n")
    );
    Err(Error::forbidden(kind, name, &why))
}

/// What of `granted` the rules `held` do not cover, one verb and resource at a time, then compacted.
fn uncovered(held: &[Rule], granted: &[Rule]) -> Vec<Rule> {
    let single = granted.iter().flat_map(break_down).collect::<BTreeSet<Rule>>();
    let missing: Vec<Rule> =
        single.into_iter().filter(|rule| !held.iter().any(|one| covers(one, rule))).collect();
    compact(missing)
}

fn break_down(rule: &Rule) -> Vec<Rule> {
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for path in &rule.paths {
            parts.push(Rule { verbs: vec![verb.clone()], paths: vec![path.clone()], ..Rule::default() });
        }
        for (group, resource) in
            rule.groups.iter().flat_map(|group| rule.resources.iter().map(move |resource| (group, resource)))
        {
            let one = Rule {
                verbs: vec![verb.clone()],
                groups: vec![group.clone()],
                resources: vec![resource.clone()],
                ..Rule::default()
            };
            if rule.names.is_empty() {
                parts.push(one);
            } else {
                let named = rule.names.iter().map(|name| Rule { names: vec![name.clone()], ..one.clone() });
                parts.extend(named);
            }
        }
    }
    parts
}

fn covers(held: &Rule, wanted: &Rule) -> bool {
    let all = |held: &[String], wanted: &[String]| {
        held.iter().any(|one| one == "*") || wanted.iter().all(|one| held.contains(one))
    };
    let resource = |wanted: &String| {
        held.resources.iter().any(|one| {
            one == "*"
                || one == wanted
                || one
                    .strip_prefix("*/")
                    .is_some_and(|sub| wanted.split_once('/').is_some_and(|(_, of)| of == sub))
        })
    };
    let path = |wanted: &String| {
        held.paths.iter().any(|one| {
            one == wanted || one.strip_suffix('*').is_some_and(|prefix| wanted.starts_with(prefix))
        })
    };
    all(&held.verbs, &wanted.verbs)
        && all(&held.groups, &wanted.groups)
        && wanted.resources.iter().all(resource)
        && (held.names.is_empty() || (!wanted.names.is_empty() && all(&held.names, &wanted.names)))
        && wanted.paths.iter().all(path)
}

/// Joins rules that differ in their verbs only.
fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut compacted: Vec<Rule> = Vec::new();
    for rule in rules {
        let same = |one: &&mut Rule| {
            (&one.groups, &one.resources, &one.names, &one.paths)
                == (&rule.groups, &rule.resources, &rule.names, &rule.paths)
        };
        match compacted.iter_mut().find(same) {
            Some(one) => one.verbs.extend(rule.verbs),
            None => compacted.push(rule),
        }
    }
    compacted.sort_by_key(show);
    compacted
}

fn quoted(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|one| format!("{one:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// As the server shows a rule: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
fn show(rule: &Rule) -> String {
    let list = |list: &[String]| {
        let quoted: Vec<String> = list.iter().map(|one| format!("{one:?}")).collect();
        format!("[{}]", quoted.join(", "))
    };
    let parts = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.names),
        ("NonResourceURLs", &rule.paths),
        ("Verbs", &rule.verbs),
    ];
    let shown: Vec<String> = parts
        .iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| format!("{name}:{}", list(values)))
        .collect();
    format!("{{{}}}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use serde_json::json;

    fn rules() -> Rules {
        Rules::new(&[
            json!({"kind": "ClusterRole", "metadata": {"name": "editor"}, "rules": [
                {"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"]},
                {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]},
            ]}),
            json!({"kind": "ClusterRole", "metadata": {"name": "reader"}, "rules": [
                {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
            ]}),
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": "b"},
                "roleRef": {"kind": "ClusterRole", "name": "editor"}, "subjects": [{"kind": "User", "name": "u"}]}),
        ])
    }

    #[test]
    fn only_what_one_has() {
        let kind = Registry::built_in().find("rbac.authorization.k8s.io", "v1", "clusterroles").unwrap();
        let user = User::authenticated("u", vec!["g".into()]);
        let role = |verb: &str| {
            json!({"metadata": {"name": "r"}, "rules": [
                {"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}
            ]})
        };
        assert!(check(&rules(), &user, &kind, &role("get")).is_ok());
        let refusal = check(&rules(), &user, &kind, &role("delete")).unwrap_err().to_string();
        assert_eq!(
            refusal,
            "clusterroles.rbac.authorization.k8s.io \"r\" is forbidden: user \"u\" (groups=[\"g\" \
             \"system:authenticated\"]) is attempting to grant RBAC permissions not currently \
             held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
        );
    }

    #[test]
    fn bindings_need_the_rules_of_their_role() {
        let kind =
            Registry::built_in().find("rbac.authorization.k8s.io", "v1", "clusterrolebindings").unwrap();
        let user = User::authenticated("u", Vec::new());
        let binding =
            |role: &str| json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role}});
        assert!(check(&rules(), &user, &kind, &binding("reader")).is_ok());
        assert!(check(&rules(), &user, &kind, &binding("absent")).is_err());
        assert!(check(&rules(), &User::authenticated("w", Vec::new()), &kind, &binding("reader")).is_err());
    }
}
