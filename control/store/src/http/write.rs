//! POST and PUT: a document becomes an object of its kind and goes to the store.

use http::StatusCode;
use serde_json::{Value, json};

use super::answer::{Response, Wanted, warn};
use super::{Call, Face, body, objects};
use crate::apply;
use crate::auth::escalation;
use crate::db::{Part, WriteOptions};
use crate::error::{FieldError, Result};
use crate::kinds::KindDef;
use crate::schema::{self, Decoded, Strictness};

/// What every write takes from its query.
pub(super) struct Options {
    pub(super) dry_run: bool,
    pub(super) strictness: Strictness,
    pub(super) force: Option<bool>,
}

/// Reads and checks `dryRun`, `fieldValidation`, `fieldManager` and `force`. `what` is the option object
/// that a refusal names.
pub(super) fn options(call: &Call, what: &str) -> Result<Options> {
    const LONGEST_MANAGER: usize = 128;
    let mut causes = Vec::new();
    let dry_run: Vec<&str> = call.query.all("dryRun").into_iter().filter(|one| !one.is_empty()).collect();
    if dry_run.iter().any(|one| *one != "All") {
        causes.push(FieldError::not_supported("dryRun", &json!(dry_run), &["All"]));
    }
    let strictness = match call.query.get("fieldValidation") {
        None | Some("Warn") => Strictness::Warn,
        Some("Ignore") => Strictness::Ignore,
        Some("Strict") => Strictness::Strict,
        Some(other) => {
            let supported = ["", "Ignore", "Strict", "Warn"];
            causes.push(FieldError::not_supported("fieldValidation", &json!(other), &supported));
            Strictness::Warn
        }
    };
    if call.query.get("fieldManager").is_some_and(|manager| manager.len() > LONGEST_MANAGER) {
        causes.push(FieldError::too_long("fieldManager", LONGEST_MANAGER));
    }
    if !causes.is_empty() {
        return Err(objects::invalid_meta(what, causes));
    }
    let force = call.query.get("force").map(|text| !matches!(text, "false" | "0"));
    Ok(Options { dry_run: !dry_run.is_empty(), strictness, force })
}

/// How the store is to write for this call: as an update under the call's manager.
pub(super) fn tracked(call: &Call, dry_run: bool) -> WriteOptions {
    let subresource = call.target.subresource.clone();
    WriteOptions { dry_run, track: Some(apply::tracker(call.manager(), subresource, call.now)) }
}

/// Reads the body as an object of the kind.
pub(super) fn decoded(call: &Call, kind: &KindDef, bytes: &[u8], strictness: Strictness) -> Result<Decoded> {
    let document = body::document(&call.headers, bytes, kind)?;
    body::check_type(&document.value, kind)?;
    schema::decode(kind, document.value, &document.duplicates, strictness)
}

/// POST to a collection.
pub(super) async fn create(face: &Face, call: &Call, bytes: &[u8]) -> Result<Response> {
    let wanted = Wanted::negotiate(&call.headers, &call.query)?;
    let options = options(call, "CreateOptions")?;
    let Decoded { mut object, warnings } = decoded(call, &call.kind, bytes, options.strictness)?;
    author(call, &mut object);
    if object["metadata"]["namespace"].as_str().is_none_or(str::is_empty) && call.kind.namespaced {
        object["metadata"]["namespace"] = json!(call.namespace());
    }
    escalation::check(&face.access.rules(), &call.user, &call.kind, &object)?;
    let tracked = tracked(call, options.dry_run);
    let mut stored = face.store.create(&call.kind, call.namespace(), object, &tracked).await?;
    if let Some(metadata) = stored["metadata"].as_object_mut().filter(|_| options.dry_run) {
        // What was not stored has no version.
        metadata.shift_remove("resourceVersion");
    }
    let mut response = objects::show(call, wanted, StatusCode::CREATED, &stored)?;
    warn(&mut response, &warnings);
    Ok(response)
}

/// A signing request says who made it: the server does, not its author.
pub(super) fn author(call: &Call, object: &mut Value) {
    if (call.kind.group.as_str(), call.kind.kind.as_str())
        != ("certificates.k8s.io", "CertificateSigningRequest")
    {
        return;
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in ["username", "uid", "groups", "extra"] {
        spec.shift_remove(field);
    }
    if let Value::Object(mut info) = call.user.to_json() {
        spec.append(&mut info);
    }
}

/// PUT of an object or of its status.
pub(super) async fn update(face: &Face, call: &Call, bytes: &[u8], part: Part) -> Result<Response> {
    let wanted = Wanted::negotiate(&call.headers, &call.query)?;
    let options = options(call, "UpdateOptions")?;
    let Decoded { mut object, warnings } = decoded(call, &call.kind, bytes, options.strictness)?;
    if call.kind.namespaced && object["metadata"]["namespace"].as_str().is_none_or(str::is_empty) {
        object["metadata"]["namespace"] = json!(call.namespace());
    }
    if part == Part::Main {
        escalation::check(&face.access.rules(), &call.user, &call.kind, &object)?;
    }
    let tracked = tracked(call, options.dry_run);
    let (namespace, name) = (call.namespace(), call.target.name.as_str());
    let may_create = part == Part::Main && call.kind.create_on_update;
    let created = may_create && face.store.get(&call.kind, namespace, name).await.is_err();
    let stored = face.store.update(&call.kind, namespace, name, object, part, &tracked).await?;
    let code = if created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = objects::show(call, wanted, code, &stored)?;
    warn(&mut response, &warnings);
    Ok(response)
}
