//! GET of one object and of collections, in the form that the client wants.

use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;
use serde::ser::{SerializeMap as _, SerializeSeq as _, Serializer};
use serde_json::{Map, Value, json};

use super::answer::{Form, Response, Wanted};
use super::{Call, Face};
use crate::db::{List, ListOptions, VersionMatch};
use crate::error::{Error, FieldError, Reason, Result};
use crate::kinds::KindDef;
use crate::selector::{FieldSelector, LabelSelector};
use crate::table::{self, Include};

/// One object.
pub(super) async fn get(face: &Face, call: &Call) -> Result<Response> {
    let wanted = Wanted::negotiate(&call.headers, &call.query)?;
    let object = face.store.get(&call.kind, call.namespace(), &call.target.name).await?;
    show(call, wanted, StatusCode::OK, &object)
}

/// An answer with this object, in the wanted form.
pub(super) fn show(call: &Call, wanted: Wanted, code: StatusCode, object: &Value) -> Result<Response> {
    let shown = match wanted.form {
        Form::Object => return Ok(wanted.respond(code, object)),
        Form::Table => {
            let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            let include = Include::parse(call.query.get("includeObject"))?;
            table::table(&call.kind, metadata, [object], include, true, call.now)
        }
        Form::Partial => table::partial(object),
    };
    Ok(wanted.respond(code, &shown))
}

/// A collection.
pub(super) async fn list(face: &Face, call: &Call) -> Result<Response> {
    let wanted = Wanted::negotiate(&call.headers, &call.query)?;
    let list = face.store.list(&call.kind, options(call)?).await?;
    show_list(call, wanted, &list)
}

/// An answer with these objects, in the wanted form.
pub(super) fn show_list(call: &Call, wanted: Wanted, list: &List) -> Result<Response> {
    let metadata = metadata(list);
    let objects = || list.items.iter().map(|object| &**object);
    let shown = match wanted.form {
        Form::Object => {
            let shown = Shown { kind: &call.kind, metadata, items: &list.items };
            return Ok(wanted.respond(StatusCode::OK, &shown));
        }
        Form::Table => {
            let include = Include::parse(call.query.get("includeObject"))?;
            table::table(&call.kind, metadata, objects(), include, true, call.now)
        }
        Form::Partial => table::partial_list(metadata, objects()),
    };
    Ok(wanted.respond(StatusCode::OK, &shown))
}

fn metadata(list: &List) -> Value {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), list.resource_version.to_string().into());
    if let Some(token) = &list.continue_token {
        metadata.insert("continue".into(), token.as_str().into());
    }
    if let Some(remaining) = list.remaining {
        metadata.insert("remainingItemCount".into(), remaining.into());
    }
    Value::Object(metadata)
}

/// A list as it is sent. Items of built-in kinds leave out what the list says of all of them.
struct Shown<'a> {
    kind: &'a KindDef,
    metadata: Value,
    items: &'a [Arc<Value>],
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_map(Some(4))?;
        list.serialize_entry("kind", &self.kind.list_kind)?;
        list.serialize_entry("apiVersion", &self.kind.api_version())?;
        list.serialize_entry("metadata", &self.metadata)?;
        list.serialize_entry("items", &Items { bare: !self.kind.is_custom(), items: self.items })?;
        list.end()
    }
}

struct Items<'a> {
    bare: bool,
    items: &'a [Arc<Value>],
}

impl Serialize for Items<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut items = serializer.serialize_seq(Some(self.items.len()))?;
        for item in self.items {
            if self.bare {
                items.serialize_element(&Bare(item))?;
            } else {
                items.serialize_element(&**item)?;
            }
        }
        items.end()
    }
}

struct Bare<'a>(&'a Value);

impl Serialize for Bare<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for (name, value) in self.0.as_object().into_iter().flatten() {
            if name != "kind" && name != "apiVersion" {
                object.serialize_entry(name, value)?;
            }
        }
        object.end()
    }
}

/// Label and field selectors of the query.
pub(super) fn selectors(call: &Call) -> Result<(LabelSelector, FieldSelector)> {
    let labels = call.query.get("labelSelector").map(LabelSelector::parse).transpose()?.unwrap_or_default();
    let fields = match call.query.get("fieldSelector") {
        Some(text) => FieldSelector::parse(text, &call.kind)?,
        None => FieldSelector::default(),
    };
    Ok((labels, fields))
}

/// The namespace of a collection: none means all.
pub(super) fn scope(call: &Call) -> Option<String> {
    Some(call.namespace()).filter(|namespace| !namespace.is_empty()).map(str::to_owned)
}

/// A number of the query.
pub(super) fn number(call: &Call, name: &str) -> Result<Option<i64>> {
    let Some(text) = call.query.get(name) else { return Ok(None) };
    let parsed = text
        .parse()
        .map_err(|_| Error::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")));
    parsed.map(Some)
}

/// `ListOptions` of the query.
pub(super) fn options(call: &Call) -> Result<ListOptions> {
    let (labels, fields) = selectors(call)?;
    let text = |name: &str| call.query.get(name).map(str::to_owned);
    let limit = number(call, "limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
    let (resource_version, continue_token) = (text("resourceVersion"), text("continue"));
    let version_match = match call.query.get("resourceVersionMatch") {
        None => None,
        Some(_) if resource_version.is_none() => {
            return Err(invalid_options(FieldError::forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            )));
        }
        Some("Exact") if resource_version.as_deref() == Some("0") => {
            return Err(invalid_options(FieldError::forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            )));
        }
        Some("Exact") => Some(VersionMatch::Exact),
        Some("NotOlderThan") => Some(VersionMatch::NotOlderThan),
        Some(other) => {
            let supported = ["Exact", "NotOlderThan", ""];
            return Err(invalid_options(FieldError::not_supported(
                "resourceVersionMatch",
                &json!(other),
                &supported,
            )));
        }
    };
    if continue_token.is_some() && resource_version.as_deref().is_some_and(|version| version != "0") {
        return Err(Error::bad_request("specifying resource version is not allowed when using continue"));
    }
    Ok(ListOptions {
        namespace: scope(call),
        labels,
        fields,
        limit,
        continue_token,
        resource_version,
        version_match,
    })
}

/// A refusal of query parameters: `ListOptions.meta.k8s.io "" is invalid: …`.
pub(super) fn invalid_options(cause: FieldError) -> Error {
    invalid_meta("ListOptions", vec![cause])
}

/// A refusal of one of the option objects of `meta.k8s.io`.
pub(super) fn invalid_meta(kind: &str, causes: Vec<FieldError>) -> Error {
    let shown: Vec<String> = causes.iter().map(ToString::to_string).collect();
    let shown = if shown.len() == 1 { shown[0].clone() } else { format!("[{}]", shown.join(", ")) };
    Error::new(Reason::Invalid, format!("{kind}.meta.k8s.io \"\" is invalid: {shown}"))
        .about_resource("meta.k8s.io", kind, "")
        .with_causes(causes)
}
