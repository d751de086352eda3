//! Answers side by side, and the list at the end.

use serde_json::Value;

use crate::known;
use crate::normal::normal;
use crate::run::Answer;
use crate::script::{Case, Step};

/// How a step fared.
enum Outcome {
    Pass,
    /// Differs, for a reason that is written down.
    Known(&'static str),
    Differs(String),
}

/// Every step of every case.
#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<(String, Outcome)>,
}

impl Report {
    /// Adds the answers of a case; `theirs` are the real server's.
    pub(crate) fn add(&mut self, case: &Case, ours: &[Answer], theirs: Option<&[Answer]>, verbose: bool) {
        for (index, (step, ours)) in case.steps.iter().zip(ours).enumerate() {
            let name = format!("{} {}: {}", case.name, index + 1, step.shown());
            let outcome = match theirs.and_then(|theirs| theirs.get(index)) {
                Some(theirs) => compared(case.name, index + 1, step, ours, theirs, verbose),
                None if ours.code == step.expected() => Outcome::Pass,
                None => Outcome::Differs(format!(
                    "expected {}, got {}: {}",
                    step.expected(),
                    ours.code,
                    ours.body
                )),
            };
            self.lines.push((name, outcome));
        }
    }

    /// Prints the list and its sum.
    pub(crate) fn print(&self, with_real: bool) {
        let (mut passed, mut known, mut differs) = (0, 0, 0);
        for (name, outcome) in &self.lines {
            match outcome {
                Outcome::Pass => {
                    passed += 1;
                    println!("pass     {name}");
                }
                Outcome::Known(reason) => {
                    known += 1;
                    println!("known    {name}\n           {reason}");
                }
                Outcome::Differs(how) => {
                    differs += 1;
                    println!("differs  {name}\n           {}", how.replace('\n', "\n           "));
                }
            }
        }
        let against =
            if with_real { "the real kube-apiserver" } else { "the codes expected (no KUBEBUILDER_ASSETS)" };
        println!("\nagainst {against}: {passed} pass, {known} differ for a known reason, {differs} differ");
    }

    /// Whether nothing differs without a reason.
    pub(crate) fn is_clean(&self) -> bool {
        !self.lines.iter().any(|(_, outcome)| matches!(outcome, Outcome::Differs(_)))
    }
}

fn compared(case: &str, index: usize, step: &Step, ours: &Answer, theirs: &Answer, verbose: bool) -> Outcome {
    let (mut a, mut b) = (normal(&ours.body), normal(&theirs.body));
    if let Step::Request { subset: true, .. } = step {
        restrict(&mut b, &a);
    }
    a.sort_all_objects();
    b.sort_all_objects();
    let mut differences = Vec::new();
    if ours.code != theirs.code {
        differences.push(format!("code: real {}, ours {}", theirs.code, ours.code));
    }
    collect("", &b, &a, &mut differences);
    if differences.is_empty() {
        return Outcome::Pass;
    }
    if let Some(reason) = known::reason(case, index, &differences) {
        return Outcome::Known(reason);
    }
    if verbose {
        differences.push(format!("real: {}\nours: {}", theirs.body, ours.body));
    }
    Outcome::Differs(differences.join("\n"))
}

/// Leaves of `theirs` only what `ours` has a counterpart for: items of lists are matched by name. What the
/// embedded API does not serve at all is no difference of what it serves.
fn restrict(theirs: &mut Value, ours: &Value) {
    let key = |item: &Value| {
        ["name", "resource", "subresource", "version", "groupVersion"]
            .iter()
            .find_map(|field| item.get(field).or_else(|| item["metadata"].get(field)).and_then(Value::as_str))
            .map(str::to_owned)
    };
    match (theirs, ours) {
        (Value::Array(theirs), Value::Array(ours)) => {
            theirs.retain(|item| key(item).is_none() || ours.iter().any(|one| key(one) == key(item)));
            theirs.sort_by_key(|item| ours.iter().position(|one| key(one) == key(item)));
            for (item, one) in theirs.iter_mut().zip(ours) {
                restrict(item, one);
            }
        }
        (Value::Object(theirs), Value::Object(ours)) => {
            for (name, value) in theirs.iter_mut() {
                if let Some(one) = ours.get(name) {
                    restrict(value, one);
                }
            }
        }
        _ => {}
    }
}

fn collect(path: &str, real: &Value, ours: &Value, out: &mut Vec<String>) {
    const MOST: usize = 12;
    if real == ours || out.len() > MOST {
        return;
    }
    match (real, ours) {
        (Value::Object(a), Value::Object(b)) => {
            for name in a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))) {
                let null = Value::Null;
                collect(
                    &format!("{path}.{name}"),
                    a.get(name).unwrap_or(&null),
                    b.get(name).unwrap_or(&null),
                    out,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                collect(&format!("{path}[{index}]"), a, b, out);
            }
        }
        _ => out.push(format!("{path}: real {}, ours {}", short(real), short(ours))),
    }
}

fn short(value: &Value) -> String {
    const LONGEST: usize = 400;
    let text = value.to_string();
    if text.len() <= LONGEST {
        text
    } else {
        format!("{}…", text.chars().take(LONGEST).collect::<String>())
    }
}
