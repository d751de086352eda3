//! Events: one set of stored objects behind two kinds, `v1` and `events.k8s.io/v1`, whose fields are
//! named differently.

use serde_json::{Map, Value, json};

use super::cells as cell;
use super::{Column, Conversion, KindDef};
use crate::validate;

const SELECTABLE: &[&str] = &["type", "reason", "reportingComponent", "source"];

/// `v1`: how Events are stored.
pub(super) fn core(kind: KindDef) -> KindDef {
    let regarding = ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"];
    let involved: Vec<String> = regarding.iter().map(|field| format!("involvedObject.{field}")).collect();
    let mut fields: Vec<&str> = SELECTABLE.to_vec();
    fields.extend(involved.iter().map(String::as_str));
    kind.short(&["ev"]).select_by(&fields).columns(columns()).on_update_created().rules(
        default_type,
        |_, _| {},
        validate::event,
    )
}

/// `events.k8s.io/v1`.
pub(super) fn new(kind: KindDef) -> KindDef {
    let regarding = ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"];
    let named: Vec<String> = regarding.iter().map(|field| format!("regarding.{field}")).collect();
    let mut fields: Vec<&str> = vec!["type", "reason", "reportingController"];
    fields.extend(named.iter().map(String::as_str));
    let conversion = Conversion::Functions { to_stored, from_stored };
    kind.short(&["ev"])
        .select_by(&fields)
        .columns(new_columns())
        .on_update_created()
        .rules(|_| {}, |_, _| {}, |_, _, _| {})
        .stored_as("events", "v1", conversion)
}

impl KindDef {
    fn on_update_created(mut self) -> Self {
        self.create_on_update = true;
        self
    }
}

/// The type, and the fields that are there even if they say nothing.
fn default_type(event: &mut Value) {
    if let Some(fields) = event.as_object_mut() {
        fields.entry("eventTime").or_insert(Value::Null);
        fields.entry("source").or_insert_with(|| json!({}));
        for name in ["reportingComponent", "reportingInstance"] {
            fields.entry(name).or_insert_with(|| json!(""));
        }
    }
    if event["type"].as_str().unwrap_or("").is_empty() {
        event["type"] = json!("Normal");
    }
}

fn columns() -> Vec<Column> {
    vec![
        Column::new("Last Seen", cell::event_last_seen),
        Column::new("Type", |event, _| event["type"].clone()),
        Column::new("Reason", |event, _| event["reason"].clone()),
        Column::new("Object", cell::event_object),
        Column::new("Subobject", |event, _| cell::text(&event["involvedObject"]["fieldPath"])).wide(),
        Column::new("Source", cell::event_source).wide(),
        Column::new("Message", cell::event_message),
        Column::new("First Seen", cell::event_first_seen).wide(),
        Column::new("Count", cell::event_count).wide(),
        named_wide(),
    ]
}

fn named_wide() -> Column {
    Column::name().wide()
}

/// The same columns over the other field names.
fn new_columns() -> Vec<Column> {
    vec![
        Column::new("Last Seen", |event, now| cell::event_last_seen(&to_stored(event.clone()), now)),
        Column::new("Type", |event, _| event["type"].clone()),
        Column::new("Reason", |event, _| event["reason"].clone()),
        Column::new("Object", |event, now| cell::event_object(&to_stored(event.clone()), now)),
        Column::new("Subobject", |event, _| cell::text(&event["regarding"]["fieldPath"])).wide(),
        Column::new("Source", |event, now| cell::event_source(&to_stored(event.clone()), now)).wide(),
        Column::new("Message", |event, now| cell::event_message(&to_stored(event.clone()), now)),
        Column::new("First Seen", |event, now| cell::event_first_seen(&to_stored(event.clone()), now)).wide(),
        Column::new("Count", |event, now| cell::event_count(&to_stored(event.clone()), now)).wide(),
        named_wide(),
    ]
}

/// Field of `events.k8s.io/v1`, field of `v1`.
const NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn to_stored(event: Value) -> Value {
    rename(event, |name| NAMES.iter().find(|(new, _)| *new == name).map(|(_, core)| *core))
}

fn from_stored(event: Value) -> Value {
    rename(event, |name| NAMES.iter().find(|(_, core)| *core == name).map(|(new, _)| *new))
}

fn rename(event: Value, other: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(fields) = event else { return event };
    let rename_one = |(name, value): (String, Value)| match other(&name) {
        Some(new) => (new.to_owned(), value),
        None => (name, value),
    };
    Value::Object(fields.into_iter().map(rename_one).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        let event = json!({"regarding": {"name": "a"}, "note": "n", "reason": "r", "deprecatedCount": 3});
        let stored = to_stored(event.clone());
        assert_eq!(
            stored,
            json!({"involvedObject": {"name": "a"}, "message": "n", "reason": "r", "count": 3})
        );
        assert_eq!(from_stored(stored), event);
    }
}
