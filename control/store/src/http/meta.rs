//! What is no resource: version, health, metrics, discovery, OpenAPI, the keys of tokens.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::{ACCEPT, ETAG, HeaderValue};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use prometheus::{Encoder as _, TextEncoder};
use serde_json::{Value, json};

use super::answer::{Response, Wanted, respond};
use super::query::Query;
use super::{Face, discovery};
use crate::auth::token;
use crate::error::Result;
use crate::openapi::{V2_PROTOBUF, V2_PROTOBUF_ANSWER};

/// The Kubernetes version whose API this is.
pub(crate) const VERSION: (&str, &str, &str) = ("1", "34", "v1.34.4");

const TEXT: &str = "text/plain; charset=utf-8";

/// Answers a path that names no resource.
pub(super) async fn answer(face: &Arc<Face>, request: &Request<Incoming>, query: &Query) -> Result<Response> {
    let path = request.uri().path();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "405 method not allowed\n"));
    }
    let trimmed = path.trim_end_matches('/');
    match trimmed {
        "/version" => Ok(pretty(&version())),
        "/healthz" | "/livez" | "/readyz" => Ok(health(face, &trimmed[1..], query).await),
        "/metrics" => Ok(metrics(face)),
        "/openapi/v2" => Ok(openapi_v2(face, request)),
        "/openapi/v3" => Ok(Wanted::plain(query).respond(StatusCode::OK, &face.documents.v3_index())),
        "/openid/v1/jwks" => Ok(jwks(face)),
        "/.well-known/openid-configuration" => {
            let document = token::discovery(&format!("https://{}", face.address));
            Ok(Wanted::plain(query).respond(StatusCode::OK, &document))
        }
        "" => Ok(Wanted::plain(query).respond(StatusCode::OK, &paths(face))),
        _ => {
            if let Some(name) = trimmed.strip_prefix("/openapi/v3/") {
                return Ok(openapi_v3(face, name));
            }
            let found = discovery::answer(face, request, trimmed)?;
            Ok(found.unwrap_or_else(|| respond(StatusCode::NOT_FOUND, TEXT, "404 page not found\n")))
        }
    }
}

fn pretty(value: &Value) -> Response {
    respond(StatusCode::OK, "application/json", serde_json::to_string_pretty(value).unwrap_or_default())
}

fn version() -> Value {
    let (major, minor, git) = VERSION;
    json!({
        "major": major, "minor": minor, "gitVersion": format!("{git}+edgeloom"), "gitCommit": "",
        "gitTreeState": "", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("linux/{}", std::env::consts::ARCH),
    })
}

fn paths(face: &Face) -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for group in face.store.registry().groups() {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{version}", group.name)));
    }
    for path in [
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ] {
        paths.push(path.to_owned());
    }
    json!({"paths": paths})
}

/// Health: alive while the store answers, ready once the bootstrap objects are there too.
async fn health(face: &Face, which: &str, query: &Query) -> Response {
    let mut checks = vec![("ping", true), ("store", face.store.check().await.is_ok())];
    if which != "livez" {
        checks.push(("bootstrap", face.ready.load(Ordering::Relaxed)));
        checks.push(("shutdown", !face.stop.is_cancelled()));
    }
    let excluded = query.all("exclude");
    checks.retain(|(name, _)| !excluded.contains(name));
    let well = checks.iter().all(|(_, well)| *well);
    let code = if well { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    if well && !query.flag("verbose") {
        return respond(code, TEXT, "ok");
    }
    let mut text = String::new();
    for (name, well) in checks {
        text.push_str(&if well { format!("[+]{name} ok\n") } else { format!("[-]{name} failed\n") });
    }
    text.push_str(&format!("{which} check {}\n", if well { "passed" } else { "failed" }));
    respond(code, TEXT, text)
}

fn metrics(face: &Face) -> Response {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&face.metrics.registry.gather(), &mut text) {
        Ok(()) => respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
        Err(error) => {
            respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("cannot encode metrics: {error}\n"))
        }
    }
}

fn jwks(face: &Face) -> Response {
    let mut response =
        respond(StatusCode::OK, "application/jwk-set+json", face.access.signer().key_set().to_string());
    response.headers_mut().insert("cache-control", HeaderValue::from_static("public, max-age=3600"));
    response
}

fn accepts(request: &Request<Incoming>, essence: &str) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    accept.split(',').any(|range| range.split(';').next().unwrap_or("").trim() == essence)
}

fn openapi_v2(face: &Face, request: &Request<Incoming>) -> Response {
    // kubectl writes the type with `@`, which is no token; older ones with `.`.
    let other = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    if accepts(request, V2_PROTOBUF) || accepts(request, other) {
        return respond(StatusCode::OK, V2_PROTOBUF_ANSWER, face.documents.v2_protobuf());
    }
    respond(StatusCode::OK, "application/json", face.documents.v2_json())
}

/// `api/v1` or `apis/GROUP/VERSION`.
fn openapi_v3(face: &Face, name: &str) -> Response {
    let mut parts = name.split('/');
    let (group, version) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("api"), Some(version), None, _) => ("", version),
        (Some("apis"), Some(group), Some(version), None) => (group, version),
        _ => return respond(StatusCode::NOT_FOUND, TEXT, "404 page not found\n"),
    };
    match face.documents.v3(group, version) {
        Some((document, hash)) => {
            let mut response = respond(StatusCode::OK, "application/json", document);
            if let Ok(tag) = HeaderValue::from_str(&format!("\"{hash}\"")) {
                response.headers_mut().insert(ETAG, tag);
            }
            response
        }
        None => respond(StatusCode::NOT_FOUND, TEXT, "404 page not found\n"),
    }
}
