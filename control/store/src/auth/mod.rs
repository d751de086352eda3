//! Who a request comes from, and whether it may.
//!
//! ```text
//!  client certificate ─> certificate ─┐
//!  bearer token ──────> token ────────┼─> User ─> rbac (Rules, watched from the store) ─> allowed?
//!  neither ───────────────────────────┘ anonymous
//! ```

pub mod bootstrap;
pub mod escalation;
pub mod pki;
pub mod rbac;
pub mod token;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::error::{Error, Reason};
use crate::kinds::KindDef;

/// Members may do everything; no role can take it from them.
pub const MASTERS: &str = "system:masters";
/// Everyone who said who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everyone who did not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";

/// Who a request comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    /// Further facts, such as the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user who proved the name and groups; `system:authenticated` is added.
    pub fn authenticated(name: impl Into<String>, mut groups: Vec<String>) -> Self {
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// A request without credentials.
    pub fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// The service account with this namespace and name.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        Self::authenticated(format!("system:serviceaccount:{namespace}:{name}"), groups)
    }

    /// `authentication.k8s.io/v1` UserInfo.
    pub fn to_json(&self) -> Value {
        let mut info = json!({"username": self.name});
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        if !self.groups.is_empty() {
            info["groups"] = json!(self.groups);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}

/// What a request asks to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub verb: String,
    pub namespace: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// The path, for what is no resource; all of the above but the verb are then empty.
    pub path: Option<String>,
}

impl Attributes {
    /// A verb on the objects of a kind.
    pub fn resource(verb: &str, kind: &KindDef, namespace: &str, name: &str) -> Self {
        Self {
            verb: verb.to_owned(),
            namespace: namespace.to_owned(),
            group: kind.group.clone(),
            resource: kind.plural.clone(),
            name: name.to_owned(),
            ..Self::default()
        }
    }

    fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// The refusal, in the server's words. `why` is appended: what the authoriser could not look up.
    pub fn forbidden(&self, user: &User, why: &str) -> Error {
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        if let Some(path) = &self.path {
            let message = format!("forbidden: User {:?} cannot {} path {path:?}{why}", user.name, self.verb);
            return Error::new(Reason::Forbidden, message);
        }
        let resource = if self.group.is_empty() {
            self.resource.clone()
        } else {
            format!("{}.{}", self.resource, self.group)
        };
        let object = if self.name.is_empty() { String::new() } else { format!(" {:?}", self.name) };
        let place = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", self.namespace)
        };
        let message = format!(
            "{resource}{object} is forbidden: User {:?} cannot {} resource {:?} in API group {:?} {place}{why}",
            user.name,
            self.verb,
            self.full_resource(),
            self.group
        );
        Error::new(Reason::Forbidden, message).about_resource(&self.group, &self.resource, &self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_the_real_servers() {
        let user = User::authenticated("x", Vec::new());
        let mut asked = Attributes {
            verb: "list".into(),
            namespace: "y".into(),
            resource: "pods".into(),
            ..Attributes::default()
        };
        assert_eq!(
            asked.forbidden(&user, "").to_string(),
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "y""#
        );
        asked = Attributes {
            verb: "get".into(),
            group: "apps".into(),
            resource: "deployments".into(),
            subresource: "status".into(),
            name: "web".into(),
            ..Attributes::default()
        };
        assert_eq!(
            asked.forbidden(&user, "").to_string(),
            "deployments.apps \"web\" is forbidden: User \"x\" cannot get resource \"deployments/status\" in API \
             group \"apps\" at the cluster scope"
        );
        asked = Attributes { verb: "get".into(), path: Some("/metrics".into()), ..Attributes::default() };
        assert_eq!(
            asked.forbidden(&user, "").to_string(),
            r#"forbidden: User "x" cannot get path "/metrics""#
        );
    }
}
