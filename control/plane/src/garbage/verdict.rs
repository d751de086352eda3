//! What becomes of an object by what its owners are. Pure; the rules are those of Kubernetes' collector.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Finalizer of an owner that waits for its dependents to go.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an owner whose dependents are to be kept.
pub(super) const ORPHAN: &str = "orphan";

/// What an owner is to an object that names it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Owner {
    /// It is there, and keeps what it owns.
    Living,
    /// There is no such object: not under this name, or with another UID, or in another namespace.
    Absent,
    /// It is going, and waits for what it owns to go first.
    Waiting,
    /// Nothing can be said of it: its kind is not served, or it is in a namespace and the object in none.
    Unclear,
}

/// How an object is deleted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Policy {
    Background,
    Foreground,
    Orphan,
}

/// What becomes of an object.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It stays as it is.
    Keep,
    /// It stays, and the owners at these places of its list are struck off.
    Strike(Vec<usize>),
    /// Nobody owns it any more.
    Delete(Policy),
}

/// The verdict on an object whose owners, in the order of its list, are `owners`.
pub(super) fn verdict(metadata: &ObjectMeta, owners: &[Owner], has_dependents: bool) -> Verdict {
    if owners.is_empty() || owners.contains(&Owner::Unclear) {
        return Verdict::Keep;
    }
    if owners.contains(&Owner::Living) {
        let gone: Vec<usize> = (0..owners.len()).filter(|place| owners[*place] != Owner::Living).collect();
        return if gone.is_empty() { Verdict::Keep } else { Verdict::Strike(gone) };
    }
    if owners.contains(&Owner::Waiting) && has_dependents {
        return Verdict::Delete(Policy::Foreground);
    }
    Verdict::Delete(if has(metadata, ORPHAN) {
        Policy::Orphan
    } else if has(metadata, FOREGROUND) {
        Policy::Foreground
    } else {
        Policy::Background
    })
}

/// Whether an object is going and waits for its dependents.
pub(super) fn waits(metadata: &ObjectMeta) -> bool {
    metadata.deletion_timestamp.is_some() && has(metadata, FOREGROUND)
}

pub(super) fn has(metadata: &ObjectMeta, finalizer: &str) -> bool {
    metadata.finalizers.iter().flatten().any(|name| name == finalizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_goes_with_the_last_of_its_owners() {
        use Owner::{Absent, Living, Unclear, Waiting};
        let delete = Verdict::Delete;
        for (owners, has_dependents, expected) in [
            (&[][..], false, Verdict::Keep),
            (&[Living], false, Verdict::Keep),
            (&[Absent], false, delete(Policy::Background)),
            (&[Absent], true, delete(Policy::Background)),
            (&[Waiting], false, delete(Policy::Background)),
            (&[Waiting], true, delete(Policy::Foreground)),
            (&[Waiting, Absent], true, delete(Policy::Foreground)),
            (&[Living, Waiting], true, Verdict::Strike(vec![1])),
            (&[Absent, Living, Waiting], false, Verdict::Strike(vec![0, 2])),
            (&[Absent, Unclear], false, Verdict::Keep),
            (&[Living, Waiting, Unclear], false, Verdict::Keep),
        ] {
            let found = verdict(&ObjectMeta::default(), owners, has_dependents);
            assert_eq!(found, expected, "{owners:?} {has_dependents}");
        }
    }

    #[test]
    fn what_its_own_finalizers_ask_for_is_kept_to() {
        for (finalizer, policy) in
            [(ORPHAN, Policy::Orphan), (FOREGROUND, Policy::Foreground), ("x", Policy::Background)]
        {
            let metadata = ObjectMeta { finalizers: Some(vec![finalizer.to_owned()]), ..Default::default() };
            assert_eq!(verdict(&metadata, &[Owner::Absent], true), Verdict::Delete(policy), "{finalizer}");
        }
    }
}
