//! Label and field selectors, as query parameters and as `LabelSelector` objects.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::kinds::KindDef;
use crate::validate::names::{label_value, qualified_name};

/// A label selector: every requirement holds. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

/// What one key of the labels must be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

impl Operator {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|text| text.parse::<i64>().ok());
        match self {
            Self::In(values) => value.is_some_and(|text| values.iter().any(|one| one == text)),
            Self::NotIn(values) => !value.is_some_and(|text| values.iter().any(|one| one == text)),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
            Self::Greater(than) => number().is_some_and(|number| number > *than),
            Self::Less(than) => number().is_some_and(|number| number < *than),
        }
    }
}

impl LabelSelector {
    /// Reads `a=b,c!=d,e in (f,g),h,!i,j>1`.
    pub fn parse(text: &str) -> Result<Self> {
        let requirements = split_outside_parentheses(text)
            .into_iter()
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(requirement)
            .collect::<Option<Vec<_>>>();
        requirements.map(Self).ok_or_else(|| {
            Error::bad_request(format!("unable to parse requirement: invalid selector {text:?}"))
        })
    }

    /// Reads a `LabelSelector` object: `matchLabels` and `matchExpressions`.
    pub fn from_object(selector: &Value) -> Option<Self> {
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let operator = Operator::In(vec![value.as_str()?.to_owned()]);
            requirements.push(Requirement { key: key.clone(), operator });
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            requirements.push(Requirement {
                key: expression["key"].as_str()?.to_owned(),
                operator: operator_of(expression)?,
            });
        }
        Some(Self(requirements))
    }

    /// Whether labels (an object of strings, or null) match.
    pub fn matches(&self, labels: &Value) -> bool {
        self.0.iter().all(|one| one.operator.matches(labels.get(&one.key).and_then(Value::as_str)))
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for LabelSelector {
    /// As `kubectl` prints selectors: `a=b,c in (d,e)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = self.0.iter().map(Requirement::to_string).collect();
        f.write_str(&parts.join(","))
    }
}

impl std::fmt::Display for Requirement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = &self.key;
        match &self.operator {
            Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0]),
            Operator::In(values) => write!(f, "{key} in ({})", values.join(",")),
            Operator::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0]),
            Operator::NotIn(values) => write!(f, "{key} notin ({})", values.join(",")),
            Operator::Exists => f.write_str(key),
            Operator::Absent => write!(f, "!{key}"),
            Operator::Greater(than) => write!(f, "{key}>{than}"),
            Operator::Less(than) => write!(f, "{key}<{than}"),
        }
    }
}

fn operator_of(expression: &Value) -> Option<Operator> {
    let values = || -> Option<Vec<String>> {
        expression["values"].as_array()?.iter().map(|one| one.as_str().map(str::to_owned)).collect()
    };
    match expression["operator"].as_str()? {
        "In" => Some(Operator::In(values()?)),
        "NotIn" => Some(Operator::NotIn(values()?)),
        "Exists" => Some(Operator::Exists),
        "DoesNotExist" => Some(Operator::Absent),
        "Gt" => Some(Operator::Greater(values()?.first()?.parse().ok()?)),
        "Lt" => Some(Operator::Less(values()?.first()?.parse().ok()?)),
        _ => None,
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0i32);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn requirement(part: &str) -> Option<Requirement> {
    let values_ok = |operator: &Operator| match operator {
        Operator::In(values) | Operator::NotIn(values) => {
            values.iter().all(|one| label_value(one).is_empty())
        }
        _ => true,
    };
    let made = |key: &str, operator: Operator| {
        let fine = qualified_name(key.trim()).is_empty() && values_ok(&operator);
        fine.then(|| Requirement { key: key.trim().to_owned(), operator })
    };
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some(key) = part.strip_prefix('!') {
        return made(key, Operator::Absent);
    }
    if let Some((left, list)) = part.split_once('(') {
        let values = list.trim_end().strip_suffix(')')?.split(',').map(|one| one.trim().to_owned()).collect();
        let mut words = left.split_whitespace();
        let (key, word) = (words.next()?, words.next()?);
        return match word {
            "in" => made(key, Operator::In(values)),
            "notin" => made(key, Operator::NotIn(values)),
            _ => None,
        };
    }
    for (sign, negative) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = part.split_once(sign) {
            let operator = if negative { Operator::NotIn(one(value)) } else { Operator::In(one(value)) };
            return made(key, operator);
        }
    }
    if let Some((key, value)) = part.split_once('>') {
        return made(key, Operator::Greater(value.trim().parse().ok()?));
    }
    if let Some((key, value)) = part.split_once('<') {
        return made(key, Operator::Less(value.trim().parse().ok()?));
    }
    made(part, Operator::Exists)
}

/// A field selector: paths and the values they must, or must not, have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    /// Reads `metadata.name=a,status.phase!=Running`; only fields that the kind can select by.
    pub fn parse(text: &str, kind: &KindDef) -> Result<Self> {
        let mut terms = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (field, equal, value) = field_term(part).ok_or_else(|| {
                Error::bad_request(format!("invalid selector: '{text}'; can't understand '{part}'"))
            })?;
            let known = matches!(field, "metadata.name" | "metadata.namespace")
                || kind.selectable.iter().any(|one| one == field);
            if !known {
                return Err(Error::bad_request(if kind.selectable.is_empty() {
                    let known = "only \"metadata.name\", \"metadata.namespace\"";
                    format!("{field:?} is not a known field selector: {known}")
                } else {
                    format!("field label not supported: {field}")
                }));
            }
            terms.push((field.to_owned(), equal, value.replace('\\', "")));
        }
        Ok(Self(terms))
    }

    /// Selects one object by name.
    pub fn name(name: &str) -> Self {
        Self(vec![("metadata.name".to_owned(), true, name.to_owned())])
    }

    /// Whether an object matches; a field that is not there is the empty string.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(field, equal, value)| (field_text(object, field) == *value) == *equal)
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// The one name it selects, if it selects by name: a list becomes a read.
    pub fn exact_name(&self) -> Option<&str> {
        let by_name = |(field, equal, _): &&(String, bool, String)| *equal && field == "metadata.name";
        self.0.iter().find(by_name).map(|(_, _, value)| value.as_str())
    }

    /// The terms by path, for those who answer some other way.
    pub fn terms(&self) -> BTreeMap<&str, (bool, &str)> {
        self.0.iter().map(|(field, equal, value)| (field.as_str(), (*equal, value.as_str()))).collect()
    }
}

fn field_term(part: &str) -> Option<(&str, bool, &str)> {
    for (sign, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((field, value)) = part.split_once(sign) {
            return Some((field.trim(), equal, value.trim()));
        }
    }
    None
}

fn field_text(object: &Value, field: &str) -> String {
    // The selectable `source` of Events is the component within.
    let path = if field == "source" { "source.component" } else { field };
    let found = path.split('.').try_fold(object, |value, name| value.get(name));
    match found {
        None | Some(Value::Null) if field == "spec.unschedulable" => "false".to_owned(),
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::Registry;

    #[test]
    fn labels() {
        let labels = json!({"app": "web", "tier": "2"});
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=3", true),
            ("app in (api, web),tier", true),
            ("app notin (web)", false),
            ("!app", false),
            ("!other", true),
            ("other!=x", true),
            ("tier>1", true),
            ("tier<2", false),
        ] {
            assert_eq!(LabelSelector::parse(selector).unwrap().matches(&labels), expected, "{selector}");
        }
        assert!(LabelSelector::parse("a b c").is_err());
        assert!(LabelSelector::parse("a in x").is_err());
        assert!(LabelSelector::parse("a===b").is_err());
        let object = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["1", "2"]}, {"key": "x", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::from_object(&object).unwrap();
        assert!(selector.matches(&labels));
        assert_eq!(selector.to_string(), "app=web,tier in (1,2),!x");
    }

    #[test]
    fn fields() {
        let pods = Registry::built_in().find("", "v1", "pods").unwrap();
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n"}, "status": {}});
        let matches = |text: &str| FieldSelector::parse(text, &pods).unwrap().matches(&pod);
        assert!(matches("spec.nodeName=n,metadata.name=a"));
        assert!(matches("status.phase!=Running"));
        assert!(matches("status.phase="));
        assert!(!matches("spec.nodeName="));
        let error = FieldSelector::parse("spec.foo=1", &pods).unwrap_err();
        assert_eq!(error.to_string(), "field label not supported: spec.foo");
    }
}
