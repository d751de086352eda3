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
fn a_site_is_its_nodes_own() {
    let cache = Cache::default();
    let member = |name: &str, version: u32, site: &str| {
        let spec = json!({"peerId": name, "site": site, "nodeUid": "u", "roles": ["edge"]});
        put(&cache, &EDGE_NODE, name, version, spec);
    };
    member("a", 1, "berlin");
    member("b", 1, "paris");
    let (a, b) = (cache.follow("a"), cache.follow("b"));
    put(&cache, &SITE, "berlin", 1, json!({"direct": false}));
    put(&cache, &SITE, "nowhere", 1, json!({}));
    assert_eq!((marked(&a), marked(&b)), (vec!["berlin".to_owned()], vec![]));
    let key = Key::new(&SITE, "", "berlin");
    assert!(cache.needed("a", &key).is_some() && cache.needed("b", &key).is_none());
    assert!(desired(&cache, "a").contains(&"berlin".to_owned()));
    assert!(!desired(&cache, "b").contains(&"berlin".to_owned()));
    // A node that moves looks at the Site that it leaves and at the one that it comes to.
    member("b", 2, "berlin");
    assert!(marked(&b).contains(&"berlin".to_owned()) && cache.needed("b", &key).is_some());
    marked(&a);
    cache.apply(key.clone(), None);
    assert_eq!((marked(&a), marked(&b)), (vec!["berlin".to_owned()], vec!["berlin".to_owned()]));
    assert!(cache.needed("a", &key).is_none());
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

fn member(cache: &Cache, name: &str, version: u32, site: &str) {
    let spec = json!({"peerId": name, "site": site, "nodeUid": "u", "roles": ["edge"]});
    put(cache, &EDGE_NODE, name, version, spec);
}

fn node(cache: &Cache, name: &str, version: u32, address: &str, heartbeat: u32) {
    let object = json!({
        "metadata": {"name": name, "uid": name, "resourceVersion": version.to_string(),
                     "annotations": {"edgeloom.io/site-address": address, "secret": "x"}},
        "spec": {"podCIDRs": [format!("10.244.{}.0/24", name.len())]},
        "status": {"conditions": [{"lastHeartbeatTime": heartbeat}]}});
    let (key, entry) = Entry::of(&NODE, object).unwrap();
    cache.apply(key, Some(entry));
}

fn nodes(cache: &Cache, of: &str) -> Vec<String> {
    let kinds = BTreeSet::from([NODE.to_string()]);
    cache.desired(of, &kinds).into_iter().map(|(key, _)| key.name).collect()
}

#[test]
fn nodes_of_one_site_are_told_where_each_other_is_and_nobody_else() {
    let cache = Cache::default();
    for (name, site) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        member(&cache, name, 1, site);
        node(&cache, name, 2, "192.168.10.5", 0);
    }
    assert_eq!(nodes(&cache, "a1"), ["a1", "a2"]);
    assert_eq!(nodes(&cache, "b1"), ["b1"]);
    let key = Key::new(&NODE, "", "a2");
    let whole: Value = serde_json::from_slice(&cache.needed("a2", &key).unwrap().json).unwrap();
    assert!(whole["status"]["conditions"].is_array());
    let entry = cache.needed("a1", &key).unwrap();
    let cut: Value = serde_json::from_slice(&entry.json).unwrap();
    assert_eq!(cut["metadata"]["annotations"], json!({"edgeloom.io/site-address": "192.168.10.5"}));
    assert_eq!((&cut["spec"]["podCIDRs"][0], &cut["status"]), (&json!("10.244.2.0/24"), &Value::Null));
    // The edge compares by what the object itself says.
    assert_eq!(Key::of(&cut).unwrap().2, entry.version);
    assert!(cache.needed("b1", &key).is_none());
}

#[test]
fn neighbours_hear_of_a_new_address_and_of_who_comes_and_goes_but_not_of_heartbeats() {
    let cache = Cache::default();
    for name in ["a1", "a2"] {
        member(&cache, name, 1, "a");
        node(&cache, name, 2, "192.168.10.5", 0);
    }
    let (a1, a2) = (cache.follow("a1"), cache.follow("a2"));
    node(&cache, "a2", 3, "192.168.10.5", 1);
    assert_eq!((marked(&a1), marked(&a2)), (vec![], vec!["a2".to_owned()]));
    node(&cache, "a2", 4, "192.168.10.6", 1);
    assert_eq!(marked(&a1), ["a2"]);
    // A node that joins is known by its Node first.
    node(&cache, "a3", 5, "192.168.10.7", 0);
    assert!(marked(&a1).is_empty());
    member(&cache, "a3", 6, "a");
    assert_eq!(marked(&a1), ["a3", "a3"], "the member and its Node");
    assert_eq!(nodes(&cache, "a1"), ["a1", "a2", "a3"]);
    member(&cache, "a3", 7, "b");
    assert_eq!(marked(&a1), ["a3", "a3"]);
    assert_eq!(nodes(&cache, "a1"), ["a1", "a2"]);
    cache.apply(Key::new(&NODE, "", "a2"), None);
    assert_eq!((marked(&a1), nodes(&cache, "a1")), (vec!["a2".to_owned()], vec!["a1".to_owned()]));
}
