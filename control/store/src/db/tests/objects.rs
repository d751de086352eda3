use serde_json::{Value, json};

use super::{Fixture, config_map};
use crate::db::{DeleteOptions, ListOptions, Part, Propagation, VersionMatch, WriteOptions};
use crate::error::Reason;
use crate::selector::{FieldSelector, LabelSelector};

#[tokio::test]
async fn create_fills_in_what_the_server_owns() {
    let fixture = Fixture::new().await;
    let pod =
        json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
    let pod = fixture.create("pods", "default", pod).await;
    let metadata = &pod["metadata"];
    assert!(metadata["name"].as_str().unwrap().starts_with("web-"));
    assert_eq!(metadata["generation"], 1);
    assert_eq!(metadata["namespace"], "default");
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
    let again = fixture.store.get(&fixture.kind("pods"), "default", metadata["name"].as_str().unwrap()).await;
    assert_eq!(again.unwrap(), pod);
}

#[tokio::test]
async fn refusals() {
    let fixture = Fixture::new().await;
    fixture.create("configmaps", "default", config_map("a", "1")).await;
    let error = fixture.try_create("configmaps", "default", config_map("a", "1")).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.to_string()),
        (Reason::AlreadyExists, "configmaps \"a\" already exists".into())
    );
    let error = fixture.try_create("configmaps", "nowhere", config_map("a", "1")).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.to_string()),
        (Reason::NotFound, "namespaces \"nowhere\" not found".into())
    );
    let error = fixture.try_create("configmaps", "default", config_map("Bad", "1")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Invalid);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "x",
        "containers": [{"name": "a", "image": "b"}]}});
    let error = fixture.try_create("pods", "default", pod).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "pods \"p\" is forbidden: error looking up service account default/x: serviceaccount \"x\" not found"
    );
}

#[tokio::test]
async fn a_write_based_on_an_old_version_is_refused() {
    let fixture = Fixture::new().await;
    let kind = fixture.kind("configmaps");
    let first = fixture.create("configmaps", "default", config_map("a", "1")).await;
    let put = async |object: Value| {
        fixture.store.update(&kind, "default", "a", object, Part::Main, &WriteOptions::default()).await
    };
    let mut second = first.clone();
    second["data"]["value"] = json!("2");
    let second = put(second).await.unwrap();
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let mut stale = first.clone();
    stale["data"]["value"] = json!("3");
    assert!(put(stale).await.unwrap_err().is_conflict());
    assert_eq!(put(second.clone()).await.unwrap(), second, "nothing changed: no new version");
}

#[tokio::test]
async fn concurrent_changes_all_count() {
    let fixture = Fixture::new().await;
    let kind = fixture.kind("configmaps");
    fixture.create("configmaps", "default", config_map("a", "0")).await;
    let add = || async {
        let change = |old: &Value| {
            let mut new = old.clone();
            let count: u64 = new["data"]["value"].as_str().unwrap().parse().unwrap();
            new["data"]["value"] = json!((count + 1).to_string());
            Ok(new)
        };
        fixture
            .store
            .modify(&kind, "default", "a", Part::Main, &WriteOptions::default(), change)
            .await
            .unwrap();
    };
    futures::future::join_all((0..16).map(|_| add())).await;
    assert_eq!(fixture.store.get(&kind, "default", "a").await.unwrap()["data"]["value"], "16");
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let fixture = Fixture::new().await;
    let kind = fixture.kind("deployments");
    let object = json!({"metadata": {"name": "d"}, "status": {"replicas": 9}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let created = fixture.create("deployments", "default", object).await;
    assert_eq!(created["status"], json!({}), "a new object has no status of the client's");
    let mut object = created.clone();
    (object["status"], object["spec"]["replicas"]) = (json!({"replicas": 1}), json!(5));
    let options = WriteOptions::default();
    let by_status =
        fixture.store.update(&kind, "default", "d", object.clone(), Part::Status, &options).await.unwrap();
    assert_eq!((&by_status["status"]["replicas"], &by_status["spec"]["replicas"]), (&json!(1), &json!(1)));
    assert_eq!(by_status["metadata"]["generation"], 1);
    object["metadata"]["resourceVersion"] = by_status["metadata"]["resourceVersion"].clone();
    object["status"] = json!({"replicas": 7});
    let by_main = fixture.store.update(&kind, "default", "d", object, Part::Main, &options).await.unwrap();
    assert_eq!((&by_main["status"]["replicas"], &by_main["spec"]["replicas"]), (&json!(1), &json!(5)));
    assert_eq!(by_main["metadata"]["generation"], 2);
}

#[tokio::test]
async fn deleting_waits_for_finalizers_and_grace() {
    let fixture = Fixture::new().await;
    let kind = fixture.kind("configmaps");
    let mut object = config_map("a", "1");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    fixture.create("configmaps", "default", object).await;
    let options = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    let deleted = fixture.store.delete(&kind, "default", "a", &options).await.unwrap();
    assert!(!deleted.gone);
    assert_eq!(deleted.object["metadata"]["finalizers"], json!(["example.com/hold", "foregroundDeletion"]));
    let release = |old: &Value| {
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!([]);
        Ok(new)
    };
    fixture.store.modify(&kind, "default", "a", Part::Main, &WriteOptions::default(), release).await.unwrap();
    assert!(fixture.store.get(&kind, "default", "a").await.unwrap_err().is_not_found());

    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 5,
        "containers": [{"name": "a", "image": "b"}]}});
    fixture.create("pods", "default", pod).await;
    let pods = fixture.kind("pods");
    let deleted = fixture.store.delete(&pods, "default", "p", &DeleteOptions::default()).await.unwrap();
    assert!(!deleted.gone);
    assert_eq!(deleted.object["metadata"]["deletionGracePeriodSeconds"], 5);
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    assert!(fixture.store.delete(&pods, "default", "p", &now).await.unwrap().gone);
}

#[tokio::test]
async fn preconditions_and_dry_runs() {
    let fixture = Fixture::new().await;
    let kind = fixture.kind("configmaps");
    fixture.create("configmaps", "default", config_map("a", "1")).await;
    let options = DeleteOptions { uid: Some("other".into()), ..DeleteOptions::default() };
    assert!(fixture.store.delete(&kind, "default", "a", &options).await.unwrap_err().is_conflict());
    let options = DeleteOptions { dry_run: true, ..DeleteOptions::default() };
    fixture.store.delete(&kind, "default", "a", &options).await.unwrap();
    fixture.store.get(&kind, "default", "a").await.unwrap();
    let before = fixture.store.resource_version();
    let dry = WriteOptions { dry_run: true, ..WriteOptions::default() };
    fixture.store.create(&kind, "default", config_map("b", "1"), &dry).await.unwrap();
    assert!(fixture.store.get(&kind, "default", "b").await.unwrap_err().is_not_found());
    assert_eq!(fixture.store.resource_version(), before);
}

#[tokio::test]
async fn lists_in_pages_are_of_one_version() {
    let fixture = Fixture::new().await;
    let kind = fixture.kind("configmaps");
    for index in 0..5 {
        fixture.create("configmaps", "default", config_map(&format!("c{index}"), "x")).await;
    }
    let page = |token: Option<String>| {
        let options = ListOptions { limit: 2, continue_token: token, ..ListOptions::default() };
        fixture.store.list(&kind, options)
    };
    let first = page(None).await.unwrap();
    assert_eq!((first.items.len(), first.remaining), (2, Some(3)));
    fixture.store.delete(&kind, "default", "c3", &DeleteOptions::default()).await.unwrap();
    fixture.create("configmaps", "default", config_map("c9", "x")).await;
    let second = page(first.continue_token).await.unwrap();
    let third = page(second.continue_token.clone()).await.unwrap();
    let names: Vec<&str> = first
        .items
        .iter()
        .chain(&second.items)
        .chain(&third.items)
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["c0", "c1", "c2", "c3", "c4"], "as it was at the version of the first page");
    let exact = ListOptions {
        resource_version: Some(first.resource_version.to_string()),
        version_match: Some(VersionMatch::Exact),
        ..ListOptions::default()
    };
    assert_eq!(fixture.store.list(&kind, exact).await.unwrap().items.len(), 5);
}

#[tokio::test]
async fn selectors() {
    let fixture = Fixture::new().await;
    let kind = fixture.kind("configmaps");
    fixture.create("configmaps", "default", config_map("a", "1")).await;
    fixture.create("configmaps", "default", config_map("b", "2")).await;
    let labels = LabelSelector::parse("value in (2,3)").unwrap();
    let list = fixture.store.list(&kind, ListOptions { labels, ..ListOptions::default() }).await.unwrap();
    assert_eq!(list.items.len(), 1);
    let fields = FieldSelector::name("a");
    let list = fixture.store.list(&kind, ListOptions { fields, ..ListOptions::default() }).await.unwrap();
    assert_eq!(list.items[0]["metadata"]["name"], "a");
}

#[tokio::test]
async fn events_are_one_set_behind_two_kinds() {
    let fixture = Fixture::new().await;
    let registry = fixture.store.registry();
    let (old, new) =
        (registry.find("", "v1", "events").unwrap(), registry.find("events.k8s.io", "v1", "events").unwrap());
    let event =
        json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "namespace": "default"}, "note": "n"});
    fixture.store.create(&new, "default", event, &WriteOptions::default()).await.unwrap();
    let event = fixture.store.get(&old, "default", "e").await.unwrap();
    assert_eq!((&event["message"], &event["apiVersion"]), (&json!("n"), &json!("v1")));
    assert_eq!(fixture.store.get(&new, "default", "e").await.unwrap()["note"], "n");
}

#[tokio::test]
async fn custom_kinds_come_and_go_with_their_definition() {
    let fixture = Fixture::new().await;
    let crd = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com",
        "names": {"plural": "widgets", "kind": "Widget"}, "scope": "Cluster", "versions": [
            {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 3}}},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]}});
    let crd = fixture.create("customresourcedefinitions", "", crd).await;
    assert_eq!(crd["status"]["conditions"][1]["type"], "Established");
    let widget = json!({"metadata": {"name": "w", "finalizers": ["example.com/f"]}, "spec": {"unknown": 1}});
    let widget = fixture.create("widgets", "", widget).await;
    assert_eq!(widget["spec"], json!({"size": 3}));
    let fixture = fixture.reopen().await;
    let (kind, crds) = (fixture.kind("widgets"), fixture.kind("customresourcedefinitions"));
    let deleted =
        fixture.store.delete(&crds, "", "widgets.example.com", &DeleteOptions::default()).await.unwrap();
    assert!(!deleted.gone, "an object is held by its finalizer");
    let release = |old: &Value| {
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!([]);
        Ok(new)
    };
    fixture.store.modify(&kind, "", "w", Part::Main, &WriteOptions::default(), release).await.unwrap();
    assert!(fixture.store.get(&crds, "", "widgets.example.com").await.unwrap_err().is_not_found());
    assert!(fixture.store.registry().find_resource("example.com", "widgets").is_none());
}

#[tokio::test]
async fn old_events_go() {
    let fixture = Fixture::new().await;
    let about = json!({"kind": "Pod", "namespace": "default"});
    let event = json!({"metadata": {"name": "e"}, "involvedObject": about, "message": "m"});
    fixture.create("events", "default", event).await;
    let count = async || fixture.store.count(&fixture.kind("events")).await.unwrap();
    let expire = async |before: &'static str| {
        fixture.store.write(false, move |txn| txn.expire_events(before)).await.unwrap();
    };
    expire("2020-01-01T00:00:00Z").await;
    assert_eq!(count().await, 1);
    expire("9999-01-01T00:00:00Z").await;
    assert_eq!(count().await, 0);
}

#[tokio::test]
async fn a_namespace_goes_when_it_is_finalized() {
    let fixture = Fixture::new().await;
    let kind = fixture.kind("namespaces");
    fixture.create("namespaces", "", json!({"metadata": {"name": "shop"}})).await;
    let deleted = fixture.store.delete(&kind, "", "shop", &DeleteOptions::default()).await.unwrap();
    assert!(!deleted.gone);
    assert_eq!(deleted.object["status"]["phase"], "Terminating");
    let error = fixture.try_create("configmaps", "shop", config_map("a", "1")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "configmaps \"a\" is forbidden: unable to create new content in namespace shop because it is being terminated"
    );
    let release = |old: &Value| {
        let mut new = old.clone();
        new["spec"]["finalizers"] = json!([]);
        Ok(new)
    };
    let options = WriteOptions::default();
    let kept = fixture.store.modify(&kind, "", "shop", Part::Main, &options, release).await.unwrap();
    assert_eq!(kept["spec"]["finalizers"], json!(["kubernetes"]), "not by an ordinary write");
    fixture.store.modify(&kind, "", "shop", Part::Whole, &options, release).await.unwrap();
    assert!(fixture.store.get(&kind, "", "shop").await.unwrap_err().is_not_found());
    let error = fixture.store.delete(&kind, "", "default", &DeleteOptions::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "namespaces \"default\" is forbidden: this namespace may not be deleted");
}

#[tokio::test]
async fn a_pod_is_bound_by_its_subresource_alone() {
    let fixture = Fixture::new().await;
    let kind = fixture.kind("pods");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
    fixture.create("pods", "default", pod).await;
    let bind = |old: &Value| {
        let mut new = old.clone();
        new["spec"]["nodeName"] = json!("n");
        Ok(new)
    };
    let options = WriteOptions::default();
    let error = fixture.store.modify(&kind, "default", "p", Part::Main, &options, bind).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Invalid);
    let bound = fixture.store.modify(&kind, "default", "p", Part::Whole, &options, bind).await.unwrap();
    assert_eq!(bound["spec"]["nodeName"], "n");
}
