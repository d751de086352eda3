//! What is said to both servers: cases of steps, each case in a namespace of its own (`{ns}`).

mod access;
mod apply;
mod commands;
mod custom;
mod discovery;
mod objects;
mod patches;
mod refusals;
mod workloads;

pub(crate) const JSON: &str = "application/json";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const PARTIAL: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";

/// Steps that belong together.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) steps: Vec<Step>,
}

/// One thing said, and the code that is expected where there is no real server to ask.
pub(crate) enum Step {
    Request {
        method: &'static str,
        path: String,
        content_type: &'static str,
        accept: &'static str,
        body: String,
        expected: i64,
        /// The real server's answer may hold more: only what ours holds is compared.
        subset: bool,
    },
    Kubectl {
        line: &'static str,
        input: &'static str,
        expected: i64,
    },
}

impl Step {
    /// As the list shows it.
    pub(crate) fn shown(&self) -> String {
        const LONGEST: usize = 110;
        let text = match self {
            Self::Request { method, path, body, .. } => format!("{method} {path} {body}"),
            Self::Kubectl { line, .. } => format!("kubectl {line}"),
        };
        text.chars().take(LONGEST).collect()
    }

    pub(crate) fn expected(&self) -> i64 {
        match self {
            Self::Request { expected, .. } | Self::Kubectl { expected, .. } => *expected,
        }
    }

    /// In another form.
    fn accept(mut self, wanted: &'static str) -> Self {
        if let Self::Request { accept, .. } = &mut self {
            *accept = wanted;
        }
        self
    }

    fn subset(mut self) -> Self {
        if let Self::Request { subset, .. } = &mut self {
            *subset = true;
        }
        self
    }
}

fn request(method: &'static str, path: &str, content_type: &'static str, body: &str, expected: i64) -> Step {
    let (path, body) = (path.to_owned(), body.to_owned());
    Step::Request { method, path, content_type, accept: JSON, body, expected, subset: false }
}

fn get(path: &str, expected: i64) -> Step {
    request("GET", path, JSON, "", expected)
}

fn post(path: &str, body: &str, expected: i64) -> Step {
    request("POST", path, JSON, body, expected)
}

fn put(path: &str, body: &str, expected: i64) -> Step {
    request("PUT", path, JSON, body, expected)
}

fn delete(path: &str, body: &str, expected: i64) -> Step {
    request("DELETE", path, JSON, body, expected)
}

fn merge(path: &str, body: &str, expected: i64) -> Step {
    request("PATCH", path, "application/merge-patch+json", body, expected)
}

fn strategic(path: &str, body: &str, expected: i64) -> Step {
    request("PATCH", path, "application/strategic-merge-patch+json", body, expected)
}

fn json_patch(path: &str, body: &str, expected: i64) -> Step {
    request("PATCH", path, "application/json-patch+json", body, expected)
}

fn apply(path: &str, body: &str, expected: i64) -> Step {
    request("PATCH", path, "application/apply-patch+yaml", body, expected)
}

fn kubectl(line: &'static str, expected: i64) -> Step {
    Step::Kubectl { line, input: "", expected }
}

fn kubectl_with(line: &'static str, input: &'static str, expected: i64) -> Step {
    Step::Kubectl { line, input, expected }
}

/// The whole script.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(objects::cases());
    cases.extend(patches::cases());
    cases.extend(apply::cases());
    cases.extend(workloads::cases());
    cases.extend(refusals::cases());
    cases.extend(discovery::cases());
    cases.extend(access::cases());
    cases.extend(custom::cases());
    cases.extend(commands::cases());
    cases
}
