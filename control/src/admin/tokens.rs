//! Join tokens over the admin API.

use edgeloom_api::admin::TokenRequest;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::{Parts, failure};
use crate::https::{Body, full, json};
use crate::join::TokenStoreError;

/// A request for a token is a few fields.
const BODY: usize = 16 * 1024;

pub(super) async fn create(
    parts: &Parts,
    request: Request<Incoming>,
) -> Result<Response<Body>, Response<Body>> {
    let bad = |reason: String| failure(StatusCode::BAD_REQUEST, format!("the token request: {reason}"), None);
    let body =
        Limited::new(request.into_body(), BODY).collect().await.map_err(|error| bad(error.to_string()))?;
    let wanted: TokenRequest =
        serde_json::from_slice(&body.to_bytes()).map_err(|error| bad(error.to_string()))?;
    let made = parts.tokens.create(&wanted).await.map_err(refused)?;
    Ok(json(StatusCode::CREATED, &made))
}

pub(super) async fn list(parts: &Parts) -> Result<Response<Body>, Response<Body>> {
    Ok(json(StatusCode::OK, &parts.tokens.list().await.map_err(refused)?))
}

pub(super) async fn revoke(parts: &Parts, id: &str) -> Result<Response<Body>, Response<Body>> {
    parts.tokens.revoke(id).await.map_err(refused)?;
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn refused(error: TokenStoreError) -> Response<Body> {
    failure(error.status(), error.to_string(), None)
}
