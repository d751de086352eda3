//! The admin API of the control: the fleet, each node through the overlay, and join tokens.
//!
//! `meshctl` calls it with the credentials of its kubeconfig. What a caller may do is asked of the
//! cluster: nodes are the resource `edgenodes.edgeloom.io`, tokens `jointokens.edgeloom.io`, which is
//! no stored kind and exists for RBAC alone. Paths and bodies are those of [`edgeloom_api::admin`].

mod fleet;
mod tokens;

use std::sync::Arc;

use edgeloom_api::admin::{Failure, Timestamp};
use edgeloom_api::v1alpha1::EdgeNode;
use edgeloom_tunnel::Tunnel;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use kube::api::Api;
use rustls::pki_types::CertificateDer;

use crate::access::{Attributes, Authenticator, Authorizer};
use crate::forward::Forwarder;
use crate::https::{Body, Handler, json};
use crate::hub::Hub;
use crate::join::Tokens;

/// API group of the resources that rights are asked for.
const GROUP: &str = edgeloom_api::names::GROUP;

/// What the admin API works on.
pub struct Parts {
    /// Who calls.
    pub authenticator: Authenticator,
    /// Whether they may.
    pub authorizer: Authorizer,
    /// The nodes.
    pub edge_nodes: Api<EdgeNode>,
    /// Their sessions.
    pub hub: Hub,
    /// The way to them.
    pub forwarder: Forwarder,
    /// Join tokens.
    pub tokens: Tokens,
    /// The cluster.
    pub client: kube::Client,
    /// The overlay, for the control's own status.
    pub tunnel: Tunnel,
    /// The control's site.
    pub site: String,
    /// When it started.
    pub started: Timestamp,
}

/// Answers the requests of the admin HTTPS.
#[derive(Clone)]
pub struct AdminApi {
    parts: Arc<Parts>,
}

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Status,
    Nodes,
    Node { node: String, path: String },
    Tokens,
    Token(String),
}

impl AdminApi {
    /// An admin API on these parts.
    pub fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(parts) }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        certificate: Option<CertificateDer<'static>>,
    ) -> Result<Response<Body>, Response<Body>> {
        let route = route(request.uri().path()).ok_or_else(|| {
            let error = format!("{} is no path of the admin API", request.uri().path());
            failure(
                StatusCode::NOT_FOUND,
                error,
                Some("meshctl and the control should be of the same release"),
            )
        })?;
        let wanted = rights(&route, request.method()).ok_or_else(|| {
            let error = format!("{} is not possible on {}", request.method(), request.uri().path());
            failure(StatusCode::METHOD_NOT_ALLOWED, error, None)
        })?;
        let denied = |denied: crate::access::Denied| failure(denied.status(), denied.to_string(), None);
        let user =
            self.parts.authenticator.user(certificate.as_ref(), request.headers()).await.map_err(denied)?;
        self.parts.authorizer.check(&user, wanted).await.map_err(denied)?;
        match route {
            Route::Status => fleet::own(&self.parts).await,
            Route::Nodes => fleet::list(&self.parts).await,
            Route::Node { node, path } => fleet::forward(&self.parts, &node, &path, request).await,
            Route::Tokens if request.method() == Method::POST => tokens::create(&self.parts, request).await,
            Route::Tokens => tokens::list(&self.parts).await,
            Route::Token(id) => tokens::revoke(&self.parts, &id).await,
        }
    }
}

impl Handler for AdminApi {
    async fn handle(
        &self,
        request: Request<Incoming>,
        certificate: Option<CertificateDer<'static>>,
    ) -> Response<Body> {
        self.answer(request, certificate).await.unwrap_or_else(|failed| failed)
    }
}

fn route(path: &str) -> Option<Route> {
    let mut segments = path.strip_prefix("/v1/")?.split('/');
    let route = match (segments.next()?, segments.next()) {
        ("status", None) => Route::Status,
        ("nodes", None) => Route::Nodes,
        ("nodes", Some(node)) if !node.is_empty() => {
            let rest: Vec<&str> = segments.by_ref().collect();
            if rest.is_empty() || rest.iter().any(|segment| segment.is_empty() || *segment == "..") {
                return None;
            }
            Route::Node { node: node.to_owned(), path: format!("/v1/{}", rest.join("/")) }
        }
        ("tokens", None) => Route::Tokens,
        ("tokens", Some(id)) if !id.is_empty() => Route::Token(id.to_owned()),
        _ => return None,
    };
    segments.next().is_none().then_some(route)
}

/// The right that a request needs; none if the method does not fit the path.
fn rights(route: &Route, method: &Method) -> Option<Attributes> {
    let attributes = |verb, resource, name: &str| Attributes {
        verb,
        group: GROUP,
        resource,
        subresource: "",
        name: name.to_owned(),
    };
    match (route, method) {
        (Route::Status | Route::Nodes, &Method::GET) => Some(attributes("list", "edgenodes", "")),
        (Route::Node { node, .. }, &Method::GET) => Some(attributes("get", "edgenodes", node)),
        (Route::Node { node, path }, &Method::POST) => {
            let asked = path.strip_prefix("/v1/")?.split('/').next()?;
            let subresource = ["ping", "trace", "bench"].into_iter().find(|word| *word == asked)?;
            Some(Attributes { subresource, ..attributes("create", "edgenodes", node) })
        }
        (Route::Tokens, &Method::GET) => Some(attributes("list", "jointokens", "")),
        (Route::Tokens, &Method::POST) => Some(attributes("create", "jointokens", "")),
        (Route::Token(id), &Method::DELETE) => Some(attributes("delete", "jointokens", id)),
        _ => None,
    }
}

/// An answer that says what failed, and what to do about it where that is known.
fn failure(status: StatusCode, error: impl Into<String>, remedy: Option<&str>) -> Response<Body> {
    json(status, &Failure { error: error.into(), remedy: remedy.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let node =
            |node: &str, path: &str| Some(Route::Node { node: node.to_owned(), path: path.to_owned() });
        for (path, expected) in [
            ("/v1/status", Some(Route::Status)),
            ("/v1/nodes", Some(Route::Nodes)),
            ("/v1/nodes/edge-a/peers", node("edge-a", "/v1/peers")),
            ("/v1/nodes/edge-a/ping/edge-b", node("edge-a", "/v1/ping/edge-b")),
            ("/v1/tokens", Some(Route::Tokens)),
            ("/v1/tokens/abc", Some(Route::Token("abc".to_owned()))),
            ("/v1/nodes/edge-a", None),
            ("/v1/nodes//peers", None),
            ("/v1/nodes/edge-a/../x", None),
            ("/v1/tokens/abc/more", None),
            ("/v2/status", None),
            ("/", None),
        ] {
            assert_eq!(route(path), expected, "{path}");
        }
    }

    #[test]
    fn every_route_needs_a_right_and_takes_only_its_methods() {
        let node = Route::Node { node: "edge-a".to_owned(), path: "/v1/ping/edge-b".to_owned() };
        let right = rights(&node, &Method::POST).unwrap();
        assert_eq!((right.verb, right.resource, right.subresource), ("create", "edgenodes", "ping"));
        assert_eq!(rights(&Route::Tokens, &Method::POST).unwrap().resource, "jointokens");
        assert!(rights(&Route::Tokens, &Method::DELETE).is_none());
        assert!(rights(&Route::Status, &Method::POST).is_none());
    }
}
