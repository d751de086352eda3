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
