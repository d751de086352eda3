//! PATCH: the four types over one object or its status, and server-side apply, which may create.

use std::sync::Mutex;

use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::answer::{Response, Wanted, warn};
use super::write::{Options, author, options, tracked};
use super::{Call, Face, body, objects};
use crate::apply::Apply;
use crate::auth::escalation;
use crate::auth::rbac::Rules;
use crate::db::{Part, WriteOptions};
use crate::error::{Error, FieldError, Reason, Result};
use crate::kinds::KindDef;
use crate::patch::{self, PatchType};
use crate::schema::{self, Decoded, Strictness};

/// How often an apply that finds no object to merge into, and then one in its way, starts again.
const ATTEMPTS: usize = 4;

/// A patch that is read and ready to be carried out on any version of the object.
pub(super) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Reads a patch of the type; apply is none of these.
    pub(super) fn read(kind: PatchType, bytes: &[u8]) -> Result<Self> {
        let value = body::loose(bytes, false, "patch")?;
        match kind {
            PatchType::Json => Ok(Self::Json(patch::json::parse(value)?)),
            PatchType::Strategic => Ok(Self::Strategic(value)),
            PatchType::Merge | PatchType::Apply => {
                if value.is_object() {
                    return Ok(Self::Merge(value));
                }
                Err(Error::bad_request(format!(
                    "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                    patch::json::go_type(&value)
                )))
            }
        }
    }

    /// The patched document.
    pub(super) fn carry_out(&self, old: &Value, kind: &KindDef) -> Result<Value> {
        let mut document = old.clone();
        match self {
            Self::Json(patch) => patch::json::apply(&mut document, patch)?,
            Self::Merge(patch) => patch::merge::apply(&mut document, patch),
            Self::Strategic(patch) => {
                patch::strategic::apply(&mut document, patch.clone(), kind.schema.root())?
            }
        }
        Ok(document)
    }
}

/// The type of the request's patch.
pub(super) fn patch_type(call: &Call, custom: bool) -> Result<PatchType> {
    let content_type = call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    PatchType::from_content_type(content_type, custom)
}

/// PATCH of an object or of its status.
pub(super) async fn answer(face: &Face, call: &Call, bytes: &[u8], part: Part) -> Result<Response> {
    let wanted = Wanted::negotiate(&call.headers, &call.query)?;
    let patch_type = patch_type(call, call.kind.is_custom())?;
    let options = options(call, "PatchOptions")?;
    if patch_type == PatchType::Apply {
        return apply(face, call, bytes, part, &options, wanted).await;
    }
    if options.force.is_some() {
        let cause = FieldError::forbidden("force", "may not be specified for non-apply patch");
        return Err(objects::invalid_meta("PatchOptions", vec![cause]));
    }
    let patch = Patch::read(patch_type, bytes)?;
    let rules = face.access.rules();
    let warnings = Mutex::new(Vec::new());
    let change = |old: &Value| {
        let patched = redecoded(&call.kind, &patch, patch.carry_out(old, &call.kind)?, options.strictness)?;
        if part == Part::Main && patched.object != *old {
            escalation::check(&rules, &call.user, &call.kind, &patched.object)?;
        }
        *warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = patched.warnings;
        Ok(patched.object)
    };
    let tracked = tracked(call, options.dry_run);
    let (namespace, name) = (call.namespace(), call.target.name.as_str());
    let stored = face.store.modify(&call.kind, namespace, name, part, &tracked, change).await?;
    let mut response = objects::show(call, wanted, StatusCode::OK, &stored)?;
    warn(&mut response, &warnings.into_inner().unwrap_or_default());
    Ok(response)
}

/// A patched document must still be an object of its kind.
fn redecoded(kind: &KindDef, patch: &Patch, document: Value, strictness: Strictness) -> Result<Decoded> {
    let shown = match patch {
        Patch::Strategic(patch) => patch::strategic::go_map(patch),
        _ => document.to_string(),
    };
    schema::decode(kind, document, &[], strictness).map_err(|error| {
        let message = error.to_string();
        let why = message.split_once("cannot be handled as a ").and_then(|(_, rest)| rest.split_once(": "));
        let why = why.map_or(message.as_str(), |(_, why)| why);
        let cause = FieldError::invalid("patch", &json!(shown), why);
        Error::new(Reason::Invalid, format!(" \"\" is invalid: {cause}")).with_causes(vec![cause])
    })
}

/// Server-side apply.
async fn apply(
    face: &Face,
    call: &Call,
    bytes: &[u8],
    part: Part,
    options: &Options,
    wanted: Wanted,
) -> Result<Response> {
    let Some(manager) = call.query.get("fieldManager") else {
        let cause = FieldError::required("fieldManager", "is required for apply patch");
        return Err(objects::invalid_meta("PatchOptions", vec![cause]));
    };
    let config = configuration(call, bytes, options.strictness)?;
    let apply = Apply {
        manager: manager.to_owned(),
        subresource: call.target.subresource.clone(),
        force: options.force.unwrap_or(false),
        now: call.now,
    };
    let rules = face.access.rules();
    for _ in 0..ATTEMPTS {
        let merged = merge_into(face, call, part, &apply, &config.object, &rules, options.dry_run).await;
        let (code, stored) = match merged {
            Err(error) if error.is_not_found() && part == Part::Main => {
                match create(face, call, &apply, &config.object, options.dry_run).await {
                    Err(error) if error.reason() == Reason::AlreadyExists => continue,
                    created => (StatusCode::CREATED, created?),
                }
            }
            merged => (StatusCode::OK, merged?),
        };
        let mut response = objects::show(call, wanted, code, &stored)?;
        warn(&mut response, &config.warnings);
        return Ok(response);
    }
    Err(Error::stale(&call.kind, &call.target.name))
}

/// The applied configuration: checked against the URL and the schema.
fn configuration(call: &Call, bytes: &[u8], strictness: Strictness) -> Result<Decoded> {
    let mut value = body::loose(bytes, true, "YAML")?;
    if !value.is_object() {
        return Err(Error::bad_request(format!(
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value \
             of type map[string]interface {{}}",
            patch::json::go_type(&value)
        )));
    }
    let said = |field: &str| value[field].as_str().unwrap_or("").to_owned();
    if said("apiVersion") != call.kind.api_version() || said("kind") != call.kind.kind {
        let version = said("apiVersion");
        let version = if version.contains('/') { version } else { format!("/{version}") };
        return Err(Error::bad_request(format!("invalid object type: {version}, Kind={}", said("kind"))));
    }
    if value["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Error::bad_request("metadata.managedFields must be nil"));
    }
    if value["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        value["metadata"]["name"] = json!(call.target.name);
    }
    // Decoding leaves out what is empty; to apply it is to own it.
    let mut sent = value.clone();
    let decoded = schema::decode(&call.kind, value, &[], Strictness::Strict).map_err(|error| {
        if strictness == Strictness::Strict { error } else { undeclared(call, &sent, error) }
    });
    let warnings = decoded?.warnings;
    author(call, &mut sent);
    Ok(Decoded { object: sent, warnings })
}

/// Fields outside the schema cannot be owned, so apply refuses them whatever `fieldValidation` says.
fn undeclared(call: &Call, config: &Value, error: Error) -> Error {
    let message = error.to_string();
    let Some((_, fields)) = message.split_once("strict decoding error: unknown field \"") else {
        return error;
    };
    let field = fields.split('"').next().unwrap_or(fields);
    Error::internal_plain(format!(
        "failed to create typed patch object ({}/{}; {}, Kind={}): .{field}: field not declared in schema",
        config["metadata"]["namespace"].as_str().unwrap_or(""),
        call.target.name,
        if call.kind.group.is_empty() { "/v1".to_owned() } else { call.kind.api_version() },
        call.kind.kind
    ))
}

async fn merge_into(
    face: &Face,
    call: &Call,
    part: Part,
    apply: &Apply,
    config: &Value,
    rules: &Rules,
    dry_run: bool,
) -> Result<Value> {
    let owners = apply.owners();
    let write = WriteOptions { dry_run, track: Some(owners.tracker()) };
    let change = |old: &Value| {
        let merged = owners.remember(apply.merged(&call.kind, Some(old), config)?);
        let merged = schema::decode(&call.kind, merged, &[], Strictness::Ignore)?.object;
        if part == Part::Main {
            escalation::check(rules, &call.user, &call.kind, &merged)?;
        }
        Ok(merged)
    };
    face.store.modify(&call.kind, call.namespace(), &call.target.name, part, &write, change).await
}

async fn create(face: &Face, call: &Call, apply: &Apply, config: &Value, dry_run: bool) -> Result<Value> {
    // Creating by apply needs the right to create, as well as to patch.
    let mut asked = call.target.attributes();
    asked.verb = "create".to_owned();
    face.access.authorize(&call.user, &asked)?;
    let (said, name) = (config["metadata"]["name"].as_str().unwrap_or(""), call.target.name.as_str());
    if said != name {
        return Err(Error::bad_request(format!(
            "the name of the object ({said}) does not match the name on the URL ({name})"
        )));
    }
    if config["metadata"]["resourceVersion"].as_str().is_some_and(|version| !version.is_empty()) {
        return Err(Error::conflict(&call.kind, &call.target.name, "the object has been deleted"));
    }
    let owners = apply.owners();
    let write = WriteOptions { dry_run, track: Some(owners.tracker()) };
    let object = owners.remember(apply.merged(&call.kind, None, config)?);
    let object = schema::decode(&call.kind, object, &[], Strictness::Ignore)?.object;
    escalation::check(&face.access.rules(), &call.user, &call.kind, &object)?;
    face.store.create(&call.kind, call.namespace(), object, &write).await
}
