//! Who answers.

use std::env;
use std::fs;
use std::net::SocketAddr;

/// Pod, node and site, as the pod's specification gives them to the program.
#[derive(Debug, Clone)]
pub(crate) struct Whoami {
    pod: String,
    node: String,
    site: String,
    greeting_file: Option<String>,
}

impl Whoami {
    pub(crate) fn from_environment() -> Self {
        let variable = |name| env::var(name).unwrap_or_else(|_| "unknown".into());
        Self {
            pod: env::var("POD_NAME").unwrap_or_else(|_| variable("HOSTNAME")),
            node: variable("NODE_NAME"),
            site: variable("SITE"),
            greeting_file: env::var("GREETING_FILE").ok(),
        }
    }

    /// One line of JSON. The greeting is read anew each time, so that a changed ConfigMap shows.
    pub(crate) fn json(&self, client: SocketAddr) -> String {
        let greeting = self.greeting_file.as_ref().and_then(|file| fs::read_to_string(file).ok());
        let greeting = greeting.unwrap_or_else(|| "hello".into());
        format!(
            "{{\"greeting\":{},\"pod\":{},\"node\":{},\"site\":{},\"client\":{}}}\n",
            quoted(greeting.trim()),
            quoted(&self.pod),
            quoted(&self.node),
            quoted(&self.site),
            quoted(&client.ip().to_canonical().to_string()),
        )
    }

    /// What stands before an echo.
    pub(crate) fn prefix(&self) -> String {
        format!("{} on {} at {}: ", self.pod, self.node, self.site)
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_json_wants_them() {
        assert_eq!(quoted("a\"b\\c\nd"), r#""a\"b\\c\u000ad""#);
    }

    #[test]
    fn the_answer_names_pod_node_and_site() {
        let whoami = Whoami {
            pod: "orders-1".into(),
            node: "edge-b".into(),
            site: "site-b".into(),
            greeting_file: None,
        };
        let client = "[::ffff:10.244.1.2]:4000".parse().unwrap();
        let expected =
            r#"{"greeting":"hello","pod":"orders-1","node":"edge-b","site":"site-b","client":"10.244.1.2"}"#;
        assert_eq!(whoami.json(client), format!("{expected}\n"));
    }
}
