//! `metadata.managedFields`: who owns which fields.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::set::Set;

/// Entries of operation `Update` that are kept apart; older ones are merged.
const MAX_UPDATERS: usize = 10;
/// Manager of the merged older entries.
const ANCIENT: &str = "ancient-changes";

/// Whether a manager applies or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// What tells entries apart. Of those who apply, the version does not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager {
    pub(super) operation: Operation,
    pub(super) name: String,
    /// Of `Update` only.
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl Manager {
    pub(super) fn new(operation: Operation, name: &str, api_version: &str, subresource: &str) -> Self {
        let api_version = if operation == Operation::Apply { "" } else { api_version };
        Self {
            operation,
            name: name.to_owned(),
            api_version: api_version.to_owned(),
            subresource: subresource.to_owned(),
        }
    }

    /// As conflicts name it.
    pub(super) fn shown(&self) -> String {
        let mut shown = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            shown = format!("{shown} with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            shown = format!("{shown} using {}", self.api_version);
        }
        shown
    }
}

/// What a manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) set: Set,
    /// Version whose field names the set uses.
    pub(super) api_version: String,
    /// When the set last changed, as RFC 3339.
    pub(super) time: Option<String>,
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Managers(pub(super) BTreeMap<Manager, Owned>);

impl Managers {
    /// Reads `metadata.managedFields` of an object; `None` if an entry makes no sense.
    pub(super) fn decode(object: &Value) -> Option<Self> {
        let mut managers = BTreeMap::new();
        for entry in object["metadata"]["managedFields"].as_array().into_iter().flatten() {
            let text = |field: &str| entry[field].as_str().unwrap_or("");
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            };
            let manager = Manager::new(operation, text("manager"), text("apiVersion"), text("subresource"));
            let owned = Owned {
                set: Set::decode(entry.get("fieldsV1").unwrap_or(&json!({})))?,
                api_version: text("apiVersion").to_owned(),
                time: entry["time"].as_str().map(str::to_owned),
            };
            managers.insert(manager, owned);
        }
        Some(Self(managers))
    }

    /// The managers that a write starts from: those the client sent back, if they can be read, else the
    /// stored ones. A single empty entry is a request to forget all.
    pub(super) fn of_write(old: Option<&Value>, new: &Value) -> Self {
        let sent = new["metadata"]["managedFields"].as_array();
        if sent.is_some_and(|entries| entries.len() == 1 && entries[0].as_object().is_some_and(Map::is_empty))
        {
            return Self::default();
        }
        let sent = sent.filter(|entries| !entries.is_empty()).and_then(|_| Self::decode(new));
        sent.or_else(|| old.and_then(Self::decode)).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops managers that own nothing, and notes the time for `actor`, if it took or changed anything.
    pub(super) fn settle(&mut self, actor: Option<&Manager>, now: OffsetDateTime) {
        self.0.retain(|_, owned| !owned.set.is_empty());
        if let Some(owned) = actor.and_then(|actor| self.0.get_mut(actor)) {
            owned.time = Some(timestamp(now));
        }
        self.cap();
    }

    /// Merges the oldest entries of `Update` of each version when there are too many.
    fn cap(&mut self) {
        let mut updaters: Vec<(Option<String>, Manager)> = self
            .0
            .iter()
            .filter(|(manager, _)| manager.operation == Operation::Update && manager.name != ANCIENT)
            .map(|(manager, owned)| (owned.time.clone(), manager.clone()))
            .collect();
        updaters.sort();
        let surplus = updaters.len().saturating_sub(MAX_UPDATERS);
        for (_, manager) in updaters.into_iter().take(surplus) {
            let Some(owned) = self.0.remove(&manager) else { continue };
            let ancient = Manager::new(Operation::Update, ANCIENT, &manager.api_version, "");
            let merged = self.0.entry(ancient).or_insert_with(|| Owned {
                set: Set::default(),
                api_version: owned.api_version.clone(),
                time: owned.time.clone(),
            });
            merged.set = merged.set.union(&owned.set);
            merged.time = owned.time;
        }
    }

    /// Writes `metadata.managedFields`, in the order of operation, time and manager.
    pub(super) fn encode(&self, object: &mut Value) {
        let mut entries: Vec<(&Manager, &Owned)> = self.0.iter().collect();
        entries.sort_by_key(|(manager, owned)| {
            (manager.operation, owned.time.clone(), manager.name.clone(), owned.api_version.clone())
        });
        let entries: Vec<Value> = entries.into_iter().map(|(manager, owned)| entry(manager, owned)).collect();
        let Some(metadata) = object["metadata"].as_object_mut() else { return };
        if entries.is_empty() {
            metadata.shift_remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), Value::Array(entries));
        }
    }
}

fn entry(manager: &Manager, owned: &Owned) -> Value {
    let operation = match manager.operation {
        Operation::Apply => "Apply",
        Operation::Update => "Update",
    };
    let mut entry = json!({
        "manager": manager.name, "operation": operation, "apiVersion": owned.api_version,
    });
    if let Some(time) = &owned.time {
        entry["time"] = json!(time);
    }
    entry["fieldsType"] = json!("FieldsV1");
    entry["fieldsV1"] = owned.set.encode();
    if !manager.subresource.is_empty() {
        entry["subresource"] = json!(manager.subresource);
    }
    entry
}

fn timestamp(now: OffsetDateTime) -> String {
    let whole = now.to_offset(time::UtcOffset::UTC).replace_nanosecond(0).unwrap_or(now);
    whole.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_in_order() {
        let object = json!({"metadata": {"managedFields": [
            {"manager": "z", "operation": "Apply", "apiVersion": "v1", "time": "2026-01-02T00:00:00Z",
             "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}}}},
            {"manager": "b", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
             "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {".": {}, "f:b": {}}}, "subresource": "status"},
        ]}});
        let managers = Managers::decode(&object).unwrap();
        let mut again = json!({"metadata": {}});
        managers.encode(&mut again);
        assert_eq!(again, object);
    }

    #[test]
    fn many_updaters_are_merged() {
        let mut managers = Managers::default();
        for number in 0..14 {
            let mut set = Set::default();
            set.insert(&[super::super::set::Element::Field(format!("f{number}"))]);
            let owned = Owned {
                set,
                api_version: "v1".into(),
                time: Some(format!("2026-01-{:02}T00:00:00Z", number + 1)),
            };
            managers.0.insert(Manager::new(Operation::Update, &format!("m{number}"), "v1", ""), owned);
        }
        let actor = Manager::new(Operation::Update, "m0", "v1", "");
        managers.settle(Some(&actor), OffsetDateTime::UNIX_EPOCH);
        assert_eq!(managers.0.len(), MAX_UPDATERS + 1);
        let ancient = managers.0.iter().find(|(manager, _)| manager.name == ANCIENT).unwrap();
        assert_eq!(ancient.1.set.paths(), [".f0", ".f1", ".f2", ".f3"]);
    }
}
