//! The schemas of the documents: definitions of the kinds and of all that they refer to.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Style, identity};
use crate::kinds::KindDef;
use crate::schema::{Schema, documents, extensions, references};

const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// The definitions for these kinds.
pub(super) fn of(kinds: &[Arc<KindDef>], style: Style) -> Map<String, Value> {
    let all = documents();
    let mut definitions = Map::new();
    let mut needed = vec![METADATA.to_owned(), LIST_METADATA.to_owned(), DELETE_OPTIONS.to_owned()];
    for kind in kinds {
        let name = definition_name(kind);
        let mut schema = match (&kind.schema, &kind.custom) {
            (Schema::BuiltIn(name), _) => built_in(&all, name, style),
            (_, Some(structural)) => custom(structural.document(), style),
            _ => continue,
        };
        schema["x-kubernetes-group-version-kind"] = json!([identity(kind)]);
        references(&schema, &mut needed);
        if !kind.is_virtual {
            definitions.insert(format!("{name}List"), list(kind, &name, style));
        }
        definitions.insert(name, schema);
    }
    while let Some(name) = needed.pop() {
        if !definitions.contains_key(&name) && all.contains_key(&name) {
            let schema = built_in(&all, &name, style);
            references(&schema, &mut needed);
            definitions.insert(name, schema);
        }
    }
    definitions
}

/// `io.k8s.api.core.v1.Pod`, or `com.example.v1.Widget` for the group `example.com`.
pub(super) fn definition_name(kind: &KindDef) -> String {
    match &kind.schema {
        Schema::BuiltIn(name) => (*name).to_owned(),
        Schema::Custom(_) => {
            let reversed: Vec<&str> = kind.group.rsplit('.').collect();
            format!("{}.{}.{}", reversed.join("."), kind.version, kind.kind)
        }
    }
}

fn reference(name: &str, style: Style) -> String {
    match style {
        Style::V2 => format!("#/definitions/{name}"),
        Style::V3 => format!("#/components/schemas/{name}"),
    }
}

fn list(kind: &KindDef, of: &str, style: Style) -> Value {
    let mut identity = identity(kind);
    identity["kind"] = json!(kind.list_kind);
    json!({
        "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"$ref": reference(LIST_METADATA, style)},
            "items": {"type": "array", "items": {"$ref": reference(of, style)}},
        },
        "x-kubernetes-group-version-kind": [identity],
    })
}

fn built_in(all: &Map<String, Value>, name: &str, style: Style) -> Value {
    let type_name = name.rsplit('.').next().unwrap_or("");
    let schema = all.get(name).cloned().unwrap_or_else(|| json!({}));
    match type_name {
        "Quantity" | "IntOrString" => scalar(&schema, type_name, style),
        // Published without a type: anything goes.
        "JSON" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" => {
            json!({"description": schema["description"]})
        }
        _ => converted(schema, type_name, style),
    }
}

fn scalar(schema: &Value, type_name: &str, style: Style) -> Value {
    let description = &schema["description"];
    match (type_name, style) {
        ("Quantity", Style::V2) => json!({"description": description, "type": "string"}),
        ("Quantity", Style::V3) => {
            json!({"description": description, "oneOf": [{"type": "string"}, {"type": "number"}]})
        }
        (_, Style::V2) => json!({"description": description, "type": "string", "format": "int-or-string"}),
        (_, Style::V3) => json!({"description": description, "format": "int-or-string",
            "oneOf": [{"type": "integer"}, {"type": "string"}]}),
    }
}

/// References renamed, what is known of merging added.
fn converted(mut schema: Value, type_name: &str, style: Style) -> Value {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (field, property) in properties.iter_mut() {
            let is_list = property["type"] == "array";
            for (name, value) in extensions(type_name, field, is_list) {
                property[name] = value;
            }
        }
    }
    refer(&mut schema, style);
    schema
}

fn refer(schema: &mut Value, style: Style) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(|item| refer(item, style)),
        Value::Object(map) => {
            map.values_mut().for_each(|inner| refer(inner, style));
            let Some(target) = map.get("$ref").and_then(Value::as_str) else { return };
            let target = reference(target.rsplit('/').next().unwrap_or(""), style);
            if style == Style::V3 && map.len() > 1 {
                // Nothing may stand beside a reference in version 3.
                map.shift_remove("$ref");
                map.insert("allOf".into(), json!([{"$ref": target}]));
            } else {
                map.insert("$ref".into(), json!(target));
            }
        }
        _ => {}
    }
}

fn custom(schema: &Value, style: Style) -> Value {
    let mut schema = schema.clone();
    if style == Style::V2 {
        simplify(&mut schema);
    }
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    schema["type"] = json!("object");
    schema["properties"]["apiVersion"] = json!({"type": "string"});
    schema["properties"]["kind"] = json!({"type": "string"});
    schema["properties"]["metadata"] = json!({"$ref": reference(METADATA, style)});
    schema
}

/// What version 2, and the kubectl that reads it, cannot express is left open.
fn simplify(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    let is_true = |map: &Map<String, Value>, field: &str| map.get(field) == Some(&json!(true));
    let open = is_true(map, "x-kubernetes-preserve-unknown-fields")
        || is_true(map, "x-kubernetes-int-or-string")
        || is_true(map, "nullable");
    map.retain(|name, _| {
        let shape =
            matches!(name.as_str(), "type" | "properties" | "items" | "additionalProperties" | "required");
        let plain =
            matches!(name.as_str(), "description" | "format" | "enum") || name.starts_with("x-kubernetes-");
        (shape && !open) || plain
    });
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(simplify);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(schema) = map.get_mut(inner) {
            simplify(schema);
        }
    }
}
