//! Events, in the fields of `v1`.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{UNKNOWN, age};

fn shown_age(time: &Value, now: OffsetDateTime) -> String {
    time.as_str().map_or_else(|| UNKNOWN.to_owned(), |time| age(time, now))
}

/// When it was first seen: its time, or the older field.
fn first_seen(event: &Value, now: OffsetDateTime) -> String {
    match &event["firstTimestamp"] {
        Value::String(_) => shown_age(&event["firstTimestamp"], now),
        _ => shown_age(&event["eventTime"], now),
    }
}

pub(in crate::kinds) fn event_first_seen(event: &Value, now: OffsetDateTime) -> Value {
    json!(first_seen(event, now))
}

pub(in crate::kinds) fn event_last_seen(event: &Value, now: OffsetDateTime) -> Value {
    let first = first_seen(event, now);
    let last = match event["lastTimestamp"].is_string() {
        true => shown_age(&event["lastTimestamp"], now),
        false => first.clone(),
    };
    let series = &event["series"];
    if series.is_object() {
        let seen = shown_age(&series["lastObservedTime"], now);
        return json!(format!("{seen} (x{} over {first})", series["count"].as_i64().unwrap_or(0)));
    }
    match event["count"].as_i64() {
        Some(count) if count > 1 => json!(format!("{last} (x{count} over {first})")),
        _ => json!(last),
    }
}

pub(in crate::kinds) fn event_object(event: &Value, _: OffsetDateTime) -> Value {
    let object = &event["involvedObject"];
    let kind = object["kind"].as_str().unwrap_or("").to_lowercase();
    let name = object["name"].as_str().unwrap_or("");
    json!(if kind.is_empty() { name.to_owned() } else { format!("{kind}/{name}") })
}

pub(in crate::kinds) fn event_source(event: &Value, _: OffsetDateTime) -> Value {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let (mut component, mut host) = (text(&event["source"]["component"]), text(&event["source"]["host"]));
    if component.is_empty() {
        component = text(&event["reportingComponent"]);
        host = text(&event["reportingInstance"]);
    }
    json!(if host.is_empty() { component } else { format!("{component}, {host}") })
}

pub(in crate::kinds) fn event_message(event: &Value, _: OffsetDateTime) -> Value {
    json!(event["message"].as_str().unwrap_or("").trim())
}

pub(in crate::kinds) fn event_count(event: &Value, _: OffsetDateTime) -> Value {
    let series = event["series"]["count"].as_i64();
    json!(series.or(event["count"].as_i64().filter(|count| *count > 0)).unwrap_or(1))
}
