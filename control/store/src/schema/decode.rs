//! From what a client sent to an object of a kind: types checked, unknown fields dropped and reported,
//! empty values left out, in the words of the real server's decoder.

use serde_json::{Map, Value};

use super::{Node, Object, Scalar};
use crate::error::{Error, Result};
use crate::kinds::KindDef;
use crate::quantity::Quantity;

/// `fieldValidation`: what happens to unknown fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strictness {
    Ignore,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Refuse the object.
    Strict,
}

/// A decoded object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub object: Value,
    /// For `Warning` headers: `unknown field "spec.foo"`.
    pub warnings: Vec<String>,
}

/// Reads an object as `kind`. `duplicates` are the fields that occurred twice in the text.
///
/// # Errors
/// `BadRequest` for a value of the wrong type and, if strict, for unknown or duplicate fields.
pub fn decode(
    kind: &KindDef,
    object: Value,
    duplicates: &[String],
    strictness: Strictness,
) -> Result<Decoded> {
    let mut walk = Walk { unknown: Vec::new(), custom: kind.is_custom() };
    let cannot = |why: &str| {
        Error::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {why}",
            kind.kind, kind.version, kind.kind
        ))
    };
    let place = Place { path: String::new(), plain: String::new(), type_name: &kind.kind };
    let object = walk.value(kind.schema.root(), object, &place).map_err(|why| cannot(&why))?;
    if walk.custom {
        walk.unknown.sort();
    }
    let mut problems: Vec<String> =
        walk.unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    problems.extend(duplicates.iter().map(|path| format!("duplicate field {path:?}")));
    match strictness {
        Strictness::Strict if !problems.is_empty() => {
            Err(cannot(&format!("strict decoding error: {}", problems.join(", "))))
        }
        Strictness::Warn => Ok(Decoded { object: object.unwrap_or(Value::Null), warnings: problems }),
        _ => Ok(Decoded { object: object.unwrap_or(Value::Null), warnings: Vec::new() }),
    }
}

struct Walk {
    unknown: Vec<String>,
    /// Custom resources keep what is unknown here: pruning is theirs. Their types are validated later.
    custom: bool,
}

/// Where in the object the walk is.
struct Place<'a> {
    /// With indices: `spec.containers[0].image`.
    path: String,
    /// Without: `spec.containers.image`, as Go names a struct field.
    plain: String,
    type_name: &'a str,
}

impl Place<'_> {
    fn join(path: &str, name: &str) -> String {
        if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
    }
}

type Outcome = Result<Option<Value>, String>;

impl Walk {
    /// The value as stored; `None` if it is left out.
    fn value(&mut self, node: &Node, value: Value, place: &Place<'_>) -> Outcome {
        if value.is_null() {
            return Ok(None);
        }
        match node.resolve() {
            Node::Object(object) => self.object(object, value, place),
            Node::Map { values, .. } => self.map(values, value, place),
            Node::List(list) => self.list(&list.items, value, place),
            Node::Scalar(scalar) => {
                if !self.custom || place.plain.starts_with("metadata.") {
                    check(*scalar, &value, place)?;
                }
                Ok(Some(if *scalar == Scalar::Quantity { canonical(value) } else { value }))
            }
            Node::Any | Node::Reference(_) => Ok(Some(value)),
        }
    }

    fn object(&mut self, object: &Object, value: Value, place: &Place<'_>) -> Outcome {
        let Value::Object(map) = value else {
            return self.mismatch(value, place, &go_struct(object));
        };
        let mut kept = Map::new();
        for (name, value) in map {
            let path = Place::join(&place.path, &name);
            let Some(child) = object.fields.get(name.as_str()) else {
                if object.keeps_unknown {
                    kept.insert(name, value);
                } else {
                    self.unknown.push(path);
                }
                continue;
            };
            let type_name = if object.type_name.is_empty() { place.type_name } else { &object.type_name };
            let at = Place { path, plain: Place::join(&place.plain, &name), type_name };
            let required = object.required.iter().any(|one| **one == *name);
            if let Some(value) = self.value(child, value, &at)?
                && (required || self.custom || !is_left_out(child, &name, &value))
            {
                kept.insert(name, value);
            }
        }
        Ok(Some(Value::Object(kept)))
    }

    fn map(&mut self, values: &Node, value: Value, place: &Place<'_>) -> Outcome {
        let Value::Object(map) = value else {
            return self.mismatch(value, place, &format!("map[string]{}", go_type(values)));
        };
        let mut kept = Map::new();
        for (name, value) in map {
            // Go names the map's field, not its key.
            let path = Place::join(&place.path, &name);
            let at = Place { path, plain: place.plain.clone(), type_name: place.type_name };
            let empty = matches!(values.resolve(), Node::Scalar(Scalar::String));
            match self.value(values, value, &at)? {
                Some(value) => {
                    kept.insert(name, value);
                }
                None if empty => {
                    kept.insert(name, Value::String(String::new()));
                }
                None => {}
            }
        }
        Ok(Some(Value::Object(kept)))
    }

    fn list(&mut self, items: &Node, value: Value, place: &Place<'_>) -> Outcome {
        let Value::Array(list) = value else {
            return self.mismatch(value, place, &format!("[]{}", go_type(items)));
        };
        let mut kept = Vec::with_capacity(list.len());
        for (index, item) in list.into_iter().enumerate() {
            let path = format!("{}[{index}]", place.path);
            let at = Place { path, plain: place.plain.clone(), type_name: place.type_name };
            kept.extend(self.value(items, item, &at)?);
        }
        Ok(Some(Value::Array(kept)))
    }

    fn mismatch(&self, value: Value, place: &Place<'_>, wanted: &str) -> Outcome {
        if self.custom && !place.plain.starts_with("metadata") {
            return Ok(Some(value));
        }
        Err(unmarshal(&value, place, wanted))
    }
}

/// Fields that Go leaves out when they are empty (`omitempty`): strings, lists and maps that are not
/// required. Where the Go field is a pointer, an empty string means something.
fn is_left_out(node: &Node, name: &str, value: &Value) -> bool {
    /// Numbers and booleans that are no pointers: 0 and false are left out.
    const ZEROES: [&str; 16] = [
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "initialDelaySeconds",
        "unschedulable",
        "stdin",
        "stdinOnce",
        "tty",
        "readOnly",
        "minReadySeconds",
        "paused",
        "hostPort",
        "nodePort",
        "healthCheckNodePort",
        "publishNotReadyAddresses",
        "observedGeneration",
    ];
    const POINTERS: [&str; 5] = ["name", "storageClassName", "appProtocol", "apiGroup", "hostname"];
    match (node.resolve(), value) {
        (Node::Scalar(_), Value::Bool(false)) => ZEROES.contains(&name),
        (Node::Scalar(_), Value::Number(number)) => number.as_i64() == Some(0) && ZEROES.contains(&name),
        (Node::Scalar(Scalar::String), Value::String(text)) => text.is_empty() && !POINTERS.contains(&name),
        (Node::List(_), Value::Array(list)) => list.is_empty(),
        (Node::Map { .. }, Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}

/// A quantity as the server writes it: `0.5` becomes `500m`.
fn canonical(value: Value) -> Value {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Quantity::parse(&text).map_or(value, |quantity| Value::String(quantity.to_string()))
}

fn unmarshal(value: &Value, place: &Place<'_>, wanted: &str) -> String {
    let got = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let Place { plain, type_name, .. } = place;
    if plain.is_empty() {
        return format!("json: cannot unmarshal {got} into Go value of type {wanted}");
    }
    format!("json: cannot unmarshal {got} into Go struct field {type_name}.{plain} of type {wanted}")
}

fn check(scalar: Scalar, value: &Value, place: &Place<'_>) -> Result<(), String> {
    let fits = match (scalar, value) {
        (Scalar::String | Scalar::Time | Scalar::Bytes, Value::String(_))
        | (Scalar::Number, Value::Number(_))
        | (Scalar::Boolean, Value::Bool(_))
        | (Scalar::IntOrString, Value::String(_)) => true,
        (Scalar::Int32 | Scalar::IntOrString, Value::Number(number)) => {
            number.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
        }
        (Scalar::Int64, Value::Number(number)) => number.is_i64() || number.is_u64(),
        (Scalar::Quantity, Value::Number(_)) => true,
        (Scalar::Quantity, Value::String(text)) => {
            return Quantity::parse(text).map(drop).map_err(|error| error.to_string());
        }
        _ => false,
    };
    if !fits {
        return Err(unmarshal(value, place, go_scalar(scalar)));
    }
    let Value::String(text) = value else { return Ok(()) };
    match scalar {
        Scalar::Time if !is_time(text) => Err(format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
        )),
        Scalar::Bytes => bytes(text),
        _ => Ok(()),
    }
}

fn is_time(text: &str) -> bool {
    time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).is_ok()
}

fn bytes(text: &str) -> Result<(), String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let compact: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match STANDARD.decode(compact) {
        Ok(_) => Ok(()),
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => {
            Err(format!("illegal base64 data at input byte {at}"))
        }
        // Where the last, incomplete group of four starts.
        Err(_) => Err(format!("illegal base64 data at input byte {}", text.len() / 4 * 4)),
    }
}

fn go_scalar(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::String => "string",
        Scalar::Time => "v1.Time",
        Scalar::Bytes => "[]uint8",
        Scalar::Int32 => "int32",
        Scalar::Int64 => "int64",
        Scalar::Number => "float64",
        Scalar::Boolean => "bool",
        Scalar::IntOrString => "intstr.IntOrString",
        Scalar::Quantity => "resource.Quantity",
    }
}

fn go_struct(object: &Object) -> String {
    format!("v1.{}", object.type_name)
}

fn go_type(node: &Node) -> String {
    match node.resolve() {
        Node::Object(object) => go_struct(object),
        Node::Map { values, .. } => format!("map[string]{}", go_type(values)),
        Node::List(list) => format!("[]{}", go_type(&list.items)),
        Node::Scalar(scalar) => go_scalar(*scalar).to_owned(),
        Node::Any | Node::Reference(_) => "interface {}".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::Registry;

    fn decoded(kind: (&str, &str), object: Value, strictness: Strictness) -> Result<Decoded> {
        let kind = Registry::built_in().find(kind.0, "v1", kind.1).unwrap();
        decode(&kind, object, &[], strictness)
    }

    #[test]
    fn wrong_types_in_the_servers_words() {
        let prefix =
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal ";
        for (object, expected) in [
            (
                json!({"spec": {"replicas": "x"}}),
                "string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": "x"}}}}),
                "string into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
            ),
            (
                json!({"metadata": {"labels": {"x": 5}}}),
                "number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
        ] {
            let error = decoded(("apps", "deployments"), object, Strictness::Ignore).unwrap_err();
            assert_eq!(error.to_string(), format!("{prefix}{expected}"));
        }
    }

    #[test]
    fn unknown_fields() {
        let object = || {
            json!({"metadata": {"name": "a", "foo": 1}, "spec": {"foo": 3, "template": {"spec": {
                "containers": [{"bar": 1}]}}}})
        };
        let error = decoded(("apps", "deployments"), object(), Strictness::Strict).unwrap_err();
        assert!(error.to_string().ends_with(
            "strict decoding error: unknown field \"metadata.foo\", unknown field \"spec.foo\", \
             unknown field \"spec.template.spec.containers[0].bar\""
        ));
        let warned = decoded(("apps", "deployments"), object(), Strictness::Warn).unwrap();
        assert_eq!(warned.warnings.len(), 3);
        assert!(warned.object["spec"].get("foo").is_none());
    }

    #[test]
    fn empty_values_are_left_out() {
        let pod = json!({"metadata": {"name": "a", "labels": {}, "creationTimestamp": null}, "spec": {
            "nodeName": "", "volumes": [{"name": "v", "emptyDir": {}}], "containers": [], "securityContext": {}}});
        let object = decoded(("", "pods"), pod, Strictness::Strict).unwrap().object;
        assert_eq!(
            object,
            json!({"metadata": {"name": "a"}, "spec": {"volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [], "securityContext": {}}})
        );
    }
}
