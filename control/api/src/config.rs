//! How every daemon reads its configuration: one YAML file, environment and flags over it.
//!
//! The caller does the I/O (reads the file, collects the environment) and hands the text in; [`load`]
//! merges the layers into one document and deserialises it once, so that an unknown field is refused
//! whichever layer it came from. Types should carry `#[serde(deny_unknown_fields, default)]`.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Prefix of environment variables that override a field: `EDGELOOM_OVERLAY__LISTEN` is `overlay.listen`.
pub const ENV_PREFIX: &str = "EDGELOOM_";

/// The layers of one daemon's configuration, the later over the earlier.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// Name and text of the YAML file, where there is one.
    pub file: Option<(&'a str, &'a str)>,
    /// Environment variables; those without [`ENV_PREFIX`] are passed over.
    pub env: Vec<(String, String)>,
    /// `path.to.field=value` assignments from the command line.
    pub set: &'a [String],
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is no YAML mapping.
    #[error("{file}: not a valid YAML mapping: {reason}; check the indentation there")]
    Syntax {
        /// Name of the file.
        file: String,
        /// What the parser said, with line and column.
        reason: String,
    },
    /// A field is unknown or has a value of the wrong shape.
    #[error("configuration ({origins}): {reason}; --print-config shows every field with its value in use")]
    Field {
        /// The layers that were merged.
        origins: String,
        /// What is wrong, naming the field.
        reason: String,
    },
    /// An assignment on the command line has no `=`.
    #[error("--set {0:?}: expected path.to.field=value")]
    Assignment(String),
}

/// Merges the layers and deserialises the result.
pub fn load<T: DeserializeOwned>(sources: &Sources<'_>) -> Result<T, ConfigError> {
    let mut document = match sources.file {
        Some((name, text)) => parse_file(name, text)?,
        None => Map::new(),
    };
    let mut origins = vec![sources.file.map_or("no file", |(name, _)| name).to_owned()];
    for (name, value) in &sources.env {
        let Some(path) = name.strip_prefix(ENV_PREFIX) else { continue };
        let path = path.to_ascii_lowercase();
        assign(&mut document, path.split("__"), scalar(value));
        origins.push(name.clone());
    }
    for assignment in sources.set {
        let (path, value) =
            assignment.split_once('=').ok_or_else(|| ConfigError::Assignment(assignment.clone()))?;
        assign(&mut document, path.split('.'), scalar(value));
        origins.push(format!("--set {path}"));
    }
    serde_path_to_error::deserialize(Value::Object(document))
        .map_err(|error| ConfigError::Field { origins: origins.join(", "), reason: located(&error) })
}

/// What is wrong, behind the path of the field. An unknown field's own name stands in the reason already,
/// and its path is the mapping that it stands in.
fn located(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    if error.path().iter().len() == 0 {
        return error.inner().to_string();
    }
    format!("{}: {}", error.path(), error.inner())
}

fn parse_file(name: &str, text: &str) -> Result<Map<String, Value>, ConfigError> {
    let syntax = |reason: String| ConfigError::Syntax { file: name.to_owned(), reason };
    match serde_yaml_ng::from_str::<Value>(text).map_err(|error| syntax(error.to_string()))? {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        other => Err(syntax(format!("the top is {}", shape(&other)))),
    }
}

fn shape(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// A value as YAML would read it, so that `true`, `15` and `[a, b]` mean what they mean in the file.
fn scalar(text: &str) -> Value {
    serde_yaml_ng::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// Puts `value` at `path`, matching existing and conventional camelCase keys without regard to case
/// and underscores, since environment variables carry neither.
fn assign<'p>(document: &mut Map<String, Value>, path: impl Iterator<Item = &'p str>, value: Value) {
    let mut path = path.peekable();
    let mut map = document;
    while let Some(segment) = path.next() {
        let key = existing_key(map, segment).unwrap_or_else(|| camel_case(segment));
        if path.peek().is_none() {
            map.insert(key, value);
            return;
        }
        let slot = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
        if !slot.is_object() {
            *slot = Value::Object(Map::new());
        }
        map = slot.as_object_mut().expect("the slot was made an object above");
    }
}

fn existing_key(map: &Map<String, Value>, segment: &str) -> Option<String> {
    let folded = segment.replace('_', "").to_ascii_lowercase();
    map.keys().find(|key| key.to_ascii_lowercase() == folded).cloned()
}

fn camel_case(segment: &str) -> String {
    let mut words = segment.split('_');
    let mut key = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        key.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        key.push_str(letters.as_str());
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default, rename_all = "camelCase")]
    struct Example {
        node_name: String,
        overlay: Overlay,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default, rename_all = "camelCase")]
    struct Overlay {
        port: u16,
        relays: Vec<String>,
    }

    fn sources<'a>(file: &'a str, env: &[(&str, &str)], set: &'a [String]) -> Sources<'a> {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Sources { file: Some(("edge.yaml", file)), env, set }
    }

    #[test]
    fn later_layers_win() {
        let set = ["overlay.port=3".to_owned()];
        let got: Example = load(&sources(
            "nodeName: a\noverlay: {port: 1, relays: [x]}\n",
            &[("EDGELOOM_OVERLAY__PORT", "2"), ("EDGELOOM_NODE_NAME", "b"), ("PATH", "/bin")],
            &set,
        ))
        .unwrap();
        let overlay = Overlay { port: 3, relays: vec!["x".to_owned()] };
        assert_eq!(got, Example { node_name: "b".to_owned(), overlay });
    }

    #[test]
    fn an_unknown_field_is_named_whatever_layer_it_is_in() {
        for (file, env) in [("ovrelay: {}", None), ("", Some(("EDGELOOM_OVRELAY__PORT", "1")))] {
            let error = load::<Example>(&sources(file, env.as_slice(), &[])).unwrap_err().to_string();
            assert!(error.contains("ovrelay") && error.contains("--print-config"), "{error}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_by_its_path_and_file() {
        for (file, want) in [
            ("overlay: {port: abc}", "edge.yaml): overlay.port: invalid type: string \"abc\""),
            ("overlay: {port: 1, relays: [a, [b]]}", "edge.yaml): overlay.relays[1]: invalid type: sequence"),
            ("overlay: 3", "edge.yaml): overlay: invalid type: integer `3`"),
            ("overlay: {prot: 1}", "unknown field `prot`"),
        ] {
            let error = load::<Example>(&sources(file, &[], &[])).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        let set = ["overlay.port=70000".to_owned()];
        let error = load::<Example>(&sources("", &[], &set)).unwrap_err().to_string();
        assert!(error.contains("--set overlay.port): overlay.port: invalid value"), "{error}");
    }

    #[test]
    fn what_is_no_mapping_is_refused_with_the_file_name() {
        for text in ["- a", "a: [", "just words"] {
            let error = load::<Example>(&sources(text, &[], &[])).unwrap_err().to_string();
            assert!(error.starts_with("edge.yaml: "), "{error}");
        }
    }

    #[test]
    fn an_assignment_without_a_value_is_refused() {
        let set = ["overlay.port".to_owned()];
        assert!(matches!(load::<Example>(&sources("", &[], &set)), Err(ConfigError::Assignment(_))));
    }
}
