//! Validation against a structural schema, in the words of the real server (which are go-openapi's).

use regex::Regex;
use serde_json::{Value, json};

use super::value::{enumerated, is_of, type_name};
use crate::error::FieldError;
use crate::validate;

/// Checks a whole object: `apiVersion`, `kind` and `metadata` are everybody's and are checked elsewhere.
pub(super) fn object(schema: &Value, object: &Value, errors: &mut Vec<FieldError>) {
    required(schema, object, "", errors);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata")
            && let Some(value) = object.get(name)
        {
            check(property, value, name, errors);
        }
    }
}

fn check(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if schema["x-kubernetes-int-or-string"] == true {
        if !value.is_string() && !is_of(value, "integer") {
            wrong_type(value, path, "integer,string", errors);
        }
        return;
    }
    if let Some(wanted) = schema["type"].as_str()
        && !is_of(value, wanted)
    {
        wrong_type(value, path, wanted, errors);
        return;
    }
    check_enum(schema, value, path, errors);
    match value {
        Value::String(text) => string(schema, text, path, errors),
        Value::Number(_) => number(schema, value, path, errors),
        Value::Array(items) => array(schema, value, items, path, errors),
        Value::Object(_) => fields(schema, value, path, errors),
        _ => {}
    }
    combined(schema, value, path, errors);
}

fn wrong_type(value: &Value, path: &str, wanted: &str, errors: &mut Vec<FieldError>) {
    let got = type_name(value);
    let detail = format!("{path} in body must be of type {wanted}: {got:?}");
    errors.push(FieldError::type_invalid(path, &json!(got), &detail));
}

fn check_enum(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let allowed = enumerated(schema);
    if allowed.is_empty() || allowed.contains(value) {
        return;
    }
    let names: Vec<String> =
        allowed.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    errors.push(FieldError::not_supported(path, value, &names));
}

fn refuse(value: &Value, path: &str, what: &str, errors: &mut Vec<FieldError>) {
    errors.push(FieldError::invalid(path, value, &format!("{path} in body {what}")));
}

/// The first fault of a string, in the order in which the real server looks.
fn string(schema: &Value, text: &str, path: &str, errors: &mut Vec<FieldError>) {
    let value = json!(text);
    let length = text.chars().count() as u64;
    if let Some(max) = schema["maxLength"].as_u64().filter(|max| length > *max) {
        errors.push(FieldError::too_long(path, usize::try_from(max).unwrap_or(usize::MAX)));
    } else if let Some(min) = schema["minLength"].as_u64().filter(|min| length < *min) {
        refuse(&value, path, &format!("should be at least {min} chars long"), errors);
    } else if let Some(pattern) = schema["pattern"].as_str().filter(|pattern| !matches(pattern, text)) {
        refuse(&value, path, &format!("should match '{pattern}'"), errors);
    } else if let Some(format) = schema["format"].as_str().filter(|format| !has_format(format, text)) {
        refuse(&value, path, &format!("must be of type {format}: {text:?}"), errors);
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
}

/// Whether a text has a format; those that are not known are not looked at.
fn has_format(format: &str, text: &str) -> bool {
    use time::format_description::well_known::Rfc3339;
    match format {
        "date-time" => time::OffsetDateTime::parse(text, &Rfc3339).is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        "hostname" => validate::names::dns_subdomain(&text.to_lowercase()).is_empty(),
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        _ => true,
    }
}

fn number(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let number = value.as_f64().unwrap_or(0.0);
    let exclusive = |field: &str| schema[field] == true;
    if let Some(min) = schema["minimum"].as_f64() {
        if exclusive("exclusiveMinimum") && number <= min {
            refuse(value, path, &format!("should be greater than {}", schema["minimum"]), errors);
        } else if number < min {
            refuse(value, path, &format!("should be greater than or equal to {}", schema["minimum"]), errors);
        }
    }
    if let Some(max) = schema["maximum"].as_f64() {
        if exclusive("exclusiveMaximum") && number >= max {
            refuse(value, path, &format!("should be less than {}", schema["maximum"]), errors);
        } else if number > max {
            refuse(value, path, &format!("should be less than or equal to {}", schema["maximum"]), errors);
        }
    }
    if let Some(step) = schema["multipleOf"].as_f64().filter(|step| *step > 0.0)
        && (number / step).fract() != 0.0
    {
        refuse(value, path, &format!("should be a multiple of {}", schema["multipleOf"]), errors);
    }
    if schema["format"] == "int32" && value.as_i64().is_none_or(|whole| i32::try_from(whole).is_err()) {
        refuse(value, path, "must be of type int32", errors);
    }
}

fn array(schema: &Value, whole: &Value, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let length = items.len() as u64;
    if let Some(min) = schema["minItems"].as_u64().filter(|min| length < *min) {
        refuse(whole, path, &format!("should have at least {min} items"), errors);
    }
    if let Some(max) = schema["maxItems"].as_u64().filter(|max| length > *max) {
        errors.push(FieldError::too_many(path, items.len(), usize::try_from(max).unwrap_or(usize::MAX)));
    }
    let identity = |item: &Value| match (schema["x-kubernetes-list-type"].as_str(), item) {
        (Some("set"), item) => Some(item.clone()),
        (Some("map"), item) => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array();
            let keys = keys.into_iter().flatten().filter_map(Value::as_str);
            Some(
                keys.map(|key| (key.to_owned(), item[key].clone())).collect::<serde_json::Map<_, _>>().into(),
            )
        }
        _ => None,
    };
    let mut seen: Vec<Value> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let at = format!("{path}[{index}]");
        if let Some(identity) = identity(item) {
            if seen.contains(&identity) {
                errors.push(FieldError::duplicate(&at, &identity));
            }
            seen.push(identity);
        }
        if let Some(of) = schema.get("items") {
            check(of, item, &at, errors);
        }
    }
}

fn required(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(name).is_none() {
            errors.push(FieldError::required(join(path, name), ""));
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn fields(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    required(schema, value, path, errors);
    let count = value.as_object().map_or(0, serde_json::Map::len);
    if let Some(max) = schema["maxProperties"].as_u64().filter(|max| count as u64 > *max) {
        refuse(value, path, &format!("should have at most {max} properties"), errors);
    }
    if let Some(min) = schema["minProperties"].as_u64().filter(|min| (count as u64) < *min) {
        refuse(value, path, &format!("should have at least {min} properties"), errors);
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let of = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
        if let Some(of) = of.filter(|of| of.is_object()) {
            check(of, value, &join(path, name), errors);
        }
    }
}

/// `allOf`, `anyOf`, `oneOf`, `not`.
fn combined(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let fits = |schema: &Value| {
        let mut inner = Vec::new();
        check(schema, value, path, &mut inner);
        inner.is_empty()
    };
    let list = |name: &str| schema[name].as_array().cloned().unwrap_or_default();
    for part in list("allOf") {
        check(&part, value, path, errors);
    }
    let any = list("anyOf");
    if !any.is_empty() && !any.iter().any(fits) {
        refuse(value, path, "must validate at least one schema (anyOf)", errors);
    }
    let one = list("oneOf");
    if !one.is_empty() && one.iter().filter(|part| fits(part)).count() != 1 {
        refuse(value, path, "must validate one and only one schema (oneOf)", errors);
    }
    if schema["not"].is_object() && fits(&schema["not"]) {
        refuse(value, path, "must not validate the schema (not)", errors);
    }
}
