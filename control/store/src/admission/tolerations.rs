//! The DefaultTolerationSeconds admission: a pod stays five minutes on a node that is lost, unless it
//! says otherwise itself.

use serde_json::{Value, json};

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Adds the tolerations that a new pod lacks.
pub(crate) fn admit(pod: &mut Value) {
    let mut tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    let before = tolerations.len();
    for key in TAINTS {
        if !tolerations.iter().any(|one| covers(one, key)) {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            }));
        }
    }
    if tolerations.len() > before {
        pod["spec"]["tolerations"] = Value::Array(tolerations);
    }
}

fn covers(toleration: &Value, key: &str) -> bool {
    let text = |field: &str| toleration[field].as_str().unwrap_or("");
    (text("key") == key || text("key").is_empty())
        && (text("effect") == "NoExecute" || text("effect").is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing() {
        let mut pod = json!({"spec": {"tolerations": [{"key": TAINTS[0], "operator": "Exists"}]}});
        admit(&mut pod);
        let tolerations = pod["spec"]["tolerations"].as_array().unwrap().clone();
        assert_eq!(tolerations.len(), 2);
        assert_eq!(tolerations[1]["key"], TAINTS[1]);
        let mut tolerant = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        admit(&mut tolerant);
        assert_eq!(tolerant["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }
}
