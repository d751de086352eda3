//! The kinds served now, found by path or by what an object says of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::KindDef;

/// All kinds, built-in and custom. Cheap to clone; every clone sees the same kinds.
#[derive(Clone)]
pub struct Registry(Arc<ArcSwap<Kinds>>);

/// A served group and its versions, preferred one first, as discovery lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    pub versions: Vec<String>,
}

#[derive(Default, Clone)]
struct Kinds {
    /// By (group, version, plural).
    by_path: BTreeMap<(String, String, String), Arc<KindDef>>,
    /// In order of declaration: discovery and `kubectl get all` keep it.
    ordered: Vec<Arc<KindDef>>,
}

impl Kinds {
    fn new(ordered: Vec<Arc<KindDef>>) -> Self {
        let path = |kind: &Arc<KindDef>| (kind.group.clone(), kind.version.clone(), kind.plural.clone());
        let by_path = ordered.iter().map(|kind| (path(kind), kind.clone())).collect();
        Self { by_path, ordered }
    }
}

impl Registry {
    /// The kinds that this server declares itself.
    pub fn built_in() -> Self {
        let kinds = super::groups::built_in().into_iter().map(Arc::new).collect();
        Self(Arc::new(ArcSwap::from_pointee(Kinds::new(kinds))))
    }

    /// The kind at `/apis/GROUP/VERSION/PLURAL`, or `/api/v1/PLURAL` for the empty group.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<KindDef>> {
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.0.load().by_path.get(&key).cloned()
    }

    /// The kind that an object names by `apiVersion` and `kind`.
    pub fn find_kind(&self, api_version: &str, kind: &str) -> Option<Arc<KindDef>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kinds = self.0.load();
        kinds
            .ordered
            .iter()
            .find(|one| one.kind == kind && one.group == group && one.version == version)
            .cloned()
    }

    /// Any version of the resource `PLURAL.GROUP`: the one whose objects are stored unconverted first.
    pub fn find_resource(&self, group: &str, plural: &str) -> Option<Arc<KindDef>> {
        let kinds = self.0.load();
        let mut found = kinds.ordered.iter().filter(|one| one.group == group && one.plural == plural);
        let first = found.next()?;
        let stored = std::iter::once(first).chain(found).find(|one| one.conversion.is_none());
        Some(stored.unwrap_or(first).clone())
    }

    /// Every kind, in order of declaration.
    pub fn all(&self) -> Vec<Arc<KindDef>> {
        self.0.load().ordered.clone()
    }

    /// One kind for each set of stored objects: the version they are stored in.
    pub fn stored(&self) -> Vec<Arc<KindDef>> {
        let kinds = self.0.load();
        kinds.ordered.iter().filter(|one| one.conversion.is_none() && !one.is_virtual).cloned().collect()
    }

    /// Every group but the core one, in order of declaration.
    pub fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for kind in self.0.load().ordered.iter().filter(|kind| !kind.group.is_empty()) {
            match groups.iter_mut().find(|group| group.name == kind.group) {
                Some(group) if group.versions.contains(&kind.version) => {}
                Some(group) => group.versions.push(kind.version.clone()),
                None => groups.push(Group { name: kind.group.clone(), versions: vec![kind.version.clone()] }),
            }
        }
        for group in &mut groups {
            group.versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        }
        groups
    }

    /// The kinds of one group and version, in order of declaration.
    pub fn in_version(&self, group: &str, version: &str) -> Vec<Arc<KindDef>> {
        let kinds = self.0.load();
        kinds.ordered.iter().filter(|kind| kind.group == group && kind.version == version).cloned().collect()
    }

    /// Puts `kinds` in place of all custom kinds of the resource `PLURAL.GROUP`; none removes it.
    pub(crate) fn replace_custom(&self, group: &str, plural: &str, kinds: Vec<KindDef>) {
        let new: Vec<Arc<KindDef>> = kinds.into_iter().map(Arc::new).collect();
        self.0.rcu(|old| {
            let mut ordered = old.ordered.clone();
            ordered.retain(|one| !(one.is_custom() && one.group == group && one.plural == plural));
            ordered.extend(new.iter().cloned());
            Kinds::new(ordered)
        });
    }
}

/// Order of versions as Kubernetes prefers them: `v2` before `v1` before `v1beta2` before `v1alpha1`,
/// all else after.
pub(super) fn priority(version: &str) -> (u8, u32, u32) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        match &rest[digits..] {
            "" => Some((3, major, 0)),
            tail => {
                let (stage, minor) = match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
                    (Some(minor), _) => (2, minor),
                    (_, Some(minor)) => (1, minor),
                    _ => return None,
                };
                Some((stage, major, minor.parse().ok()?))
            }
        }
    };
    parse().unwrap_or((0, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_by_stability() {
        let mut versions = ["v1alpha1", "v1", "foo", "v1beta2", "v2", "v11beta1"];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        assert_eq!(versions, ["v2", "v1", "v11beta1", "v1beta2", "v1alpha1", "foo"]);
    }

    #[test]
    fn finds_by_path_and_by_kind() {
        let registry = Registry::built_in();
        assert_eq!(registry.find("apps", "v1", "deployments").unwrap().kind, "Deployment");
        assert_eq!(registry.find_kind("v1", "Pod").unwrap().plural, "pods");
        assert!(registry.find("", "v2", "pods").is_none());
        assert_eq!(registry.find_resource("", "events").unwrap().version, "v1");
    }
}
