//! Normal form: what two servers cannot agree on (uids, times, versions, drawn addresses and names) is
//! replaced, all else stays.

use serde_json::{Map, Value, json};

/// Fields whose values are drawn or counted by each server for itself.
const OWN: &[&str] = &[
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "lastTransitionTime",
    "lastUpdateTime",
    "time",
    "clusterIP",
    "token",
    "expirationTimestamp",
    "serverAddress",
    "nodePort",
    "lastTimestamp",
    "firstTimestamp",
    "continue",
];

/// The value in normal form. `null` fields are dropped: on the wire they say the same as none.
pub(crate) fn normal(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut kept = Map::new();
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            for name in names {
                let value = &fields[name];
                // A hint for storage migration, of no use to a client.
                if value.is_null()
                    || name == "storageVersionHash"
                    || (name == "managedFields" && value.as_array().is_some_and(Vec::is_empty))
                {
                    continue;
                }
                let own = OWN.contains(&name.as_str()) && (value.is_string() || value.is_number());
                let shown = match name.as_str() {
                    _ if own => json!("*"),
                    "clusterIPs" => json!(["*"]),
                    "authentication.kubernetes.io/credential-id" => json!(["*"]),
                    _ => normal(value),
                };
                kept.insert(name.clone(), shown);
            }
            Value::Object(kept)
        }
        Value::Array(items) => Value::Array(items.iter().map(normal).collect()),
        Value::String(text) => json!(normal_text(text)),
        other => other.clone(),
    }
}

/// Text in which versions are stars too, where they stand in YAML.
fn without_versions(text: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once("resourceVersion: ") {
        Some((before, _)) => format!("{before}resourceVersion: *"),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Text in which ages, uids, versions, addresses and times are stars.
fn normal_text(text: &str) -> String {
    let text = &without_versions(text);
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || "-.:".contains(c) {
            word.push(c);
        } else {
            out.push_str(&normal_word(&word));
            word.clear();
            // Columns are as wide as their widest value.
            if !(c == ' ' && out.ends_with(' ')) {
                out.push(c);
            }
        }
    }
    out.push_str(&normal_word(&word));
    out
}

fn normal_word(word: &str) -> String {
    // `80:30123/TCP`, names that the server completed, kubectl diff's files.
    let drawn_port = word
        .split_once(':')
        .is_some_and(|(_, port)| port.len() == 5 && port.starts_with('3') && port.parse::<u16>().is_ok());
    let generated = word.len() == 7 && word.starts_with("g-");
    let file = word.starts_with("LIVE-") || word.starts_with("MERGED-");
    let clock = word.split(':').count() == 3 && word.chars().all(|c| c.is_ascii_digit() || ":.".contains(c));
    let age = word
        .strip_suffix(['s', 'm'])
        .is_some_and(|number| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()));
    let uid = word.len() == 36 && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    let cluster_ip = word.starts_with("10.") && word.split('.').count() == 4;
    let time = word.len() >= 20 && word.ends_with('Z') && word.contains('T') && word.starts_with("20");
    if age || uid || cluster_ip || time || drawn_port || generated || file || clock {
        "*".to_owned()
    } else {
        word.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_no_difference() {
        let a = json!({"metadata": {"uid": "1", "name": "a", "x": null}, "t": "web 10.96.1.2 12s"});
        let b = json!({"metadata": {"name": "a", "uid": "2"}, "t": "web   10.99.3.4   5s"});
        assert_eq!(normal(&a), normal(&b));
        assert_ne!(normal(&json!({"a": "1"})), normal(&json!({"a": "2"})));
    }
}
