//! Pruning and defaulting, by walking schema and value together.

use serde_json::{Map, Value, json};

fn is_true(schema: &Value, field: &str) -> bool {
    schema[field] == Value::Bool(true)
}

/// The schema of a field: its own, or that of any field.
fn field<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema["properties"].get(name).or_else(|| {
        let any = schema.get("additionalProperties")?;
        any.is_object().then_some(any)
    })
}

/// Drops unknown fields.
pub(super) fn prune(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => prune_object(schema, map),
        Value::Array(items) => {
            if let Some(of) = schema.get("items") {
                items.iter_mut().for_each(|item| prune(of, item));
            }
        }
        _ => {}
    }
}

fn prune_object(schema: &Value, map: &mut Map<String, Value>) {
    let keeps =
        is_true(schema, "x-kubernetes-preserve-unknown-fields") || is_true(schema, "additionalProperties");
    let embedded = is_true(schema, "x-kubernetes-embedded-resource");
    map.retain(|name, _| {
        let part_of_resource = embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
        keeps || part_of_resource || field(schema, name).is_some()
    });
    for (name, value) in map.iter_mut() {
        let schema = match field(schema, name) {
            Some(schema) => schema,
            // An opaque part is opaque all the way down.
            None => continue,
        };
        prune(schema, value);
    }
}

/// Sets defaults where a value is missing, or null where that is not allowed.
pub(super) fn default(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            default_object(schema, map);
            for (name, value) in map.iter_mut() {
                if let Some(schema) = field(schema, name) {
                    default(schema, value);
                }
            }
        }
        Value::Array(items) => {
            if let Some(of) = schema.get("items") {
                items.iter_mut().for_each(|item| default(of, item));
            }
        }
        _ => {}
    }
}

fn default_object(schema: &Value, map: &mut Map<String, Value>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let null_to_go = |value: &Value| value.is_null() && !is_true(property, "nullable");
        if map.get(name).is_some_and(null_to_go) {
            map.shift_remove(name);
        }
        if !map.contains_key(name)
            && let Some(default) = property.get("default")
        {
            map.insert(name.clone(), default.clone());
        }
    }
}

/// The name of a value's JSON type in OpenAPI.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether a value is of an OpenAPI type.
pub(super) fn is_of(value: &Value, wanted: &str) -> bool {
    let whole = |value: &Value| value.as_f64().is_some_and(|number| number.fract() == 0.0);
    match wanted {
        "integer" => value.is_i64() || value.is_u64() || whole(value),
        "number" => value.is_number(),
        other => type_name(value) == other,
    }
}

/// The allowed values of a schema as the server lists them.
pub(super) fn enumerated(schema: &Value) -> Vec<Value> {
    schema["enum"].as_array().cloned().unwrap_or_else(|| json!([]).as_array().cloned().unwrap_or_default())
}
