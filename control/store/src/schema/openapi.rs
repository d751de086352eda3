//! Nodes from OpenAPI: the schemas of custom resources, and those that `k8s-openapi` generates.

use serde_json::Value;

use super::{List, ListKind, Node, Object, Scalar, facts};

/// The prefix of a reference to another definition.
const DEFINITIONS: &str = "#/$defs/";

/// The node of a schema. `type_name` and `field` say where it stands in a built-in type, for the table
/// of facts; both are empty in a custom one, whose schema says everything itself.
pub(super) fn node(schema: &Value, type_name: &str, field: &str) -> Node {
    if let Some(reference) = schema["$ref"].as_str() {
        return Node::Reference(reference.strip_prefix(DEFINITIONS).unwrap_or(reference).into());
    }
    if schema["x-kubernetes-int-or-string"] == Value::Bool(true) {
        let quantity = type_name == "Quantity";
        return Node::Scalar(if quantity { Scalar::Quantity } else { Scalar::IntOrString });
    }
    if facts::is_anything(type_name) && field.is_empty() {
        return Node::Any;
    }
    match schema_type(schema) {
        Some("object") => object(schema, type_name, field),
        Some("array") => list(schema, type_name, field),
        Some("string") => Node::Scalar(match schema["format"].as_str() {
            Some("byte") => Scalar::Bytes,
            Some("date-time") if !type_name.is_empty() => Scalar::Time,
            _ => Scalar::String,
        }),
        Some("integer") if schema["format"] == "int32" => Node::Scalar(Scalar::Int32),
        Some("integer") => Node::Scalar(Scalar::Int64),
        Some("number") => Node::Scalar(Scalar::Number),
        Some("boolean") => Node::Scalar(Scalar::Boolean),
        _ if schema.get("properties").is_some() => object(schema, type_name, field),
        _ => Node::Any,
    }
}

fn schema_type(schema: &Value) -> Option<&str> {
    match &schema["type"] {
        Value::String(name) => Some(name),
        // `["string", "null"]`: what may be null is still of the other type.
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        _ => None,
    }
}

fn object(schema: &Value, type_name: &str, field: &str) -> Node {
    let custom = type_name.is_empty();
    let atomic = schema["x-kubernetes-map-type"] == "atomic"
        || (!custom && field.is_empty() && facts::is_atomic_type(type_name));
    let Some(properties) = schema["properties"].as_object() else {
        let atomic = atomic || facts::is_atomic_field(type_name, field);
        return match &schema["additionalProperties"] {
            Value::Object(_) => Node::Map {
                values: Box::new(node(&schema["additionalProperties"], type_name, "values")),
                atomic,
            },
            Value::Bool(true) => Node::Map { values: Box::new(Node::Any), atomic },
            _ if custom && schema["x-kubernetes-preserve-unknown-fields"] != Value::Bool(true) => {
                Node::Object(Object { atomic, ..Object::default() })
            }
            // A type without fields of its own, such as a claim to nothing: an empty object.
            _ if !custom && field.is_empty() => {
                Node::Object(Object { atomic, type_name: type_name.into(), ..Object::default() })
            }
            _ => Node::Any,
        };
    };
    let fields = properties.iter().map(|(name, schema)| {
        let child = node(schema, type_name, name);
        (name.as_str().into(), child)
    });
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Node::Object(Object {
        fields: fields.collect(),
        required: required.map(Box::from).collect(),
        atomic,
        keeps_unknown: schema["x-kubernetes-preserve-unknown-fields"] == Value::Bool(true),
        type_name: type_name.into(),
    })
}

fn list(schema: &Value, type_name: &str, field: &str) -> Node {
    let items = Box::new(node(&schema["items"], type_name, "items"));
    if !type_name.is_empty() {
        let fact = facts::list(type_name, field);
        return Node::List(List {
            items,
            kind: fact.kind,
            patch_merge_key: fact.patch_merge_key.map(Box::from),
            retain_keys: fact.retain_keys,
        });
    }
    let keys = || {
        let keys = schema["x-kubernetes-list-map-keys"].as_array();
        keys.into_iter().flatten().filter_map(Value::as_str).map(Box::from).collect()
    };
    let kind = match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => ListKind::Map(keys()),
        Some("set") => ListKind::Set,
        _ => ListKind::Atomic,
    };
    Node::List(List { items, kind, patch_merge_key: None, retain_keys: false })
}
