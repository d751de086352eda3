//! Values read by their schema: which paths one has, how two differ, merge, and lose items.
//!
//! The rules are those of `structured-merge-diff` (`typed/tofieldset.go`, `compare.go`, `merge.go`,
//! `remove.go`): atomic values are leaves, keyed lists and sets are told apart by their items' keys.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::{Element, Set};
use crate::schema::{List, ListKind, Node};

/// How the value of a node is walked.
enum Shape<'a> {
    Leaf,
    Map,
    List(&'a List),
}

fn shape<'a>(node: Option<&'a Node>, value: &Value) -> Shape<'a> {
    let atomic = node.is_some_and(Node::is_atomic);
    match value {
        Value::Object(_) if !atomic => Shape::Map,
        Value::Array(_) if !atomic => match node.and_then(Node::list) {
            Some(list) => Shape::List(list),
            None => Shape::Leaf,
        },
        _ => Shape::Leaf,
    }
}

/// The element that tells an item of a list apart; `None` if a key is missing.
fn element(list: &List, index: usize, item: &Value) -> Option<Element> {
    match &list.kind {
        ListKind::Atomic => Some(Element::Index(index)),
        ListKind::Set => Some(Element::Value(item.to_string())),
        ListKind::Map(keys) => {
            let tcp = Value::from("TCP");
            let mut fields = Vec::with_capacity(keys.len());
            for key in keys {
                match item.get(&**key) {
                    Some(value) if !value.is_null() => fields.push((&**key, value)),
                    // The one key of a built-in kind that has a default.
                    _ if &**key == "protocol" => fields.push((&**key, &tcp)),
                    _ if keys.len() == 1 => return None,
                    _ => {}
                }
            }
            Some(Element::key(fields))
        }
    }
}

/// The items of a list by their elements, in order. Of duplicates the last one counts.
fn items<'a>(list: &List, value: Option<&'a Value>) -> Vec<(Element, &'a Value)> {
    let all = value.and_then(Value::as_array).into_iter().flatten().enumerate();
    all.map(|(index, item)| (element(list, index, item).unwrap_or(Element::Index(index)), item)).collect()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn declares(node: Option<&Node>, name: &str) -> bool {
    matches!(node.map(Node::resolve), Some(Node::Object(object)) if object.fields.contains_key(name))
}

/// The paths of a value: its leaves, list items, and entries of maps.
pub(crate) fn field_set(value: &Value, node: Option<&Node>) -> Set {
    let mut set = Set::default();
    collect(value, node, &mut Vec::new(), &mut set);
    set
}

fn collect(value: &Value, node: Option<&Node>, path: &mut Vec<Element>, set: &mut Set) {
    match shape(node, value) {
        Shape::Leaf => set.insert(path),
        Shape::Map => {
            for (name, child) in value.as_object().into_iter().flatten() {
                path.push(Element::Field(name.clone()));
                collect(child, node.and_then(|node| node.field(name)), path, set);
                let empty_map = child.as_object().is_some_and(Map::is_empty);
                if child.is_null() || empty_map || !declares(node, name) {
                    set.insert(path);
                }
                path.pop();
            }
        }
        Shape::List(list) => {
            for (element, child) in items(list, Some(value)) {
                path.push(element);
                collect(child, Some(&list.items), path, set);
                set.insert(path);
                path.pop();
            }
        }
    }
}

/// What differs between two values.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub(crate) added: Set,
    pub(crate) modified: Set,
    pub(crate) removed: Set,
}

impl Comparison {
    pub(crate) fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

/// Compares two objects.
pub(crate) fn compare(old: &Value, new: &Value, node: Option<&Node>) -> Comparison {
    let mut comparison = Comparison::default();
    compare_at(Some(old), Some(new), node, &mut Vec::new(), &mut comparison);
    comparison
}

fn compare_at(
    old: Option<&Value>,
    new: Option<&Value>,
    node: Option<&Node>,
    path: &mut Vec<Element>,
    out: &mut Comparison,
) {
    let (Some(sample), both_empty) = (new.or(old), old.is_none_or(is_empty) && new.is_none_or(is_empty))
    else {
        return;
    };
    match shape(node, sample) {
        Shape::Map if !both_empty => compare_maps(old, new, node, path, out),
        Shape::List(list) if !both_empty => compare_lists(old, new, list, path, out),
        _ => {
            if let (Some(old), Some(new)) = (old, new)
                && old != new
            {
                out.modified.insert(path);
            }
        }
    }
    match (old, new) {
        (None, _) => out.added.insert(path),
        (_, None) => out.removed.insert(path),
        _ => {}
    }
}

fn compare_maps(
    old: Option<&Value>,
    new: Option<&Value>,
    node: Option<&Node>,
    path: &mut Vec<Element>,
    out: &mut Comparison,
) {
    let field = |value: Option<&'_ Value>, name: &str| value.and_then(|value| value.get(name)).cloned();
    let names = |value: Option<&Value>| -> Vec<String> {
        value.and_then(Value::as_object).into_iter().flat_map(Map::keys).cloned().collect()
    };
    let mut all = names(old);
    all.extend(names(new).into_iter().filter(|name| old.and_then(|old| old.get(name)).is_none()));
    for name in all {
        let below = node.and_then(|node| node.field(&name));
        let (old, new) = (field(old, &name), field(new, &name));
        path.push(Element::Field(name));
        compare_at(old.as_ref(), new.as_ref(), below, path, out);
        path.pop();
    }
}

fn compare_lists(
    old: Option<&Value>,
    new: Option<&Value>,
    list: &List,
    path: &mut Vec<Element>,
    out: &mut Comparison,
) {
    let (old, new): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (items(list, old).into_iter().collect(), items(list, new).into_iter().collect());
    let elements = old.keys().chain(new.keys().filter(|element| !old.contains_key(element)));
    for element in elements {
        path.push(element.clone());
        compare_at(old.get(element).copied(), new.get(element).copied(), Some(&list.items), path, out);
        path.pop();
    }
}

/// Merges `config` into `live`: what `config` says wins, what it does not say stays.
pub(crate) fn merge(live: &Value, config: &Value, node: Option<&Node>) -> Value {
    match (shape(node, config), live) {
        (Shape::Map, Value::Object(old)) => {
            let mut merged = old.clone();
            for (name, new) in config.as_object().into_iter().flatten() {
                let below = node.and_then(|node| node.field(name));
                match (new, merged.get(name)) {
                    (Value::Null, Some(Value::Object(_) | Value::Array(_))) => {}
                    (Value::Null, _) => {
                        merged.shift_remove(name);
                    }
                    (_, Some(old)) => {
                        let value = merge(old, new, below);
                        merged.insert(name.clone(), value);
                    }
                    (_, None) => {
                        merged.insert(name.clone(), new.clone());
                    }
                }
            }
            Value::Object(merged)
        }
        (Shape::List(list), Value::Array(_)) => merge_lists(live, config, list),
        _ => config.clone(),
    }
}

/// Items in the order of `config`, with those that only `live` has where they stood between the shared
/// ones.
fn merge_lists(live: &Value, config: &Value, list: &List) -> Value {
    let (left, right) = (items(list, Some(live)), items(list, Some(config)));
    let old: BTreeMap<&Element, &Value> = left.iter().map(|(element, item)| (element, *item)).collect();
    let new: BTreeMap<&Element, &Value> = right.iter().map(|(element, item)| (element, *item)).collect();
    let merged = |element: &Element| match (old.get(element), new.get(element)) {
        (Some(old), Some(new)) => merge(old, new, Some(&list.items)),
        (one, other) => one.or(other).map(|item| (*item).clone()).unwrap_or_default(),
    };
    let mut shared = right.iter().map(|(element, _)| element).filter(|one| old.contains_key(one)).peekable();
    let mut taken: Vec<&Element> = Vec::new();
    let mut out = Vec::with_capacity(left.len() + right.len());
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if let (Some((here, _)), Some((there, _))) = (left.get(l), right.get(r)) {
            if here == there {
                out.push(merged(here));
                taken.push(here);
                (l, r) = (l + 1, r + 1);
                shared.next_if(|one| *one == there);
                continue;
            }
            if new.contains_key(here) && shared.peek().is_some_and(|next| *next != here) {
                l += 1;
                continue;
            }
        }
        if let Some((here, _)) = left.get(l) {
            if !new.contains_key(here) {
                out.push(merged(here));
                l += 1;
                continue;
            }
            if taken.contains(&here) {
                l += 1;
            }
        }
        if let Some((there, _)) = right.get(r) {
            out.push(merged(there));
            taken.push(there);
            r += 1;
            shared.next_if(|one| *one == there);
        }
    }
    Value::Array(out)
}

/// The value without the paths of `gone`, and whatever lies beneath them.
pub(crate) fn remove(value: &Value, node: Option<&Node>, gone: &Set) -> Value {
    match shape(node, value) {
        Shape::Map => {
            let mut left = Map::new();
            for (name, child) in value.as_object().into_iter().flatten() {
                let element = Element::Field(name.clone());
                if gone.has(&element) {
                    continue;
                }
                let below = node.and_then(|node| node.field(name));
                let child =
                    gone.beneath(&element).map_or_else(|| child.clone(), |gone| remove(child, below, gone));
                left.insert(name.clone(), child);
            }
            Value::Object(left)
        }
        Shape::List(list) => {
            let kept = items(list, Some(value)).into_iter().filter(|(element, _)| !gone.has(element));
            let kept = kept.map(|(element, item)| match gone.beneath(&element) {
                Some(gone) => remove(item, Some(&list.items), gone),
                None => item.clone(),
            });
            Value::Array(kept.collect())
        }
        Shape::Leaf => value.clone(),
    }
}

/// The first list whose items cannot be told apart, as the real server words it.
pub(crate) fn check_lists(value: &Value, node: Option<&Node>, path: &str) -> Result<(), String> {
    match shape(node, value) {
        Shape::Leaf => Ok(()),
        Shape::Map => value.as_object().into_iter().flatten().try_for_each(|(name, child)| {
            check_lists(child, node.and_then(|node| node.field(name)), &format!("{path}.{name}"))
        }),
        Shape::List(list) => {
            let mut seen = std::collections::BTreeSet::new();
            for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                let Some(element) = element(list, index, item) else {
                    let ListKind::Map(keys) = &list.kind else { continue };
                    let key = &keys[0];
                    return Err(format!(
                        "{path}: element {index}: associative list with keys has an element that omits key field \
                         {key:?} (and doesn't have default value)"
                    ));
                };
                check_lists(item, Some(&list.items), &format!("{path}{element}"))?;
                if !seen.insert(element.clone()) {
                    return Err(format!("{path}: duplicate entries for key {element}"));
                }
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;
    use serde_json::json;

    fn service() -> Option<&'static Node> {
        static SERVICE: Schema = Schema::BuiltIn("io.k8s.api.core.v1.Service");
        Some(SERVICE.root())
    }

    fn pod() -> Option<&'static Node> {
        static POD: Schema = Schema::BuiltIn("io.k8s.api.core.v1.Pod");
        Some(POD.root())
    }

    #[test]
    fn sets_of_values() {
        let value = json!({"metadata": {"labels": {"a": "1"}}, "spec": {
            "selector": {"x": "y"}, "ports": [{"port": 80, "targetPort": 8080}],
        }});
        assert_eq!(
            field_set(&value, service()).encode(),
            json!({
                "f:metadata": {"f:labels": {"f:a": {}}},
                "f:spec": {
                    "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {
                        ".": {}, "f:port": {}, "f:targetPort": {}
                    }},
                    "f:selector": {},
                },
            })
        );
    }

    #[test]
    fn comparison_owns_what_it_adds_at_every_level() {
        let (old, new) = (json!({}), json!({"data": {"a": "1"}}));
        static MAP: Schema = Schema::BuiltIn("io.k8s.api.core.v1.ConfigMap");
        let compared = compare(&old, &new, Some(MAP.root()));
        assert_eq!(compared.added.encode(), json!({"f:data": {".": {}, "f:a": {}}}));
        assert!(compared.modified.is_empty() && compared.removed.is_empty());
        let back = compare(&new, &old, Some(MAP.root()));
        assert_eq!(back.removed.encode(), json!({"f:data": {".": {}, "f:a": {}}}));
    }

    #[test]
    fn merged_lists_keep_the_order_of_the_configuration() {
        let list = |names: &[&str]| {
            let items: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            json!({"spec": {"containers": items}})
        };
        for (live, config, expected) in [
            (vec!["a", "b", "c"], vec!["c", "a"], vec!["b", "c", "a"]),
            (vec!["a", "b"], vec!["x", "a"], vec!["x", "a", "b"]),
            (vec!["a", "b", "c"], vec!["a", "c"], vec!["a", "b", "c"]),
            (vec![], vec!["a"], vec!["a"]),
        ] {
            assert_eq!(merge(&list(&live), &list(&config), pod()), list(&expected), "{live:?} {config:?}");
        }
    }

    #[test]
    fn items_are_removed_whole() {
        let value = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}});
        let gone = Set::decode(&json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {"f:image": {}},
            "k:{\"name\":\"b\"}": {}}}}))
        .unwrap();
        assert_eq!(remove(&value, pod(), &gone), json!({"spec": {"containers": [{"name": "a"}]}}));
    }

    #[test]
    fn items_that_cannot_be_told_apart() {
        let twice = json!({"spec": {"containers": [{"name": "a"}, {"name": "a"}]}});
        assert!(
            check_lists(&twice, pod(), "").unwrap_err().contains("duplicate entries for key [name=\"a\"]")
        );
        let unnamed = json!({"spec": {"containers": [{"image": "a"}]}});
        assert!(check_lists(&unnamed, pod(), "").unwrap_err().contains("omits key field \"name\""));
    }
}
