//! All objects by UID, and who owns whom, as far as the watches have told. Pure.

use std::collections::{HashMap, HashSet, VecDeque};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::ApiResource;

use super::verdict::{Owner, waits};

/// Owners remembered after they went, so that nobody has to be asked for them.
const LOST: usize = 512;

/// An object as the collector knows it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) resource: ApiResource,
    pub(crate) metadata: ObjectMeta,
}

/// All objects, and who owns whom.
#[derive(Default)]
pub(crate) struct Graph {
    objects: HashMap<String, Known>,
    dependents: HashMap<String, HashSet<String>>,
    /// UIDs and namespaces of owners that were seen to go.
    lost: VecDeque<(String, Option<String>)>,
}

/// What the graph knows of an owner.
#[derive(Debug, PartialEq)]
pub(super) enum Sight {
    /// This is what it is.
    Seen(Owner),
    /// The object of this UID is in a namespace where the dependent is not.
    Elsewhere,
    /// Ask the API: its kind may not be watched, it may be newer than the copy, or its name be wrong.
    Unseen,
}

impl Graph {
    /// Takes an object in, or its newer state; says whose keys are concerned.
    pub(super) fn put(&mut self, resource: &ApiResource, metadata: ObjectMeta) -> Vec<String> {
        let Some(uid) = metadata.uid.clone() else { return Vec::new() };
        // Owners that it names no more may have waited for it.
        let mut concerned: Vec<String> = self.unlink(&uid);
        concerned.retain(|owner| self.is_going(owner));
        for owner in metadata.owner_references.iter().flatten() {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        concerned.extend(self.concerned(&uid, &metadata));
        self.objects.insert(uid, Known { resource: resource.clone(), metadata });
        concerned
    }

    /// Takes out an object that was deleted; says whose keys are concerned.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        if let Some(known) = self.objects.get(uid)
            && self.dependents.contains_key(uid)
        {
            if self.lost.len() == LOST {
                self.lost.pop_front();
            }
            self.lost.push_back((uid.to_owned(), known.metadata.namespace.clone()));
        }
        self.forget(uid)
    }

    /// Takes out an object of a kind that is watched no more, deleted or not; says whose keys are concerned.
    pub(super) fn forget(&mut self, uid: &str) -> Vec<String> {
        self.unlink(uid);
        let Some(known) = self.objects.remove(uid) else { return Vec::new() };
        self.concerned(uid, &known.metadata)
    }

    /// Takes an object from its owners, and says who they were.
    fn unlink(&mut self, uid: &str) -> Vec<String> {
        let owners = self.objects.get(uid).and_then(|known| known.metadata.owner_references.clone());
        let owners: Vec<String> = owners.into_iter().flatten().map(|owner| owner.uid).collect();
        for owner in &owners {
            if let Some(set) = self.dependents.get_mut(owner) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
        owners
    }

    /// Itself if it has owners or is going, what it owns, and owners that wait for it.
    fn concerned(&self, uid: &str, metadata: &ObjectMeta) -> Vec<String> {
        let mut keys: Vec<String> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        keys.push(uid.to_owned());
        let owners = metadata.owner_references.iter().flatten().map(|owner| &owner.uid);
        keys.extend(owners.filter(|owner| self.is_going(owner)).cloned());
        keys
    }

    fn is_going(&self, uid: &str) -> bool {
        self.objects.get(uid).is_some_and(|known| known.metadata.deletion_timestamp.is_some())
    }

    pub(super) fn known(&self, uid: &str) -> Option<Known> {
        self.objects.get(uid).cloned()
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<Known> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.objects.get(uid).cloned()).collect()
    }

    /// What is known of the owner that `dependent` names so.
    pub(super) fn owner(&self, dependent: &ObjectMeta, reference: &OwnerReference) -> Sight {
        // What is in no namespace owns in all of them.
        let reaches = |namespace: &Option<String>| namespace.is_none() || *namespace == dependent.namespace;
        let Some(known) = self.objects.get(&reference.uid) else {
            let lost = self.lost.iter().any(|(uid, from)| *uid == reference.uid && reaches(from));
            return if lost { Sight::Seen(Owner::Absent) } else { Sight::Unseen };
        };
        if !reaches(&known.metadata.namespace) {
            return Sight::Elsewhere;
        }
        let named = known.resource.kind == reference.kind
            && known.resource.api_version == reference.api_version
            && known.metadata.name.as_ref() == Some(&reference.name);
        match named {
            true if waits(&known.metadata) => Sight::Seen(Owner::Waiting),
            true => Sight::Seen(Owner::Living),
            false => Sight::Unseen,
        }
    }

    /// Uids of all objects of one kind.
    pub(super) fn of_kind(&self, resource: &ApiResource) -> HashSet<String> {
        let own = self.objects.iter().filter(|(_, known)| known.resource == *resource);
        own.map(|(uid, _)| uid.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn pods() -> ApiResource {
        ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&())
    }

    fn reference(uid: &str) -> OwnerReference {
        OwnerReference {
            uid: uid.to_owned(),
            name: uid.to_owned(),
            kind: "Pod".to_owned(),
            api_version: "v1".to_owned(),
            ..OwnerReference::default()
        }
    }

    fn metadata(uid: &str, owners: &[&str]) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.to_owned()),
            name: Some(uid.to_owned()),
            namespace: Some("here".to_owned()),
            owner_references: Some(owners.iter().map(|uid| reference(uid)).collect()),
            ..ObjectMeta::default()
        }
    }

    fn going(metadata: ObjectMeta, finalizer: &str) -> ObjectMeta {
        ObjectMeta {
            deletion_timestamp: Some(Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH)),
            finalizers: Some(vec![finalizer.to_owned()]),
            ..metadata
        }
    }

    #[test]
    fn a_deletion_concerns_what_was_owned() {
        let mut graph = Graph::default();
        graph.put(&pods(), metadata("owner", &[]));
        graph.put(&pods(), metadata("pod", &["owner"]));
        assert!(graph.remove("owner").contains(&"pod".to_owned()));
        graph.put(&pods(), metadata("pod", &[]));
        assert!(graph.dependents("owner").is_empty(), "a pod that was disowned is no dependent any more");
        assert_eq!(graph.of_kind(&pods()).len(), 1);
    }

    #[test]
    fn an_owner_that_waits_hears_of_a_dependent_that_names_it_no_more() {
        let mut graph = Graph::default();
        graph.put(&pods(), going(metadata("owner", &[]), "foregroundDeletion"));
        graph.put(&pods(), metadata("pod", &["owner", "other"]));
        assert!(graph.put(&pods(), metadata("pod", &["other"])).contains(&"owner".to_owned()));
    }

    #[test]
    fn an_owner_is_what_its_uid_its_name_and_its_namespace_say() {
        let mut graph = Graph::default();
        let dependent = metadata("pod", &[]);
        assert_eq!(graph.owner(&dependent, &reference("owner")), Sight::Unseen);
        graph.put(&pods(), metadata("owner", &[]));
        assert_eq!(graph.owner(&dependent, &reference("owner")), Sight::Seen(Owner::Living));
        let misnamed = OwnerReference { name: "other".to_owned(), ..reference("owner") };
        assert_eq!(graph.owner(&dependent, &misnamed), Sight::Unseen);
        for namespace in [Some("there".to_owned()), None] {
            let stranger = ObjectMeta { namespace, ..dependent.clone() };
            assert_eq!(graph.owner(&stranger, &reference("owner")), Sight::Elsewhere);
        }
        graph.put(&pods(), going(metadata("owner", &[]), "other"));
        assert_eq!(graph.owner(&dependent, &reference("owner")), Sight::Seen(Owner::Living));
        graph.put(&pods(), going(metadata("owner", &[]), "foregroundDeletion"));
        assert_eq!(graph.owner(&dependent, &reference("owner")), Sight::Seen(Owner::Waiting));
        graph.put(&pods(), ObjectMeta { namespace: None, ..metadata("owner", &[]) });
        assert_eq!(graph.owner(&dependent, &reference("owner")), Sight::Seen(Owner::Living));
    }

    #[test]
    fn only_an_owner_that_was_deleted_is_known_to_be_gone() {
        let mut graph = Graph::default();
        for owner in ["deleted", "forgotten"] {
            graph.put(&pods(), metadata(owner, &[]));
        }
        let dependent = metadata("pod", &["deleted", "forgotten"]);
        graph.put(&pods(), dependent.clone());
        graph.remove("deleted");
        graph.forget("forgotten");
        assert_eq!(graph.owner(&dependent, &reference("deleted")), Sight::Seen(Owner::Absent));
        assert_eq!(graph.owner(&dependent, &reference("forgotten")), Sight::Unseen);
        for round in 0..LOST {
            let (owner, owned) = (format!("owner-{round}"), format!("owned-{round}"));
            graph.put(&pods(), metadata(&owner, &[]));
            graph.put(&pods(), metadata(&owned, &[&owner]));
            graph.remove(&owner);
        }
        assert_eq!(graph.owner(&dependent, &reference("deleted")), Sight::Unseen);
    }
}
