use std::time::Duration;

use edgeloom_api::kind::{POD, SERVICE};
use serde_json::json;

use super::*;

fn pod(name: &str, uid: &str, version: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
        "namespace": "shop", "name": name, "uid": uid, "resourceVersion": version.to_string()}})
}

fn gone(name: &str) -> Update {
    Update::Delete(Key::new(&POD, "shop", name))
}

fn name(change: &Change) -> String {
    match change {
        Change::Put(object) => format!(
            "+{}{}",
            object["metadata"]["name"].as_str().unwrap(),
            object["metadata"]["resourceVersion"].as_str().unwrap()
        ),
        Change::Delete { name, .. } => format!("-{name}"),
        Change::Synced => "synced".into(),
    }
}

fn drain(subscription: &mut Subscription) -> Vec<String> {
    std::iter::from_fn(|| subscription.try_next()).map(|change| name(&change)).collect()
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/metastore.db");
    let store = Metastore::open(&path).unwrap();
    store.apply(vec![Update::Put(pod("a", "1", 1)), Update::Put(pod("b", "2", 2))]).await.unwrap();
    store.apply(vec![gone("a"), Update::Put(pod("b", "2", 3))]).await.unwrap();
    let inventory = store.inventory();
    drop(store);
    let store = Metastore::open(&path).unwrap();
    assert_eq!(store.inventory(), inventory);
    assert_eq!(store.list(&POD).len(), 1);
    assert!(store.list(&SERVICE).is_empty());
    assert_eq!(store.get(&POD, "shop", "b").unwrap()["metadata"]["resourceVersion"], "3");
    assert!(store.get(&POD, "shop", "a").is_none() && store.moved_aside().is_none());
}

#[tokio::test]
async fn followers_see_what_is_there_then_changes_coalesced() {
    let folder = tempfile::tempdir().unwrap();
    let store = Metastore::open(folder.path().join("m.db")).unwrap();
    store.apply(vec![Update::Put(pod("a", "1", 1)), Update::Put(pod("b", "2", 1))]).await.unwrap();
    let mut late = store.subscribe(&[&POD]);
    let mut services = store.subscribe(&[&SERVICE]);
    store.apply(vec![Update::Put(pod("b", "2", 2)), Update::Put(pod("c", "3", 1))]).await.unwrap();
    assert_eq!(drain(&mut late), ["+a1", "+b2", "synced", "+c1"]);
    for version in 2..9 {
        store.apply(vec![Update::Put(pod("c", "3", version))]).await.unwrap();
    }
    store.apply(vec![Update::Put(pod("d", "4", 1)), gone("d"), gone("a"), gone("nothing")]).await.unwrap();
    assert_eq!(drain(&mut late), ["+c8", "-a"]);
    assert_eq!(drain(&mut services), ["synced"]);
}

#[tokio::test]
async fn an_object_made_anew_is_told_as_two() {
    let folder = tempfile::tempdir().unwrap();
    let store = Metastore::open(folder.path().join("m.db")).unwrap();
    store.apply(vec![Update::Put(pod("a", "1", 1))]).await.unwrap();
    let mut follower = store.subscribe(&[&POD]);
    assert_eq!(drain(&mut follower), ["+a1", "synced"]);
    store.apply(vec![gone("a"), Update::Put(pod("a", "2", 7))]).await.unwrap();
    let Some(Change::Delete { last, .. }) = follower.try_next() else { panic!() };
    assert_eq!(last["metadata"]["uid"], "1");
    assert_eq!(drain(&mut follower), ["+a7"]);
}

#[tokio::test]
async fn a_follower_that_waits_is_woken() {
    let folder = tempfile::tempdir().unwrap();
    let store = Metastore::open(folder.path().join("m.db")).unwrap();
    let mut follower = store.subscribe(&[&POD]);
    assert_eq!(follower.next().await, Change::Synced);
    let waiting = tokio::spawn(async move { name(&follower.next().await) });
    store.apply(vec![Update::Put(pod("a", "1", 1))]).await.unwrap();
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap(), "+a1");
}

#[tokio::test]
async fn a_damaged_file_is_moved_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.db");
    std::fs::write(&path, b"this is no database, and long enough to be told from an empty one").unwrap();
    let store = Metastore::open(&path).unwrap();
    assert!(store.is_empty());
    let aside = store.moved_aside().unwrap().to_owned();
    assert!(std::fs::read(aside).unwrap().starts_with(b"this is no database"));
    store.apply(vec![Update::Put(pod("a", "1", 1))]).await.unwrap();
    assert_eq!(store.len(), 1);
}

#[tokio::test]
async fn a_file_that_is_damaged_later_is_written_anew_from_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.db");
    let store = Metastore::open(&path).unwrap();
    store.apply((0..8_000).map(|n| Update::Put(pod(&format!("p{n}"), "1", n))).collect()).await.unwrap();
    drop(store);
    let store = Metastore::open(&path).unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    // More than SQLite keeps in its cache, so that it comes across the damage.
    let pages = vec![0xaa; usize::try_from(length).unwrap() - 4096];
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(4096)).unwrap();
    std::io::Write::write_all(&mut file, &pages).unwrap();
    store.apply(vec![Update::Put(pod("p0", "1", 10_000))]).await.unwrap();
    drop(store);
    let store = Metastore::open(&path).unwrap();
    assert_eq!(store.len(), 8_000);
    assert_eq!(store.get(&POD, "shop", "p0").unwrap()["metadata"]["resourceVersion"], "10000");
}

#[tokio::test]
async fn what_is_no_object_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Metastore::open(folder.path().join("m.db")).unwrap();
    let updates = vec![Update::Put(pod("a", "1", 1)), Update::Put(json!({"kind": "Pod"}))];
    assert!(matches!(store.apply(updates).await, Err(StoreError::Object(_))));
    assert!(store.is_empty());
}
