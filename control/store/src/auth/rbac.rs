//! Role-based access control: pure evaluation of roles and bindings.
//!
//! [`Rules`] is what the store held at one moment; [`Rules::authorize`] answers from it alone.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Attributes, MASTERS, User};

/// One rule of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub paths: Vec<String>,
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn holds(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

impl Rule {
    /// A `PolicyRule`.
    pub fn from_json(rule: &Value) -> Self {
        Self {
            verbs: strings(&rule["verbs"]),
            groups: strings(&rule["apiGroups"]),
            resources: strings(&rule["resources"]),
            names: strings(&rule["resourceNames"]),
            paths: strings(&rule["nonResourceURLs"]),
        }
    }

    /// The rules of a Role or ClusterRole.
    pub fn of_role(role: &Value) -> Vec<Self> {
        role["rules"].as_array().into_iter().flatten().map(Self::from_json).collect()
    }

    /// Whether it allows the request.
    pub fn allows(&self, asked: &Attributes) -> bool {
        if !holds(&self.verbs, &asked.verb) {
            return false;
        }
        match &asked.path {
            Some(path) => self.paths.iter().any(|pattern| path_matches(pattern, path)),
            None => {
                holds(&self.groups, &asked.group)
                    && self.resources.iter().any(|one| resource_matches(one, asked))
                    && (self.names.is_empty() || self.names.contains(&asked.name))
            }
        }
    }

    /// As `SelfSubjectRulesReview` shows it: a resource rule, or a path rule.
    fn to_json(&self) -> Value {
        let mut rule = json!({"verbs": self.verbs});
        if self.paths.is_empty() {
            rule["apiGroups"] = json!(self.groups);
            rule["resources"] = json!(self.resources);
            if !self.names.is_empty() {
                rule["resourceNames"] = json!(self.names);
            }
        } else {
            rule["nonResourceURLs"] = json!(self.paths);
        }
        rule
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

/// `*`, `pods`, `pods/log`, `*/scale`.
fn resource_matches(pattern: &str, asked: &Attributes) -> bool {
    if pattern == "*" {
        return true;
    }
    match pattern.split_once('/') {
        None => asked.subresource.is_empty() && pattern == asked.resource,
        Some((resource, subresource)) => {
            subresource == asked.subresource
                && !asked.subresource.is_empty()
                && (resource == "*" || resource == asked.resource)
        }
    }
}

#[derive(Clone, Debug)]
struct Binding {
    name: String,
    /// Empty for a ClusterRoleBinding.
    namespace: String,
    cluster_role: bool,
    role: String,
    subjects: Vec<Subject>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    /// Namespace and name.
    Account(String, String),
}

impl Subject {
    fn from_json(subject: &Value, namespace: &str) -> Option<Self> {
        let name = subject["name"].as_str()?;
        match subject["kind"].as_str()? {
            "User" => Some(Self::User(name.to_owned())),
            "Group" => Some(Self::Group(name.to_owned())),
            "ServiceAccount" => {
                let namespace = subject["namespace"].as_str().unwrap_or(namespace);
                Some(Self::Account(namespace.to_owned(), name.to_owned()))
            }
            _ => None,
        }
    }

    fn is(&self, user: &User) -> bool {
        match self {
            Self::User(name) => *name == user.name,
            Self::Group(name) => user.groups.contains(name),
            Self::Account(namespace, name) => {
                let rest = user.name.strip_prefix("system:serviceaccount:");
                rest.and_then(|rest| rest.split_once(':')) == Some((namespace, name))
            }
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::User(name) => format!("User {name:?}"),
            Self::Group(name) => format!("Group {name:?}"),
            Self::Account(namespace, name) => format!("ServiceAccount \"{name}/{namespace}\""),
        }
    }
}

/// All roles and bindings of one moment.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    cluster_roles: BTreeMap<String, Vec<Rule>>,
    /// By namespace and name.
    roles: BTreeMap<(String, String), Vec<Rule>>,
    bindings: Vec<Binding>,
}

/// The answer of the authoriser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// Why it was allowed, or what could not be looked up.
    pub reason: String,
}

fn key(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
    (text("namespace"), text("name"))
}

impl Rules {
    /// From objects of the four kinds, in any order.
    pub fn new<'a>(objects: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut rules = Self::default();
        for object in objects {
            match object["kind"].as_str() {
                Some("ClusterRole") => {
                    rules.cluster_roles.insert(key(object).1, Rule::of_role(object));
                }
                Some("Role") => {
                    rules.roles.insert(key(object), Rule::of_role(object));
                }
                Some("ClusterRoleBinding" | "RoleBinding") => rules.bindings.push(binding(object)),
                _ => {}
            }
        }
        rules
    }

    /// The rules of a role, if it is there. `namespace` is empty for ClusterRoles.
    pub fn role(&self, namespace: &str, name: &str) -> Option<&[Rule]> {
        if namespace.is_empty() {
            return self.cluster_roles.get(name).map(Vec::as_slice);
        }
        self.roles.get(&(namespace.to_owned(), name.to_owned())).map(Vec::as_slice)
    }

    /// Whether the user may do what is asked.
    pub fn authorize(&self, user: &User, asked: &Attributes) -> Decision {
        if user.groups.iter().any(|group| group == MASTERS) {
            return Decision { allowed: true, reason: String::new() };
        }
        let mut missing = Vec::new();
        for binding in self.bindings_of(user, &asked.namespace) {
            match self.rules_of(binding) {
                Some(rules) if rules.iter().any(|rule| rule.allows(asked)) => {
                    return Decision { allowed: true, reason: binding.why(user) };
                }
                Some(_) => {}
                None => missing.push(binding.missing()),
            }
        }
        let reason = match missing.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            several => format!("RBAC: [{}]", several.join(", ")),
        };
        Decision { allowed: false, reason }
    }

    /// Every rule that the user has in a namespace.
    pub fn all_of(&self, user: &User, namespace: &str) -> Vec<Rule> {
        if user.groups.iter().any(|group| group == MASTERS) {
            let all = || vec!["*".to_owned()];
            let on_paths = Rule { verbs: all(), paths: all(), ..Rule::default() };
            return vec![Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() }, on_paths];
        }
        let bindings = self.bindings_of(user, namespace);
        bindings.filter_map(|binding| self.rules_of(binding)).flatten().cloned().collect()
    }

    /// `status` of a `SelfSubjectRulesReview`.
    pub fn review(&self, user: &User, namespace: &str) -> Value {
        let (paths, resources): (Vec<Rule>, Vec<Rule>) =
            self.all_of(user, namespace).into_iter().partition(|rule| !rule.paths.is_empty());
        let shown = |rules: Vec<Rule>| -> Vec<Value> { rules.iter().map(Rule::to_json).collect() };
        json!({"resourceRules": shown(resources), "nonResourceRules": shown(paths), "incomplete": false})
    }

    fn bindings_of<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = &'a Binding> {
        self.bindings.iter().filter(move |binding| {
            (binding.namespace.is_empty() || binding.namespace == namespace)
                && binding.subjects.iter().any(|subject| subject.is(user))
        })
    }

    fn rules_of(&self, binding: &Binding) -> Option<&[Rule]> {
        let namespace = if binding.cluster_role { "" } else { &binding.namespace };
        self.role(namespace, &binding.role)
    }
}

fn binding(object: &Value) -> Binding {
    let (namespace, name) = key(object);
    let subjects = object["subjects"].as_array().into_iter().flatten();
    Binding {
        cluster_role: object["roleRef"]["kind"] == "ClusterRole",
        role: object["roleRef"]["name"].as_str().unwrap_or("").to_owned(),
        subjects: subjects.filter_map(|subject| Subject::from_json(subject, &namespace)).collect(),
        name,
        namespace,
    }
}

impl Binding {
    fn why(&self, user: &User) -> String {
        let role = if self.cluster_role { "ClusterRole" } else { "Role" };
        let binding = if self.namespace.is_empty() {
            format!("ClusterRoleBinding {:?}", self.name)
        } else {
            format!("RoleBinding \"{}/{}\"", self.name, self.namespace)
        };
        let subject = self.subjects.iter().find(|subject| subject.is(user)).map(Subject::shown);
        format!("RBAC: allowed by {binding} of {role} {:?} to {}", self.role, subject.unwrap_or_default())
    }

    fn missing(&self) -> String {
        let kind = if self.cluster_role { "clusterrole" } else { "role" };
        format!("{kind}.rbac.authorization.k8s.io {:?} not found", self.role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            namespace: namespace.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            path: None,
        }
    }

    fn rules() -> Rules {
        let objects = [
            json!({"kind": "Role", "metadata": {"namespace": "y", "name": "r"}, "rules": [
                {"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
                {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"]},
                {"verbs": ["patch"], "apiGroups": ["*"], "resources": ["*/scale"]},
            ]}),
            json!({"kind": "RoleBinding", "metadata": {"namespace": "y", "name": "b"},
                "roleRef": {"kind": "Role", "name": "r"},
                "subjects": [{"kind": "ServiceAccount", "name": "sa"}, {"kind": "User", "name": "x"}]}),
            json!({"kind": "ClusterRole", "metadata": {"name": "c"}, "rules": [
                {"verbs": ["*"], "nonResourceURLs": ["/healthz", "/metrics/*"]},
            ]}),
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": "cb"},
                "roleRef": {"kind": "ClusterRole", "name": "c"}, "subjects": [{"kind": "Group", "name": "g"}]}),
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": "cb2"},
                "roleRef": {"kind": "ClusterRole", "name": "gone"}, "subjects": [{"kind": "Group", "name": "g"}]}),
        ];
        Rules::new(&objects)
    }

    #[test]
    fn resources() {
        let (rules, user) = (rules(), User::authenticated("x", Vec::new()));
        for (attributes, expected) in [
            (asked("get", "", "pods", "y", "a"), true),
            (asked("get", "", "pods/log", "y", "a"), true),
            (asked("get", "", "pods/exec", "y", "a"), false),
            (asked("get", "", "pods", "z", "a"), false),
            (asked("get", "", "pods", "", ""), false),
            (asked("list", "", "pods", "y", ""), false),
            (asked("get", "", "secrets", "y", "s"), true),
            (asked("get", "", "secrets", "y", "t"), false),
            (asked("patch", "apps", "deployments/scale", "y", "d"), true),
            (asked("patch", "apps", "deployments", "y", "d"), false),
        ] {
            assert_eq!(rules.authorize(&user, &attributes).allowed, expected, "{attributes:?}");
        }
        let account = User::service_account("y", "sa");
        assert!(rules.authorize(&account, &asked("get", "", "pods", "y", "a")).allowed);
        assert!(!rules.authorize(&User::anonymous(), &asked("get", "", "pods", "y", "a")).allowed);
    }

    #[test]
    fn paths_and_missing_roles() {
        let (rules, user) = (rules(), User::authenticated("u", vec!["g".into()]));
        let path =
            |path: &str| Attributes { verb: "get".into(), path: Some(path.into()), ..Attributes::default() };
        assert!(rules.authorize(&user, &path("/metrics/x")).allowed);
        assert!(!rules.authorize(&user, &path("/metrics")).allowed);
        assert_eq!(
            rules.authorize(&user, &path("/x")).reason,
            "RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found"
        );
    }

    #[test]
    fn masters_may_everything() {
        let user = User::authenticated("root", vec![MASTERS.into()]);
        assert!(Rules::default().authorize(&user, &asked("delete", "a", "b", "c", "d")).allowed);
    }
}
