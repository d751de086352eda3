use serde_json::{Value, json};

use super::{Fixture, config_map};
use crate::db::{DeleteOptions, Part, Watch, WatchEvent, WatchOptions, WriteOptions};
use crate::error::Reason;
use crate::selector::LabelSelector;

/// Type and name of the next event.
async fn next(watch: &mut Watch) -> (String, String) {
    let kind = watch.kind().clone();
    let event = watch.next().await.unwrap().to_json(&kind);
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
}

fn pair(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

async fn set(fixture: &Fixture, name: &str, value: &str) {
    let change = |old: &Value| {
        let mut new = old.clone();
        new["metadata"]["labels"]["value"] = json!(value);
        Ok(new)
    };
    let kind = fixture.kind("configmaps");
    fixture.store.modify(&kind, "default", name, Part::Main, &WriteOptions::default(), change).await.unwrap();
}

#[tokio::test]
async fn what_there_is_then_changes() {
    let fixture = Fixture::new().await;
    let kind = fixture.kind("configmaps");
    fixture.create("configmaps", "default", config_map("a", "1")).await;
    let options = WatchOptions { send_initial_events: true, bookmarks: true, ..WatchOptions::default() };
    let mut watch = fixture.store.watch(&kind, options).await.unwrap();
    assert_eq!(next(&mut watch).await, pair("ADDED", "a"));
    let bookmark = watch.next().await.unwrap().to_json(&kind);
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    fixture.create("configmaps", "default", config_map("b", "1")).await;
    set(&fixture, "b", "2").await;
    fixture.store.delete(&kind, "default", "b", &DeleteOptions::default()).await.unwrap();
    for expected in ["ADDED", "MODIFIED", "DELETED"] {
        assert_eq!(next(&mut watch).await, pair(expected, "b"));
    }
}

#[tokio::test]
async fn an_object_enters_and_leaves_a_selection() {
    let fixture = Fixture::new().await;
    let kind = fixture.kind("configmaps");
    let labels = LabelSelector::parse("value=in").unwrap();
    let version = fixture.store.resource_version().to_string();
    let options = WatchOptions { labels, resource_version: Some(version), ..WatchOptions::default() };
    let mut watch = fixture.store.watch(&kind, options).await.unwrap();
    fixture.create("configmaps", "default", config_map("a", "out")).await;
    set(&fixture, "a", "in").await;
    set(&fixture, "a", "out").await;
    assert_eq!(next(&mut watch).await, pair("ADDED", "a"));
    let WatchEvent::Deleted(last) = watch.next().await.unwrap() else { panic!("it left the selection") };
    assert_eq!(last["metadata"]["labels"]["value"], "in");
    assert_eq!(last["metadata"]["resourceVersion"], fixture.store.resource_version().to_string());
}

#[tokio::test]
async fn resumes_from_the_history_and_ends_when_it_is_gone() {
    let fixture = Fixture::with_history(600).await;
    let kind = fixture.kind("configmaps");
    fixture.create("configmaps", "default", config_map("a", "start")).await;
    let early = fixture.store.resource_version();
    // More than the ring holds, less than the history.
    for value in 0..550 {
        set(&fixture, "a", &value.to_string()).await;
    }
    let from = |version: u64| WatchOptions {
        resource_version: Some(version.to_string()),
        ..WatchOptions::default()
    };
    let mut watch = fixture.store.watch(&kind, from(early)).await.unwrap();
    for value in 0..550 {
        let WatchEvent::Modified(object) = watch.next().await.unwrap() else { panic!("a change") };
        assert_eq!(object["metadata"]["labels"]["value"], value.to_string());
    }
    for value in 0..600 {
        set(&fixture, "a", &format!("x{value}")).await;
    }
    let mut late = fixture.store.watch(&kind, from(early)).await.unwrap();
    let WatchEvent::Error(error) = late.next().await.unwrap() else { panic!("too old") };
    assert_eq!(error.reason(), Reason::Expired);
    assert!(late.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_gets_bookmarks() {
    let fixture = Fixture::new().await;
    let kind = fixture.kind("secrets");
    let version = fixture.store.resource_version().to_string();
    let options =
        WatchOptions { bookmarks: true, resource_version: Some(version), ..WatchOptions::default() };
    let mut watch = fixture.store.watch(&kind, options).await.unwrap();
    fixture.create("configmaps", "default", config_map("a", "0")).await;
    let WatchEvent::Bookmark { version, initial_end } = watch.next().await.unwrap() else { panic!("quiet") };
    assert_eq!((version, initial_end), (fixture.store.resource_version(), false));
}

#[tokio::test]
async fn a_custom_kind_is_watched_as_long_as_it_is_served() {
    let fixture = Fixture::new().await;
    let definition = |plural: &str, served: bool| {
        let version = |name: &str, served: bool| json!({"name": name, "served": served, "storage": name == "v1", "schema": {"openAPIV3Schema": {"type": "object"}}});
        json!({"metadata": {"name": format!("{plural}.example.com")}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": plural, "kind": plural}, "versions": [version("v1", true), version("v2", served)]}})
    };
    for plural in ["things", "others"] {
        fixture.create("customresourcedefinitions", "", definition(plural, true)).await;
    }
    let registry = fixture.store.registry().clone();
    let find = |plural: &str, version: &str| registry.find("example.com", version, plural).unwrap();
    let (things, others) = (find("things", "v1"), find("others", "v1"));
    let thing = json!({"apiVersion": "example.com/v1", "kind": "things", "metadata": {"name": "a"}});
    fixture.store.create(&things, "default", thing, &WriteOptions::default()).await.unwrap();
    let bookmarked = WatchOptions { bookmarks: true, ..WatchOptions::default() };
    let mut with_objects = fixture.store.watch(&things, bookmarked).await.unwrap();
    let mut with_none = fixture.store.watch(&others, WatchOptions::default()).await.unwrap();
    let newer = find("things", "v2");
    let mut of_version = fixture.store.watch(&newer, WatchOptions::default()).await.unwrap();
    assert_eq!(next(&mut with_objects).await, pair("ADDED", "a"));
    assert_eq!(next(&mut of_version).await, pair("ADDED", "a"));

    let definitions = fixture.kind("customresourcedefinitions");
    let withdraw = |old: &Value| {
        let mut new = old.clone();
        new["spec"]["versions"][1]["served"] = json!(false);
        Ok(new)
    };
    let options = WriteOptions::default();
    fixture
        .store
        .modify(&definitions, "", "things.example.com", Part::Main, &options, withdraw)
        .await
        .unwrap();
    assert!(of_version.next().await.is_none(), "its version is served no more");
    let delete = async |name: &str| {
        fixture.store.delete(&definitions, "", name, &DeleteOptions::default()).await.unwrap();
    };
    delete("others.example.com").await;
    assert!(with_none.next().await.is_none());
    delete("things.example.com").await;
    assert_eq!(next(&mut with_objects).await, pair("DELETED", "a"));
    assert!(with_objects.next().await.is_none());
    // One that comes when the definition has just gone.
    let mut late = fixture.store.watch(&things, WatchOptions::default()).await.unwrap();
    assert!(late.next().await.is_none());
}
