//! What the hub knows of the cluster, shared by all sessions: each object once, as the bytes that are sent.
//!
//! Watches write it ([`Cache::apply`], [`Cache::replace`]); a session asks what its node needs
//! ([`Cache::desired`]) and is told through its [`Dirty`] which keys changed for it. The tables are behind one
//! lock that is held for the change of one object.

mod neighbours;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use bytes::Bytes;
use edgeloom_api::hub::{Key, Version};
use edgeloom_api::kind::{EDGE_NODE, Kind, NODE, POD, REVOCATION, SITE};
use edgeloom_api::v1alpha1::EdgeNodeSpec;
use serde::Deserialize as _;
use serde_json::Value;
use tokio::sync::watch;

use neighbours::Neighbours;

use super::dirty::Dirty;
use super::selection::{PodFacts, SHARED, WATCHED};

/// An object as it is sent, and what the hub itself has to know of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) version: Version,
    pub(super) json: Bytes,
    pub(super) facts: Facts,
}

#[derive(Debug)]
pub(super) enum Facts {
    Pod(PodFacts),
    EdgeNode(EdgeNodeSpec),
    /// An EdgeNode that is being deleted.
    Leaving(EdgeNodeSpec),
    /// The peer id of a Revocation.
    Revocation(String),
    Other,
}

impl Entry {
    /// Reads an object of a watched kind. `managedFields` concern the API only and are left out.
    pub(super) fn of(kind: &'static Kind, mut object: Value) -> Option<(Key, Self)> {
        if let Some(fields) = object.as_object_mut() {
            fields.insert("apiVersion".into(), kind.api_version().into());
            fields.insert("kind".into(), kind.kind.into());
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.shift_remove("managedFields");
        }
        let (_, key, version) = Key::of(&object)?;
        let facts = if *kind == POD {
            Facts::Pod(PodFacts::of(&object))
        } else if *kind == EDGE_NODE {
            let stays = object["metadata"]["deletionTimestamp"].is_null();
            let facts = if stays { Facts::EdgeNode } else { Facts::Leaving };
            EdgeNodeSpec::deserialize(&object["spec"]).map_or(Facts::Other, facts)
        } else if *kind == REVOCATION {
            Facts::Revocation(object["spec"]["peerId"].as_str().unwrap_or_default().to_owned())
        } else {
            Facts::Other
        };
        Some((key, Self { version, json: object.to_string().into(), facts }))
    }

    fn pod(&self) -> Option<&PodFacts> {
        match &self.facts {
            Facts::Pod(pod) => Some(pod),
            _ => None,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cache {
    tables: RwLock<Tables>,
    followers: Mutex<HashMap<String, Vec<Weak<Dirty>>>>,
    listed: Mutex<BTreeSet<String>>,
    ready: watch::Sender<bool>,
    changed_members: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Tables {
    objects: BTreeMap<Key, Arc<Entry>>,
    pods: HashMap<String, BTreeSet<Key>>,
    /// Who uses a ConfigMap or Secret: node, and by how many pods.
    users: HashMap<Key, HashMap<String, usize>>,
    neighbours: Neighbours,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            tables: RwLock::default(),
            followers: Mutex::default(),
            listed: Mutex::default(),
            ready: watch::Sender::new(false),
            changed_members: watch::Sender::new(0),
        }
    }
}

impl Cache {
    /// Whether every watched kind was listed once. Before, nobody may be told that something is gone.
    pub(super) fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Changes whenever an EdgeNode or a Revocation did.
    pub(super) fn members_changed(&self) -> watch::Receiver<u64> {
        self.changed_members.subscribe()
    }

    /// From now on the result is told what changes for `node`.
    pub(super) fn follow(&self, node: &str) -> Arc<Dirty> {
        let dirty = Arc::new(Dirty::default());
        self.followers().entry(node.to_owned()).or_default().push(Arc::downgrade(&dirty));
        dirty
    }

    /// An object was created or changed (`Some`), or is gone.
    pub(super) fn apply(&self, key: Key, entry: Option<Entry>) {
        let is_member = key.is(&EDGE_NODE) || key.is(&REVOCATION);
        let told = self.write().apply(&key, entry.map(Arc::new));
        let mut followers = self.followers();
        match told {
            Told::Nobody => {}
            Told::Everybody(nodes) => {
                for dirty in followers.values_mut().flat_map(live) {
                    dirty.mark(key.clone());
                }
                mark(&mut followers, nodes);
            }
            Told::Nodes(nodes) => mark(&mut followers, nodes),
        }
        followers.retain(|_, those| !those.is_empty());
        drop(followers);
        if is_member {
            self.changed_members.send_modify(|count| *count += 1);
        }
    }

    /// A list of a whole kind came: what is not on it is gone.
    pub(super) fn replace(&self, kind: &'static Kind, present: &BTreeSet<Key>) {
        let gone: Vec<Key> = self
            .read()
            .of_kind(kind)
            .map(|(key, _)| key)
            .filter(|key| !present.contains(*key))
            .cloned()
            .collect();
        for key in gone {
            self.apply(key, None);
        }
        self.listed(kind);
    }

    /// All there is of a kind is known. Returns whether that is news.
    pub(super) fn listed(&self, kind: &'static Kind) -> bool {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let news = listed.insert(kind.to_string());
        if listed.len() == WATCHED.len() {
            self.ready.send_replace(true);
        }
        news
    }

    /// The object, if `node` needs it.
    pub(super) fn needed(&self, node: &str, key: &Key) -> Option<Arc<Entry>> {
        let tables = self.read();
        let entry = tables.objects.get(key)?;
        if tables.needs(node, key, entry) {
            return Some(Arc::clone(entry));
        }
        tables.neighbours.get(node, &key.name).filter(|_| key.is(&NODE)).cloned()
    }

    /// All that `node` needs of `kinds`, in the order of keys.
    pub(super) fn desired(&self, node: &str, kinds: &BTreeSet<String>) -> Vec<(Key, Version)> {
        let tables = self.read();
        let mut keys: BTreeSet<&Key> = BTreeSet::new();
        for kind in SHARED {
            keys.extend(tables.of_kind(kind).map(|(key, _)| key));
        }
        for pod in tables.pods.get(node).into_iter().flatten() {
            keys.insert(pod);
            keys.extend(
                tables.objects.get(pod).and_then(|entry| entry.pod()).into_iter().flat_map(|pod| &pod.uses),
            );
        }
        let (own, site) = (Key::new(&NODE, "", node), tables.neighbours.site(node));
        keys.insert(&own);
        keys.extend(&site);
        let version = |key: &Key| tables.objects.get(key).map(|entry| entry.version.clone());
        let mut desired: Vec<(Key, Version)> = keys
            .into_iter()
            .filter_map(|key| Some((key.clone(), version(key)?)))
            .chain(tables.neighbours.of(node))
            .filter(|(key, _)| kinds.contains(&key.kind))
            .collect();
        desired.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        desired
    }

    /// The pod, whoever it belongs to.
    pub(super) fn pod(&self, namespace: &str, name: &str) -> Option<PodFacts> {
        let tables = self.read();
        tables.objects.get(&Key::new(&POD, namespace, name))?.pod().cloned()
    }

    /// UID of the Node of this name.
    pub(super) fn node_uid(&self, name: &str) -> Option<String> {
        Some(self.read().objects.get(&Key::new(&NODE, "", name))?.version.uid.clone())
    }

    /// The pods on `node`, by namespace.
    pub(super) fn pods_on(&self, node: &str) -> Vec<(String, PodFacts)> {
        let tables = self.read();
        let keys = tables.pods.get(node).into_iter().flatten();
        keys.filter_map(|key| Some((key.namespace.clone(), tables.objects.get(key)?.pod()?.clone())))
            .collect()
    }

    /// The member of this name.
    pub(super) fn edge_node(&self, name: &str) -> Option<EdgeNodeSpec> {
        match &self.read().objects.get(&Key::new(&EDGE_NODE, "", name))?.facts {
            Facts::EdgeNode(spec) => Some(spec.clone()),
            _ => None,
        }
    }

    /// All members by name.
    pub(super) fn edge_nodes(&self) -> Vec<(String, EdgeNodeSpec)> {
        let tables = self.read();
        let member = |(key, entry): (&Key, &Arc<Entry>)| match &entry.facts {
            Facts::EdgeNode(spec) => Some((key.name.clone(), spec.clone())),
            _ => None,
        };
        tables.of_kind(&EDGE_NODE).filter_map(member).collect()
    }

    /// Whether `peer` is no member whatever it shows.
    pub(super) fn is_revoked(&self, peer: &str) -> bool {
        self.revoked().iter().any(|revoked| revoked == peer)
    }

    /// The peer ids of those who were removed or revoked.
    pub(super) fn revoked(&self) -> Vec<String> {
        let tables = self.read();
        let of = |(_, entry): (&Key, &Arc<Entry>)| match &entry.facts {
            Facts::Revocation(peer) => Some(peer.clone()),
            Facts::Leaving(spec) => Some(spec.peer_id.clone()),
            Facts::EdgeNode(spec) if spec.revoked => Some(spec.peer_id.clone()),
            _ => None,
        };
        tables.of_kind(&EDGE_NODE).chain(tables.of_kind(&REVOCATION)).filter_map(of).collect()
    }

    /// Number of objects.
    pub(super) fn len(&self) -> usize {
        self.read().objects.len()
    }

    // A poisoned lock guards plain data that every holder leaves whole.
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn followers(&self) -> MutexGuard<'_, HashMap<String, Vec<Weak<Dirty>>>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those who still listen; the others are forgotten.
fn live(followers: &mut Vec<Weak<Dirty>>) -> Vec<Arc<Dirty>> {
    followers.retain(|follower| follower.strong_count() > 0);
    followers.iter().filter_map(Weak::upgrade).collect()
}

fn mark(followers: &mut HashMap<String, Vec<Weak<Dirty>>>, nodes: HashMap<String, BTreeSet<Key>>) {
    for (node, keys) in nodes {
        let Some(those) = followers.get_mut(&node) else { continue };
        for dirty in live(those) {
            keys.iter().for_each(|key| dirty.mark(key.clone()));
        }
    }
}

/// Whom a change concerns.
enum Told {
    Nobody,
    /// All, and some of them in other objects too.
    Everybody(HashMap<String, BTreeSet<Key>>),
    Nodes(HashMap<String, BTreeSet<Key>>),
}

impl Tables {
    fn of_kind(&self, kind: &'static Kind) -> impl Iterator<Item = (&Key, &Arc<Entry>)> {
        self.objects.range(Key::new(kind, "", "")..).take_while(move |(key, _)| key.is(kind))
    }

    fn apply(&mut self, key: &Key, entry: Option<Arc<Entry>>) -> Told {
        let new = entry.clone();
        let old = match entry {
            Some(entry) => self.objects.insert(key.clone(), entry),
            None => self.objects.remove(key),
        };
        if let (Some(old), Some(new)) = (&old, &new)
            && old.version == new.version
        {
            return Told::Nobody;
        }
        if SHARED.iter().any(|kind| key.is(kind)) {
            let site = match new.as_deref().map(|entry| &entry.facts) {
                Some(Facts::EdgeNode(spec)) if !spec.revoked => Some(spec.site.as_str()),
                _ => None,
            };
            let is_member = key.is(&EDGE_NODE);
            let looks = is_member.then(|| self.neighbours.set_site(&key.name, site));
            return Told::Everybody(looks.unwrap_or_default());
        }
        let now = new.clone();
        let old = old.as_deref().and_then(Entry::pod);
        let new = new.as_deref().and_then(Entry::pod);
        if old.is_some() || new.is_some() {
            return Told::Nodes(self.apply_pod(key, old, new));
        }
        let nodes: Vec<String> = match self.users.get(key) {
            Some(users) => users.keys().cloned().collect(),
            None if key.is(&SITE) => self.neighbours.in_site(&key.name).cloned().collect(),
            None if key.is(&NODE) => {
                let mut nodes = self.neighbours.set_node(&key.name, now.as_deref());
                nodes.push(key.name.clone());
                nodes
            }
            None => Vec::new(),
        };
        Told::Nodes(nodes.into_iter().map(|node| (node, BTreeSet::from([key.clone()]))).collect())
    }

    /// A pod brings what it uses to its node, and takes it away with it.
    fn apply_pod(
        &mut self,
        key: &Key,
        old: Option<&PodFacts>,
        new: Option<&PodFacts>,
    ) -> HashMap<String, BTreeSet<Key>> {
        let mut told: HashMap<String, BTreeSet<Key>> = HashMap::new();
        for pod in [old, new].into_iter().flatten().filter(|pod| !pod.node.is_empty()) {
            told.entry(pod.node.clone()).or_default().insert(key.clone());
        }
        if let Some(pod) = new.filter(|pod| !pod.node.is_empty()) {
            self.pods.entry(pod.node.clone()).or_default().insert(key.clone());
            for used in &pod.uses {
                let count = self.users.entry(used.clone()).or_default().entry(pod.node.clone()).or_default();
                *count += 1;
                if *count == 1 {
                    told.entry(pod.node.clone()).or_default().insert(used.clone());
                }
            }
        }
        if let Some(pod) = old.filter(|pod| !pod.node.is_empty()) {
            self.leave(key, pod, new, &mut told);
        }
        told
    }

    fn leave(
        &mut self,
        key: &Key,
        old: &PodFacts,
        new: Option<&PodFacts>,
        told: &mut HashMap<String, BTreeSet<Key>>,
    ) {
        if new.is_none_or(|new| new.node != old.node)
            && let Some(pods) = self.pods.get_mut(&old.node)
        {
            pods.remove(key);
            if pods.is_empty() {
                self.pods.remove(&old.node);
            }
        }
        for used in &old.uses {
            let Some(users) = self.users.get_mut(used) else { continue };
            let Some(count) = users.get_mut(&old.node) else { continue };
            *count -= 1;
            if *count == 0 {
                users.remove(&old.node);
                told.entry(old.node.clone()).or_default().insert(used.clone());
            }
            if users.is_empty() {
                self.users.remove(used);
            }
        }
    }

    fn needs(&self, node: &str, key: &Key, entry: &Entry) -> bool {
        if let Some(pod) = entry.pod() {
            return pod.node == node;
        }
        SHARED.iter().any(|kind| key.is(kind))
            || (key.is(&NODE) && key.name == node)
            || (key.is(&SITE) && self.neighbours.site(node).as_ref() == Some(key))
            || self.users.get(key).is_some_and(|users| users.contains_key(node))
    }
}

#[cfg(test)]
mod tests;
