//! Objects as `kubectl get` wants them: Tables, and metadata alone.
//!
//! Pure: the columns of a kind and objects in, `meta.k8s.io/v1` documents out.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::error::{Error, Result};
use crate::kinds::{Column, KindDef};

/// `includeObject`: what of each object a row carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    Nothing,
    #[default]
    Metadata,
    Object,
}

impl Include {
    /// Reads the query parameter.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        match text {
            None | Some("Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::Nothing),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(Error::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', \
                 'Object', 'None', or empty"
            ))),
        }
    }
}

/// A Table of these objects. `headers`: whether the columns are described; in a watch only the first
/// event describes them.
pub fn table<'a>(
    kind: &KindDef,
    metadata: Value,
    objects: impl IntoIterator<Item = &'a Value>,
    include: Include,
    headers: bool,
    now: OffsetDateTime,
) -> Value {
    let described = |column: &Column| {
        json!({
            "name": column.name, "type": column.kind, "format": column.format,
            "description": column.description, "priority": column.priority,
        })
    };
    let columns: Option<Vec<Value>> = headers.then(|| kind.columns.iter().map(described).collect());
    let rows: Vec<Value> = objects.into_iter().map(|object| row(kind, object, include, now)).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

fn row(kind: &KindDef, object: &Value, include: Include, now: OffsetDateTime) -> Value {
    let cells: Vec<Value> = kind.columns.iter().map(|column| column.cell(object, now)).collect();
    let mut row = json!({"cells": cells});
    let phase = object["status"]["phase"].as_str();
    if let (("", "Pod"), Some(phase @ ("Succeeded" | "Failed"))) = ((&*kind.group, &*kind.kind), phase) {
        row["conditions"] = json!([completed(phase)]);
    }
    row["object"] = match include {
        Include::Nothing => Value::Null,
        Include::Metadata => partial(object),
        Include::Object => object.clone(),
    };
    row
}

/// The condition by which `kubectl` knows a pod that has run its course.
fn completed(phase: &str) -> Value {
    let message =
        if phase == "Succeeded" { "The pod has completed successfully." } else { "The pod failed." };
    json!({"type": "Completed", "status": "True", "reason": phase, "message": message})
}

/// `PartialObjectMetadata` of an object.
pub fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| Value::Object(Map::new())),
    })
}

/// `PartialObjectMetadataList` of objects.
pub fn partial_list<'a>(metadata: Value, objects: impl IntoIterator<Item = &'a Value>) -> Value {
    let items: Vec<Value> = objects.into_iter().map(partial).collect();
    json!({
        "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    #[test]
    fn rows_and_headers() {
        let kind = Registry::built_in().find("", "v1", "configmaps").unwrap();
        let object = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}, "data": {"x": ""}});
        let now = time::macros::datetime!(2026-01-01 00:05:00 UTC);
        let shown = table(&kind, json!({"resourceVersion": "3"}), [&object], Include::Metadata, true, now);
        assert_eq!(shown["columnDefinitions"][0]["name"], "Name");
        assert_eq!(shown["rows"][0]["cells"], json!(["a", 1, "5m"]));
        assert_eq!(shown["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        let bare = table(&kind, json!({}), [&object], Include::Nothing, false, now);
        assert_eq!((&bare["columnDefinitions"], &bare["rows"][0]["object"]), (&Value::Null, &Value::Null));
    }
}
