//! From a request to its answer: who, may it, is there room, which handler; counted on the way.

use std::sync::Arc;
use std::time::Instant;

use http::{Method, Request};
use hyper::body::Incoming;
use time::OffsetDateTime;

use super::access::Peer;
use super::answer::{Response, Wanted, refuse};
use super::query::Query;
use super::target::Target;
use super::{
    Call, Face, delete, discovery, kubelet, meta, objects, patching, reviews, subresources, watching, write,
};
use crate::auth::Attributes;
use crate::error::{Error, Reason, Result};
use crate::kinds::{KindDef, Subresource};

/// Answers one request; refusals are answers too.
pub(crate) async fn answer(face: Arc<Face>, request: Request<Incoming>, peer: Peer) -> Response {
    let started = Instant::now();
    let query = Query::parse(request.uri().query());
    let target = Target::parse(request.method(), request.uri().path(), &query);
    let plain = Wanted::negotiate(request.headers(), &query).unwrap_or_else(|_| Wanted::plain(&query));
    let long = target.as_ref().is_some_and(Target::is_long_running);
    let verb = target.as_ref().map_or("other", |target| target.verb);
    let known = target
        .as_ref()
        .is_some_and(|one| face.store.registry().find(&one.group, &one.version, &one.resource).is_some());
    let resource = target.as_ref().filter(|_| known).map_or(String::new(), |target| target.resource.clone());
    let response = match respond(&face, request, peer, query, target).await {
        Ok(response) => response,
        Err(error) => refuse(&error, plain),
    };
    face.metrics.requests.with_label_values(&[verb, &resource, response.status().as_str()]).inc();
    if !long {
        face.metrics.duration.with_label_values(&[verb]).observe(started.elapsed().as_secs_f64());
    }
    response
}

async fn respond(
    face: &Arc<Face>,
    request: Request<Incoming>,
    peer: Peer,
    query: Query,
    target: Option<Target>,
) -> Result<Response> {
    let sender = face.access.authenticate(request.headers(), &peer).await?;
    let user = face.access.impersonate(sender, request.headers())?;
    let Some(target) = target else {
        let asked = Attributes {
            verb: path_verb(request.method()).to_owned(),
            path: Some(request.uri().path().to_owned()),
            ..Attributes::default()
        };
        face.access.authorize(&user, &asked)?;
        let _room = face.limits.short(&user.name).await?;
        return meta::answer(face, &request, &query).await;
    };
    face.access.authorize(&user, &target.attributes())?;
    let kind = face.store.registry().find(&target.group, &target.version, &target.resource);
    let kind = kind.ok_or_else(unknown_resource)?;
    if !kind.namespaced && !target.namespace.is_empty() && target.resource != "namespaces" {
        return Err(unknown_resource());
    }
    let (parts, body) = request.into_parts();
    let call =
        Call { user, target, kind, query, headers: parts.headers.clone(), now: OffsetDateTime::now_utc() };
    if call.target.is_long_running() {
        let room = face.limits.long(&call.user.name)?;
        if call.target.verb == "watch" && call.target.subresource.is_empty() {
            return watching::answer(face, &call, room).await;
        }
        subresource(&call.kind, &call.target)?;
        return kubelet::answer(face, call, Request::from_parts(parts, body), room).await;
    }
    let _room = face.limits.short(&call.user.name).await?;
    let bytes = super::body::read(body).await?;
    dispatch(face, call, &bytes).await
}

/// The verb that authorisation knows a method by where there is no resource.
fn path_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "options",
    }
}

async fn dispatch(face: &Face, call: Call, bytes: &[u8]) -> Result<Response> {
    if !call.target.subresource.is_empty() {
        subresource(&call.kind, &call.target)?;
        return subresources::answer(face, &call, bytes).await;
    }
    // POST goes to a collection; PUT and PATCH go to an object.
    let named = !call.target.name.is_empty();
    let misplaced = matches!((call.target.verb, named), ("create", true) | ("update" | "patch", false));
    if !call.kind.allows(call.target.verb) || misplaced {
        return Err(method_not_allowed());
    }
    if call.kind.is_virtual {
        return reviews::answer(face, &call, bytes).await;
    }
    if call.kind.namespaced
        && call.target.namespace.is_empty()
        && !matches!(call.target.verb, "list" | "deletecollection")
    {
        return Err(if call.target.verb == "create" { method_not_allowed() } else { unknown_resource() });
    }
    match call.target.verb {
        "get" => objects::get(face, &call).await,
        "list" => objects::list(face, &call).await,
        "create" => write::create(face, &call, bytes).await,
        "update" => write::update(face, &call, bytes, crate::db::Part::Main).await,
        "patch" => patching::answer(face, &call, bytes, crate::db::Part::Main).await,
        "delete" => delete::one(face, &call, bytes).await,
        "deletecollection" => delete::collection(face, &call, bytes).await,
        _ => Err(method_not_allowed()),
    }
}

/// The subresource must be the kind's, and know the verb.
fn subresource(kind: &KindDef, target: &Target) -> Result<()> {
    let verbs: Option<&[&str]> = kind.subresources.iter().find_map(|one| match one {
        Subresource::Status if target.subresource == "status" => Some(discovery::STATUS_VERBS),
        Subresource::Scale(_) if target.subresource == "scale" => Some(discovery::STATUS_VERBS),
        Subresource::Other { name, verbs, .. } if *name == target.subresource => Some(*verbs),
        _ => None,
    });
    match verbs {
        Some(verbs) if verbs.contains(&target.verb) => Ok(()),
        Some(_) => Err(method_not_allowed()),
        None => Err(unknown_resource()),
    }
}

/// 404 for a path that names no kind.
pub(super) fn unknown_resource() -> Error {
    Error::generic(Reason::NotFound, "the server could not find the requested resource")
}

/// 405.
pub(super) fn method_not_allowed() -> Error {
    Error::generic(
        Reason::MethodNotAllowed,
        "the server does not allow this method on the requested resource",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    #[test]
    fn subresources_know_their_verbs() {
        let pods = Registry::built_in().find("", "v1", "pods").unwrap();
        let asked = |subresource: &str, verb| Target {
            subresource: subresource.to_owned(),
            verb,
            ..Target::default()
        };
        assert!(subresource(&pods, &asked("status", "patch")).is_ok());
        assert_eq!(
            subresource(&pods, &asked("status", "delete")).unwrap_err().reason(),
            Reason::MethodNotAllowed
        );
        assert_eq!(subresource(&pods, &asked("nonsense", "get")).unwrap_err().reason(), Reason::NotFound);
    }
}
