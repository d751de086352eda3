//! JSON patch (RFC 6902), with the leniency of the Go library behind the real server: `replace` of a
//! missing field adds it, and `copy` from a missing field sets null.

use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::Pointer};
use serde_json::Value;

use super::rejected;
use crate::error::{Error, Reason, Result};

/// Operations one patch may hold.
const MAX_OPERATIONS: usize = 10_000;
/// Bytes that the `copy` operations of one patch may add up to: repeated copying doubles a document.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Reads a patch: a list of operations, not yet checked one by one.
pub fn parse(patch: Value) -> Result<Patch> {
    let Value::Array(operations) = &patch else {
        return Err(Error::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
            go_type(&patch)
        )));
    };
    if operations.len() > MAX_OPERATIONS {
        let message = format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        );
        return Err(Error::new(Reason::RequestEntityTooLarge, message));
    }
    serde_json::from_value(patch).map_err(|_| rejected())
}

/// Carries the patch out; on a refusal the document is as it was or partly patched, and of no use.
pub fn apply(document: &mut Value, patch: &Patch) -> Result<()> {
    let mut copied = 0;
    for operation in &patch.0 {
        let operation = lenient(document, operation, &mut copied)?;
        json_patch::patch(document, std::slice::from_ref(&operation)).map_err(|_| rejected())?;
    }
    Ok(())
}

fn lenient(document: &Value, operation: &PatchOperation, copied: &mut usize) -> Result<PatchOperation> {
    match operation {
        PatchOperation::Replace(replace) if may_add(document, &replace.path) => {
            Ok(add(&replace.path, replace.value.clone()))
        }
        PatchOperation::Copy(copy) => {
            let Some(source) = document.pointer(copy.from.as_str()) else {
                return if may_add(document, &copy.from) {
                    Ok(add(&copy.path, Value::Null))
                } else {
                    Err(rejected())
                };
            };
            *copied += source.to_string().len();
            if *copied > MAX_COPIED {
                return Err(rejected());
            }
            Ok(operation.clone())
        }
        other => Ok(other.clone()),
    }
}

fn add(path: &Pointer, value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: path.to_owned(), value })
}

/// Whether the path names a missing field of an object that is there.
fn may_add(document: &Value, path: &Pointer) -> bool {
    let Some((parent, _)) = path.split_back() else { return false };
    document.pointer(path.as_str()).is_none()
        && document.pointer(parent.as_str()).is_some_and(Value::is_object)
}

/// What Go's decoder calls the type of a JSON value.
pub(crate) fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(patch: Value) -> Result<Value> {
        let mut document = json!({"data": {"x": "1"}, "l": [1]});
        apply(&mut document, &parse(patch)?)?;
        Ok(document["data"].take())
    }

    #[test]
    fn operations() {
        let replace = json!([{"op": "replace", "path": "/data/y", "value": "2"}]);
        assert_eq!(patched(replace).unwrap(), json!({"x": "1", "y": "2"}));
        let copy = json!([{"op": "copy", "from": "/data/q", "path": "/data/z"}]);
        assert_eq!(patched(copy).unwrap(), json!({"x": "1", "z": null}));
        let several = json!([
            {"op": "test", "path": "/data/x", "value": "1"}, {"op": "move", "from": "/data/x", "path": "/data/w"}
        ]);
        assert_eq!(patched(several).unwrap(), json!({"w": "1"}));
    }

    #[test]
    fn refusals() {
        for patch in [
            json!([{"op": "test", "path": "/data/x", "value": "2"}]),
            json!([{"op": "remove", "path": "/data/zz"}]),
            json!([{"op": "add", "path": "/foo/zz", "value": 1}]),
            json!([{"op": "bogus", "path": "/data/x"}]),
            json!([{"op": "replace", "path": "/l/7", "value": 1}]),
        ] {
            assert_eq!(patched(patch.clone()).unwrap_err().reason(), Reason::Invalid, "{patch}");
        }
        let error = patched(json!({"a": 1})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        );
    }

    #[test]
    fn copies_are_bounded() {
        let mut operations = vec![json!({"op": "add", "path": "/data/a", "value": {"v": "x".repeat(1000)}})];
        for round in 0..40 {
            operations.push(json!({"op": "copy", "from": "/data", "path": format!("/data/c{round}")}));
        }
        assert!(patched(Value::Array(operations)).is_err());
    }
}
