//! JSON merge patch (RFC 7386).

use serde_json::Value;

/// Merges `patch` into `document`: objects field by field, null removes, all else replaces.
pub fn apply(document: &mut Value, patch: &Value) {
    json_patch::merge(document, patch);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merges_removes_and_replaces() {
        let mut document = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        apply(&mut document, &json!({"a": {"b": null, "d": {"e": null, "f": 3}}, "l": [3]}));
        assert_eq!(document, json!({"a": {"c": 2, "d": {"f": 3}}, "l": [3]}));
    }
}
