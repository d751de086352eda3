//! The JSONPath of printer columns and scale paths: fields, quoted fields, indices, `[*]` and
//! filters such as `[?(@.type=="Ready")]`, as `k8s.io/client-go/util/jsonpath` reads them.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// Items whose value at the path equals (or differs from) the literal.
    Filter {
        path: Vec<Step>,
        equal: bool,
        literal: Value,
    },
}

/// A path that cannot be read; the text says at what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized JSONPath at {0:?}")]
pub struct ParseError(String);

impl JsonPath {
    /// Reads `.a.b[0]['c.d'][?(@.e=="f")]`, with or without braces and `$`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let inner = text.trim();
        let inner = inner.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(inner);
        let inner = inner.strip_prefix('$').unwrap_or(inner);
        steps(inner).map(Self)
    }

    /// All values at the path.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        walk(&self.0, value)
    }

    /// The fields, if the path is nothing but fields: such paths can be written to.
    pub fn fields(&self) -> Option<Vec<&str>> {
        let mut fields = Vec::with_capacity(self.0.len());
        for step in &self.0 {
            let Step::Field(name) = step else { return None };
            fields.push(name.as_str());
        }
        Some(fields)
    }
}

fn walk<'a>(steps: &[Step], value: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in steps {
        found = found.into_iter().flat_map(|one| apply(step, one)).collect();
    }
    found
}

fn apply<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Field(name), _) => value.get(name).into_iter().collect(),
        (Step::Index(index), Value::Array(items)) => {
            let at = if *index < 0 { items.len() as i64 + index } else { *index };
            usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
        }
        (Step::All, Value::Array(items)) => items.iter().collect(),
        (Step::All, Value::Object(map)) => map.values().collect(),
        (Step::Filter { path, equal, literal }, Value::Array(items)) => items
            .iter()
            .filter(|item| walk(path, item).iter().any(|found| (*found == literal) == *equal))
            .collect(),
        _ => Vec::new(),
    }
}

fn steps(mut text: &str) -> Result<Vec<Step>, ParseError> {
    let error = |at: &str| ParseError(at.to_owned());
    let mut steps = Vec::new();
    while !text.is_empty() {
        if let Some(rest) = text.strip_prefix('[') {
            let end = closing(rest).ok_or_else(|| error(text))?;
            steps.push(bracket(&rest[..end]).ok_or_else(|| error(text))?);
            text = &rest[end + 1..];
            continue;
        }
        let rest = text.strip_prefix('.').unwrap_or(text);
        if rest.is_empty() {
            break;
        }
        let (name, after) = name(rest);
        if name.is_empty() && !after.starts_with('[') {
            return Err(error(text));
        }
        match name.as_str() {
            "" => {}
            "*" => steps.push(Step::All),
            _ => steps.push(Step::Field(name)),
        }
        text = after;
    }
    Ok(steps)
}

/// A field name up to the next dot or bracket; a backslash takes a dot into the name.
fn name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '.' | '[' => return (name, &text[at..]),
            '\\' => name.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => name.push(c),
        }
    }
    (name, "")
}

/// Where the bracket that was opened before `text` closes, quotes and inner brackets skipped.
fn closing(text: &str) -> Option<usize> {
    let (mut quote, mut depth) = (None, 0);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(inner: &str) -> Option<Step> {
    let inner = inner.trim();
    if inner == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let (equal, (left, right)) = match (filter.split_once("=="), filter.split_once("!=")) {
            (Some(sides), _) => (true, sides),
            (None, Some(sides)) => (false, sides),
            _ => return None,
        };
        let path = steps(left.trim().strip_prefix('@')?).ok()?;
        return Some(Step::Filter { path, equal, literal: literal(right.trim())? });
    }
    match literal(inner)? {
        Value::String(name) => Some(Step::Field(name)),
        Value::Number(index) => index.as_i64().map(Step::Index),
        _ => None,
    }
}

fn literal(text: &str) -> Option<Value> {
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return Some(Value::String(inner.to_owned()));
        }
    }
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds() {
        let object = json!({
            "metadata": {"labels": {"a.b/c": "x"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
        });
        for (path, expected) in [
            (r#".status.conditions[?(@.type=="Ready")].status"#, vec![json!("True")]),
            (".status.conditions[?(@.type!='Ready')].status", vec![json!("False")]),
            ("{.status.conditions[*].type}", vec![json!("Ready"), json!("Other")]),
            (".status.conditions[-1].type", vec![json!("Other")]),
            (".metadata.labels['a.b/c']", vec![json!("x")]),
            (r".metadata.labels.a\.b/c", vec![json!("x")]),
            (".status.missing.more", vec![]),
        ] {
            let found: Vec<Value> =
                JsonPath::parse(path).unwrap().find(&object).into_iter().cloned().collect();
            assert_eq!(found, expected, "{path}");
        }
        assert!(JsonPath::parse(".a[?(x)]").is_err());
        assert!(JsonPath::parse(".a[0").is_err());
        assert_eq!(JsonPath::parse(".spec.replicas").unwrap().fields().unwrap(), ["spec", "replicas"]);
    }
}
