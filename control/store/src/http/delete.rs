//! DELETE of one object and of collections.

use http::StatusCode;
use serde_json::{Value, json};

use super::answer::{Response, Wanted};
use super::{Call, Face, body, objects};
use crate::db::{DeleteOptions, List, Propagation};
use crate::error::{FieldError, Result};

/// `DeleteOptions` of body and query; the body counts first.
pub(super) fn options(call: &Call, bytes: &[u8]) -> Result<DeleteOptions> {
    let body = if bytes.is_empty() { json!({}) } else { body::options(&call.headers, bytes)? };
    let text = |field: &str| body[field].as_str().or_else(|| call.query.get(field)).map(str::to_owned);
    let dry_run: Vec<&str> = body["dryRun"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .chain(call.query.all("dryRun"))
        .filter(|one| !one.is_empty())
        .collect();
    let mut causes = Vec::new();
    if dry_run.iter().any(|one| *one != "All") {
        causes.push(FieldError::not_supported("dryRun", &json!(dry_run), &["All"]));
    }
    let orphan = body["orphanDependents"]
        .as_bool()
        .or_else(|| call.query.get("orphanDependents").map(|one| one == "true"));
    let propagation = match (text("propagationPolicy").as_deref(), orphan) {
        (Some(_), Some(_)) => {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            causes.push(FieldError::invalid("propagationPolicy", &json!(text("propagationPolicy")), why));
            None
        }
        (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), None) => Some(Propagation::Foreground),
        (Some("Orphan"), None) | (None, Some(true)) => Some(Propagation::Orphan),
        (Some(other), None) => {
            let supported = ["Foreground", "Background", "Orphan", "nil"];
            causes.push(FieldError::not_supported("propagationPolicy", &json!(other), &supported));
            None
        }
        (None, None) => None,
    };
    if !causes.is_empty() {
        return Err(objects::invalid_meta("DeleteOptions", causes));
    }
    let precondition = |field: &str| body["preconditions"][field].as_str().map(str::to_owned);
    Ok(DeleteOptions {
        dry_run: !dry_run.is_empty(),
        uid: precondition("uid"),
        resource_version: precondition("resourceVersion"),
        grace_period_seconds: body["gracePeriodSeconds"]
            .as_i64()
            .or(objects::number(call, "gracePeriodSeconds")?),
        propagation,
    })
}

/// One object. The answer is a Status once it is gone, else the object that waits to go.
pub(super) async fn one(face: &Face, call: &Call, bytes: &[u8]) -> Result<Response> {
    let wanted = Wanted::negotiate(&call.headers, &call.query)?;
    let options = options(call, bytes)?;
    let deleted = face.store.delete(&call.kind, call.namespace(), &call.target.name, &options).await?;
    if !deleted.gone || call.kind.returns_deleted {
        return objects::show(call, wanted, StatusCode::OK, &deleted.object);
    }
    let mut details = json!({"name": call.target.name});
    if !call.kind.group.is_empty() {
        details["group"] = json!(call.kind.group);
    }
    details["kind"] = json!(call.kind.plural);
    details["uid"] = deleted.object["metadata"]["uid"].clone();
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    });
    Ok(wanted.respond(StatusCode::OK, &status))
}

/// Everything that the selectors pick; the answer lists it.
pub(super) async fn collection(face: &Face, call: &Call, bytes: &[u8]) -> Result<Response> {
    let wanted = Wanted::negotiate(&call.headers, &call.query)?;
    let options = options(call, bytes)?;
    if call.kind.namespaced && call.target.namespace.is_empty() {
        return Err(super::route::method_not_allowed());
    }
    let items = face.store.delete_collection(&call.kind, objects::options(call)?, &options).await?;
    let list = List {
        items,
        resource_version: face.store.resource_version(),
        continue_token: None,
        remaining: None,
    };
    objects::show_list(call, wanted, &list)
}
