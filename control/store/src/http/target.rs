//! What a request is about: the parts of its path, and the verb that they make of its method.

use http::Method;

use super::query::{Query, decode};
use crate::auth::Attributes;

/// A request for a resource: `/api/v1/…` or `/apis/GROUP/VERSION/…`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// What follows the subresource, for proxies.
    pub(crate) rest: String,
    /// As authorisation names it: `get`, `list`, `deletecollection`, …
    pub(crate) verb: &'static str,
}

impl Target {
    /// Reads a path; `None` if it names no resource.
    pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> Option<Self> {
        let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
        let mut parts = parts.into_iter();
        let (group, version) = match parts.next()?.as_str() {
            "api" => (String::new(), parts.next()?),
            "apis" => (parts.next()?, parts.next()?),
            _ => return None,
        };
        let mut rest: Vec<String> = parts.collect();
        let mut target = Self { group, version, ..Self::default() };
        if rest.first()? == "namespaces" && rest.len() > 1 {
            target.namespace.clone_from(&rest[1]);
            if rest.len() > 2 && !matches!(rest[2].as_str(), "status" | "finalize") {
                rest.drain(..2);
            }
        }
        let mut rest = rest.into_iter();
        target.resource = rest.next()?;
        target.name = rest.next().unwrap_or_default();
        target.subresource = rest.next().unwrap_or_default();
        target.rest = rest.collect::<Vec<_>>().join("/");
        target.verb = target.verb_of(method, query);
        Some(target)
    }

    fn verb_of(&mut self, method: &Method, query: &Query) -> &'static str {
        let one = !self.name.is_empty();
        let verb = match *method {
            Method::GET | Method::HEAD if one => "get",
            Method::GET | Method::HEAD if query.flag("watch") => "watch",
            Method::GET | Method::HEAD => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if one => "delete",
            Method::DELETE => "deletecollection",
            _ => "",
        };
        // A list of one name is authorised as that name.
        if matches!(verb, "list" | "watch" | "deletecollection")
            && let Some(name) =
                query.get("fieldSelector").and_then(|fields| fields.strip_prefix("metadata.name="))
            && !name.contains(',')
        {
            name.clone_into(&mut self.name);
        }
        verb
    }

    /// What authorisation is asked.
    pub(crate) fn attributes(&self) -> Attributes {
        Attributes {
            verb: self.verb.to_owned(),
            namespace: self.namespace.clone(),
            group: self.group.clone(),
            resource: self.resource.clone(),
            subresource: self.subresource.clone(),
            name: self.name.clone(),
            path: None,
        }
    }

    /// Whether the answer may take as long as the client likes.
    pub(crate) fn is_long_running(&self) -> bool {
        self.verb == "watch"
            || matches!(self.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(method: Method, path: &str, query: &str) -> Target {
        Target::parse(&method, path, &Query::parse(Some(query))).unwrap()
    }

    #[test]
    fn paths() {
        let pod = parsed(Method::GET, "/api/v1/namespaces/a/pods/b/log", "");
        assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.subresource.as_str()), ("a", "b", "log"));
        let namespace = parsed(Method::PUT, "/api/v1/namespaces/a/finalize", "");
        assert_eq!(
            (namespace.resource.as_str(), namespace.name.as_str(), namespace.subresource.as_str()),
            ("namespaces", "a", "finalize")
        );
        assert_eq!(namespace.namespace, "a");
        let all = parsed(Method::GET, "/apis/apps/v1/deployments", "watch=true");
        assert_eq!((all.group.as_str(), all.verb), ("apps", "watch"));
        let proxy = parsed(Method::GET, "/api/v1/nodes/n/proxy/a/b", "");
        assert_eq!((proxy.subresource.as_str(), proxy.rest.as_str()), ("proxy", "a/b"));
        let named = parsed(Method::GET, "/api/v1/secrets", "fieldSelector=metadata.name%3Ds");
        assert_eq!((named.verb, named.name.as_str()), ("list", "s"));
        assert_eq!(parsed(Method::DELETE, "/api/v1/namespaces/a/pods", "").verb, "deletecollection");
    }

    #[test]
    fn no_resources() {
        for path in ["/", "/api", "/api/v1", "/apis/apps", "/apis/apps/v1", "/version", "/openapi/v2"] {
            assert!(Target::parse(&Method::GET, path, &Query::default()).is_none(), "{path}");
        }
    }
}
