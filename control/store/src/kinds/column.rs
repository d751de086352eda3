//! Columns of `kubectl get`.

use serde_json::Value;
use time::OffsetDateTime;

use crate::jsonpath::JsonPath;

/// One column: `metav1.TableColumnDefinition` and the value of its cells.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    /// OpenAPI type: `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: String,
    /// OpenAPI format; `name` marks the object's name.
    pub format: String,
    pub description: String,
    /// 0 always shown, above only with `-o wide`.
    pub priority: i32,
    pub cell: Cell,
}

/// Where a cell's value comes from.
#[derive(Clone, Debug)]
pub enum Cell {
    /// A pure function of the object and the time.
    Function(fn(&Value, OffsetDateTime) -> Value),
    /// A JSONPath, as a CustomResourceDefinition gives it.
    Path(JsonPath),
}

impl Column {
    /// A column of type `string` that is always shown.
    pub(super) fn new(name: &str, cell: fn(&Value, OffsetDateTime) -> Value) -> Self {
        Self {
            name: name.to_owned(),
            kind: "string".to_owned(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            cell: Cell::Function(cell),
        }
    }

    /// The first column of every kind.
    pub(super) fn name() -> Self {
        let mut column = Self::new("Name", |object, _| object["metadata"]["name"].clone());
        column.format = "name".to_owned();
        column.describe(
            "Name must be unique within a namespace. Is required when creating resources, although some resources \
             may allow a client to request the generation of an appropriate name automatically. Name is primarily \
             intended for creation idempotence and configuration definition. Cannot be updated. More info: \
             https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
        )
    }

    /// The age, from the creation time.
    pub(super) fn age() -> Self {
        Self::new("Age", super::cells::age_cell).describe(
            "CreationTimestamp is a timestamp representing the server time when this object was created. It is not \
             guaranteed to be set in happens-before order across separate operations. Clients may not set this \
             value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for \
             lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
        )
    }

    pub(super) fn describe(mut self, description: &str) -> Self {
        description.clone_into(&mut self.description);
        self
    }

    pub(super) fn typed(mut self, kind: &str) -> Self {
        kind.clone_into(&mut self.kind);
        self
    }

    /// Shown only with `-o wide`.
    pub(super) fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }

    /// The value to show for an object.
    pub fn cell(&self, object: &Value, now: OffsetDateTime) -> Value {
        match &self.cell {
            Cell::Function(function) => function(object, now),
            Cell::Path(path) => self.at_path(path, object, now),
        }
    }

    /// A custom column as the real server shows it: dates as ages, lists and maps as JSON.
    fn at_path(&self, path: &JsonPath, object: &Value, now: OffsetDateTime) -> Value {
        let found = path.find(object);
        let Some(first) = found.first() else { return Value::Null };
        match (self.kind.as_str(), first) {
            (_, Value::Null) => Value::Null,
            ("date", Value::String(time)) => Value::String(super::cells::age(time, now)),
            ("string", Value::String(_)) if found.len() == 1 => (*first).clone(),
            ("string", _) if found.len() > 1 => {
                let all: Vec<String> = found.iter().map(|one| plain(one)).collect();
                Value::String(all.join(" "))
            }
            ("string", other) => Value::String(other.to_string()),
            ("integer", Value::Number(number)) => {
                let whole = number.as_i64().or_else(|| number.as_f64().map(|float| float as i64));
                whole.map_or(Value::Null, Value::from)
            }
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
            _ => Value::Null,
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
