//! Which right a kubelet request needs: the mapping of the kubelet's own webhook authorisation
//! (Kubernetes documentation, "Kubelet authentication/authorization").

use http::Method;

use crate::access::Attributes;

/// The review to ask for before `method path` is passed on to `node`.
pub(super) fn needed(node: &str, method: &Method, path: &str) -> Attributes {
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let starts =
        |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let subresource = if starts("/stats") {
        "stats"
    } else if starts("/metrics") {
        "metrics"
    } else if starts("/logs") {
        "log"
    } else {
        "proxy"
    };
    Attributes { verb, group: "", resource: "nodes", subresource, name: node.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_kubelet_maps_them() {
        for (method, path, verb, subresource) in [
            (Method::GET, "/containerLogs/shop/web/app", "get", "proxy"),
            (Method::POST, "/exec/shop/web/app", "create", "proxy"),
            (Method::GET, "/exec/shop/web/app", "get", "proxy"),
            (Method::GET, "/stats/summary", "get", "stats"),
            (Method::GET, "/metrics", "get", "metrics"),
            (Method::GET, "/metrics/resource", "get", "metrics"),
            (Method::GET, "/logs/", "get", "log"),
            (Method::GET, "/statsandmore", "get", "proxy"),
        ] {
            let needed = needed("edge-a", &method, path);
            assert_eq!((needed.verb, needed.subresource), (verb, subresource), "{method} {path}");
            assert_eq!((needed.resource, needed.name.as_str()), ("nodes", "edge-a"));
        }
    }
}
