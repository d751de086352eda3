use edgeloom_api::kind::{self, CONFIG_MAP, SERVICE};
use serde_json::json;

use super::*;
use crate::hub::dirty::Item;

fn object(kind: &'static Kind, name: &str, version: u32, spec: Value) -> (Key, Entry) {
    let metadata = json!({"namespace": if kind.namespaced { "shop" } else { "" }, "name": name, "uid": name,
        "resourceVersion": version.to_string(), "managedFields": [{"manager": "x"}]});
    Entry::of(kind, json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn put(cache: &Cache, kind: &'static Kind, name: &str, version: u32, spec: Value) {
    let (key, entry) = object(kind, name, version, spec);
    cache.apply(key, Some(entry));
}

fn pod(cache: &Cache, name: &str, version: u32, node: &str, map: &str) {
    put(cache, &POD, name, version, json!({"nodeName": node, "volumes": [{"configMap": {"name": map}}]}));
}

fn marked(dirty: &Dirty) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(Item::Key(key)) = dirty.try_next() {
        names.push(key.name);
    }
    names.sort();
    names
}

fn all_kinds() -> BTreeSet<String> {
    kind::ALL.iter().map(|kind| kind.to_string()).collect()
}

fn desired(cache: &Cache, node: &str) -> Vec<String> {
    cache.desired(node, &all_kinds()).into_iter().map(|(key, _)| key.name).collect()
}

#[test]
fn a_node_gets_what_it_needs_and_no_more() {
    let cache = Cache::default();
    put(&cache, &SERVICE, "orders", 1, json!({}));
    put(&cache, &CONFIG_MAP, "menu", 1, json!({}));
    put(&cache, &CONFIG_MAP, "other", 1, json!({}));
    put(&cache, &NODE, "a", 1, json!({}));
    put(&cache, &NODE, "b", 1, json!({}));
    pod(&cache, "web", 1, "a", "menu");
    pod(&cache, "waiting", 1, "", "other");
    assert_eq!(desired(&cache, "a"), ["menu", "a", "web", "orders"]);
    assert_eq!(desired(&cache, "b"), ["b", "orders"]);
    let only = BTreeSet::from([SERVICE.to_string()]);
    assert_eq!(cache.desired("a", &only).len(), 1);
    let menu = Key::new(&CONFIG_MAP, "shop", "menu");
    assert!(cache.needed("a", &menu).is_some() && cache.needed("b", &menu).is_none());
    assert!(cache.needed("b", &Key::new(&POD, "shop", "web")).is_none());
    let entry = cache.needed("a", &menu).unwrap();
    let sent: Value = serde_json::from_slice(&entry.json).unwrap();
    assert_eq!((&sent["kind"], &sent["metadata"]["managedFields"]), (&json!("ConfigMap"), &Value::Null));
}

#[test]
fn changes_reach_those_whom_they_concern() {
    let cache = Cache::default();
    let (a, b) = (cache.follow("a"), cache.follow("b"));
    put(&cache, &SERVICE, "orders", 1, json!({}));
    assert_eq!((marked(&a), marked(&b)), (vec!["orders".to_owned()], vec!["orders".to_owned()]));
    put(&cache, &CONFIG_MAP, "menu", 1, json!({}));
    assert!(marked(&a).is_empty());
    pod(&cache, "web", 2, "a", "menu");
    assert_eq!(marked(&a), ["kube-root-ca.crt", "menu", "web"]);
    put(&cache, &CONFIG_MAP, "menu", 3, json!({}));
    assert_eq!((marked(&a), marked(&b)), (vec!["menu".to_owned()], vec![]));
    // The same again is no news.
    put(&cache, &CONFIG_MAP, "menu", 3, json!({}));
    assert!(marked(&a).is_empty());
    // Another pod that uses the same; the first one goes: the map stays. Then it goes.
    pod(&cache, "web2", 4, "a", "menu");
    assert_eq!(marked(&a), ["web2"]);
    cache.apply(Key::new(&POD, "shop", "web"), None);
    assert_eq!(marked(&a), ["web"]);
    assert!(cache.needed("a", &Key::new(&CONFIG_MAP, "shop", "menu")).is_some());
    cache.apply(Key::new(&POD, "shop", "web2"), None);
    assert_eq!(marked(&a), ["kube-root-ca.crt", "menu", "web2"]);
    assert!(cache.needed("a", &Key::new(&CONFIG_MAP, "shop", "menu")).is_none());
    assert_eq!(desired(&cache, "a"), ["orders"]);
}

#[test]
fn a_pod_that_uses_something_else_brings_it_and_drops_the_old() {
    let cache = Cache::default();
    pod(&cache, "web", 1, "a", "old");
    let a = cache.follow("a");
    pod(&cache, "web", 2, "a", "new");
    assert_eq!(marked(&a), ["new", "old", "web"]);
}

#[test]
fn what_a_list_lacks_is_gone_and_readiness_needs_every_kind() {
    let cache = Cache::default();
    put(&cache, &SERVICE, "gone", 1, json!({}));
    put(&cache, &SERVICE, "stays", 1, json!({}));
    let a = cache.follow("a");
    for kind in WATCHED {
        assert!(!*cache.ready().borrow());
        let present = if *kind == SERVICE {
            BTreeSet::from([Key::new(&SERVICE, "shop", "stays")])
        } else {
            BTreeSet::new()
        };
        cache.replace(kind, &present);
    }
    assert!(*cache.ready().borrow());
    assert_eq!(marked(&a), ["gone"]);
    assert_eq!(cache.len(), 1);
}

#[test]
fn members_are_told_of() {
    let cache = Cache::default();
    let changed = cache.members_changed();
    let spec = json!({"peerId": "p", "site": "s", "nodeUid": "u", "roles": ["edge"], "revoked": true});
    put(&cache, &EDGE_NODE, "a", 1, spec);
    assert!(changed.has_changed().unwrap());
    assert!(cache.edge_node("a").unwrap().revoked);
    assert_eq!(cache.edge_nodes().len(), 1);
}
