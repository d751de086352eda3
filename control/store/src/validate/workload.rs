//! Deployments and ReplicaSets.

use serde_json::{Value, json};

use super::{Errors, IMMUTABLE, one_of, pod};
use crate::error::FieldError;
use crate::selector::LabelSelector;

/// Checks a Deployment.
pub(crate) fn deployment(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    workload(new, old, errors);
    let spec = &new["spec"];
    let strategy = &spec["strategy"];
    one_of(errors, "spec.strategy.type", &strategy["type"], &["Recreate", "RollingUpdate"]);
    if strategy["type"] == "Recreate" && strategy["rollingUpdate"].is_object() {
        let detail = "may not be specified when strategy `type` is 'Recreate'";
        errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", detail));
    }
    if strategy["type"] == "RollingUpdate" {
        rolling(&strategy["rollingUpdate"], errors);
    }
    let (deadline, ready) =
        (spec["progressDeadlineSeconds"].as_i64(), spec["minReadySeconds"].as_i64().unwrap_or(0));
    if deadline.is_some_and(|deadline| deadline <= ready) {
        let detail = "must be greater than minReadySeconds";
        let field = "spec.progressDeadlineSeconds";
        errors.push(FieldError::invalid(field, &spec["progressDeadlineSeconds"], detail));
    }
}

/// Checks a ReplicaSet.
pub(crate) fn replica_set(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    workload(new, old, errors);
}

fn workload(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = &new["spec"];
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        if spec[field].as_i64().is_some_and(|number| number < 0) {
            errors.push(FieldError::invalid(format!("spec.{field}"), &spec[field], pod::NOT_NEGATIVE));
        }
    }
    selector(spec, errors);
    super::meta::labels(&spec["template"]["metadata"]["labels"], "spec.template.metadata.labels", errors);
    pod::spec(&spec["template"]["spec"], "spec.template.spec", errors);
    let policy = &spec["template"]["spec"]["restartPolicy"];
    if policy.is_string() && policy != "Always" {
        errors.push(FieldError::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]));
    }
    if old.is_some_and(|old| old["spec"]["selector"] != spec["selector"]) {
        errors.push(FieldError::invalid("spec.selector", &spec["selector"], IMMUTABLE));
    }
}

fn selector(spec: &Value, errors: &mut Errors) {
    let selector = &spec["selector"];
    if selector.is_null() {
        errors.push(FieldError::required("spec.selector", ""));
    } else if LabelSelector::from_object(selector).is_none_or(|parsed| parsed.is_everything()) {
        let detail = "empty selector is invalid for deployment";
        errors.push(FieldError::invalid("spec.selector", selector, detail));
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let parsed = Some(selector).filter(|selector| selector.is_object()).and_then(LabelSelector::from_object);
    if parsed.is_none_or(|parsed| !parsed.matches(labels)) {
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels, detail));
    }
}

fn rolling(update: &Value, errors: &mut Errors) {
    for field in ["maxUnavailable", "maxSurge"] {
        let path = format!("spec.strategy.rollingUpdate.{field}");
        match &update[field] {
            Value::String(_) if percent(&update[field]).is_none() => {
                let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  \
                              or '93%', regex used for validation is '[0-9]+%')";
                errors.push(FieldError::invalid(path, &update[field], detail));
            }
            Value::Number(number) if number.as_i64().is_some_and(|number| number < 0) => {
                errors.push(FieldError::invalid(path, &update[field], pod::NOT_NEGATIVE));
            }
            _ => {}
        }
    }
    let zero = |field: &str| update[field] == json!(0) || percent(&update[field]) == Some(0);
    if zero("maxUnavailable") && zero("maxSurge") {
        let detail = "may not be 0 when `maxSurge` is 0";
        let field = "spec.strategy.rollingUpdate.maxUnavailable";
        errors.push(FieldError::invalid(field, &update["maxUnavailable"], detail));
    }
}

fn percent(value: &Value) -> Option<u32> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(mut new: Value, old: Option<Value>) -> Vec<String> {
        crate::defaults::deployment(&mut new);
        let mut errors = Vec::new();
        deployment(&new, old.as_ref(), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_one() {
        assert_eq!(
            faults(json!({}), None),
            [
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`",
                "spec.template.spec.containers: Required value",
            ]
        );
    }

    #[test]
    fn the_selector_stays() {
        let object = |label: &str| {
            json!({"spec": {"selector": {"matchLabels": {"a": label}}, "template": {
                "metadata": {"labels": {"a": label}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
        };
        assert_eq!(faults(object("x"), None), Vec::<String>::new());
        assert_eq!(
            faults(object("y"), Some(object("x"))),
            [r#"spec.selector: Invalid value: {"matchLabels":{"a":"y"}}: field is immutable"#]
        );
    }
}
