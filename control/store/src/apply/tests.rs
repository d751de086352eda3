use serde_json::{Value, json};
use time::OffsetDateTime;

use super::*;
use crate::kinds::Registry;

fn kind(group: &str, plural: &str) -> Arc<KindDef> {
    Registry::built_in().find(group, "v1", plural).unwrap()
}

fn apply(manager: &str, force: bool) -> Apply {
    Apply { manager: manager.into(), subresource: String::new(), force, now: OffsetDateTime::UNIX_EPOCH }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

fn fields_of(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries
        .iter()
        .find(|entry| entry["manager"] == manager)
        .map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn creating_owns_what_is_said() {
    let kind = kind("", "configmaps");
    let created = apply("m", false).merged(&kind, None, &config_map(json!({"x": "1"}))).unwrap();
    assert_eq!(created["data"], json!({"x": "1"}));
    assert_eq!(fields_of(&created, "m"), json!({"f:data": {"f:x": {}}}));
}

#[test]
fn what_is_no_longer_applied_goes_unless_others_own_it() {
    let kind = kind("", "configmaps");
    let first = apply("m", false).merged(&kind, None, &config_map(json!({"x": "1", "y": "2"}))).unwrap();
    let second = apply("n", false).merged(&kind, Some(&first), &config_map(json!({"y": "2"}))).unwrap();
    let third = apply("m", false).merged(&kind, Some(&second), &config_map(json!({}))).unwrap();
    assert_eq!(third["data"], json!({"y": "2"}));
    assert_eq!(fields_of(&third, "n"), json!({"f:data": {"f:y": {}}}));
    assert_eq!(fields_of(&third, "m"), json!({"f:data": {}}));
}

#[test]
fn conflicts_name_manager_and_path() {
    let kind = kind("apps", "deployments");
    let mut live = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 1}});
    tracker("kubectl-client-side-apply".into(), String::new(), OffsetDateTime::UNIX_EPOCH)(
        &kind, None, &mut live,
    );
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 3}});
    let refusal = apply("m", false).merged(&kind, Some(&live), &config).unwrap_err();
    assert_eq!(refusal.reason(), Reason::Conflict);
    assert_eq!(
        refusal.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    assert_eq!(refusal.causes()[0].field, ".spec.replicas");
    let forced = apply("m", true).merged(&kind, Some(&live), &config).unwrap();
    assert_eq!(forced["spec"]["replicas"], 3);
    assert_eq!(fields_of(&forced, "kubectl-client-side-apply"), Value::Null);
    let same = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 1}});
    let shared = apply("m", false).merged(&kind, Some(&live), &same).unwrap();
    assert_eq!(fields_of(&shared, "m"), json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let kind = kind("", "configmaps");
    let live = apply("b", false).merged(&kind, None, &config_map(json!({"x": "1"}))).unwrap();
    let live = apply("a", false).merged(&kind, Some(&live), &config_map(json!({"y": "1"}))).unwrap();
    let refusal =
        apply("c", false).merged(&kind, Some(&live), &config_map(json!({"x": "9", "y": "9"}))).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"a\":\n- .data.y\nconflicts with \"b\":\n- .data.x"
    );
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let kind = kind("", "configmaps");
    let config = config_map(json!({"x": "1"}));
    let first = apply("m", false).merged(&kind, None, &config).unwrap();
    let mut later = apply("m", false);
    later.now = OffsetDateTime::UNIX_EPOCH + std::time::Duration::from_secs(60);
    assert_eq!(later.merged(&kind, Some(&first), &config).unwrap(), first);
}

#[test]
fn the_last_owned_part_of_the_metadata_goes_alone() {
    let kind = kind("", "configmaps");
    let mut labelled = config_map(json!({"x": "1"}));
    labelled["metadata"]["annotations"] = json!({"a": "b"});
    let mut first = apply("m", false).merged(&kind, None, &labelled).unwrap();
    first["metadata"]["uid"] = json!("u");
    let second = apply("m", false).merged(&kind, Some(&first), &config_map(json!({"x": "1"}))).unwrap();
    assert_eq!((&second["metadata"]["name"], &second["metadata"]["uid"]), (&json!("a"), &json!("u")));
    assert!(second["metadata"].get("annotations").is_none());
    assert_eq!(fields_of(&second, "m"), json!({"f:data": {"f:x": {}}}));
}

#[test]
fn objects_without_managers_are_owned_by_the_time_before() {
    let kind = kind("", "configmaps");
    let live = config_map(json!({"x": "1"}));
    let refusal = apply("m", false).merged(&kind, Some(&live), &config_map(json!({"x": "2"}))).unwrap_err();
    assert!(refusal.to_string().contains("conflict with \"before-first-apply\" using v1: .data.x"));
}

#[test]
fn kubectl_takes_over_what_it_applied_from_the_client() {
    let kind = kind("", "configmaps");
    let mut live = config_map(json!({"x": "1"}));
    live["metadata"]["annotations"] = json!({LAST_APPLIED: config_map(json!({"x": "1"})).to_string()});
    tracker("kubectl-client-side-apply".into(), String::new(), OffsetDateTime::UNIX_EPOCH)(
        &kind, None, &mut live,
    );
    let config = config_map(json!({"x": "2"}));
    assert!(apply("other", false).merged(&kind, Some(&live), &config).is_err());
    let taken = apply("kubectl", false).merged(&kind, Some(&live), &config).unwrap();
    assert_eq!(taken["data"]["x"], "2");
    assert!(taken["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap().contains("\"x\":\"2\""));
}

#[test]
fn keyed_lists_are_shared() {
    let kind = kind("apps", "deployments");
    let deployment = |containers: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"template": {"spec": {"containers": containers}}}})
    };
    let first = apply("m", false)
        .merged(&kind, None, &deployment(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}])))
        .unwrap();
    let second = apply("n", false)
        .merged(&kind, Some(&first), &deployment(json!([{"name": "side", "image": "2"}])))
        .unwrap();
    let third = apply("m", false)
        .merged(&kind, Some(&second), &deployment(json!([{"name": "a", "image": "1"}])))
        .unwrap();
    let names: Vec<&str> = third["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(names.len(), 2);
    assert!(names.contains(&"a") && names.contains(&"side"));
}

#[test]
fn writes_own_what_they_change_and_nothing_else() {
    let kind = kind("", "configmaps");
    let mut first = config_map(json!({"x": "1", "y": "1"}));
    tracker("a".into(), String::new(), OffsetDateTime::UNIX_EPOCH)(&kind, None, &mut first);
    assert_eq!(fields_of(&first, "a"), json!({"f:data": {".": {}, "f:x": {}, "f:y": {}}}));
    let mut second = first.clone();
    second["data"] = json!({"x": "2"});
    tracker("b".into(), String::new(), OffsetDateTime::UNIX_EPOCH)(&kind, Some(&first), &mut second);
    assert_eq!(fields_of(&second, "a"), json!({"f:data": {}}));
    assert_eq!(fields_of(&second, "b"), json!({"f:data": {"f:x": {}}}));
    let mut third = second.clone();
    tracker("c".into(), String::new(), OffsetDateTime::UNIX_EPOCH)(&kind, Some(&second), &mut third);
    assert_eq!(third, second);
}
