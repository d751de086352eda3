//! What a node is told of its site: the Site, and as much of the Node objects of the others as it needs to reach their
//! pods over the LAN. A cut Node has a version of its own, so that a heartbeat is no news to anybody.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use edgeloom_api::hub::{Key, Version};
use edgeloom_api::kind::{NODE, SITE};
use edgeloom_api::names::SITE_ADDRESS_ANNOTATION;
use serde_json::{Value, json};

use super::{Entry, Facts};

/// The nodes of each site, and what they are to each other.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    sites: HashMap<String, BTreeSet<String>>,
    site_of: HashMap<String, String>,
    cut: HashMap<String, Arc<Entry>>,
}

/// Who is to look at which keys.
type Looks = HashMap<String, BTreeSet<Key>>;

impl Neighbours {
    /// The EdgeNode `name` is of this site, or of none any more. Returns who has to look at which Nodes and Sites.
    pub(super) fn set_site(&mut self, name: &str, site: Option<&str>) -> Looks {
        if self.site_of.get(name).map(String::as_str) == site {
            return Looks::new();
        }
        let mut looks = self.around(name);
        let old = self.site_of.remove(name);
        if let Some(old) = &old
            && let Some(nodes) = self.sites.get_mut(old)
        {
            nodes.remove(name);
            if nodes.is_empty() {
                self.sites.remove(old);
            }
        }
        if let Some(site) = site {
            self.site_of.insert(name.to_owned(), site.to_owned());
            self.sites.entry(site.to_owned()).or_default().insert(name.to_owned());
        }
        for (node, keys) in self.around(name) {
            looks.entry(node).or_default().extend(keys);
        }
        let sites = old.iter().map(String::as_str).chain(site).map(|site| Key::new(&SITE, "", site));
        looks.entry(name.to_owned()).or_default().extend(sites);
        looks
    }

    /// The nodes of a site.
    pub(super) fn in_site(&self, site: &str) -> impl Iterator<Item = &String> {
        self.sites.get(site).into_iter().flatten()
    }

    /// The key of the Site that `node` is of.
    pub(super) fn site(&self, node: &str) -> Option<Key> {
        Some(Key::new(&SITE, "", self.site_of.get(node)?))
    }

    /// The Node `name` is this, or is gone. Returns who has to look at it.
    pub(super) fn set_node(&mut self, name: &str, node: Option<&Entry>) -> Vec<String> {
        let cut = node.and_then(cut);
        if self.cut.get(name).map(|entry| &entry.version) == cut.as_ref().map(|entry| &entry.version) {
            return Vec::new();
        }
        match cut {
            Some(entry) => self.cut.insert(name.to_owned(), Arc::new(entry)),
            None => self.cut.remove(name),
        };
        self.others(name).cloned().collect()
    }

    /// The cut Node `name`, if `node` is of its site.
    pub(super) fn get(&self, node: &str, name: &str) -> Option<&Arc<Entry>> {
        let site = self.site_of.get(node)?;
        self.cut.get(name).filter(|_| node != name && self.site_of.get(name) == Some(site))
    }

    /// All that `node` is told of its neighbours.
    pub(super) fn of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = (Key, Version)> + 'a {
        self.others(node)
            .filter_map(|name| Some((Key::new(&NODE, "", name), self.cut.get(name)?.version.clone())))
    }

    fn others<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a String> + 'a {
        let nodes = self.site_of.get(node).and_then(|site| self.sites.get(site)).into_iter().flatten();
        nodes.filter(move |name| *name != node)
    }

    /// Each node of the site of `name` looks at it, and it at each of them.
    fn around(&self, name: &str) -> Looks {
        let key = |name: &str| Key::new(&NODE, "", name);
        let mut looks = Looks::new();
        for other in self.others(name) {
            looks.entry(other.clone()).or_default().insert(key(name));
            looks.entry(name.to_owned()).or_default().insert(key(other));
        }
        looks
    }
}

/// Name, pod ranges and the address at the site: the annotation, or where there is none (a stock kubelet's
/// Node) the internal ones.
fn cut(entry: &Entry) -> Option<Entry> {
    let node: Value = serde_json::from_slice(&entry.json).ok()?;
    let metadata = &node["metadata"];
    let mut said = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": metadata["name"], "uid": metadata["uid"]},
        "spec": {"podCIDR": node["spec"]["podCIDR"], "podCIDRs": node["spec"]["podCIDRs"]},
    });
    match metadata["annotations"][SITE_ADDRESS_ANNOTATION].as_str() {
        Some(address) => said["metadata"]["annotations"] = json!({SITE_ADDRESS_ANNOTATION: address}),
        None => {
            let all = node["status"]["addresses"].as_array()?.iter();
            let internal: Vec<_> = all.filter(|address| address["type"] == "InternalIP").collect();
            said["status"] = json!({"addresses": internal});
        }
    }
    let mut hasher = DefaultHasher::new();
    said.to_string().hash(&mut hasher);
    let resource_version = format!("site-{:016x}", hasher.finish());
    said["metadata"]["resourceVersion"] = resource_version.as_str().into();
    let version = Version { uid: entry.version.uid.clone(), resource_version };
    Some(Entry { version, json: said.to_string().into(), facts: Facts::Other })
}
