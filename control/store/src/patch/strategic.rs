//! Strategic merge patch: a partial document that merges lists by the keys which the kind's schema
//! names, with directives for what a partial document cannot say.
//!
//! Semantics and order of items follow `k8s.io/apimachinery/pkg/util/strategicpatch`:
//! `$patch: replace|delete|merge`, `$retainKeys`, `$setElementOrder/FIELD`,
//! `$deleteFromPrimitiveList/FIELD`.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::schema::Node;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// Merges `patch` into `document`, whose fields `node` describes.
pub fn apply(document: &mut Value, patch: Value, node: &Node) -> Result<()> {
    let Value::Object(patch) = patch else {
        return Err(Error::bad_request(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            super::json::go_type(&patch)
        )));
    };
    let original = std::mem::take(document);
    let Value::Object(original) = original else { return Err(super::rejected()) };
    *document = Value::Object(merge_map(original, patch, Some(node))?);
    Ok(())
}

type Object = Map<String, Value>;

fn merge_map(mut original: Object, mut patch: Object, node: Option<&Node>) -> Result<Object> {
    if let Some(directive) = patch.shift_remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            Some("merge") => merge_map(original, patch, node),
            _ => Err(unknown_directive(&directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    for key in keys_with(&patch, SET_ORDER) {
        let order = patch.shift_remove(&key).unwrap_or_default();
        ordered_field(&mut original, &mut patch, &key[SET_ORDER.len()..], &order, node)?;
    }
    for key in keys_with(&patch, DELETE_PRIMITIVES) {
        let gone = patch.shift_remove(&key).unwrap_or_default();
        delete_primitives(&mut original, &key[DELETE_PRIMITIVES.len()..], &gone)?;
    }
    for (key, value) in patch {
        let field = node.and_then(|node| node.field(&key));
        merge_field(&mut original, key, value, field)?;
    }
    Ok(original)
}

fn merge_field(original: &mut Object, key: String, value: Value, node: Option<&Node>) -> Result<()> {
    let merged = match (original.get_mut(&key).map(Value::take), value) {
        (_, Value::Null) => {
            original.shift_remove(&key);
            return Ok(());
        }
        (Some(Value::Object(old)), Value::Object(new)) => Value::Object(merge_map(old, new, node)?),
        (Some(Value::Array(old)), Value::Array(new)) => match merge_key(node) {
            Some(merge_key) => {
                let items = node.and_then(Node::items);
                let order = new.clone();
                Value::Array(merge_list(old, new, &order, merge_key, items)?)
            }
            None => without_directives(Value::Array(new))?,
        },
        (_, new) => without_directives(new)?,
    };
    original.insert(key, merged);
    Ok(())
}

/// The merge key of a list: empty for scalars, `None` where the list is replaced.
fn merge_key(node: Option<&Node>) -> Option<&str> {
    node?.list()?.patch_merge_key.as_deref()
}

fn keys_with(patch: &Object, prefix: &str) -> Vec<String> {
    patch.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
}

/// `$retainKeys`: fields of the original that are not listed go; fields of the patch must be listed.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<()> {
    let Some(keys) = patch.shift_remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else {
        return Err(Error::bad_request("invalid patch format of retainKeys"));
    };
    let listed = |name: &String| keys.iter().any(|key| key.as_str() == Some(name));
    if patch.iter().any(|(name, value)| !value.is_null() && !name.starts_with('$') && !listed(name)) {
        return Err(Error::bad_request("invalid patch format of retainKeys"));
    }
    original.retain(|name, _| listed(name));
    Ok(())
}

fn delete_primitives(original: &mut Object, field: &str, gone: &Value) -> Result<()> {
    let Value::Array(gone) = gone else {
        return Err(Error::bad_request("invalid patch format of primitive list"));
    };
    if let Some(Value::Array(items)) = original.get_mut(field) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

/// A list field with `$setElementOrder`: merged, then put into that order.
fn ordered_field(
    original: &mut Object,
    patch: &mut Object,
    field: &str,
    order: &Value,
    node: Option<&Node>,
) -> Result<()> {
    let Value::Array(order) = order else {
        return Err(Error::bad_request("invalid patch format of setElementOrder list"));
    };
    let node = node.and_then(|node| node.field(field));
    let delete = patch.shift_remove(&format!("{DELETE_PRIMITIVES}{field}"));
    if let Some(gone) = delete {
        delete_primitives(original, field, &gone)?;
    }
    let (old, new) = (original.get(field), patch.get(field));
    if matches!(new, Some(Value::Null)) || (old.is_none() && new.is_none()) {
        return Ok(());
    }
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let (old, new) = (list(old), list(new));
    let key = merge_key(node).unwrap_or("");
    in_order(&new, order, key)?;
    let merged = merge_list(old, new, order, key, node.and_then(Node::items))?;
    original.insert(field.to_owned(), Value::Array(merged));
    patch.shift_remove(field);
    Ok(())
}

/// Every item of the patch, deletions aside, must stand in the order list.
fn in_order(patch: &[Value], order: &[Value], key: &str) -> Result<()> {
    let known = |item: &Value| item.get(PATCH).is_some() || position(order, item, key).is_some();
    if patch.iter().all(known) {
        return Ok(());
    }
    Err(Error::bad_request(format!(
        "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
        Value::from(patch.to_vec()),
        Value::from(order.to_vec())
    )))
}

/// Merges two lists by `key` and sorts what `order` names into that order; items only the server has
/// keep theirs.
fn merge_list(
    original: Vec<Value>,
    mut patch: Vec<Value>,
    order: &[Value],
    key: &str,
    items: Option<&Node>,
) -> Result<Vec<Value>> {
    let server_order = original.clone();
    let mut merged = original;
    if key.is_empty() {
        for item in patch {
            if !merged.contains(&item) {
                merged.push(item);
            }
        }
    } else {
        if take_directives(&mut merged, &mut patch, key)? {
            return Ok(patch);
        }
        merge_items(&mut merged, patch, key, items)?;
    }
    let (mut named, server_only): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| position(order, item, key).is_some());
    named.sort_by_key(|item| position(order, item, key));
    Ok(interleave(server_only, named, &server_order, key))
}

/// Carries out `$patch` in list items. True if the list is to be replaced by what is left of the patch.
fn take_directives(original: &mut Vec<Value>, patch: &mut Vec<Value>, key: &str) -> Result<bool> {
    let mut replace = false;
    let mut rest = Vec::with_capacity(patch.len());
    for mut item in patch.drain(..) {
        let Some(fields) = item.as_object_mut() else { return Err(super::rejected()) };
        let directive = fields.shift_remove(PATCH);
        match directive.as_ref().map(Value::as_str) {
            None => rest.push(item),
            Some(Some("delete")) => {
                let gone = item.get(key).ok_or_else(|| no_merge_key(&item, key))?;
                original.retain(|one| one.get(key) != Some(gone));
            }
            Some(Some("replace")) => replace = true,
            Some(Some("merge")) => {
                return Err(Error::internal_plain("merging lists cannot yet be specified in the patch"));
            }
            Some(_) => return Err(unknown_directive(&directive.unwrap_or_default(), fields)),
        }
    }
    *patch = rest;
    Ok(replace)
}

fn merge_items(merged: &mut Vec<Value>, patch: Vec<Value>, key: &str, items: Option<&Node>) -> Result<()> {
    for item in patch {
        let value = item.get(key).ok_or_else(|| no_merge_key(&item, key))?;
        let found = merged.iter().position(|one| one.get(key) == Some(value));
        match (found, item) {
            (Some(at), Value::Object(new)) => {
                let Value::Object(old) = merged[at].take() else { return Err(super::rejected()) };
                merged[at] = Value::Object(merge_map(old, new, items)?);
            }
            (_, item) => merged.push(without_directives(item)?),
        }
    }
    Ok(())
}

fn position(order: &[Value], item: &Value, key: &str) -> Option<usize> {
    if key.is_empty() {
        return order.iter().position(|one| one == item);
    }
    let value = item.get(key)?;
    order.iter().position(|one| one.get(key) == Some(value))
}

/// Two sorted lists in one: an item only the server has goes first where both are known to the server
/// and it stood first there.
fn interleave(server_only: Vec<Value>, named: Vec<Value>, server_order: &[Value], key: &str) -> Vec<Value> {
    let mut merged = Vec::with_capacity(server_only.len() + named.len());
    let (mut left, mut right) = (server_only.into_iter().peekable(), named.into_iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let places = (position(server_order, a, key), position(server_order, b, key));
        let left_first = matches!(places, (Some(a), Some(b)) if a < b);
        merged.extend(if left_first { left.next() } else { right.next() });
    }
    merged.extend(left);
    merged.extend(right);
    merged
}

/// A value that is new to the document: without nulls in its maps and without directives.
fn without_directives(value: Value) -> Result<Value> {
    match value {
        Value::Object(fields) => Ok(Value::Object(merge_map(Object::new(), fields, None)?)),
        Value::Array(items) => {
            let kept = items.into_iter().filter(|item| item.get(PATCH).is_none());
            Ok(Value::Array(kept.map(without_directives).collect::<Result<_>>()?))
        }
        other => Ok(other),
    }
}

fn no_merge_key(item: &Value, key: &str) -> Error {
    Error::internal_plain(format!("map: {} does not contain declared merge key: {key}", go_map(item)))
}

fn unknown_directive(directive: &Value, patch: &Object) -> Error {
    let directive = directive.as_str().map_or_else(|| directive.to_string(), str::to_owned);
    let mut patch = patch.clone();
    patch.insert(PATCH.to_owned(), Value::String(directive.clone()));
    Error::internal_plain(format!(
        "unknown patch type: {directive} in map: {}",
        go_map(&Value::Object(patch))
    ))
}

/// A document as Go prints maps: `map[a:b]`, by key.
pub(crate) fn go_map(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut shown: Vec<String> =
                fields.iter().map(|(key, value)| format!("{key}:{}", go_map(value))).collect();
            shown.sort();
            format!("map[{}]", shown.join(" "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(go_map).collect::<Vec<_>>().join(" ")),
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;
    use serde_json::json;

    fn patched(mut document: Value, patch: Value) -> Result<Value> {
        apply(&mut document, patch, Schema::BuiltIn("io.k8s.api.core.v1.Pod").root())?;
        Ok(document)
    }

    fn pod(containers: Value) -> Value {
        json!({"spec": {"containers": containers}})
    }

    #[test]
    fn lists_merge_by_key_and_new_items_come_first() {
        let old = pod(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]));
        let merged =
            patched(old, pod(json!([{"name": "c", "image": "3"}, {"name": "b", "image": "2"}]))).unwrap();
        let expected =
            json!([{"name": "a", "image": "1"}, {"name": "c", "image": "3"}, {"name": "b", "image": "2"}]);
        assert_eq!(merged["spec"]["containers"].as_array().unwrap().len(), 3);
        let names = |list: &Value| -> Vec<String> {
            list.as_array().unwrap().iter().map(|one| one["name"].to_string()).collect()
        };
        let mut got = names(&merged["spec"]["containers"]);
        let mut want = names(&expected);
        got.sort();
        want.sort();
        assert_eq!(got, want);
        assert_eq!(merged["spec"]["containers"][0]["name"], "c");
    }

    #[test]
    fn order_can_be_set() {
        let old = pod(json!([{"name": "a"}, {"name": "b"}]));
        let patch = json!({"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "c"}],
            "containers": [{"name": "c"}],
        }});
        let merged = patched(old, patch).unwrap();
        assert_eq!(merged, pod(json!([{"name": "b"}, {"name": "a"}, {"name": "c"}])));
    }

    #[test]
    fn directives() {
        let old = pod(json!([{"name": "a"}, {"name": "b"}]));
        let delete = pod(json!([{"name": "a", "$patch": "delete"}]));
        assert_eq!(patched(old.clone(), delete).unwrap(), pod(json!([{"name": "b"}])));
        let replace = pod(json!([{"name": "z"}, {"$patch": "replace"}]));
        assert_eq!(patched(old.clone(), replace).unwrap(), pod(json!([{"name": "z"}])));
        let whole = json!({"spec": {"$patch": "replace", "nodeName": "n"}});
        assert_eq!(patched(old.clone(), whole).unwrap(), json!({"spec": {"nodeName": "n"}}));
        let unkeyed = pod(json!([{"image": "x"}]));
        assert!(patched(old, unkeyed).is_err());
    }

    #[test]
    fn primitive_lists() {
        let old = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {
            "$deleteFromPrimitiveList/finalizers": ["a"],
            "$setElementOrder/finalizers": ["b", "c"],
            "finalizers": ["c"],
        }});
        assert_eq!(patched(old, patch).unwrap(), json!({"metadata": {"finalizers": ["b", "c"]}}));
    }

    #[test]
    fn null_removes_and_leaves_no_trace_in_new_maps() {
        let old = json!({"metadata": {"labels": {"a": "1"}}});
        let patch = json!({"metadata": {"labels": {"a": null}, "annotations": {"b": null, "c": "d"}}});
        assert_eq!(
            patched(old, patch).unwrap(),
            json!({"metadata": {"labels": {}, "annotations": {"c": "d"}}})
        );
    }

    #[test]
    fn retained_keys() {
        let old = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let patch = json!({"spec": {"volumes": [
            {"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}
        ]}});
        let merged = patched(old.clone(), patch).unwrap();
        assert_eq!(merged["spec"]["volumes"], json!([{"name": "v", "hostPath": {"path": "/x"}}]));
        let wrong = json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "hostPath": {}}]}});
        assert_eq!(patched(old, wrong).unwrap_err().reason(), crate::error::Reason::BadRequest);
    }
}
