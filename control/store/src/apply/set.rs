//! Sets of field paths, and their JSON form `fieldsV1`.
//!
//! A set is a tree: what a level owns itself (`members`) and what it owns beneath (`children`). In JSON
//! an element is `f:NAME` (field), `k:{…}` (item of a keyed list), `v:…` (item of a set) or `i:N`
//! (index); `.` says that the element itself is a member where it also has children.
//! Format: KEP-555; semantics: `sigs.k8s.io/structured-merge-diff`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

use crate::schema::Node;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Element {
    Field(String),
    /// Item of a keyed list: its key fields, sorted by name, as compact JSON.
    Key(String),
    /// Item of a set, as compact JSON.
    Value(String),
    Index(usize),
}

impl Element {
    /// The element of a keyed list's item with these key fields.
    pub(crate) fn key(mut fields: Vec<(&str, &Value)>) -> Self {
        fields.sort_by_key(|(name, _)| *name);
        let object: Map<String, Value> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
        Self::Key(Value::Object(object).to_string())
    }

    fn encode(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(key) => format!("k:{key}"),
            Self::Value(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self::Field(rest.to_owned())),
            "k" => {
                let fields: Map<String, Value> = serde_json::from_str(rest).ok()?;
                Some(Self::key(fields.iter().map(|(name, value)| (name.as_str(), value)).collect()))
            }
            "v" => Some(Self::Value(serde_json::from_str::<Value>(rest).ok()?.to_string())),
            "i" => Some(Self::Index(rest.parse().ok()?)),
            _ => None,
        }
    }
}

impl fmt::Display for Element {
    /// As conflicts show it: `.spec`, `[name="web"]`, `[="x"]`, `[0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(key) => {
                let fields: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let shown: Vec<String> =
                    fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "[{}]", shown.join(","))
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set {
    members: BTreeSet<Element>,
    children: BTreeMap<Element, Set>,
}

impl Set {
    /// A set of paths of field names.
    pub(crate) fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let path: Vec<Element> = path.iter().map(|name| Element::Field((*name).to_owned())).collect();
            set.insert(&path);
        }
        set
    }

    /// Adds a path; the empty path is no member of anything.
    pub(crate) fn insert(&mut self, path: &[Element]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Self::is_empty)
    }

    /// Whether the element itself is a member.
    pub(crate) fn has(&self, element: &Element) -> bool {
        self.members.contains(element)
    }

    /// What lies beneath the element.
    pub(crate) fn beneath(&self, element: &Element) -> Option<&Self> {
        self.children.get(element)
    }

    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut children = self.children.clone();
        for (element, set) in &other.children {
            let merged = children.get(element).map_or_else(|| set.clone(), |one| one.union(set));
            children.insert(element.clone(), merged);
        }
        Self { members: &self.members | &other.members, children }
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let both = self.children.iter().filter_map(|(element, set)| {
            let both = set.intersection(other.children.get(element)?);
            (!both.is_empty()).then(|| (element.clone(), both))
        });
        Self { members: &self.members & &other.members, children: both.collect() }
    }

    /// The paths that `other` has not.
    pub(crate) fn difference(&self, other: &Self) -> Self {
        self.subtract(other, false)
    }

    /// The paths that are neither in `other` nor beneath one of its members.
    pub(crate) fn difference_beneath(&self, other: &Self) -> Self {
        self.subtract(other, true)
    }

    fn subtract(&self, other: &Self, beneath: bool) -> Self {
        let left = self.children.iter().filter_map(|(element, set)| {
            if beneath && other.members.contains(element) {
                return None;
            }
            let left = match other.children.get(element) {
                Some(gone) => set.subtract(gone, beneath),
                None => set.clone(),
            };
            (!left.is_empty()).then(|| (element.clone(), left))
        });
        Self { members: &self.members - &other.members, children: left.collect() }
    }

    /// The same set, in which declared fields with something beneath them are members themselves.
    pub(crate) fn with_named_fields(&self, node: Option<&Node>) -> Self {
        let mut members = self.members.clone();
        let mut children = BTreeMap::new();
        for (element, set) in &self.children {
            if let Element::Field(name) = element
                && matches!(node.map(Node::resolve), Some(Node::Object(object)) if object.fields.contains_key(name.as_str()))
            {
                members.insert(element.clone());
            }
            let below = match element {
                Element::Field(name) => node.and_then(|node| node.field(name)),
                _ => node.and_then(Node::items),
            };
            children.insert(element.clone(), set.with_named_fields(below));
        }
        Self { members, children }
    }

    /// Every member, as the paths that conflicts show.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        paths.extend(self.members.iter().map(|element| format!("{prefix}{element}")));
        for (element, set) in &self.children {
            set.collect(&format!("{prefix}{element}"), paths);
        }
    }

    /// The set as `fieldsV1`.
    pub(crate) fn encode(&self) -> Value {
        let elements: BTreeSet<&Element> = self.members.iter().chain(self.children.keys()).collect();
        let mut object = Map::new();
        for element in elements {
            let mut inner = match self.children.get(element).map(Self::encode) {
                Some(Value::Object(inner)) => inner,
                _ => Map::new(),
            };
            if inner.is_empty() {
                if !self.members.contains(element) {
                    continue;
                }
            } else if self.members.contains(element) {
                inner.shift_insert(0, ".".to_owned(), Value::Object(Map::new()));
            }
            object.insert(element.encode(), Value::Object(inner));
        }
        Value::Object(object)
    }

    /// Reads `fieldsV1`; `None` if it is none.
    pub(crate) fn decode(fields: &Value) -> Option<Self> {
        let mut set = Self::default();
        for (text, inner) in fields.as_object()? {
            if text == "." {
                continue;
            }
            let element = Element::decode(text)?;
            let below = Self::decode(inner)?;
            if below.is_empty() || inner.get(".").is_some() {
                set.members.insert(element.clone());
            }
            if !below.is_empty() {
                set.children.insert(element, below);
            }
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn json_form() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}, "f:finalizers": {"v:\"x\"": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}, "f:x": {}},
        });
        let set = Set::decode(&fields).unwrap();
        assert_eq!(set.encode(), fields);
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.finalizers[=\"x\"]",
                ".metadata.labels.a",
                ".spec.x",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].port",
            ]
        );
    }

    #[test]
    fn bad_forms_are_refused() {
        for bad in
            [json!("x"), json!({"spec": {}}), json!({"k:[1]": {}}), json!({"i:x": {}}), json!({"f:a": 1})]
        {
            assert!(Set::decode(&bad).is_none(), "{bad}");
        }
    }

    fn sets() -> impl Strategy<Value = Set> {
        let path = prop::collection::vec(
            prop_oneof![
                "[a-c]".prop_map(Element::Field),
                (0..3usize).prop_map(Element::Index),
                (0..3i32).prop_map(|number| Element::Value(number.to_string())),
                "[a-c]".prop_map(|name| Element::key(vec![("name", &json!(name))])),
            ],
            1..4,
        );
        prop::collection::vec(path, 0..8).prop_map(|paths| {
            let mut set = Set::default();
            paths.iter().for_each(|path| set.insert(path));
            set
        })
    }

    proptest! {
        #[test]
        fn round_trip(set in sets()) {
            prop_assert_eq!(Set::decode(&set.encode()).unwrap(), set);
        }

        #[test]
        fn algebra(a in sets(), b in sets()) {
            let mut rebuilt = a.difference(&b).union(&a.intersection(&b)).paths();
            let mut whole = a.paths();
            rebuilt.sort();
            whole.sort();
            prop_assert_eq!(rebuilt, whole);
            prop_assert!(a.difference(&a.union(&b)).is_empty());
            prop_assert!(a.difference_beneath(&a).is_empty());
        }
    }
}
