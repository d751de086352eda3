//! Subresources that the server answers itself: status and scale of any kind, and the few that belong
//! to one kind: binding, eviction, token, approval, finalize.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::access::identity;
use super::answer::{Response, Wanted};
use super::patching::{Patch, patch_type};
use super::{Call, Face, body, delete, objects, patching, write};
use crate::auth::token::{Bound, Claims, ISSUER, Reference};
use crate::db::{Part, WriteOptions};
use crate::error::{Error, FieldError, Reason, Result};
use crate::kinds::ScalePaths;
use crate::patch::PatchType;
use crate::selector::LabelSelector;

/// Answers a request for a subresource that the kind has, with a verb that it knows.
pub(super) async fn answer(face: &Face, call: &Call, bytes: &[u8]) -> Result<Response> {
    let verb = call.target.verb;
    match (call.target.subresource.as_str(), verb) {
        ("scale", _) => scale(face, call, bytes).await,
        ("status" | "approval", "get") => objects::get(face, call).await,
        ("status", "update") => write::update(face, call, bytes, Part::Status).await,
        ("status", "patch") => patching::answer(face, call, bytes, Part::Status).await,
        ("approval", "update") => write::update(face, call, bytes, Part::Status).await,
        ("approval", "patch") => patching::answer(face, call, bytes, Part::Status).await,
        ("finalize", "update") => write::update(face, call, bytes, Part::Whole).await,
        ("binding", "create") => bind(face, call, bytes).await,
        ("eviction", "create") => evict(face, call, bytes).await,
        ("token", "create") => token(face, call, bytes).await,
        _ => Err(super::route::method_not_allowed()),
    }
}

fn success(call: &Call, code: StatusCode) -> Result<Response> {
    let wanted = Wanted::negotiate(&call.headers, &call.query)?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(wanted.respond(code, &status))
}

/// `.spec.replicas` as a JSON pointer.
fn pointer(path: &str) -> String {
    path.replace('.', "/")
}

/// The Scale of an object.
fn scale_of(object: &Value, paths: &ScalePaths) -> Value {
    let number = |path: &str| object.pointer(&pointer(path)).and_then(Value::as_i64);
    let selector = paths.selector.as_deref().and_then(|path| object.pointer(&pointer(path)));
    let selector = match selector {
        Some(Value::String(text)) => Some(text.clone()),
        Some(selector) => LabelSelector::from_object(selector).map(|selector| selector.to_string()),
        None => None,
    };
    let metadata = &object["metadata"];
    let mut status = json!({"replicas": number(&paths.status_replicas).unwrap_or(0)});
    if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
        status["selector"] = json!(selector);
    }
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"]},
        "spec": {}, "status": status,
    });
    if let Some(replicas) = number(&paths.spec_replicas).filter(|replicas| *replicas != 0) {
        scale["spec"]["replicas"] = json!(replicas);
    }
    scale
}

async fn scale(face: &Face, call: &Call, bytes: &[u8]) -> Result<Response> {
    let wanted = Wanted::negotiate(&call.headers, &call.query)?;
    let paths = call.kind.scale().ok_or_else(super::route::unknown_resource)?;
    let (namespace, name) = (call.namespace(), call.target.name.as_str());
    if call.target.verb == "get" {
        let object = face.store.get(&call.kind, namespace, name).await?;
        return Ok(wanted.respond(StatusCode::OK, &scale_of(&object, paths)));
    }
    let options = write::options(call, "UpdateOptions")?;
    let patch = match call.target.verb {
        "patch" => match patch_type(call, true)? {
            PatchType::Apply => {
                let why = "server-side apply of scale is not served: apply the object, or patch its scale";
                return Err(Error::new(Reason::UnsupportedMediaType, why));
            }
            other => Some(Patch::read(other, bytes)?),
        },
        _ => None,
    };
    let change = |object: &Value| {
        let old = scale_of(object, paths);
        let new = match &patch {
            Some(patch) => patch.carry_out(&old, &call.kind)?,
            None => body::loose(bytes, true, "Scale")?,
        };
        scaled(call, object, &old, &new, paths)
    };
    let tracked = write::tracked(call, options.dry_run);
    let stored = face.store.modify(&call.kind, namespace, name, Part::Main, &tracked, change).await?;
    Ok(wanted.respond(StatusCode::OK, &scale_of(&stored, paths)))
}

/// The object with the replicas of the new Scale, whose preconditions hold.
fn scaled(call: &Call, object: &Value, old: &Value, new: &Value, paths: &ScalePaths) -> Result<Value> {
    let name = call.target.name.as_str();
    if new["metadata"]["name"].as_str().is_some_and(|other| !other.is_empty() && other != name) {
        let other = &new["metadata"]["name"];
        return Err(Error::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            other.as_str().unwrap_or("")
        )));
    }
    let version = new["metadata"]["resourceVersion"].as_str().unwrap_or("");
    if !version.is_empty() && old["metadata"]["resourceVersion"] != version {
        return Err(Error::stale(&call.kind, name));
    }
    let replicas = match &new["spec"]["replicas"] {
        Value::Null => 0,
        other => other.as_i64().ok_or_else(|| {
            Error::bad_request(format!(
                "json: cannot unmarshal {} into Go struct field ScaleSpec.spec.replicas of type int32",
                crate::patch::json::go_type(other)
            ))
        })?,
    };
    if replicas < 0 {
        let cause =
            FieldError::invalid("spec.replicas", &json!(replicas), "must be greater than or equal to 0");
        return Err(Error::new(Reason::Invalid, format!("Scale.autoscaling {name:?} is invalid: {cause}"))
            .about_resource("autoscaling", "Scale", name)
            .with_causes(vec![cause]));
    }
    let mut object = object.clone();
    let path = pointer(&paths.spec_replicas);
    let (parent, field) = path.rsplit_once('/').unwrap_or(("", path.as_str()));
    if let Some(parent) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
        parent.insert(field.to_owned(), json!(replicas));
    }
    Ok(object)
}

/// `pods/binding`: what the scheduler decides.
async fn bind(face: &Face, call: &Call, bytes: &[u8]) -> Result<Response> {
    let options = write::options(call, "CreateOptions")?;
    let binding = body::document(&call.headers, bytes, &call.kind)?.value;
    let name = call.target.name.as_str();
    let node = binding["target"]["name"].as_str().unwrap_or("").to_owned();
    if node.is_empty() {
        let cause = FieldError::required("target.name", "");
        return Err(Error::invalid(&call.kind, name, vec![cause]));
    }
    let change = |pod: &Value| {
        let (_, _, uid) = identity(pod);
        if binding["metadata"]["uid"].as_str().is_some_and(|wanted| !wanted.is_empty() && wanted != uid) {
            return Err(cannot_bind(name, "the pod is another one of the same name"));
        }
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            let why = format!("pod {name} is being deleted, cannot be assigned to a host");
            return Err(cannot_bind(name, &why));
        }
        if let Some(there) = pod["spec"]["nodeName"].as_str().filter(|there| !there.is_empty()) {
            let why = format!("pod {name} is already assigned to node {there:?}");
            return Err(cannot_bind(name, &why));
        }
        let mut pod = pod.clone();
        pod["spec"]["nodeName"] = json!(node);
        for (key, value) in binding["metadata"]["annotations"].as_object().into_iter().flatten() {
            pod["metadata"]["annotations"][key] = value.clone();
        }
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let mut kept: Vec<Value> =
            conditions.into_iter().filter(|one| one["type"] != "PodScheduled").collect();
        kept.push(json!({
            "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": rfc3339(call.now),
        }));
        pod["status"]["conditions"] = Value::Array(kept);
        Ok(pod)
    };
    // The real server does not say who bound a pod.
    let untracked = WriteOptions { dry_run: options.dry_run, ..WriteOptions::default() };
    face.store.modify(&call.kind, call.namespace(), name, Part::Whole, &untracked, change).await?;
    success(call, StatusCode::CREATED)
}

fn cannot_bind(pod: &str, why: &str) -> Error {
    let message = format!("Operation cannot be fulfilled on pods/binding {pod:?}: {why}");
    Error::new(Reason::Conflict, message).about_resource("", "pods/binding", pod)
}

/// `pods/eviction`: a delete that a disruption budget could refuse; no such budgets are served.
async fn evict(face: &Face, call: &Call, bytes: &[u8]) -> Result<Response> {
    let eviction = body::document(&call.headers, bytes, &call.kind)?.value;
    let options = match &eviction["deleteOptions"] {
        Value::Null => delete::options(call, b"")?,
        options => delete::options(call, options.to_string().as_bytes())?,
    };
    face.store.delete(&call.kind, call.namespace(), &call.target.name, &options).await?;
    success(call, StatusCode::CREATED)
}

/// `serviceaccounts/token`: a TokenRequest is answered with a token in its status.
async fn token(face: &Face, call: &Call, bytes: &[u8]) -> Result<Response> {
    /// Seconds that a token lives at least, by default, and at most.
    const LIFE: (i64, i64, i64) = (600, 3600, 1 << 32);
    /// What kubelets ask for pods: such a token lives longer, so that old clients that never read it
    /// again go on working, and edges offline do too.
    const PROJECTED: (i64, Duration) = (3607, Duration::from_secs(365 * 24 * 3600));
    let wanted = Wanted::negotiate(&call.headers, &call.query)?;
    let mut request = body::document(&call.headers, bytes, &call.kind)?.value;
    let account = face.store.get(&call.kind, call.namespace(), &call.target.name).await?;
    let (namespace, name, uid) = identity(&account);
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(LIFE.1);
    if !(LIFE.0..=LIFE.2).contains(&seconds) {
        let why = if seconds < LIFE.0 {
            "may not specify a duration less than 10 minutes"
        } else {
            "may not specify a duration larger than 2^32 seconds"
        };
        let cause = FieldError::invalid("spec.expirationSeconds", &json!(seconds), why);
        let message = format!("TokenRequest.authentication.k8s.io \"\" is invalid: {cause}");
        return Err(Error::new(Reason::Invalid, message)
            .about_resource("authentication.k8s.io", "TokenRequest", "")
            .with_causes(vec![cause]));
    }
    let audiences: Vec<String> = match request["spec"]["audiences"].as_array() {
        Some(list) if !list.is_empty() => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => vec![ISSUER.to_owned()],
    };
    let (pod, secret) = bound_to(face, call, &request["spec"]["boundObjectRef"]).await?;
    let now = call.now.unix_timestamp();
    let extended = seconds == PROJECTED.0 && pod.is_some() && audiences == [ISSUER];
    let claims = Claims {
        aud: audiences.clone(),
        exp: now + if extended { PROJECTED.1.as_secs().cast_signed() } else { seconds },
        iat: now,
        iss: ISSUER.to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        bound: Bound {
            namespace: namespace.to_owned(),
            serviceaccount: Reference { name: name.to_owned(), uid: uid.to_owned() },
            pod,
            secret,
            node: None,
            warnafter: extended.then_some(now + seconds),
        },
        nbf: now,
        sub: format!("system:serviceaccount:{namespace}:{name}"),
    };
    let token =
        face.access.signer().sign(&claims).ok_or_else(|| Error::internal("the token could not be signed"))?;
    request["kind"] = json!("TokenRequest");
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["metadata"] =
        json!({"name": name, "namespace": namespace, "uid": uid, "creationTimestamp": rfc3339(call.now)});
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = json!(seconds);
    let ends = call.now + Duration::from_secs(seconds.unsigned_abs());
    request["status"] = json!({"token": token, "expirationTimestamp": rfc3339(ends)});
    Ok(wanted.respond(StatusCode::CREATED, &request))
}

/// The pod or secret that a token is to end with, if one is asked for.
async fn bound_to(
    face: &Face,
    call: &Call,
    wanted: &Value,
) -> Result<(Option<Reference>, Option<Reference>)> {
    let Some(kind) = wanted["kind"].as_str() else { return Ok((None, None)) };
    let plural = match kind {
        "Pod" => "pods",
        "Secret" => "secrets",
        other => {
            return Err(Error::bad_request(format!(
                "cannot bind token to object of type {other}: bind it to a Pod or a Secret"
            )));
        }
    };
    let definition =
        face.store.registry().find("", "v1", plural).ok_or_else(super::route::unknown_resource)?;
    let name = wanted["name"].as_str().unwrap_or("");
    let object = face.store.get(&definition, call.namespace(), name).await?;
    let (_, _, uid) = identity(&object);
    if wanted["uid"].as_str().is_some_and(|asked| !asked.is_empty() && asked != uid) {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            wanted["uid"].as_str().unwrap_or("")
        );
        return Err(Error::conflict(&definition, name, &why));
    }
    let account = object["spec"]["serviceAccountName"].as_str().unwrap_or("");
    if plural == "pods" && account != call.target.name {
        return Err(Error::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            call.target.name
        )));
    }
    let reference = Some(Reference { name: name.to_owned(), uid: uid.to_owned() });
    Ok(if plural == "pods" { (reference, None) } else { (None, reference) })
}

/// A time as objects hold it.
pub(super) fn rfc3339(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default()
}
