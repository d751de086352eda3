//! Reading fields out of raw JSON objects, with errors that name the object and the field.
//!
//! An absent field and `null` mean the same, as everywhere in Kubernetes. Fields that are not read here
//! are not looked at, so objects of a newer API version pass.

use std::fmt::Display;
use std::str::FromStr;

use serde_json::Value;

/// What is wrong with one field of an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct FieldError {
    /// Where, as in `spec.ports[0].port`.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

impl FieldError {
    pub(crate) fn new(path: &str, problem: impl Display) -> Self {
        Self { path: path.to_owned(), problem: problem.to_string() }
    }

    /// The same error seen from the object that holds the field at `step`.
    pub(crate) fn under(self, step: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        Self { path: format!("{step}{dot}{}", self.path), problem: self.problem }
    }
}

/// Why an object was not taken into the model. What was known of it before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// A field is missing or wrong.
    #[error("{kind} {name}: {field}")]
    Field {
        /// Kind of the object.
        kind: &'static str,
        /// `namespace/name`, or the name alone; `?` where there is none to read.
        name: String,
        /// The field and what is wrong with it.
        field: FieldError,
    },
    /// The object is of a kind that the model does not hold.
    #[error("{0} is no kind that the model holds")]
    Kind(String),
}

type Result<T> = std::result::Result<T, FieldError>;

/// Adds kind and name to a field's error.
pub(crate) fn in_object<T>(
    kind: &'static str,
    object: &Value,
    read: impl FnOnce(&Value) -> Result<T>,
) -> std::result::Result<T, ObjectError> {
    read(object).map_err(|field| ObjectError::Field { kind, name: name_of(object), field })
}

fn name_of(object: &Value) -> String {
    let part = |key| object.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_str);
    match (part("namespace"), part("name")) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.to_owned(),
        _ => "?".to_owned(),
    }
}

fn present<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

/// The object at `key`; an empty one where it is absent.
pub(crate) fn section<'a>(object: &'a Value, key: &str) -> Result<&'a Value> {
    match present(object, key) {
        None => Ok(&Value::Null),
        Some(value) if value.is_object() => Ok(value),
        Some(_) => Err(FieldError::new(key, "expected an object")),
    }
}

pub(crate) fn text<'a>(object: &'a Value, key: &str) -> Result<Option<&'a str>> {
    present(object, key)
        .map(|value| value.as_str().ok_or_else(|| FieldError::new(key, "expected a string")))
        .transpose()
}

pub(crate) fn required_text<'a>(object: &'a Value, key: &str) -> Result<&'a str> {
    match text(object, key)? {
        Some(text) if !text.is_empty() => Ok(text),
        _ => Err(FieldError::new(key, "is required")),
    }
}

pub(crate) fn flag(object: &Value, key: &str) -> Result<Option<bool>> {
    present(object, key)
        .map(|value| value.as_bool().ok_or_else(|| FieldError::new(key, "expected true or false")))
        .transpose()
}

pub(crate) fn unsigned(object: &Value, key: &str) -> Result<Option<u64>> {
    present(object, key)
        .map(|value| value.as_u64().ok_or_else(|| FieldError::new(key, "expected a number, not negative")))
        .transpose()
}

/// A port number, 1 to 65535.
pub(crate) fn port(object: &Value, key: &str) -> Result<Option<u16>> {
    let Some(value) = present(object, key) else { return Ok(None) };
    match value.as_u64().and_then(|number| u16::try_from(number).ok()) {
        Some(number) if number != 0 => Ok(Some(number)),
        _ => Err(FieldError::new(key, format_args!("{value} is no port, 1 to 65535"))),
    }
}

/// A text that some type parses, such as an address.
pub(crate) fn parsed<T: FromStr<Err: Display>>(object: &Value, key: &str) -> Result<Option<T>> {
    let parse = |text: &str| text.parse().map_err(|e| FieldError::new(key, format_args!("{text:?}: {e}")));
    text(object, key)?.filter(|text| !text.is_empty()).map(parse).transpose()
}

/// Every element of the list at `key`, read by `each`; none where the list is absent.
pub(crate) fn list<'a, T>(
    object: &'a Value,
    key: &str,
    each: impl Fn(&'a Value) -> Result<T>,
) -> Result<Vec<T>> {
    let Some(value) = present(object, key) else { return Ok(Vec::new()) };
    let items = value.as_array().ok_or_else(|| FieldError::new(key, "expected a list"))?;
    let read = |(index, item)| each(item).map_err(|e| e.under(&format!("{key}[{index}]")));
    items.iter().enumerate().map(read).collect()
}

/// A list of texts that some type parses.
pub(crate) fn parsed_list<T: FromStr<Err: Display>>(object: &Value, key: &str) -> Result<Vec<T>> {
    list(object, key, |item| {
        let text = item.as_str().ok_or_else(|| FieldError::new("", "expected a string"))?;
        text.parse().map_err(|e| FieldError::new("", format_args!("{text:?}: {e}")))
    })
}

/// `metadata.namespace` and `metadata.name`.
pub(crate) fn namespaced_name(object: &Value) -> Result<(&str, &str)> {
    let metadata = section(object, "metadata")?;
    let namespace = required_text(metadata, "namespace").map_err(|e| e.under("metadata"))?;
    Ok((namespace, required_text(metadata, "name").map_err(|e| e.under("metadata"))?))
}

/// The value of a label or annotation (`map` says which).
pub(crate) fn tag<'a>(object: &'a Value, map: &str, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get(map)?.get(key)?.as_str()
}
