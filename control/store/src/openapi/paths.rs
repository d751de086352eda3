//! The paths of the documents: what kubectl asks of them, namely which operations take which options.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::schemas::definition_name;
use super::{Style, identity};
use crate::kinds::{KindDef, Subresource};

/// The paths of these kinds.
pub(super) fn of(kinds: &[Arc<KindDef>], style: Style) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in kinds {
        let base = base(kind);
        let collection = [("get", "list"), ("post", "create"), ("delete", "deletecollection")];
        let single = [("get", "get"), ("put", "update"), ("patch", "patch"), ("delete", "delete")];
        insert(&mut paths, &base, operations(kind, &collection, style));
        insert(&mut paths, &format!("{base}/{{name}}"), operations(kind, &single, style));
        if kind.has_status() {
            let parts = [("get", "get"), ("put", "update"), ("patch", "patch")];
            insert(&mut paths, &format!("{base}/{{name}}/status"), operations(kind, &parts, style));
        }
        for subresource in &kind.subresources {
            if let Subresource::Other { name, .. } = subresource {
                paths.insert(format!("{base}/{{name}}/{name}"), json!({}));
            }
        }
    }
    paths
}

fn insert(paths: &mut Map<String, Value>, path: &str, operations: Map<String, Value>) {
    if !operations.is_empty() {
        paths.insert(path.to_owned(), Value::Object(operations));
    }
}

fn base(kind: &KindDef) -> String {
    let group = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
    let namespace = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
    format!("{group}/{}{namespace}/{}", kind.version, kind.plural)
}

fn operations(kind: &KindDef, methods: &[(&str, &str)], style: Style) -> Map<String, Value> {
    let allowed = methods.iter().filter(|(_, verb)| kind.allows(verb));
    allowed.map(|(method, verb)| ((*method).to_owned(), operation(kind, verb, style))).collect()
}

fn operation(kind: &KindDef, verb: &str, style: Style) -> Value {
    let options: &[&str] = match verb {
        "create" | "update" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" | "deletecollection" => &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
        _ => &[],
    };
    let parameters: Vec<Value> = options.iter().map(|name| parameter(name, style)).collect();
    let scope = if kind.namespaced { "Namespaced" } else { "" };
    let group = kind.group.split('.').next().filter(|name| !name.is_empty()).unwrap_or("core");
    json!({
        "description": format!("{verb} the specified {}", kind.kind),
        "operationId": format!("{verb}{}{}{scope}{}", capital(group), capital(&kind.version), kind.kind),
        "parameters": parameters,
        "responses": {"200": response(kind, style)},
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": identity(kind),
    })
}

fn response(kind: &KindDef, style: Style) -> Value {
    let name = definition_name(kind);
    match style {
        Style::V2 => json!({"description": "OK", "schema": {"$ref": format!("#/definitions/{name}")}}),
        Style::V3 => json!({"description": "OK", "content": {"application/json": {
            "schema": {"$ref": format!("#/components/schemas/{name}")}}}}),
    }
}

fn parameter(name: &str, style: Style) -> Value {
    let kind = match name {
        "force" => "boolean",
        "gracePeriodSeconds" => "integer",
        _ => "string",
    };
    match style {
        Style::V2 => json!({"name": name, "in": "query", "type": kind, "uniqueItems": true}),
        Style::V3 => json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}}),
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
