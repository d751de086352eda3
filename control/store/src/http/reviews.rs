//! Kinds of which nothing is kept: a POST asks, the answer is in the status.

use http::StatusCode;
use serde_json::{Value, json};

use super::answer::{Response, Wanted};
use super::{Call, Face, write};
use crate::apply;
use crate::auth::token::ISSUER;
use crate::auth::{Attributes, User};
use crate::error::{Error, FieldError, Reason, Result};

/// Answers a review.
pub(super) async fn answer(face: &Face, call: &Call, bytes: &[u8]) -> Result<Response> {
    let wanted = Wanted::negotiate(&call.headers, &call.query)?;
    let options = write::options(call, "CreateOptions")?;
    let mut review = write::decoded(call, &call.kind, bytes, options.strictness)?.object;
    if call.kind.kind == "Binding" {
        return Err(Error::new(
            Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource: POST to the pod's binding subresource",
        ));
    }
    review["kind"] = json!(call.kind.kind);
    review["apiVersion"] = json!(call.kind.api_version());
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    let spec = review["spec"].clone();
    if call.kind.kind == "SelfSubjectReview" {
        review["metadata"]["creationTimestamp"] = json!(super::subresources::rfc3339(call.now));
    } else {
        apply::tracker(call.manager(), String::new(), call.now)(&call.kind, None, &mut review);
    }
    review["status"] = match call.kind.kind.as_str() {
        "SelfSubjectReview" => json!({"userInfo": call.user.to_json()}),
        "TokenReview" => token(face, &spec).await?,
        "SelfSubjectAccessReview" => access(face, call, &call.user, &spec)?,
        "SubjectAccessReview" => access(face, call, &subject(call, &spec)?, &spec)?,
        "LocalSubjectAccessReview" => {
            let asked = &spec["resourceAttributes"];
            if asked["namespace"].as_str().unwrap_or("") != call.target.namespace {
                let why = "must match metadata.namespace";
                return Err(invalid(call, "spec.resourceAttributes.namespace", &asked["namespace"], why));
            }
            access(face, call, &subject(call, &spec)?, &spec)?
        }
        "SelfSubjectRulesReview" => {
            let namespace = spec["namespace"].as_str().unwrap_or("");
            if namespace.is_empty() {
                return Err(Error::bad_request("no namespace on request"));
            }
            face.access.rules().review(&call.user, namespace)
        }
        other => return Err(Error::internal(format_args!("no answer to a {other} is known"))),
    };
    Ok(wanted.respond(StatusCode::CREATED, &review))
}

fn invalid(call: &Call, field: &str, value: &Value, why: &str) -> Error {
    // The real server names no kind here.
    let cause = FieldError::invalid(field, value, why);
    let group = &call.kind.group;
    Error::new(Reason::Invalid, format!(".{group} \"\" is invalid: {cause}"))
        .about_resource(group, "", "")
        .with_causes(vec![cause])
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The user that a SubjectAccessReview is about.
fn subject(call: &Call, spec: &Value) -> Result<User> {
    let name = spec["user"].as_str().unwrap_or("");
    let groups = strings(&spec["groups"]);
    if name.is_empty() && groups.is_empty() {
        return Err(invalid(
            call,
            "spec.user",
            &json!(""),
            "at least one of user or group must be specified",
        ));
    }
    Ok(User { name: name.to_owned(), groups, ..User::default() })
}

fn access(face: &Face, call: &Call, user: &User, spec: &Value) -> Result<Value> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let text = |object: &Value, field: &str| object[field].as_str().unwrap_or("").to_owned();
    let asked = match (resource.is_object(), path.is_object()) {
        (true, false) => Attributes {
            verb: text(resource, "verb"),
            namespace: text(resource, "namespace"),
            group: text(resource, "group"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            name: text(resource, "name"),
            path: None,
        },
        (false, true) => {
            Attributes { verb: text(path, "verb"), path: Some(text(path, "path")), ..Attributes::default() }
        }
        _ => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            return Err(invalid(call, "spec.resourceAttributes", resource, why));
        }
    };
    let decision = face.access.decide(user, &asked);
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = json!(decision.reason);
    }
    Ok(status)
}

async fn token(face: &Face, spec: &Value) -> Result<Value> {
    let token = spec["token"].as_str().unwrap_or("");
    if token.is_empty() {
        return Err(Error::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences = strings(&spec["audiences"]);
    if audiences.is_empty() {
        audiences = vec![ISSUER.to_owned()];
    }
    Ok(match face.access.review(token, &audiences).await {
        Ok((user, common)) => json!({"authenticated": true, "user": user.to_json(), "audiences": common}),
        Err(why) => json!({"user": {}, "error": why}),
    })
}
