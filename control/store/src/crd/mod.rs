//! Structural schemas of custom resources: what is pruned, defaulted and refused.

mod check;
mod value;

use serde_json::{Map, Value};

use crate::error::FieldError;

/// The schema of one version, as its definition gives it.
#[derive(Debug)]
pub struct Structural {
    schema: Value,
}

impl Structural {
    /// Takes the `openAPIV3Schema` of a version.
    pub fn new(schema: &Value) -> Self {
        Self { schema: schema.clone() }
    }

    /// The schema itself, for the OpenAPI documents.
    pub fn document(&self) -> &Value {
        &self.schema
    }

    /// Drops the fields that the schema does not know, and null values that it does not allow.
    pub fn prune(&self, object: &mut Value) {
        let Value::Object(map) = object else { return };
        let saved: Vec<(String, Value)> = ["apiVersion", "kind", "metadata"]
            .iter()
            .filter_map(|name| map.shift_remove(*name).map(|value| ((*name).to_owned(), value)))
            .collect();
        value::prune(&self.schema, object);
        if let Value::Object(map) = object {
            let rest = std::mem::take(map);
            *map = saved.into_iter().chain(rest).collect::<Map<_, _>>();
        }
    }

    /// Sets what is missing and has a default.
    pub fn default(&self, object: &mut Value) {
        value::default(&self.schema, object);
    }
}

/// Reports what of a custom resource does not fit its schema.
pub(crate) fn validate(
    structural: &Structural,
    object: &Value,
    _old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    check::object(&structural.schema, object, errors);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn prunes_defaults_and_validates() {
        let structural = Structural::new(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "required": ["peerId"], "properties": {
                "peerId": {"type": "string", "minLength": 2},
                "replicas": {"type": "integer", "default": 1, "minimum": 0},
                "roles": {"type": "array", "items": {"type": "string", "enum": ["edge", "relay"]}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}}}}}}));
        let mut object = json!({"apiVersion": "a/v1", "kind": "A", "metadata": {"name": "x"}, "other": 1,
            "spec": {"peerId": "p", "unknown": 2, "free": {"a": {"b": 1}}, "labels": {"x": "y"},
                "roles": ["edge", "king"]}});
        structural.prune(&mut object);
        structural.default(&mut object);
        assert_eq!(
            object,
            json!({"apiVersion": "a/v1", "kind": "A", "metadata": {"name": "x"}, "spec": {"peerId": "p",
                "free": {"a": {"b": 1}}, "labels": {"x": "y"}, "roles": ["edge", "king"], "replicas": 1}})
        );
        let mut errors = Vec::new();
        validate(&structural, &object, None, &mut errors);
        let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                r#"spec.peerId: Invalid value: "p": spec.peerId in body should be at least 2 chars long"#,
                r#"spec.roles[1]: Unsupported value: "king": supported values: "edge", "relay""#,
            ]
        );
        errors.clear();
        validate(&structural, &json!({"spec": {"replicas": "many"}}), None, &mut errors);
        let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "spec.peerId: Required value",
                r#"spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string""#,
            ]
        );
    }
}
