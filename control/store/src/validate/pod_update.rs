//! What of a stored Pod may change.

use serde_json::{Value, json};

use super::{Errors, items};
use crate::error::FieldError;

const FORBIDDEN: &str = "pod updates may not change fields other than \
     `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
     additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
     previously negative)";

/// Checks a change of a Pod: only images, tolerations (more of them) and the deadline. The node
/// is set by `/binding`, resources by `/resize`.
pub(super) fn check(new: &Value, old: &Value, errors: &mut Errors) {
    for list in ["containers", "initContainers"] {
        for (index, container) in items(&new["spec"][list]).enumerate() {
            if container["image"].as_str().unwrap_or("").is_empty() {
                errors.push(FieldError::required(format!("spec.{list}[{index}].image"), ""));
            }
        }
        if items(&new["spec"][list]).count() != items(&old["spec"][list]).count() {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(format!("spec.{list}"), detail));
            return;
        }
    }
    let before: Vec<&Value> = items(&old["spec"]["tolerations"]).collect();
    let kept: Vec<&Value> = items(&new["spec"]["tolerations"]).collect();
    if before.iter().any(|toleration| !kept.contains(toleration)) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", detail));
    }
    if comparable(new) != comparable(old) {
        errors.push(FieldError::forbidden("spec", FORBIDDEN));
    }
}

/// The spec without what may change.
fn comparable(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            container["image"] = json!("");
            container["resources"] = json!({});
        }
    }
    if let Some(fields) = spec.as_object_mut() {
        for field in ["tolerations", "activeDeadlineSeconds", "ephemeralContainers", "schedulingGates"] {
            fields.shift_remove(field);
        }
        fields.retain(|_, value| !value.is_null());
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_more_tolerations_only() {
        let old = json!({"spec": {"containers": [{"image": "a"}], "tolerations": [{"key": "x"}], "dnsPolicy": "None"}});
        let faults = |change: fn(&mut Value)| {
            let mut new = old.clone();
            change(&mut new);
            let mut errors = Vec::new();
            check(&new, &old, &mut errors);
            errors.len()
        };
        assert_eq!(faults(|pod| pod["spec"]["containers"][0]["image"] = json!("b")), 0);
        assert_eq!(faults(|pod| pod["spec"]["tolerations"] = json!([{"key": "x"}, {"key": "y"}])), 0);
        assert_eq!(faults(|pod| pod["spec"]["nodeName"] = json!("n")), 1);
        assert_eq!(faults(|pod| pod["spec"]["tolerations"] = json!([])), 1);
        assert_eq!(faults(|pod| pod["spec"]["dnsPolicy"] = json!("Default")), 1);
        assert_eq!(faults(|pod| pod["spec"]["containers"] = json!([])), 1);
    }
}
